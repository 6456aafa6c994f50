"""Makes the plans of a run: one source, every operating point with prompts of its own."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.record.run import Load
from penstock.workload.arrivals import Arrival
from penstock.workload.lengths import Lengths
from penstock.workload.plan import Ask, Asks, Plan
from penstock.workload.prompts import CutPrompts, Prompts
from penstock.workload.sessions import Recorded
from penstock.workload.shapes import Maker, Plain, Shape, Want, plain_ask
from penstock.workload.traces import Trace, clip


class Source(msgspec.Struct, kw_only=True):
    """What is asked at every operating point of a run; each takes prompts of its own.

    `input_len` is of a prompt's own part: what its shape shares comes on top.
    `context` is how many tokens the model holds, prompt and output together;
    lengths beyond it are clipped and counted in the plan's notes. None: unknown.
    Asks are made when looked at; a plan keeps three numbers for each.
    """

    prompts: Prompts
    input_len: Lengths
    output_len: Lengths
    seed: int
    context: int | None = None
    shape: Shape = Plain()
    n: int = 1  # samples of each prompt
    used: int = 0  # prompts dealt out so far

    def closed(
        self, concurrency: int, count: int, warmup: int | None = None, think_s: float = 0.0
    ) -> Plan:
        """`count` requests (or sessions) for `concurrency` slots.

        Warm-up is one a slot unless told.
        """
        plan = self._drawn(
            Load(kind="closed", concurrency=concurrency),
            np.zeros(count),
            "closed loop" + (f", {think_s:g} s think time" if think_s else ""),
        )
        plan.think_s = think_s
        return _warm(plan, concurrency if warmup is None else warmup)

    def open(
        self,
        arrival: Arrival,
        *,
        count: int | None = None,
        seconds: float | None = None,
        warmup: int | None = None,
    ) -> Plan:
        """Requests (or sessions) as they arrive: so many, or for so long, or the fewer.

        Warm-up is the first tenth unless told. Raises `ValueError` where none arrives.
        """
        rng = np.random.default_rng([self.seed, self.used, 1])
        at_s = arrival.offsets(rng, count=count, seconds=seconds)
        if not len(at_s):
            raise ValueError(f"no request arrives by {arrival} within {seconds:g} s; take longer")
        until = float(at_s[-1]) if seconds is None else seconds
        plan = self._drawn(
            Load(kind="open", rate=arrival.mean_rate(until or 1.0)), at_s, arrival.description
        )
        return _warm(plan, _tenth(len(at_s)) if warmup is None else warmup)

    def replay(self, trace: Trace, speed: float = 1.0, warmup: int | None = None) -> Plan:
        """A trace's arrivals, lengths and sharing, `speed` times as fast.

        Sessions of a trace wait for their answers instead: see `Recorded`.
        """
        trace, notes = self._fitted(msgspec.structs.replace(trace, at_s=trace.at_s / speed))
        make, first, seconds = self._maker(), self.used, float(trace.at_s[-1])

        def ask(want: Want) -> Ask:
            if trace.blocks is None:
                return Plain().ask(make, want)
            pieces = trace.pieces(want.index - first, want.prompt_tokens, copy=first)
            return plain_ask(make, want, make.join(pieces), want.prompt_tokens)

        load = Load(kind="trace", rate=len(trace) / seconds if seconds else None)
        plan = self._plan(load, trace, ask)
        plan.notes = notes
        lengths = "of the trace, clipped" if notes else "of the trace"
        plan.conditions |= {
            "arrival": f"as recorded ({trace.format}), {speed:g} times as fast",
            "prompt_tokens_asked": lengths,
            "output_tokens_asked": lengths,
        }
        if trace.blocks:
            self._tell(plan, "prefixes shared as the trace says")
        return _warm(plan, _tenth(len(trace)) if warmup is None else warmup)

    def _drawn(self, load: Load, at_s: npt.NDArray[np.float64], arrival: str) -> Plan:
        """A plan whose lengths are drawn, and whose asks have the shape of this source."""
        rng, shape = np.random.default_rng([self.seed, self.used, 0]), self.shape
        drawn, notes = self._fitted(
            Trace(
                format="drawn",
                at_s=at_s,
                prompt_tokens=self.input_len.draw(len(at_s), rng),
                output_tokens=self.output_len.draw(len(at_s), rng),
            ),
            shape.shared_tokens,
        )
        lengths = None
        if isinstance(shape, Recorded):
            trace, notes = self._fitted(shape.trace)
            shape = msgspec.structs.replace(shape, trace=trace)
            lengths = "of the trace, clipped" if notes else "of the trace"
        make = self._maker()
        plan = self._plan(load, drawn, lambda want: shape.ask(make, want))
        plan.notes = notes
        plan.conditions["arrival"] = arrival
        if shape.description:
            self._tell(plan, shape.description)
        if lengths:
            plan.conditions |= {"prompt_tokens_asked": lengths, "output_tokens_asked": lengths}
        return plan

    def _fitted(self, trace: Trace, shared: int = 0) -> tuple[Trace, list[str]]:
        """The trace with lengths that fit beside `shared` tokens, and what to say of it."""
        room = self._room()
        if room is None:
            return trace, []
        if room - shared < 2:
            raise ValueError(
                f"prompts that share {shared:,} tokens leave no room for their own in a context "
                f"of {room:,}; share less"
            )
        fitted, note = clip(trace, room - shared)
        if note and room < (self.context or 0):
            note += (
                f" (a quarter of its {self.context:,} is kept free: prompts are cut by an "
                "estimate; give --tokenizer to cut exactly)"
            )
        return fitted, [note] if note else []

    def _room(self) -> int | None:
        """Tokens there are for prompt and output; estimated lengths keep a quarter free."""
        if self.context is None or not self.prompts.sized:
            return None
        return self.context if self.prompts.exact else self.context * 3 // 4

    def _tell(self, plan: Plan, sharing: str) -> None:
        """Say what prompts share: they are no longer unique, and caches may help."""
        plan.shares_prefixes, prompts = True, self.prompts
        cut = prompts.cut if isinstance(prompts, CutPrompts) else prompts.description
        plan.conditions["prompts"] = f"{sharing}; {cut}"

    def _maker(self) -> Maker:
        return Maker(prompts=self.prompts, seed=self.seed, context=self._room(), n=self.n)

    def _plan(self, load: Load, wanted: Trace, ask: Callable[[Want], Ask]) -> Plan:
        first, closed = self.used, load.kind == "closed"
        self.used += len(wanted)

        def make(i: int) -> Ask:
            return ask(
                Want(
                    first + i,
                    int(wanted.prompt_tokens[i]),
                    int(wanted.output_tokens[i]),
                    None if closed else float(wanted.at_s[i]),
                )
            )

        sized = self.prompts.sized
        return Plan(
            load=load,
            asks=Asks(make, range(len(wanted))),
            warmup=0,
            shares_prefixes=not self.prompts.unique or self.n > 1,
            conditions={
                "concurrency": load.concurrency or "not limited",
                "rate": "as answered" if load.rate is None else load.rate,
                "requests": len(wanted),
                "prompts": self.prompts.description,
                "prompt_tokens_asked": str(self.input_len) if sized else "as given",
                "output_tokens_asked": str(self.output_len),
                "samples_per_prompt": self.n,
                "seed": self.seed,
            },
        )


def _warm(plan: Plan, warmup: int) -> Plan:
    plan.warmup = plan.conditions["warmup_requests"] = warmup
    return plan


def _tenth(count: int) -> int:
    return max(1, count // 10)
