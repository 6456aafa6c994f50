"""A world for the scheduler: a fake model whose next token is a hash of what its pages hold.

Every slot of the fake pool stores the (position, token) written there. The
next token is a hash of all slots read through the sequence's page table, so
any error of bookkeeping (a page handed out twice, a shared page overwritten,
a chunk skipped) changes text or trips over a slot that holds something else.

Where sequences give up pages, a slot also holds a hash of what its row could
read, so that a chunk that reaches over such a place changes text too.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from penstock.schedule import Policy, Scheduler, Sequence
from penstock.schedule.plan import StepPlan
from penstock.schedule.policy import WATCHED

VOCABULARY = 50
STOP = 0


Slot = tuple[int, ...]  # position, token, with a budget also a hash of the slots before


def next_token(context: list[Slot]) -> int:
    """The fake model. The context is all its slots, in order."""
    return random.Random(hash(tuple(context))).randrange(VOCABULARY)


def mass(page: list[Slot]) -> float:
    """How much the end of a prompt attends to a page."""
    return random.Random(hash(tuple(page))).random()


def reference(prompt: list[int], limit: int) -> list[int]:
    """Text of one request, unbatched, without pages: prompt and what follows."""
    tokens = list(prompt)
    while len(tokens) < limit:
        tokens.append(next_token(list(enumerate(tokens))))
        if tokens[-1] == STOP:
            break
    return tokens


def reference_within(policy: Policy, size: int, prompt: list[int], limit: int) -> list[int]:
    """The same under a budget of KV: pages are lists, and what is given up is deleted."""
    assert policy.kv_budget is not None
    most, tokens = policy.kv_budget // size, list(prompt)
    pages: list[list[Slot]] = [[]]
    worth: dict[int, float] = {}
    watched = WATCHED if policy.kv_keep == "snapkv" else 0
    outgrown = limit - 1 > policy.kv_budget

    def rate(page: list[Slot]) -> float:
        ordinal = page[0][0] // size
        if policy.kv_keep == "random":
            return random.Random(ordinal).random()
        if ordinal == 0 and policy.kv_keep != "recent":
            return math.inf
        return worth.get(ordinal, ordinal)

    for position in range(limit):
        context = tuple(slot for page in pages for slot in page)
        if position == len(prompt) and watched:
            early = range(max(0, len(prompt) - watched) // size)
            masses = [mass(page) for page in pages if page]
            own = [0.0, *masses[1 : len(early)]]
            near = [max(own[max(0, i - 1) : i + 2]) for i in early]
            by_mass = sorted(early[1:], key=lambda i: (near[i], own[i]), reverse=True)
            loved = {0, *by_mass[: most // 2 - 1]}
            worth = {i: math.inf if i in loved else near[i] / sum(masses) for i in early}
        if position >= len(prompt):
            tokens.append(next_token(list(context)))
            if tokens[-1] == STOP or len(tokens) == limit:
                return tokens
            while outgrown and len(pages) > most:
                older = pages[:-1] if pages[-1] else pages[:-2]
                pages.remove(min(older, key=rate))
            context = tuple(slot for page in pages for slot in page)
        pages[-1].append((position, tokens[position], hash(context)))
        if len(pages[-1]) == size:
            pages.append([])
    return tokens


@dataclass
class Text:
    """The tokens of one sequence, which the scheduler never sees."""

    tokens: list[int]
    page_size: int
    shared: int | None = None  # how many leading tokens have keys; None: all
    ends: list[str] = field(default_factory=list)

    def key(self, page: int) -> int | None:
        end = (page + 1) * self.page_size
        last = len(self.tokens) if self.shared is None else self.shared
        return hash(tuple(self.tokens[:end])) if end <= last else None


class World:
    """Drives a scheduler with the fake model and checks its promises after every step."""

    def __init__(
        self, policy: Policy, pages: int, page_size: int, guesser: random.Random | None = None
    ) -> None:
        self.scheduler = Scheduler(policy, pages, page_size)
        self.guesser = guesser  # with one, decodes guess ahead
        self.came_true = 0
        self.page_size = page_size
        self.slots: dict[int, Slot] = {}
        self.texts: dict[str, Text] = {}
        self.sequences: dict[str, Sequence] = {}
        self.computed_tokens = 0
        self.steps = 0
        self.now = 0.0
        self.checking = True
        self.branched = 0

    def add(self, name: str, prompt: list[int], max_tokens: int, priority: int = 0) -> None:
        text = Text(list(prompt), self.page_size)
        sequence = Sequence(
            id=name,
            prompt=len(prompt),
            limit=len(prompt) + max_tokens,
            keys=text.key,
            priority=priority,
        )
        self.scheduler.add(sequence, now=self.now)
        self.texts[name] = text
        self.sequences[name] = sequence

    def add_group(self, name: str, width: int, prompt: list[int], max_tokens: int) -> None:
        """`width` sequences in lockstep that go on from one another as `branch` says."""
        texts = [Text(list(prompt), self.page_size, shared=len(prompt)) for _ in range(width)]
        group = [
            Sequence(
                id=f"{name}.{i}",
                prompt=len(prompt),
                limit=len(prompt) + max_tokens,
                keys=text.key,
            )
            for i, text in enumerate(texts)
        ]
        for sequence in group:
            sequence.peers = tuple(group)
        self.scheduler.add(*group, now=self.now)
        self.texts |= {s.id: text for s, text in zip(group, texts, strict=True)}
        self.sequences |= {s.id: s for s in group}

    def branch(self, rng: random.Random) -> None:
        """After a step, let each decoding group's members go on from random ones of them."""
        for first in {s.peers[0]: None for s in self.scheduler._decodes if s.peers}:
            parents = {s: rng.choice(first.peers) for s in first.peers}
            copies = self.scheduler.branch(parents)
            size, before = self.page_size, dict(self.slots)
            for source, target in copies:
                for i in range(size):
                    if source * size + i in before:
                        self.slots[target * size + i] = before[source * size + i]
            texts = {s: list(self.texts[s.id].tokens) for s in first.peers}
            for i, (child, parent) in enumerate(parents.items()):
                tokens = texts[parent]
                self.texts[child.id].tokens[:] = [*tokens[:-1], 1 + (tokens[-1] + i) % 40]
            self.branched += 1

    def schedule(self) -> StepPlan | None:
        before = list(self.scheduler._decodes)
        plan = self.scheduler.schedule(self.now, self._guesses())
        if plan is not None:
            # A decode is in every step until it ends or is preempted.
            for sequence in before:
                assert (
                    sequence in plan.decodes
                    or sequence.state.name in ("WAITING", "ENDED")
                    or (sequence.preemptions and sequence.state.name == "PREFILL")
                )
            budget = self.scheduler.policy.max_step_tokens
            taken = sum(c.end - c.start for c in plan.chunks) + len(plan.decodes)
            taken += sum(plan.guessed.values())
            if self.scheduler.policy.chunked_prefill and self.scheduler.policy.kv_cache:
                assert taken <= budget
        self.check()
        return plan

    def _guesses(self) -> dict[Sequence, int]:
        """For some of what decodes, how many tokens to guess."""
        if self.guesser is None:
            return {}
        rng, known = self.guesser, list(self.sequences.values())
        some = [s for s in known if s.state.name != "ENDED" and rng.random() < 0.7]
        return {s: rng.randrange(0, 7) for s in some}

    def _guess(self, plan: StepPlan) -> dict[Sequence, list[int]]:
        """Guesses that come true for a while: the fake model's own tokens, then wrong ones."""
        guesses = {}
        for sequence, count in plan.guessed.items():
            assert sequence in plan.decodes
            assert self.guesser is not None
            right = self.guesser.randrange(0, count + 1)
            if self.scheduler.policy.kv_budget is None:
                tokens = reference(self.texts[sequence.id].tokens, sequence.length + right)
            else:
                tokens = self._reference(sequence)[: sequence.length + right]
            found = tokens[sequence.length :]
            guesses[sequence] = found + [VOCABULARY] * (count - len(found))
        return guesses

    def finish(self, plan: StepPlan) -> None:
        """Compute a plan and apply it."""
        self.scheduler.apply(plan, *self.compute(plan))

    def compute(
        self, plan: StepPlan
    ) -> tuple[list[Sequence], dict[Sequence, int], dict[Sequence, list[float]]]:
        """Take the plan through the fake model: write every row, then read.

        Returns who sampled a stop, how many guesses of whom came true, and to which
        pages the ends of watched prompts attend.
        """
        self.steps += 1
        guesses, came_true = self._guess(plan), {}
        rows = [(c.sequence, c.start, c.end, c.samples) for c in plan.chunks]
        rows += [(s, s.computed, s.computed + 1, True) for s in plan.decodes]
        for sequence, start, end, _ in rows:
            self.computed_tokens += end - start
            for position in range(start, end):
                self._write(sequence, position, self.texts[sequence.id].tokens[position])
        for sequence, guess in guesses.items():
            for position, token in enumerate(guess, sequence.length):
                self._write(sequence, position, token)
        stopped, attended = [], {}
        for sequence, start, end, samples in rows:
            text = self.texts[sequence.id]
            context = self._read(sequence, end)
            if sequence.watched and start < sequence.prompt == end:
                assert start <= max(0, end - sequence.watched), "part of it was not seen"
                size = self.page_size
                attended[sequence] = [
                    mass(context[i : i + size]) for i in range(0, len(context), size)
                ]
            if samples:
                assert end == len(text.tokens)
                text.tokens.append(next_token(context))
                for guess in guesses.get(sequence, []):
                    if text.tokens[-1] != guess or guess == STOP:
                        break
                    came_true[sequence] = came_true.get(sequence, 0) + 1
                    end += 1
                    text.tokens.append(next_token(self._read(sequence, end)))
                if text.tokens[-1] == STOP and sequence is sequence.group[0]:
                    stopped += sequence.group
        self.came_true += sum(came_true.values())
        return stopped, came_true, attended

    def _slot(self, sequence: Sequence, index: int) -> int:
        page, offset = divmod(index, self.page_size)
        return sequence.pages[page] * self.page_size + offset

    def _write(self, sequence: Sequence, position: int, token: int) -> None:
        index, slot = position - sequence.dropped, (position, token)
        if self.scheduler.policy.kv_budget is not None:
            slot = (*slot, hash(tuple(self.slots[self._slot(sequence, i)] for i in range(index))))
        self.slots[self._slot(sequence, index)] = slot

    def _read(self, sequence: Sequence, end: int) -> list[Slot]:
        """What a row before position `end` reads, found to be in place."""
        context = [self.slots[self._slot(sequence, i)] for i in range(end - sequence.dropped)]
        tokens, positions = self.texts[sequence.id].tokens, [slot[0] for slot in context]
        assert positions == sorted(set(positions)), f"{sequence.id} read pages in disorder"
        known = [(i, tokens[i]) for i in positions if i < end]
        assert [slot[:2] for slot in context] == known, f"{sequence.id} read a wrong page"
        return context

    def _reference(self, sequence: Sequence) -> list[int]:
        prompt = self.texts[sequence.id].tokens[: sequence.prompt]
        if self.scheduler.policy.kv_budget is None:
            return reference(prompt, sequence.limit)
        return reference_within(self.scheduler.policy, self.page_size, prompt, sequence.limit)

    def step(self) -> bool:
        """One step; False when there was nothing to compute."""
        plan = self.schedule()
        if plan is not None:
            self.finish(plan)
        self.check()
        self.now += 1.0
        return plan is not None

    def run(self, limit: int = 100_000) -> None:
        """Step until nothing is left; raise if that takes more than `limit` steps."""
        for _ in range(limit):
            if not self.scheduler.has_work:
                return
            stepped = self.step()
            assert stepped or not self.scheduler.has_work or self.scheduler.wake_at is not None, (
                "work waits and no step is planned"
            )
        raise AssertionError(f"not finished after {limit} steps: something starves")

    def check(self) -> None:
        for ended in self.scheduler.ended:
            self.texts[ended.sequence.id].ends.append(ended.reason)
        self.scheduler.ended.clear()
        if self.checking:
            self.scheduler.check()
        for name, text in self.texts.items():
            assert len(text.ends) <= 1, f"{name} ended {text.ends}"

    def verify(self) -> None:
        """All is over: one end each, the right text, and no page held."""
        self.scheduler.check()
        assert self.scheduler.pool.held == 0
        for name, text in self.texts.items():
            sequence = self.sequences[name]
            assert len(text.ends) == 1, f"{name} ended {text.ends}"
            if sequence.peers:  # what they read was checked at every step
                assert {tuple(self.texts[p.id].ends) for p in sequence.peers} == {tuple(text.ends)}
                continue
            expected = self._reference(sequence)
            if text.ends == ["abort"]:
                assert text.tokens == expected[: len(text.tokens)]
            else:
                assert text.tokens == expected
                assert text.ends == ["stop" if expected[-1] == STOP else "length"]
