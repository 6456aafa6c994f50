"""One engine under a virtual clock: the engine's own scheduler, and a step time for its model."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Protocol

from penstock.predict.steptime import StepLoad, StepTime, chunk_pairs
from penstock.schedule import Policy, Scheduler, Sequence, StepPlan
from penstock.schedule.plan import Ended
from penstock.schedule.prefix import PrefixIndex
from penstock.schedule.sequence import no_keys
from penstock.simulate.call import Call
from penstock.simulate.clock import Clock, Event

_FAR = 1 << 40  # steps
_TINY = 1e-9  # seconds: a request that comes so shortly after a step's end comes at its end


@dataclass(frozen=True, slots=True)
class Machine:
    """What a replica is: how it decides, how long its steps take, how much KV it holds."""

    step: StepTime
    policy: Policy
    pages: int
    page_tokens: int


class Owner(Protocol):
    """Whom a replica tells."""

    def over(self, call: Call, ended: Ended) -> None:
        """The call has left the replica."""
        ...


@dataclass(slots=True)
class Totals:
    """What a replica did, counted as it happens."""

    steps: int = 0
    plans: int = 0
    busy_s: float = 0.0
    short_s: float = 0.0  # of these, with a request in the queue that waited for pages alone
    prefill_tokens: int = 0
    prompt_tokens: int = 0  # of prompts it began, cached ones included
    cached_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0

    def plus(self, other: Totals) -> Totals:
        """The sum of both."""
        names = self.__slots__
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in names})


class Replica:
    """Steps while there is work; between two arrivals it leaps as far as the scheduler can.

    A leap is begun without knowing what will arrive. When something does, the
    leap ends with the step then under way (`_cut`): a plan of fewer equal steps
    is as good a plan, so leaping gives what walking gives. Its seconds are those
    of its first and last step and a straight line between, exact where a step's
    time is linear in the context that it reads.
    """

    def __init__(
        self,
        number: int,
        machine: Machine,
        clock: Clock,
        owner: Owner,
        *,
        leaps: bool = True,
        keeps_ends: bool = False,
        index: PrefixIndex | None = None,
    ) -> None:
        self.number = number
        self.machine = machine
        self.clock = clock
        self.scheduler = Scheduler(machine.policy, machine.pages, machine.page_tokens)
        if index is not None:
            self.scheduler.pool.index = index
        self.totals = Totals()
        self.calls: dict[Call, None] = {}  # sent here and not ended, on their way in included
        self.pending_tokens = 0  # that its calls still have to compute, as their router thinks
        self.ends: array[float] | None = array("d") if keeps_ends else None  # of every step
        self._owner = owner
        self._most = _FAR if leaps else 1
        self._context = 0  # tokens that decoding sequences have, computed ones
        self._plan: StepPlan | None = None  # under way
        self._due: Event | None = None
        self._wake: Event | None = None
        self._began = self._first_s = self._growth_s = 0.0
        self._ended_at = 0.0  # the last step that is over
        self._short = False  # of pages, in the step under way
        self._busy = False  # telling what ended

    # What the fleet asks

    def send(self, call: Call) -> None:
        """Hand over a call; the scheduler sees it once the request itself was dealt with.

        Raises what `Scheduler.add` raises, now, for what it would not take.
        """
        seat = self._seat(call)
        self.scheduler.check_place(seat)
        call.replica, call.seat = self, seat
        self.calls[call] = None
        self.pending_tokens += call.awaited
        delay = self.machine.step.request_s
        if delay > 0 and not call.said and not call.taken:
            self.clock.at(self.clock.now + delay, self._enter, call, seat)
        else:
            self._enter(call, seat)

    def abort(self, call: Call) -> None:
        """The client has gone; the call ends with the step under way."""
        if call.seat is None:
            return
        if not call.inside:
            seat = call.seat
            self._leave(call)
            self._owner.over(call, Ended(seat, "abort"))
            return
        self._cut()
        self.scheduler.abort(call)
        if self._plan is None and not self._busy:
            self._step()

    def lose(self) -> list[Call]:
        """The replica is gone with all it held; returns the calls it was working on."""
        self._cut()
        if self._plan is not None and self._plan.steps > 1:  # all but the last are done
            self._plan.steps -= 1
            self._settle(self._plan, self._began + self._lasts(self._plan.steps))
        self._plan = None
        for event in (self._due, self._wake):
            if event is not None:
                event.cancel()
        lost = list(self.calls)
        for call in lost:
            if call.streaming and call.seat is not None:
                self._stop_streaming(call, call.seat.length)
            self._leave(call)
        return lost

    @property
    def running(self) -> int:
        """Sequences that hold a seat."""
        return self.scheduler.running

    @property
    def waiting(self) -> int:
        """Sequences in the queue, and those on their way to it."""
        return len(self.calls) - self.scheduler.running

    @property
    def kv_share(self) -> float:
        """Share of the KV pool's pages that sequences hold."""
        return self.scheduler.pool.held / self.scheduler.pool.total

    # Arrivals

    def _seat(self, call: Call) -> Sequence:
        return Sequence(
            id=call,
            prompt=call.prompt + call.said,
            limit=call.prompt + call.output,
            keys=call.keys or no_keys,
            priority=call.priority,
        )

    def _enter(self, call: Call, seat: Sequence) -> None:
        if call.seat is not seat:
            return  # gone meanwhile
        call.inside = True
        self._cut()
        self.scheduler.place(seat, now=self.clock.now)
        if self._plan is None and not self._busy:
            self._step()

    def _leave(self, call: Call) -> None:
        del self.calls[call]
        self._no_longer_awaited(call)
        call.seat, call.inside = None, False

    def _no_longer_awaited(self, call: Call) -> None:
        self.pending_tokens -= call.awaited
        call.awaited = 0

    # Steps

    def _step(self) -> None:
        """Begin the next step, or a leap."""
        scheduler, now = self.scheduler, self.clock.now
        plan = scheduler.leap(self._most, now)
        if scheduler.ended:  # aborted, and swept before the plan
            self._tell()
            plan = plan or scheduler.leap(self._most, now)
        if plan is None:
            self._rest()
            return
        if plan.preempted:
            self._note_preempted(plan)
        load, seconds = self._load(plan), self.machine.step.seconds
        self._first_s, self._growth_s = seconds(load), 0.0
        if plan.steps > 1:
            # A static batch's idle rows cost time but do not grow.
            grown = load.decode_context + (plan.steps - 1) * len(plan.decodes)
            last = StepLoad(0, 0, load.decodes, grown, load.logits)
            self._growth_s = (seconds(last) - self._first_s) / (plan.steps - 1)
        self._plan, self._began, self._short = plan, now, self._is_short(plan)
        self._due = self.clock.at(now + self._lasts(plan.steps), self._arrive)

    def _is_short(self, plan: StepPlan) -> bool:
        """Whether more memory would have let the head of the queue in: all else was there."""
        scheduler, policy = self.scheduler, self.machine.policy
        if not scheduler.waiting or policy.batching != "continuous":
            return False
        taken = len(plan.decodes) + sum(chunk.end - chunk.start for chunk in plan.chunks)
        return scheduler.running < policy.max_running and taken < policy.max_step_tokens

    def _rest(self) -> None:
        """Nothing to compute now; a static batch may start by itself."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if (wake_at := self.scheduler.wake_at) is not None:
            self._wake = self.clock.at(wake_at, self._woken)

    def _woken(self) -> None:
        self._wake = None
        if self._plan is None:
            self._step()

    def _load(self, plan: StepPlan) -> StepLoad:
        decodes, context = len(plan.decodes) + plan.padding, self._context + len(plan.decodes)
        if not plan.chunks:
            return StepLoad(0, 0, decodes, context, decodes)
        tokens, pairs, logits = 0, 0.0, decodes
        totals = self.totals
        for chunk in plan.chunks:
            call: Call = chunk.sequence.id  # type: ignore[assignment]
            start, end = chunk.start, chunk.end
            if call.started is None:
                call.started = self.clock.now
            if call.taken and not chunk.sequence.preemptions:
                # Only its last token is computed, and reads the rest.
                if chunk.samples:
                    decodes, context = decodes + 1, context + end
                    logits += 1
                continue
            tokens += end - start
            pairs += chunk_pairs(start, end)
            logits += chunk.samples
        totals.prefill_tokens += tokens
        return StepLoad(tokens, pairs, decodes, context, logits)

    def _lasts(self, steps: int) -> float:
        return steps * self._first_s + self._growth_s * (steps * (steps - 1) / 2)

    def _cut(self) -> None:
        """Something came up: end a leap under way with its present step."""
        plan = self._plan
        if plan is None or plan.steps == 1:
            return
        past = self.clock.now - self._began - _TINY
        steps = min(max(1, self._steps_in(past)), plan.steps)
        if steps < plan.steps:
            plan.steps = steps
            assert self._due is not None
            self._due.cancel()
            self._due = self.clock.at(self._began + self._lasts(steps), self._arrive)

    def _steps_in(self, past: float) -> int:
        """How many steps of the leap it takes to reach beyond `past` seconds."""
        first, growth = self._first_s, self._growth_s
        # Solve steps * first + growth * steps * (steps - 1) / 2 = past.
        linear = first - growth / 2
        root = linear * linear + 2 * growth * past
        guess = 2 * past / (linear + sqrt(root)) if root > 0 and linear > 0 else past / first
        steps = max(1, ceil(guess))
        while steps > 1 and self._lasts(steps - 1) >= past:
            steps -= 1
        while self._lasts(steps) < past:
            steps += 1
        return steps

    def _arrive(self) -> None:
        """The step or leap is over."""
        plan = self._plan
        assert plan is not None
        self._plan = self._due = None
        self._settle(plan, self.clock.now)
        if self.scheduler.ended:
            self._tell()
        self._step()

    def _settle(self, plan: StepPlan, now: float) -> None:
        """Bring the books up to date."""
        sampled = [chunk for chunk in plan.chunks if chunk.samples]
        totals, decoded = self.totals, len(plan.decodes) * plan.steps
        totals.steps += plan.steps
        totals.plans += 1
        totals.busy_s += now - self._began
        if self._short:
            totals.short_s += now - self._began
        totals.output_tokens += decoded + len(sampled)
        if self.ends is not None:
            lasts, began = self._lasts, self._began
            self.ends.extend(began + lasts(step) for step in range(1, plan.steps))
            self.ends.append(now)
        self._context += decoded
        self._ended_at = now
        self.scheduler.apply(plan)
        for chunk in sampled:
            self._sampled(chunk.sequence, chunk.end)

    def _sampled(self, sequence: Sequence, computed: int) -> None:
        """A chunk ended with a token of the answer."""
        call: Call = sequence.id  # type: ignore[assignment]
        if call.streaming:
            return  # without a KV cache every step is such a chunk
        call.streaming = True
        if self.machine.policy.kv_cache:
            self._context += computed
        self._no_longer_awaited(call)
        if call.first is None:
            call.first = self._ended_at
            if not call.taken:
                call.cached = sequence.cached
                self.totals.prompt_tokens += call.prompt
                self.totals.cached_tokens += sequence.cached
        if self.ends is not None:
            call.spans = call.spans or []
            call.spans.append((self.ends, len(self.ends) - 1, -1))

    def _stop_streaming(self, call: Call, length: int) -> None:
        """It leaves the decoding ones, `length` tokens long; the last came with the last step."""
        call.streaming = False
        if self.machine.policy.kv_cache:
            self._context -= length - 1
        call.said, call.last = length - call.prompt, self._ended_at
        if self.ends is not None and call.spans:
            ends, start, _ = call.spans[-1]
            call.spans[-1] = (ends, start, len(ends))

    def _note_preempted(self, plan: StepPlan) -> None:
        for sequence in plan.preempted:
            call: Call = sequence.id  # type: ignore[assignment]
            call.preemptions += 1
            self.totals.preemptions += 1
            if call.streaming:
                self._stop_streaming(call, sequence.target)

    def _tell(self) -> None:
        """Hand back what has ended; what comes in return waits for the next plan."""
        ended, self.scheduler.ended = self.scheduler.ended, []
        self._busy = True
        for one in ended:
            call: Call = one.sequence.id  # type: ignore[assignment]
            if call.streaming:
                by_length = one.reason == "length"
                self._stop_streaming(call, one.sequence.limit if by_length else one.sequence.target)
            self._leave(call)
            self._owner.over(call, one)
        self._busy = False
