"""A step time that is asked less often than it is used."""

from __future__ import annotations

from penstock.predict.steptime import StepLoad, StepTime

_CONTEXT = 512  # tokens of mean context from one remembered point to the next
_KEPT = 1 << 16


class Remembering:
    """Steps that only decode take what lies on a line between two remembered steps.

    These have as many decodes, and mean contexts that are multiples of 512 tokens:
    exact where seconds are linear in the context, as they are but for
    a bend where a window ends. Other steps are asked for each by itself.
    """

    def __init__(self, step: StepTime) -> None:
        self._step = step
        self._lines: dict[tuple[float, int], tuple[float, float]] = {}
        self.request_s = step.request_s

    def seconds(self, load: StepLoad) -> float:
        """See `StepTime`."""
        decodes, context = load.decodes, load.decode_context
        if load.prefill_tokens or not decodes or load.logits != decodes:
            return self._step.seconds(load)
        width = decodes * _CONTEXT
        place = int(context // width)
        line = self._lines.get((decodes, place))
        if line is None:
            if len(self._lines) >= _KEPT:
                self._lines.clear()
            low, high = (
                self._step.seconds(StepLoad(0, 0, decodes, at * width, decodes))
                for at in (place, place + 1)
            )
            line = self._lines[decodes, place] = low, (high - low) / width
        return line[0] + line[1] * (context - place * width)
