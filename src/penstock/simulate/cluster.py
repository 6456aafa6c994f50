"""A fleet at work: door, router, replicas that come and go, and what becomes of each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from penstock.predict.steptime import StepTime
from penstock.record.record import Outcome
from penstock.schedule import QueueFull, RequestRefused
from penstock.schedule.plan import Ended
from penstock.schedule.routing import Router, View, Wanted
from penstock.simulate.call import Call
from penstock.simulate.clock import Clock
from penstock.simulate.fleet import Fleet
from penstock.simulate.links import Links
from penstock.simulate.machine import machine
from penstock.simulate.pages import chain
from penstock.simulate.replica import Machine, Replica, Totals
from penstock.simulate.routers import router
from penstock.simulate.views import ToldIndex

REFUSAL_S = 0.001  # a refusal takes a client so long to hear

_OUTCOMES = {
    "length": Outcome.FINISHED,
    "stop": Outcome.FINISHED,
    "abort": Outcome.CANCELLED,
    "error": Outcome.FAILED,
}


class State(Enum):
    """Where a place for a replica stands."""

    STARTING = auto()
    SERVING = auto()
    DRAINING = auto()  # takes no more requests, and goes when it has none
    DOWN = auto()


@dataclass(slots=True, eq=False)
class Place:
    """A place for a replica, which may be lost and start anew: each life is a `Replica`."""

    number: int
    role: str
    machine: Machine
    state: State = State.DOWN
    replica: Replica | None = None
    since: float = 0.0  # when it came to be paid for
    paid_s: float = 0.0
    past: Totals = field(default_factory=Totals)  # of earlier lives

    def totals(self) -> Totals:
        """What was done here, in all lives."""
        return self.past if self.replica is None else self.past.plus(self.replica.totals)


class Cluster:
    """Takes calls and ends each of them once.

    A call is refused at the door (429), held until some replica serves, or
    routed. What a replica refuses is refused; what a lost replica was working
    on goes on elsewhere, `retries` times. In a split fleet a call's prompt is
    first computed by a prefill replica, for a call of its own that asks for one
    token; then its KV crosses the link, and the call enters a decode replica.
    """

    def __init__(
        self,
        fleet: Fleet,
        clock: Clock,
        seed: int,
        *,
        steps: Sequence[StepTime] = (),
        leaps: bool = True,
        keeps_ends: bool = False,
    ) -> None:
        if steps and len(steps) != len(fleet.replicas):
            raise ValueError(
                f"{len(steps)} step times for {len(fleet.replicas)} groups of replicas; "
                "give one for each"
            )
        self.fleet = fleet
        self.clock = clock
        self.seed = seed
        self.places: list[Place] = []
        self.outstanding = 0  # requests that came to the door and have not ended
        self.ended_at = 0.0  # when one of them ended last
        self.on_room: Callable[[Place], None] | None = None  # a replica has room for more
        self._leaps = leaps
        self._keeps_ends = keeps_ends
        self._held: list[Call] = []  # until some replica serves
        self._stages: dict[Call, Call] = {}  # prefill stages, by the call that they are for
        self._links = Links(fleet, clock) if fleet.is_split else None
        self._routers: dict[str, Router] = {}  # by role
        for index, group in enumerate(fleet.replicas):
            made = machine(group, steps[index] if steps else None)
            most = fleet.autoscale.max if fleet.autoscale else group.count
            for number in range(most):
                self.places.append(Place(len(self.places), group.role, made))
                if number < group.count:
                    self.serve(self.places[-1])

    # Calls

    def send(self, call: Call) -> None:
        """Take a call; its `ended` is called once, in time."""
        self.outstanding += 1
        call.counted = True
        most, context = self.fleet.admission.max_outstanding, self.fleet.context
        if context is not None and call.prompt + call.output > context:
            needed = call.prompt + call.output
            self._refuse(call, f"http_400: {needed:,} tokens are more than the context {context:,}")
        elif most is not None and self.outstanding > most:
            self._refuse(call, f"http_429: {most} requests are under way (max_outstanding)")
        else:
            if (patience_s := self.fleet.admission.patience_s) is not None:
                self.clock.at(self.clock.now + patience_s, self._lose_patience, call)
            self._route(call)

    def offer(self, call: Call, place: Place) -> bool:
        """Send a call past door and router; whether the replica took it."""
        assert place.replica is not None
        try:
            place.replica.send(call)
        except QueueFull as error:
            self._refuse(call, f"http_429: {error}")
            return False
        except RequestRefused as error:
            self._refuse(call, f"http_400: {error}")
            return False
        return True

    def abort(self, call: Call) -> None:
        """The client has gone. The call ends when the step under way does."""
        if call.outcome is not None:
            return
        if (stage := self._stages.get(call)) is not None:
            self.abort(stage)
        elif call.replica is not None and call in call.replica.calls:
            call.replica.abort(call)
        else:  # held at the door, or crossing a link
            if call in self._held:
                self._held.remove(call)
            self._finish(call, Outcome.CANCELLED, "cancelled: the client went away")

    @property
    def held(self) -> int:
        """Calls that no replica has, since none serves."""
        return len(self._held)

    def totals(self) -> Totals:
        """What all replicas did, of all their lives."""
        total = Totals()
        for place in self.places:
            total = total.plus(place.totals())
        return total

    def over(self, call: Call, ended: Ended) -> None:
        """See `Owner`."""
        outcome = _OUTCOMES[ended.reason]
        went = "cancelled: the client went away"
        self._finish(call, outcome, went if outcome is Outcome.CANCELLED else None)

    def _finish(self, call: Call, outcome: Outcome, error: str | None = None) -> None:
        if call.outcome is not None:
            return  # went away while its refusal was on the way
        if call.counted:
            self.outstanding -= 1
            self.ended_at = self.clock.now
        call.finish(outcome, self.clock.now, error)
        if call.replica is None:
            return
        place = self.places[call.replica.number]
        if place.state is State.DRAINING:
            self._retire(place)
        elif self.on_room is not None and place.state is State.SERVING:
            self.on_room(place)

    def _refuse(self, call: Call, error: str) -> None:
        later = self.clock.now + REFUSAL_S
        self.clock.at(later, self._finish, call, Outcome.FAILED, error)

    def _lose_patience(self, call: Call) -> None:
        if call.outcome is None and call.first is None:
            self.abort(call)

    # On their way

    def _route(self, call: Call) -> None:
        if self._links is None:
            self._to(call, "whole")
        elif call.said or call.taken or call.prompt < self.fleet.split.min_prompt_tokens:
            self._to(call, "decode")
        else:
            self._prefill(call)

    def _to(self, call: Call, role: str) -> None:
        """Send a call to a replica of a role."""
        place = self._choose(call, role)
        if place is None:
            self._hold(call, role)
        else:
            self.offer(call, place)

    def _hold(self, call: Call, role: str) -> None:
        """No replica of that role serves: wait for one, if one will."""
        coming = any(p.state is State.STARTING and p.role == role for p in self.places)
        if coming or self.fleet.autoscale is not None:
            self._held.append(call)
        else:
            self._refuse(call, "http_503: no replica serves, and none will")

    def _choose(self, call: Call, role: str) -> Place | None:
        serving = [p for p in self.places if p.state is State.SERVING and p.role == role]
        if len(serving) < 2:
            call.awaited = call.prompt + call.said
            return serving[0] if serving else None
        router, links = self._router(role, serving[0].machine), list[int]()
        size = serving[0].machine.page_tokens
        if router.reads_prefixes and call.keys is not None:
            seen = min(call.prompt, self.fleet.router.match_tokens or call.prompt)
            links = chain(call.keys, seen // size)
        wanted = Wanted(call.prompt, call.session, links, size)
        views = [_view(place.replica) for place in serving if place.replica is not None]
        choice = router.choose(wanted, views)
        call.awaited = choice.new_tokens
        return self.places[choice.number]

    def _router(self, role: str, machine: Machine) -> Router:
        if role not in self._routers:
            size = machine.page_tokens
            self._routers[role] = router(self.fleet.router, self.seed, machine.pages, size)
        return self._routers[role]

    # Prefill on a replica of its own

    def _prefill(self, call: Call) -> None:
        stage = Call(
            call.prompt,
            1,
            self.clock.now,
            self._prefilled,
            keys=call.keys,
            session=call.session,
            priority=call.priority,
            owner=call,
        )
        self._stages[call] = stage
        self._to(stage, "prefill")

    def _prefilled(self, stage: Call) -> None:
        call, links = stage.owner, self._links
        assert isinstance(call, Call)
        assert links is not None
        del self._stages[call]
        call.retries += stage.retries
        call.preemptions += stage.preemptions
        if stage.outcome is not Outcome.FINISHED:
            assert stage.outcome is not None
            self._finish(call, stage.outcome, stage.error)
            return
        call.started, call.cached = stage.started, stage.cached
        place = self._choose(call, "decode")
        if place is None:
            self._hold(call, "decode")
            return
        assert stage.replica is not None
        source, target = stage.replica.number, place.number
        links.transfer(call.prompt, source, target, self._arrived, call, place)

    def _arrived(self, call: Call, place: Place) -> None:
        """Its KV has crossed the link."""
        if call.outcome is not None:
            return
        if place.state is State.SERVING:
            call.taken, call.awaited = True, 1
            self.offer(call, place)
        else:
            self._again(call, place.number)

    # Replicas come and go

    def serve(self, place: Place) -> None:
        """A replica begins to serve, its cache empty."""
        index = None
        if self.fleet.router.policy == "kv":
            index = ToldIndex(self.clock, self.fleet.router.stale_s)
        place.replica = Replica(
            place.number,
            place.machine,
            self.clock,
            self,
            leaps=self._leaps,
            keeps_ends=self._keeps_ends,
            index=index,
        )
        if place.state is State.DOWN:
            place.since = self.clock.now
        place.state = State.SERVING
        held, self._held = self._held, []
        for call in held:
            self._anew(call)
        if self.on_room is not None:
            self.on_room(place)

    def start(self, place: Place, after_s: float) -> None:
        """A replica is asked for, and paid for, from now on."""
        place.state, place.since = State.STARTING, self.clock.now
        self.clock.at(self.clock.now + after_s, self._started, place)

    def _started(self, place: Place) -> None:
        if place.state is State.STARTING:
            self.serve(place)

    def fail(self, place: Place, down_s: float | None) -> None:
        """A replica is lost; what it was working on goes on elsewhere or fails.

        Another takes its place after `down_s`, None: never.
        """
        replica = place.replica
        if replica is None or place.state not in (State.SERVING, State.DRAINING):
            return
        lost = replica.lose()
        self._put_down(place)
        if place.role in self._routers:
            self._routers[place.role].forget(place.number)
        if down_s is not None:
            self.start(place, down_s)
        for call in lost:
            self._again(call, place.number)

    def drain(self, place: Place) -> None:
        """A replica takes no more, and goes when it has nothing left."""
        place.state = State.DRAINING
        self._retire(place)

    def _retire(self, place: Place) -> None:
        if place.replica is not None and not place.replica.calls:
            self._put_down(place)

    def _put_down(self, place: Place) -> None:
        assert place.replica is not None
        place.past = place.totals()
        place.paid_s += self.clock.now - place.since
        place.state, place.replica = State.DOWN, None

    def _again(self, call: Call, number: int) -> None:
        if call.retries >= self.fleet.retries:
            self._finish(call, Outcome.FAILED, f"replica_lost: replica {number} went down")
            return
        call.retries += 1
        call.taken = False
        self._anew(call)

    def _anew(self, call: Call) -> None:
        if isinstance(call.owner, Call):
            self._to(call, "prefill")
        else:
            self._route(call)


def _view(replica: Replica) -> View:
    view = View(replica.number, len(replica.calls), replica.pending_tokens)
    if isinstance(index := replica.scheduler.pool.index, ToldIndex):
        view.known = index.known()
    return view
