"""When requests are wanted: offsets in seconds from the start of the load.

The whole schedule is made first, from one seed, and never shifted later, so
that it does not depend on how the load is sent or on how the target keeps up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.float64]


def poisson(rate: float, count: int, rng: np.random.Generator) -> Offsets:
    """`count` arrivals of a Poisson process of `rate` per second.

    Gaps are independent and exponential, and not rescaled to end at a given
    moment: the number of arrivals in an interval varies as Poisson's does.
    """
    return np.cumsum(rng.exponential(1 / rate, size=count))


def constant(rate: float, count: int) -> Offsets:
    """`count` arrivals, exactly 1/rate seconds apart, the first at zero."""
    return np.arange(count) / rate
