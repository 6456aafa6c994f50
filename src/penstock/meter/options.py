"""What to measure, and the bounds that hold unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from penstock.record.price import Price
from penstock.record.slo import Slo
from penstock.workload.arrivals import Arrival
from penstock.workload.lengths import Lengths
from penstock.workload.presets import Workload
from penstock.workload.prompts import Shortener

# No run is endless or ruinous.
DURATION_S = 30.0
LONGEST_S = 600.0  # where the number of requests was given instead, and for traces
TOKENS = 2_000_000
TOKENS_OF_SEARCH = 20_000_000  # a sweep, or the two dozen trials of a capacity
TOKENS_SIMULATED = 50_000_000  # cost memory alone; `penstock simulate` has no such bound


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure. None means: as is usual for the rest of the options."""

    concurrency: tuple[int, ...] = ()  # of closed loops; none: see `slots`
    arrivals: tuple[Arrival, ...] = ()  # an open loop each; without, closed loops
    trace: Path | None = None
    speed: float = 1.0  # of the trace
    limit: int | None = None  # requests taken from the trace, or tasks asked
    requests: int | None = None  # at each operating point
    duration_s: float | None = None  # of the load at each operating point
    tokens: int | None = None  # prompt and output, over the whole run
    repeats: int = 1  # of every operating point
    search: tuple[Literal["sweep", "capacity"], ...] = ()  # for operating points, in this order
    workload: Workload = Workload(name="plain")  # only its shape is heeded here
    input_len: Lengths = Lengths(kind="uniform", a=64, b=256)
    output_len: Lengths = Lengths(kind="uniform", a=32, b=160)
    n: int = 1  # samples of each prompt, in one request
    prompts: Path | None = None
    shortener: Shortener | None = None  # of every prompt; see `Lengths.times`
    think_s: float = 0.0
    warmup: int | None = None  # requests
    context: int | None = None  # tokens, prompt and output; None: as the target says
    seed: int = 0
    salt: str | None = None
    workers: int | None = None  # processes that send; None: as many as the load calls for
    slos: tuple[Slo, ...] = ()
    rules: str | None = None  # stricter rules that the verdict holds the run to
    price: Price | None = None
    tasks: str | None = None  # whose answers are graded; see `open_tasks`
    samples: tuple[int, ...] = (1,)  # of each task, an operating point each
    few_shot: int | None = None  # examples shown before each task
    temperature: float | None = None  # of tasks; None: greedy if all are asked once, else 0.8
    unsafe_sandbox: bool = False  # run answers as programs though nothing holds them

    @property
    def limit_s(self) -> float:
        """How long the load of one operating point may last."""
        if self.duration_s is not None:
            return self.duration_s
        counted = self.requests is not None or self.trace is not None or self.tasks is not None
        return LONGEST_S if counted else DURATION_S

    @property
    def budget(self) -> int:
        """Tokens after which the run ends."""
        return self.tokens or (TOKENS_OF_SEARCH if self.search else TOKENS)

    @property
    def slots(self) -> tuple[int, ...]:
        """Requests at once in closed loops, one operating point each, or where a search begins."""
        if self.concurrency:
            return self.concurrency
        return (16,) if self.tasks else (1,) if self.search else (1, 16)
