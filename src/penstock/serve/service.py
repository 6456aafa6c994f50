"""What all endpoints share: the engine, its tokenizer, the counters, and the door."""

from __future__ import annotations

import time
from collections.abc import Sequence

from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.options import EngineOptions
from penstock.serve import errors
from penstock.serve.errors import ApiError, ErrorBody
from penstock.serve.metrics import Metrics
from penstock.serve.options import ServeOptions
from penstock.serve.shortening import Shortening
from penstock.serve.supervisor import Supervisor


class Service:
    """One served model.

    `draining` is set once the server is told to stop: requests in flight go
    on, new ones get 503. `deadline_s` is the time a request may take, in
    seconds, or None.
    """

    def __init__(
        self,
        engine: Supervisor,
        tokenizer: Tokenizer,
        options: EngineOptions,
        serve_options: ServeOptions,
        shortening: Shortening | None = None,
    ) -> None:
        self.engine = engine
        self.shortening = shortening
        self.tokenizer = tokenizer
        self.options = options
        self.metrics = Metrics(engine, shortening)
        self.draining = False
        self.created = int(time.time())
        self.deadline_s = serve_options.deadline_s
        self._stall_after_s = serve_options.stall_after_s

    def check_healthy(self) -> None:
        """Raise `ApiError` (503) when a new request would not be served.

        Health is progress: an engine that has work and completes no step is
        not well, however alive its process may be.
        """
        if self.draining:
            raise errors.unavailable("The server is stopping.", "draining")
        for engine in [self.engine, *([self.shortening.engine] if self.shortening else [])]:
            if engine.dead is not None:
                message = f"{engine.dead} It is being started again."
                raise errors.unavailable(message, "restarting", engine.back_in_s)
            if (stalled_s := engine.stalled_s()) > self._stall_after_s:
                raise errors.unavailable(
                    f"No step completed for {stalled_s:.1f} s while requests wait; "
                    f"the limit is {self._stall_after_s:g} s.",
                    "engine_stalled",
                )

    def check_model(self, model: str | None) -> None:
        """Raise `ApiError` (404) unless `model` is the one this server serves, or None."""
        served = self.engine.facts.name
        if model not in (None, served):
            message = f"The model {model!r} is not served here; {served!r} is."
            body = ErrorBody(message, "invalid_request_error", "model", "model_not_found")
            raise ApiError(404, body)

    def check_length(self, text: str, param: str) -> None:
        """Raise `ApiError` (400) if `text` cannot fit the context, whatever its tokens are.

        To be asked before it is encoded: that would take its time for nothing.
        """
        context = self.engine.facts.max_model_len
        most = self.tokenizer.most_characters(context)
        if most is not None and len(text) > most:
            message = (
                f"{param} has {len(text):,} characters; this model holds {context:,} tokens, "
                f"which are at most {most:,} characters. Shorten it."
            )
            raise errors.invalid(message, param)

    def check_token_ids(self, ids: Sequence[int], param: str) -> None:
        """Raise `ApiError` (400) unless all `ids` are in the vocabulary."""
        last = self.engine.facts.vocab_size - 1
        if (highest := max(ids, default=0)) > last:
            message = f"{param} holds the token id {highest}; this model's ids end at {last}."
            raise errors.invalid(message, param)
