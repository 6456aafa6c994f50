"""What the hardware allows: ceilings to hold measured figures against."""

from __future__ import annotations

from penstock.predict.hardware import Hardware, measure
from penstock.predict.limit import held_against, limit_for

__all__ = ["Hardware", "held_against", "limit_for", "measure"]
