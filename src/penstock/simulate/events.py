"""When each token came: slices of the steps of the replicas that made it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.simulate.call import Span


def event_times(spans: Sequence[Span], base_ns: int) -> list[int]:
    """The ends, in nanoseconds, of the steps that gave a call its tokens, in order."""
    parts = [np.asarray(ends[start:stop]) for ends, start, stop in spans]
    if not parts:
        return []
    seconds = np.concatenate(parts)
    times: list[int] = (base_ns + np.rint(seconds * 1e9).astype(np.int64)).tolist()
    return times
