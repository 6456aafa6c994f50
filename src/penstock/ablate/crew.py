"""Workers by setting: two at most, for two large models may be all that fits."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack

import msgspec

from penstock import models
from penstock.ablate.hand import Broken, Hand, hired
from penstock.ablate.load import Load, Round
from penstock.ablate.parts import Parts
from penstock.ablate.setting import Asked, Order, Ready, Setting, Shot, Start

MOST = 2


class Cannot(Exception):
    """A setting cannot be served here; the message says why."""


class Crew:
    """Serves rounds of the load at any setting; workers are kept as long as they are of use."""

    def __init__(self, model: str, load: Load, parts: Parts) -> None:
        self._model = model
        self._load = load
        self._parts = parts
        self._hands: OrderedDict[Setting, tuple[Hand, ExitStack]] = OrderedDict()
        self._synthetic = models.is_synthetic(models.path(model))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        while self._hands:
            self._dismiss(next(iter(self._hands)))

    def serve(self, setting: Setting, turn: Round, count: int) -> Shot:
        """Serve the first `count` requests of a round, all queued at once.

        Raises `Cannot` where the setting cannot be loaded, or its worker dies.
        """
        order = self._order(setting, turn, count)
        hand = self._hand(setting)
        try:
            shot = hand.serve(order)
        except Broken as error:
            self._dismiss(setting)
            raise Cannot(str(error)) from error
        said = self._load.in_order(shot.said, setting.samples_together)
        return msgspec.structs.replace(shot, said=said)

    def ready(self, setting: Setting) -> Ready:
        """What serves a setting. Raises as `serve`."""
        return self._hand(setting).ready

    def forget(self) -> None:
        """Let go of workers that have learnt from texts which may come again."""
        for setting in [s for s in self._hands if s.options.speculate == "suffix"]:
            self._dismiss(setting)

    def _order(self, setting: Setting, turn: Round, count: int) -> Order:
        asked = self._load.requests(self._load.prompts(turn), setting.samples_together)
        return Order(asked=asked[:count], temperature=self._load.scale.temperature)

    def _hand(self, setting: Setting) -> Hand:
        if setting in self._hands:
            self._hands.move_to_end(setting)
            return self._hands[setting][0]
        while len(self._hands) >= MOST:
            self._dismiss(next(iter(self._hands)))
        start = self._start(setting)
        with ExitStack() as stack:
            log = self._parts.directory / "worker.log"
            try:
                hand = stack.enter_context(hired(start, log))
                if hand.ready.error is not None:
                    raise Cannot(hand.ready.error)
                warm = self._order(setting, ("warm", 0), min(4, self._load.scale.few))
                hand.serve(msgspec.structs.replace(warm, asked=[_short(one) for one in warm.asked]))
            except Broken as error:
                raise Cannot(str(error)) from error
            self._hands[setting] = hand, stack.pop_all()
        return hand

    def _start(self, setting: Setting) -> Start:
        source = setting.options.speculate
        try:
            replayed = self._synthetic and source != "off"
            return Start(
                model=self._parts.checkpoint(self._model, setting.forms),
                options=setting.options,
                replay=str(self._parts.replay(source)) if replayed else None,
                shortener=self._parts.shortener(self._model) if setting.shortened else None,
            )
        except (ValueError, OSError) as error:
            raise Cannot(str(error)) from error

    def _dismiss(self, setting: Setting) -> None:
        self._hands.pop(setting)[1].close()


def _short(one: Asked) -> Asked:
    return msgspec.structs.replace(one, output=2)
