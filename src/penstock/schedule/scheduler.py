"""What the next step computes, for whom, into which pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from heapq import heappop, heappush
from types import MappingProxyType

from penstock.schedule.budget import Attended, Budget
from penstock.schedule.calendar import Calendar
from penstock.schedule.limits import Limits
from penstock.schedule.plan import Chunk, Ended, Reason, StepPlan
from penstock.schedule.policy import Policy
from penstock.schedule.pool import Pool
from penstock.schedule.prefix import PrefixIndex
from penstock.schedule.sequence import STILL, Clock, Sequence, State, no_keys
from penstock.schedule.sharing import Sharing
from penstock.schedule.waiting import Waiting

NO_GUESSES: Mapping[Sequence, int] = MappingProxyType({})
NOBODY: Attended = MappingProxyType({})


class Scheduler:
    """Decides step by step; its caller supplies the model and the time.

    The caller loops: `schedule()` gives a plan, the model computes it,
    `apply(plan, stopped)` tells which sequences sampled a stop token. `ended`
    collects each sequence's single end; the caller drains it. Between the two
    calls nothing is freed: `abort` only marks, and `apply` (or the next
    `schedule`) frees.

    A page is indexed in the plan that fills it, not when it is filled: the
    model writes the K and V of a whole step before it reads any (see
    `StepBatch`), so others may adopt the page within the same step. Sixty
    prompts with one prefix, arriving together, compute it once.

    The cost of a step grows with what changed: decoding sequences advance by
    a shared clock, and a calendar holds the one next event of each, a page to
    add or an end by length.
    """

    def __init__(self, policy: Policy, pages: int, page_size: int) -> None:
        if pages < 1 or page_size < 1:
            raise ValueError(f"pages={pages} and page_size={page_size} must be at least 1.")
        policy.check(page_size)
        self.policy = policy
        self.page_size = page_size
        self.limits = Limits(policy, pages, page_size)
        self.pool = Pool(pages, PrefixIndex(gaps=policy.kv_budget is not None))
        self._sharing = Sharing(self.pool, page_size)
        self._kv_budget = None if policy.kv_budget is None else Budget(policy, self.pool, page_size)
        self.ended: list[Ended] = []
        self.preemptions = 0
        self.dropped_tokens = 0  # whose K and V were given up for a budget

        self._sequences: dict[Hashable, Sequence] = {}  # alive, by id
        self._waiting = Waiting(policy)
        self._prefills: dict[Sequence, None] = {}
        self._decodes: dict[Sequence, None] = {}
        self._clock = Clock()
        self._calendar = Calendar()
        self._due: list[Sequence] = []  # decodes whose pages are full
        self._trimmed: list[Sequence] = []  # gave up pages since the last plan
        self._ends: list[tuple[int, tuple[int, int], Sequence]] = []  # heap; may hold old ones
        self._aborted: set[Hashable] = set()
        self._plan: StepPlan | None = None
        self._serial = 0
        self._classes: Counter[int] = Counter()  # priorities of what runs
        self._departures = 0  # how often pages or a seat came free
        self._blocked: tuple[Sequence, int] | None = None  # head of the queue, departures seen
        self._batch = 0  # static: rows of the batch in progress

    # What the caller asks

    @property
    def running(self) -> int:
        """Sequences that hold a seat."""
        return len(self._prefills) + len(self._decodes)

    @property
    def waiting(self) -> int:
        """Sequences in the queue, preempted ones included."""
        return len(self._waiting)

    @property
    def decoding(self) -> Collection[Sequence]:
        """Sequences that compute one token a step: a live view."""
        return self._decodes.keys()

    @property
    def pending(self) -> int:
        """Prompt tokens that the next steps compute beside the decodes, as far as can be told."""
        running = sum(s.target - s.computed for s in self._prefills)
        return running + (self._waiting.tokens if self.running < self.policy.max_running else 0)

    @property
    def has_work(self) -> bool:
        """Whether any sequence is alive."""
        return bool(self._sequences)

    @property
    def wake_at(self) -> float | None:
        """When to call `schedule` again though nothing arrives: a static batch stops filling."""
        if self.policy.batching != "static" or self.running or not self._waiting:
            return None
        return self._waiting.head.arrival + self.policy.fill_wait_s

    def check_place(self, *sequences: Sequence) -> None:
        """Raise what `add` would raise.

        `RequestRefused` for what can never run, `QueueFull` for what cannot be
        queued now, `ValueError` for an id that is alive.
        """
        for sequence in sequences:
            if sequence.id in self._sequences:
                raise ValueError(f"request id {sequence.id!r} is in use.")
            self.limits.check(sequence)
        self._waiting.check_room(len(sequences), sum(s.prompt for s in sequences))

    def add(self, *sequences: Sequence, now: float = 0.0) -> None:
        """Queue sequences, all of them or none. Raises as `check_place`."""
        self.check_place(*sequences)
        self.place(*sequences, now=now)

    def place(self, *sequences: Sequence, now: float = 0.0) -> None:
        """Queue sequences that passed `check_place`, now or earlier."""
        for sequence in sequences:
            if not (self.policy.prefix_sharing and self.policy.kv_cache):
                sequence.keys = no_keys
            if self._kv_budget is not None:
                self._kv_budget.limit(sequence)
            self._serial += 1
            sequence.order = (sequence.priority, self._serial)
            sequence.arrival = now
            self._sequences[sequence.id] = sequence
            self._waiting.add(sequence)

    def abort(self, sequence_id: Hashable) -> None:
        """Mark a sequence, with its peers, for its end; unknown and ended ids are ignored."""
        if sequence_id in self._sequences:
            self._aborted.update(s.id for s in self._sequences[sequence_id].group)

    def schedule(
        self, now: float = 0.0, guesses: Mapping[Sequence, int] = NO_GUESSES
    ) -> StepPlan | None:
        """Plan the next step, or return None when there is nothing to compute now.

        `guesses` says how many tokens could be guessed for which decoding
        sequences. They get what room others leave: fewer where the step or its
        limit is full, none that would cost another sequence its pages.
        """
        plan = self._planned(now, guesses)
        self._plan = plan
        return plan

    def leap(self, limit: int, now: float = 0.0) -> StepPlan | None:
        """Plan like `schedule`, for up to `limit` equal decode steps at once.

        A plan covers several steps only while nothing but decoding happens:
        no chunk, no end by length, no page that could be wanting. Applying it,
        with these `steps` or fewer, leaves the same state as walking those steps
        one by one: pages that sequences need on the way are added by `apply`.
        """
        plan = self._planned(now, NO_GUESSES)
        if plan is not None and not plan.chunks and limit > 1:
            plan.steps = max(1, min(limit, self._quiet_steps()))
        self._plan = plan
        return plan

    def _planned(self, now: float, guesses: Mapping[Sequence, int]) -> StepPlan | None:
        if self._plan is not None:
            raise RuntimeError("the last plan was not applied")
        self._sweep()
        plan = StepPlan(self._decodes.keys())
        self._grow(plan)
        self._make_way(plan)
        budget = self.policy.max_step_tokens - len(self._decodes)
        for sequence in sorted(self._prefills, key=lambda s: s.order):
            if sequence in self._prefills:  # not preempted by an older one just now
                budget -= self._advance(sequence, budget, plan)
        budget = self._admit(budget, plan, now)
        if not self._decodes and not plan.chunks:
            return None
        if guesses:
            self._make_room(guesses, budget, plan)
        if self._trimmed:
            plan.repaged += self._trimmed
            self._trimmed = []
        if plan.repaged:
            plan.repaged = [s for s in dict.fromkeys(plan.repaged) if s.state is State.DECODE]
        if self.policy.batching == "static":
            plan.padding = self._batch - self.running
        return plan

    def apply(
        self,
        plan: StepPlan,
        stopped: Iterable[Sequence] = (),
        came_true: Mapping[Sequence, int] = NO_GUESSES,
        attended: Attended = NOBODY,
    ) -> None:
        """Account for a computed plan. `stopped` sampled a stop token in it.

        Every decode and every chunk with `samples` has one more token now; those in
        `came_true` as many more as it says, at most what the plan let them guess. `attended`
        has every watched sequence whose prompt came to its end.
        """
        if plan is not self._plan:
            raise RuntimeError("apply takes the plan that schedule gave last")
        self._plan = None
        self._pass(plan.steps)
        for sequence in plan.guessed:
            self._hurry(sequence, came_true.get(sequence, 0))
        for chunk in plan.chunks:
            chunk.sequence.computed = chunk.end
        for sequence in stopped:
            self._end(sequence, "stop")
        for chunk in plan.chunks:
            if chunk.sequence.state is not State.PREFILL:
                continue
            if chunk.sequence.budget is not None and chunk.end >= chunk.sequence.prompt:
                self._trim(chunk.sequence, attended)
            if chunk.samples:
                self._sampled(chunk.sequence)
        self._turn_calendar()
        self._sweep()

    def branch(self, parents: Mapping[Sequence, Sequence]) -> list[tuple[int, int]]:
        """Let decoding peers (the keys) go on from one another, before the next plan.

        Returns the copies of page content to make, all at once, as (from, to).
        """
        return self._sharing.branch(parents)

    def fail(self) -> None:
        """The planned step broke: end every running sequence with "error", trust no page.

        Waiting sequences stay; they have computed nothing.
        """
        self._plan = None
        for sequence in [*self._prefills, *self._decodes]:
            sequence.keys = no_keys
            self._end(sequence, "error")
        self.pool.drop_cache()
        self._sweep()

    def check(self) -> None:
        """Raise `AssertionError` unless all books balance. For tests, after any call."""
        running = [*self._prefills, *self._decodes]
        self.pool.check([s.pages for s in running])
        for s in self._prefills:
            assert s.state is State.PREFILL
        for s in self._decodes:
            assert s.state is State.DECODE
            assert s.event is not None or s in self._due
        for s in running:
            assert 0 <= s.computed < s.length <= s.limit, s
            assert s.computed <= self._room(s), s
            assert s.budget is None or s.computed < s.prompt or len(s.pages) <= s.budget
            assert s.indexed <= len(s.pages)
            assert all(page in self.pool.index for page in s.pages[: s.indexed])
        waiting = [s for s in self._sequences.values() if s.state is State.WAITING]
        assert not any(s.pages for s in waiting)
        assert len(waiting) == len(self._waiting)
        assert sum(s.target for s in waiting) == self._waiting.tokens
        assert len(waiting) + len(running) == len(self._sequences)
        assert self.running <= self.policy.max_running
        assert +self._classes == Counter(s.priority for s in running)
        for s in self._sequences.values():
            states = {p.state for p in s.group}
            assert len(states) == 1, "peers parted"
            assert s.state is not State.DECODE or len({p.computed for p in s.group}) == 1

    # Leaps

    def _quiet_steps(self) -> int:
        """Steps until a sequence ends by length, or pages could run out."""
        ends, now = self._ends, self._clock.tick
        while ends[0][2].state is not State.DECODE or ends[0][2].last_tick != ends[0][0]:
            heappop(ends)
        if self._prefills:  # they wait for pages, or for each other
            return self._calendar.next_tick() - now
        # Within so many steps no sequence needs more pages than its share.
        shares = self.pool.available // len(self._decodes)
        ample = (shares - 1) * self.page_size
        return min(ends[0][0] - now, max(ample, self._calendar.next_tick() - now))

    def _pass(self, steps: int) -> None:
        """Let so many steps pass; pages that are full on the way get a successor there."""
        until = self._clock.tick + steps
        while steps > 1 and (tick := self._calendar.next_tick()) < until:
            self._clock.tick = tick
            full = list(self._calendar.turn(tick))
            for sequence in full:
                if sequence.budget is not None:
                    self._trim(sequence)
            for sequence in sorted(full, key=_order) if len(full) > 1 else full:
                self._extend(sequence)
        self._clock.tick = until

    # Growth of what runs

    def _grow(self, plan: StepPlan) -> None:
        """Give a page to each decode whose pages are full, oldest first."""
        if not self._due:
            return
        due, self._due = self._due, []
        for sequence in sorted(due, key=_order):
            if sequence.state is not State.DECODE:
                continue
            if not self.pool.available:
                self._sharing.publish(sequence, sequence.computed)
            while not self.pool.available and sequence.state is State.DECODE:
                self._preempt(self._youngest(), plan)
            if sequence.state is State.DECODE:
                self._extend(sequence)
                plan.repaged.append(sequence)

    def _extend(self, sequence: Sequence) -> None:
        """A decode's pages are full: offer them to others, and add one."""
        if sequence.keys is not no_keys:
            self._sharing.publish(sequence, sequence.computed)
        sequence.pages += self.pool.take(1)
        full_at = self._clock.tick + self.page_size
        self._calendar.note(sequence, min(full_at, sequence.last_tick))

    def _advance(self, sequence: Sequence, budget: int, plan: StepPlan) -> int:
        """Plan the next chunk of a prefill; return the tokens it takes."""
        self._sharing.adopt(sequence)
        start, end = sequence.computed, sequence.target
        if self._kv_budget is not None and sequence.budget is not None:
            end = self._kv_budget.chunk_end(sequence, end)
        if self.policy.kv_cache:  # without a cache every step takes everything
            if self.policy.chunked_prefill:
                end = min(end, start + budget)
            elif end - start > budget and plan.chunks:
                return 0  # a whole prompt may exceed the budget only as the step's first
            end = self._chunk_end(sequence, end)
        if sequence.peers and not self._in_line(sequence, budget, plan):
            # Peers take their last known token in one step, and sample together ever after.
            end = min(end, sequence.target - 1)
        if end <= start:
            return 0
        while self.pool.available < self._lacks(sequence, end):
            victim = self._victim(sequence, plan)
            if victim is None:
                # Everyone younger is gone; make do with the pages there are.
                if not (self.policy.chunked_prefill and self.policy.kv_cache):
                    return 0
                room = self._room(sequence) + self.pool.available * self.page_size
                end = self._chunk_end(sequence, min(end, room))
                if end <= start:
                    return 0
                break
            self._preempt(victim, plan)
        sequence.pages += self.pool.take(self._lacks(sequence, end))
        plan.chunks.append(Chunk(sequence, start, end))
        self._sharing.publish(sequence, end)
        return end - start

    def _in_line(self, sequence: Sequence, budget: int, plan: StepPlan) -> bool:
        """Whether all peers have only their last known token to compute, and this step can.

        The first of them decides, for all: the others follow it in the plan.
        """
        peers = sequence.peers
        if (at := peers.index(sequence)) > 0:
            last = plan.chunks[-1] if plan.chunks else None
            return last is not None and last.sequence is peers[at - 1] and last.samples
        for peer in peers:
            self._sharing.adopt(peer)
        if budget < len(peers) or any(p.target - p.computed > 1 for p in peers):
            return False
        missing = sum(self.limits.pages_for(p.target) - len(p.pages) for p in peers)
        while self.pool.available < missing:
            if (victim := self._victim(sequence, plan)) is None:
                return False
            self._preempt(victim, plan)
        return True

    def _chunk_end(self, sequence: Sequence, end: int) -> int:
        if self._kv_budget is not None and sequence.budget is not None:
            end = self._kv_budget.chunk_end(sequence, end)
            if end == sequence.prompt:
                return end
        if end < sequence.target and self.policy.align_chunks:
            return end - end % self.page_size
        return end

    def _trim(self, sequence: Sequence, attended: Attended = NOBODY) -> None:
        """Let a sequence give up the pages that its budget does not allow."""
        assert self._kv_budget is not None
        self._sharing.publish(sequence, sequence.computed)
        if dropped := self._kv_budget.trim(sequence, attended):
            self.dropped_tokens += dropped
            self._trimmed.append(sequence)
            self._departures += 1

    def _room(self, sequence: Sequence) -> int:
        """Tokens that a sequence can have computed with the pages it holds."""
        return len(sequence.pages) * self.page_size + sequence.dropped

    def _lacks(self, sequence: Sequence, tokens: int) -> int:
        """Pages still wanting, at the most, until a sequence has computed so many tokens."""
        need = self.limits.pages_for(tokens - sequence.dropped)
        if sequence.budget is not None:
            need = min(need, sequence.budget)
            if sequence.computed < sequence.prompt:
                need = max(need, self.limits.pages_for(min(tokens, sequence.prompt)))
        return need - len(sequence.pages)

    # Admission

    def _make_way(self, plan: StepPlan) -> None:
        """Preempt what runs with a worse priority than the head of the queue, if it must."""
        while self._waiting and self.policy.batching == "continuous":
            head, worst = self._waiting.head, max(self._classes, default=0)
            if worst <= head.priority or (self._seats(head) and self._fits(head)):
                return
            self._preempt(self._youngest(), plan)

    def _admit(self, budget: int, plan: StepPlan, now: float) -> int:
        """Let newcomers in; return what is left of the budget."""
        if self.policy.batching == "static" and not self._open_batch(now):
            return budget
        while self._waiting:
            head = self._waiting.head
            if not self._seats(head) or not self._fits(head):
                break
            if budget <= 0 and self.policy.batching == "continuous":
                break
            for _ in head.group:  # next to each other in the queue
                sequence = self._waiting.pop()
                sequence.state = State.PREFILL
                self._prefills[sequence] = None
                self._classes[sequence.priority] += 1
            for sequence in head.group:
                budget -= self._advance(sequence, budget, plan)
            self._batch = self.running
        return budget

    def _open_batch(self, now: float) -> bool:
        """Static batching: whether a new batch may start."""
        wake = self.wake_at
        return wake is not None and (len(self._waiting) >= self.policy.max_running or now >= wake)

    def _seats(self, sequence: Sequence) -> bool:
        """Whether a newcomer, with its peers, finds a seat."""
        return self.running + len(sequence.group) <= self.policy.max_running

    def _fits(self, sequence: Sequence) -> bool:
        """Whether the pool has the pages that the policy wants a newcomer to find."""
        if not self.running:
            return True  # alone, whatever passed `add` fits
        if self._blocked == (sequence, self._departures):
            return False
        policy, running = self.policy, [*self._prefills]
        if policy.admit == "limit":
            # Sharing is not counted on: what is shared now may part later.
            running += self._decodes
            owed = sum(self._lacks(s, s.limit - 1) for s in running)
            if self._kv_budget is not None:  # and a shared page that one gives up is not free
                owed += sum(len(s.pages) for s in running) - self.pool.held
            need = len(sequence.group) * self._lacks(sequence, sequence.limit - 1)
        else:
            known = sequence.target
            if policy.admit == "chunk":
                known = min(known, policy.max_step_tokens)
            owed = sum(self._lacks(s, s.target) for s in running)
            need = self._lacks(sequence, known) - self._sharing.held_by_others(sequence)
            need *= len(sequence.group)
        if self.pool.available - owed - need < int(policy.reserve * self.pool.total):
            self._blocked = (sequence, self._departures)
            return False
        return True

    # Guesses

    def _make_room(self, guesses: Mapping[Sequence, int], budget: int, plan: StepPlan) -> None:
        """Let decodes compute guesses where that takes nothing from anybody."""
        for sequence, asked in guesses.items():
            if sequence.state is not State.DECODE or sequence.peers:
                continue
            room = sequence.limit - sequence.length - 1  # the token after the guesses is sampled
            if self._kv_budget is not None and sequence.budget is not None:
                room = min(
                    room, self._kv_budget.chunk_end(sequence, sequence.limit) - sequence.length
                )
            count = min(asked, budget, room)
            if count < 1:
                continue
            missing = self._lacks(sequence, sequence.length + count)
            if missing > 0 and self.pool.available < missing + len(self._decodes):
                # Every decode may need a page soon, and shall not be preempted for a guess.
                missing, count = 0, self._room(sequence) - sequence.length
            if count > 0:
                sequence.pages += self.pool.take(max(0, missing))
                plan.guessed[sequence] = count
                budget -= count

    def _hurry(self, sequence: Sequence, tokens: int) -> None:
        """A decode with guesses is so many tokens further than the clock tells."""
        if tokens:
            sequence.computed += tokens
            sequence.last_tick -= tokens
            heappush(self._ends, (sequence.last_tick, sequence.order, sequence))
        self._note_event(sequence)  # it may also have got pages for what did not come true

    # From one state to the next

    def _sampled(self, sequence: Sequence) -> None:
        """A prefill sampled its next token: it decodes from now on, or ends."""
        if sequence.target + 1 >= sequence.limit:
            self._end(sequence, "length")
        elif self.policy.kv_cache:
            del self._prefills[sequence]
            sequence.state = State.DECODE
            sequence.follow(self._clock)
            self._decodes[sequence] = None
            sequence.last_tick = self._clock.tick + sequence.limit - sequence.length
            heappush(self._ends, (sequence.last_tick, sequence.order, sequence))
            self._note_event(sequence)
        else:
            sequence.target += 1
            sequence.computed = 0

    def _note_event(self, sequence: Sequence) -> None:
        """Put a decode's next event on the calendar: pages full, or length at its limit."""
        steps = min(
            self._room(sequence) - sequence.computed,
            sequence.limit - sequence.length,
        )
        self._calendar.note(sequence, self._clock.tick + steps)

    def _turn_calendar(self) -> None:
        """End what reached its limit; put aside what needs a page before the next step."""
        for sequence in self._calendar.turn(self._clock.tick):
            if sequence.length >= sequence.limit:
                self._end(sequence, "length")
            else:
                if sequence.budget is not None:
                    self._trim(sequence)
                self._due.append(sequence)
        while self._ends and self._ends[0][0] <= self._clock.tick:
            heappop(self._ends)

    def _victim(self, sequence: Sequence, plan: StepPlan) -> Sequence | None:
        """Return the youngest that is younger than `sequence` and has no chunk in the plan."""
        planned = {s for chunk in plan.chunks for s in chunk.sequence.group}
        last = sequence.group[-1].order
        younger = (s for s in (*self._prefills, *self._decodes) if s.order > last)
        return max((s for s in younger if s not in planned), key=lambda s: s.order, default=None)

    def _youngest(self) -> Sequence:
        return max((*self._prefills, *self._decodes), key=lambda s: s.order)

    def _preempt(self, sequence: Sequence, plan: StepPlan) -> None:
        """Give up a group's pages; it computes its tokens anew when it resumes."""
        for member in sequence.group:
            self._leave(member)
            member.preemptions += 1
            self.preemptions += 1
            plan.preempted.append(member)
            self._waiting.add(member)

    def _end(self, sequence: Sequence, reason: Reason) -> None:
        if sequence.state is State.ENDED:
            return
        if sequence.state is State.WAITING:
            self._waiting.forget(sequence)
        else:
            self._leave(sequence)
        sequence.state = State.ENDED
        del self._sequences[sequence.id]
        self._aborted.discard(sequence.id)
        self.ended.append(Ended(sequence, reason))

    def _leave(self, sequence: Sequence) -> None:
        """Vacate the seat and release the pages, keeping what others may reuse."""
        self._sharing.publish(sequence, sequence.computed)
        sequence.target = sequence.length
        self._prefills.pop(sequence, None)
        self._decodes.pop(sequence, None)
        self._classes[sequence.priority] -= 1
        if not self._classes[sequence.priority]:
            del self._classes[sequence.priority]
        self._calendar.cancel(sequence)
        sequence.follow(STILL)
        sequence.computed = 0
        self.pool.release(sequence.pages)
        sequence.pages = []
        sequence.worth = []
        sequence.indexed = sequence.dropped = 0
        self._departures += 1

    def _sweep(self) -> None:
        """End what was marked; only here, between two steps."""
        for sequence_id in sorted(self._aborted, key=lambda i: self._sequences[i].order):
            self._end(self._sequences[sequence_id], "abort")


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order
