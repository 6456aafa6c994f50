"""How long to train and at what rate: warm up, hold, cool down."""

from dataclasses import asdict, dataclass
from typing import Any

WARMUP_TOKENS = 300_000
# As many tokens are spent on cooling down as were held at full rate: small steps
# on little text are noisy, and a long decay averages the noise away. Its last
# quarter runs at full context, where attention makes a step about twice as slow,
# so that it takes more than half of the time.
COOLDOWN = 1.0
_COOLDOWN_SHARE_OF_TIME = 0.56


@dataclass
class Schedule:
    """Warm-up, stable, decay (WSD): training can be cut at any time and still end well.

    Time is the sum of step times, an interrupted step counting as a usual one, so
    that a stopped and continued process does not lose its budget. The cool-down is
    counted in tokens and, once begun, runs to its end.
    """

    seconds: float
    elapsed: float = 0.0
    tokens: int = 0
    cooling_from: int | None = None
    usual_step: float | None = None

    def step(self, tokens: int, seconds: float) -> None:
        """Count one step."""
        usual = self.usual_step or seconds
        self.elapsed += seconds if seconds < 10 * usual else usual
        self.usual_step = 0.95 * usual + 0.05 * min(seconds, 10 * usual)
        self.tokens += tokens
        if self.elapsed >= self.seconds * (1 - _COOLDOWN_SHARE_OF_TIME):
            self.cool_down()

    def cool_down(self) -> None:
        """Begin to cool down, if that has not begun."""
        if self.cooling_from is None:
            self.cooling_from = max(self.tokens, 1)

    @property
    def cooled(self) -> float:
        """Share of the cool-down done, from 0 to 1."""
        if self.cooling_from is None:
            return 0.0
        return min((self.tokens - self.cooling_from) / (COOLDOWN * self.cooling_from), 1.0)

    @property
    def rate(self) -> float:
        """Learning rate as a share of its peak."""
        return min((self.tokens + 1) / WARMUP_TOKENS, 1.0) * (1.0 - self.cooled)

    @property
    def length(self) -> int:
        """Tokens in a sequence: short ones are cheaper, the last ones teach the context."""
        if self.cooled < 0.5:
            return 256
        return 512 if self.cooled < 0.75 else 2048

    @property
    def done(self) -> bool:
        """Whether the cool-down is over."""
        return self.cooled >= 1.0

    def state(self) -> dict[str, Any]:
        """As plain values for JSON; `Schedule(**state)` restores it."""
        return asdict(self)
