"""Some of a trace's requests: those of a piece, those that a model can take."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from penstock.workload.traces import Trace


def subset(trace: Trace, rows: Sequence[int]) -> Trace:
    """These rows of a trace, in this order; what is left of a session stays one.

    Times count from the first of them. Raises `ValueError` where there is none.
    """
    if not len(rows):
        raise ValueError("no request of the trace is left")
    place = {row: at for at, row in enumerate(rows)}
    sessions = None
    if trace.sessions is not None:
        kept = ([place[row] for row in each.tolist() if row in place] for each in trace.sessions)
        sessions = [np.array(each) for each in kept if each]
    at_s = trace.at_s[rows]
    return msgspec.structs.replace(
        trace,
        at_s=at_s - at_s.min(),
        prompt_tokens=trace.prompt_tokens[rows],
        output_tokens=trace.output_tokens[rows],
        blocks=None if trace.blocks is None else [trace.blocks[row] for row in rows],
        think_s=[trace.think_s[row] for row in rows] if trace.think_s else [],
        sessions=sessions,
    )


def within(trace: Trace, context: int) -> tuple[Trace, str | None]:
    """The requests that fit a context of so many tokens, prompt and output together.

    The others are left out, as a server would refuse them: cut short, the prompts of a session
    that has outgrown the context would all be the same. Returns a sentence with
    counts besides, None if all fit. Raises `ValueError` where none does.
    """
    fits = trace.prompt_tokens + trace.output_tokens <= context
    if fits.all():
        return trace, None
    if not fits.any():
        raise ValueError(f"no request of the trace fits a context of {context:,} tokens")
    note = (
        f"{(~fits).sum():,} of {len(trace):,} requests are longer than the context of "
        f"{context:,} tokens and left out"
    )
    return subset(trace, np.flatnonzero(fits).tolist()), note
