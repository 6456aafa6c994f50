"""What the hardware allows: ceilings to hold measured figures against."""

from __future__ import annotations

from penstock.predict.hardware import Hardware, measure
from penstock.predict.limit import limit_for

__all__ = ["Hardware", "limit_for", "measure"]
