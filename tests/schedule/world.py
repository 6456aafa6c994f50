"""A world for the scheduler: a fake model whose next token is a hash of what its pages hold.

Every slot of the fake pool stores the (position, token) written there. The
next token is a hash of all slots read through the sequence's page table, so
any error of bookkeeping (a page handed out twice, a shared page overwritten,
a chunk skipped) changes text or trips over a slot that holds something else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from penstock.schedule import Policy, Scheduler, Sequence
from penstock.schedule.scheduler import StepPlan

VOCABULARY = 50
STOP = 0


def next_token(context: list[tuple[int, int]]) -> int:
    """The fake model. The context is all its (position, token) pairs, in order."""
    return random.Random(hash(tuple(context))).randrange(VOCABULARY)


def reference(prompt: list[int], limit: int) -> list[int]:
    """Text of one request, unbatched, without pages: prompt and what follows."""
    tokens = list(prompt)
    while len(tokens) < limit:
        tokens.append(next_token(list(enumerate(tokens))))
        if tokens[-1] == STOP:
            break
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
        self.slots: dict[int, tuple[int, int]] = {}
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
            tokens = reference(self.texts[sequence.id].tokens, sequence.length + right)
            found = tokens[sequence.length :]
            guesses[sequence] = found + [VOCABULARY] * (count - len(found))
        return guesses

    def finish(self, plan: StepPlan) -> None:
        """Compute a plan and apply it."""
        stopped, came_true = self.compute(plan)
        self.scheduler.apply(plan, stopped, came_true)

    def compute(self, plan: StepPlan) -> tuple[list[Sequence], dict[Sequence, int]]:
        """Take the plan through the fake model: write every row, then read.

        Returns who sampled a stop, and how many guesses of whom came true.
        """
        self.steps += 1
        guesses, came_true = self._guess(plan), {}
        rows = [(c.sequence, c.start, c.end, c.samples) for c in plan.chunks]
        rows += [(s, s.computed, s.computed + 1, True) for s in plan.decodes]
        for sequence, guess in guesses.items():
            for position, token in enumerate(guess, sequence.length):
                self.slots[self._slot(sequence, position)] = (position, token)
        for sequence, start, end, _ in rows:
            self.computed_tokens += end - start
            for position in range(start, end):
                token = self.texts[sequence.id].tokens[position]
                self.slots[self._slot(sequence, position)] = (position, token)
        stopped = []
        for sequence, _, end, samples in rows:
            text = self.texts[sequence.id]
            context = [self.slots[self._slot(sequence, i)] for i in range(end)]
            assert context == list(enumerate(text.tokens[:end])), f"{sequence.id} read a wrong page"
            if samples:
                assert end == len(text.tokens)
                text.tokens.append(next_token(context))
                for guess in guesses.get(sequence, []):
                    if text.tokens[-1] != guess or guess == STOP:
                        break
                    came_true[sequence] = came_true.get(sequence, 0) + 1
                    end += 1
                    context = [self.slots[self._slot(sequence, i)] for i in range(end)]
                    assert context == list(enumerate(text.tokens)), f"{sequence.id} misread"
                    text.tokens.append(next_token(context))
                if text.tokens[-1] == STOP and sequence is sequence.group[0]:
                    stopped += sequence.group
        self.came_true += sum(came_true.values())
        return stopped, came_true

    def _slot(self, sequence: Sequence, position: int) -> int:
        page, offset = divmod(position, self.page_size)
        return sequence.pages[page] * self.page_size + offset

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
            expected = reference(text.tokens[: sequence.prompt], sequence.limit)
            if text.ends == ["abort"]:
                assert text.tokens == expected[: len(text.tokens)]
            else:
                assert text.tokens == expected
                assert text.ends == ["stop" if expected[-1] == STOP else "length"]
