"""The pocket estimate: a speed, an answer's length, and how many are served at once.

Three divisions, right as far as they go. What they leave out is said with them.
"""

from __future__ import annotations

import math
import re

import msgspec

WARNING = (
    "This is arithmetic on one speed, not a prediction. It leaves out the wait for the first "
    "token (a long prompt or a queue can double the time), that the speed of each answer falls "
    "as more share the hardware, and that half of all answers are slower than the median. Ask "
    "at what load, prompt length and hardware the speed was measured; `penstock bench` measures "
    "it, `penstock plan --model` predicts it."
)
_SPEED = re.compile(r"(?P<x>\d+\.?\d*|\.\d+)\s*(?P<unit>tps|tok/s|tokens/s|ms|ms/token)?")


class Pocket(msgspec.Struct, frozen=True, kw_only=True):
    """What a speed means to one user and asks of a system."""

    tokens_per_s: float  # to each user
    output: int  # tokens of an answer
    concurrent: int  # answers being written at any moment
    answer_s: float  # from the first token to the last
    one_after_another_s: float  # for all of them where the system serves one at a time
    system_tokens_per_s: float  # of all answers together
    requests_per_s: float  # that so many at once amount to, by Little's law
    requests_per_hour: float
    kv_tokens: float  # of output held in memory at once, on average
    warning: str = WARNING


def pocket(tokens_per_s: float, output: int, concurrent: int = 1) -> Pocket:
    """Time of an answer, and what `concurrent` of them at once ask of a system.

    The time is output / speed. A system that writes `concurrent` answers at
    that speed gives speed · concurrent tokens/s and finishes, by Little's law,
    concurrent / time requests/s. Half of each answer is written on average, and
    held. Raises `ValueError` naming what is not above zero.
    """
    for name, value in (
        ("the speed", tokens_per_s),
        ("output", output),
        ("concurrent", concurrent),
    ):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above zero, not {value:g}")
    answer_s = output / tokens_per_s
    return Pocket(
        tokens_per_s=tokens_per_s,
        output=output,
        concurrent=concurrent,
        answer_s=answer_s,
        one_after_another_s=answer_s * concurrent,
        system_tokens_per_s=tokens_per_s * concurrent,
        requests_per_s=concurrent / answer_s,
        requests_per_hour=concurrent / answer_s * 3600,
        kv_tokens=concurrent * output / 2,
    )


def parse_speed(text: str) -> float:
    """Tokens/s to one user from `50tps`, `50` or, as the time of a token, `20ms`.

    Raises `ValueError` saying what may be written.
    """
    match = _SPEED.fullmatch(text.strip())
    value = float(match["x"]) if match else 0.0
    if match is None or value == 0:
        raise ValueError(
            f"cannot read the speed {text!r}; write tokens/s to one user above zero (50tps), "
            "or the time of a token (20ms)"
        )
    return 1000 / value if (match["unit"] or "").startswith("ms") else value
