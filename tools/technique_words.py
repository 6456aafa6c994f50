"""Conditions and figures in words, for docs/techniques/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_of(told: Mapping[str, Any]) -> str:
    name = told.get("model") or told["name"]
    size = f"{told['parameters'] / 1e6:,.1f} M parameters"
    return f"embedded model ({size})" if name == "embedded" else f"{name} shape ({size})"


def ran(told: Mapping[str, Any]) -> str:
    """When, with what, on what."""
    threads = f"{told['threads']} thread{'s' if told['threads'] != 1 else ''}"
    weights = "" if told["model"] == "embedded" else ", random weights"
    on = f"{told['dtype']}, {threads}, {told['processor']}"
    return f"{told['date']}, {model_of(told)}{weights}, {on}"


def times(figure: Mapping[str, float], digits: int) -> str:
    median, low, high = (f"{figure[end]:,.{digits}f}" for end in ("median", "min", "max"))
    return f"{median} ({low}-{high}) ×"


def interval(found: Mapping[str, float]) -> str:
    return f"{found['ratio']:.2f} ({found['low95']:.2f}-{found['high95']:.2f})"
