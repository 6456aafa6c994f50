"""Makes the plans of a run: one source, every operating point with prompts of its own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from penstock.record.run import Load
from penstock.workload import arrivals
from penstock.workload.lengths import Lengths
from penstock.workload.plan import Ask, Plan
from penstock.workload.prompts import Prompts
from penstock.workload.traces import TraceRow, clip


class Source(msgspec.Struct, kw_only=True):
    """What is asked at every operating point of a run; each takes prompts of its own.

    `context` is how many tokens the model holds, prompt and output together;
    lengths beyond it are clipped and counted in the plan's notes. None: unknown.
    """

    prompts: Prompts
    input_len: Lengths
    output_len: Lengths
    seed: int
    context: int | None = None
    used: int = 0  # prompts dealt out so far

    def closed(
        self, concurrency: int, count: int, warmup: int | None = None, think_s: float = 0.0
    ) -> Plan:
        """`count` requests for `concurrency` slots; warm-up is one request a slot unless told."""
        plan = self._plan(
            Load(kind="closed", concurrency=concurrency),
            self._rows([0.0] * count),
            concurrency if warmup is None else warmup,
            "closed loop" + (f", {think_s:g} s think time" if think_s else ""),
        )
        plan.think_s = think_s
        return plan

    def poisson(self, rate: float, count: int, warmup: int | None = None) -> Plan:
        """`count` requests at `rate` per second; warm-up is the first tenth unless told."""
        offsets = arrivals.poisson(rate, count, np.random.default_rng([self.seed, self.used, 1]))
        return self._plan(
            Load(kind="open", rate=rate),
            self._rows(offsets.tolist()),
            _tenth(count) if warmup is None else warmup,
            "Poisson",
        )

    def replay(self, rows: Sequence[TraceRow], speed: float, warmup: int | None = None) -> Plan:
        """A trace's arrivals and lengths, `speed` times as fast."""
        rows = [msgspec.structs.replace(row, at_s=row.at_s / speed) for row in rows]
        seconds = rows[-1].at_s
        plan = self._plan(
            Load(kind="trace", rate=len(rows) / seconds if seconds else None),
            rows,
            _tenth(len(rows)) if warmup is None else warmup,
            f"as recorded, {speed:g} times as fast",
        )
        plan.conditions["prompt_tokens_asked"] = plan.conditions["output_tokens_asked"] = (
            "of the trace, clipped" if plan.notes else "of the trace"
        )
        return plan

    def _rows(self, at_s: Sequence[float]) -> list[TraceRow]:
        rng = np.random.default_rng([self.seed, self.used, 0])
        prompt_tokens = self.input_len.draw(len(at_s), rng).tolist()
        output_tokens = self.output_len.draw(len(at_s), rng).tolist()
        return [TraceRow(*row) for row in zip(at_s, prompt_tokens, output_tokens, strict=True)]

    def _plan(self, load: Load, rows: Sequence[TraceRow], warmup: int, arrival: str) -> Plan:
        sized, first = self.prompts.sized, self.used
        self.used += len(rows)
        notes = []
        if self.context is not None and sized:
            # Lengths that are estimates keep a quarter of the context free.
            room = self.context if self.prompts.exact else self.context * 3 // 4
            rows, note = clip(rows, room)
            if note and room < self.context:
                note += (
                    f" (a quarter of its {self.context:,} is kept free: prompts are cut by an "
                    "estimate; give --tokenizer to cut exactly)"
                )
            notes = [note] if note else []
        return Plan(
            load=load,
            warmup=warmup,
            notes=notes,
            asks=[
                Ask(
                    id=str(first + i),
                    content=self.prompts.prompt(first + i, row.prompt_tokens),
                    prompt_tokens=row.prompt_tokens if sized else None,
                    output_tokens=row.output_tokens,
                    at_s=None if load.kind == "closed" else row.at_s,
                )
                for i, row in enumerate(rows)
            ],
            conditions={
                "arrival": arrival,
                "concurrency": load.concurrency or "not limited",
                "rate": "as answered" if load.rate is None else load.rate,
                "requests": len(rows),
                "prompts": self.prompts.description,
                "prompt_tokens_asked": str(self.input_len) if sized else "as given",
                "output_tokens_asked": str(self.output_len),
                "warmup_requests": warmup,
                "seed": self.seed,
            },
        )


def _tenth(count: int) -> int:
    return max(1, count // 10)
