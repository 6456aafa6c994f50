"""Agent loops: call a tool, read what it says, answer, be checked, try again. `agent:2,3,1`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from penstock.workload import doctests
from penstock.workload.plan import Answer, Ask, End
from penstock.workload.sessions import add, too_long
from penstock.workload.shapes import Maker, Want, from_one

_WRONG = "\nThat is wrong. Once more:\n"
ANSWER_TOKENS = 32  # hold every doctest's answer


class Task(Protocol):
    """A question that can be checked."""

    def question(self) -> str:
        """What is put to the model."""
        ...

    def is_right(self, continuation: str) -> bool:
        """Whether the answer is right."""
        ...


class Doctest(msgspec.Struct, frozen=True):
    """A held-out doctest after four answered ones."""

    task: doctests.Task

    def question(self) -> str:
        """See `Task`."""
        return "\n" + doctests.few_shot(self.task)

    def is_right(self, continuation: str) -> bool:
        """See `Task`."""
        return self.task.is_right(continuation)


def doctest(seed: int, index: int) -> Doctest:
    """The task of ask `index`."""
    return Doctest(next(doctests.tasks(f"{seed} {index}", "held_out")))


class Agent(msgspec.Struct, frozen=True):
    """Tasks, each worked on by an agent until it is right or given up.

    An agent reads its context (the ask's own prompt), calls a tool `calls`
    times (each call an answer of the ask's output length, the tool takes
    `tool_s` and returns as much text as the context), then answers. The answer
    is checked; a wrong one is told so and tried again, `tries` times in all.
    """

    calls: int = 2
    tries: int = 3
    tool_s: float = 1.0
    task: Callable[[int, int], Task] = doctest  # of seed and index

    shared_tokens = 0

    def __post_init__(self) -> None:
        from_one(tries=self.tries)

    @property
    def description(self) -> str:
        """See `Shape`."""
        return (
            f"agents that call a tool {self.calls} times ({self.tool_s:g} s each) and answer, "
            f"up to {self.tries} tries, checked ({self.task.__name__})"
        )

    def ask(self, make: Maker, want: Want) -> Ask:
        """See `Shape`."""
        return _Work(self, make, want).first()


class _Work:
    """One task under way."""

    def __init__(self, agent: Agent, make: Maker, want: Want) -> None:
        self._agent = agent
        self._context = make.context
        self._n = make.n
        self._want = want
        self._task = agent.task(make.seed, want.index)
        # The context, then what each tool call returns.
        self._texts = [
            make.join([(f"agent {want.index} {step}", want.prompt_tokens)])
            for step in range(agent.calls + 1)
        ]
        self._said: list[dict[str, Any]] = []
        self._tokens: int | None = 0
        self._turn = 0
        self._tried = 0

    def first(self) -> Ask:
        """The ask that opens the task."""
        return self._next()

    def follow(self, answer: Answer) -> Ask | End:
        """The next step, after the answer to the last."""
        if answer.error is not None:
            return End.BROKEN
        agent = self._agent
        self._said.append({"role": "assistant", "content": answer.texts[0]})
        self._tokens = add(self._tokens, answer.output_tokens)
        if self._turn >= agent.calls:
            if self._task.is_right(answer.texts[0]):
                return End.COMPLETED
            self._tried += 1
        if self._tried == agent.tries:
            return End.GIVEN_UP
        self._turn += 1
        ask = self._next()
        too_far = too_long(add(ask.prompt_tokens, ask.output_tokens), self._context)
        return End.GIVEN_UP if too_far else ask

    def _next(self) -> Ask:
        agent, turn, want = self._agent, self._turn, self._want
        if turn <= agent.calls:
            text, tokens = self._texts[turn], want.prompt_tokens
        else:
            text, tokens = _WRONG, None
        if turn >= agent.calls:
            # How long a question is, nobody counted.
            text, tokens = text + self._task.question(), None
        self._said.append({"role": "user", "content": text})
        self._tokens = add(self._tokens, tokens)
        return Ask(
            id=f"{want.index}.{turn}",
            content=list(self._said),
            prompt_tokens=self._tokens,
            output_tokens=ANSWER_TOKENS if turn >= agent.calls else want.output_tokens,
            at_s=None if turn else want.at_s,
            n=self._n,
            session=str(want.index),
            turn=turn,
            think_s=agent.tool_s if 0 < turn <= agent.calls else 0.0,
            follow=self.follow,
        )
