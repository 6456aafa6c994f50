"""The engine in this process as a target of the meter: no HTTP, no copy."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from time import monotonic_ns

import msgspec

from penstock import __version__
from penstock.engine.llm import AsyncLLM
from penstock.engine.options import EngineOptions
from penstock.engine.request import SamplingParams
from penstock.meter.machine import describe
from penstock.meter.target import Reply, TargetInfo
from penstock.record.record import Outcome, Record
from penstock.schedule.errors import QueueFull, RequestRefused
from penstock.serve.stopping import StopStrings
from penstock.workload.plan import Answer, Ask


class EngineTarget:
    """Loads a model and sends it asks; `sent` is when the engine is handed the request.

    Answers are forced to the length asked, unless the ask says how to draw them.
    Raises as `AsyncLLM` for a model that cannot be loaded.
    """

    def __init__(self, model: str, options: EngineOptions | None = None) -> None:
        self._llm = AsyncLLM(model, options)
        facts = self._llm.facts
        self.info = TargetInfo(
            kind="engine",
            name=f"engine:{model}",
            model=facts.name,
            context=facts.max_model_len,
            local=True,
            forces_length=True,
            facts=msgspec.to_builtins(facts),
            conditions={
                "model": facts.name,
                "precision": facts.precision,
                "kv_precision": facts.kv_dtype,
                "hardware": describe() if facts.device == "cpu" else facts.device,
                "target": "penstock engine in this process",
                "target_version": __version__,
                "endpoint": "none",
                "sampling": "greedy",
                "arrival_stamps": "the client's",
                "output_length": "forced (EOS ignored)",
            },
        )

    async def send(self, ask: Ask, record: Record) -> Reply:
        """See `Target`."""
        params = SamplingParams(max_tokens=ask.output_tokens, temperature=0.0, ignore_eos=True)
        stops = StopStrings(())
        if ask.sampling is not None:
            params = SamplingParams(
                max_tokens=ask.output_tokens,
                temperature=ask.sampling.temperature,
                seed=ask.sampling.seed,
            )
            stops = StopStrings(ask.sampling.stop)
        words: list[str] = []
        try:
            content = ask.content
            prompt = content if isinstance(content, str) else self._llm.tokenizer.chat(content)
            record.sent_ns = monotonic_ns()
            async with aclosing(self._llm.stream(prompt, params)) as deltas:
                async for delta in deltas:
                    now = monotonic_ns()
                    if delta.token_ids:
                        record.event_ns.append(now)
                        record.event_tokens.append(len(delta.token_ids))
                    shown, stopped = stops.push(delta.text)
                    words.append(shown)
                    record.prompt_tokens = delta.prompt_tokens
                    record.cached_tokens = delta.cached_tokens
                    if stopped:
                        record.finish_reason = "stop"
                        break
                    if delta.finish_reason is not None:
                        words.append(stops.flush())
                        record.finish_reason = delta.finish_reason
                        record.error = delta.error and f"engine: {delta.error}"
            ended_well = record.finish_reason in ("stop", "length")
            record.outcome = Outcome.FINISHED if ended_well else Outcome.FAILED
        except (RequestRefused, QueueFull, ValueError) as error:
            record.outcome = Outcome.FAILED
            record.error = f"{type(error).__name__}: {error}"
        finally:
            record.end_ns = monotonic_ns()
            if record.event_ns:
                record.first_ns, record.last_ns = record.event_ns[0], record.event_ns[-1]
                record.output_tokens = sum(record.event_tokens)
                record.counted_by = record.laid_by = "token ids"
            record.words = len("".join(words).split())
            if ask.task is not None:
                record.text = "".join(words)
        text = "".join(words)
        answer = Answer(texts=(text,), output_tokens=record.output_tokens, error=record.error)
        return Reply(answer=answer)

    async def count_prompt(self, text: str) -> int | None:
        """See `Target`."""
        return len(await asyncio.to_thread(self._llm.tokenizer.encode, text))

    async def close(self) -> None:
        """See `Target`."""
        await self._llm.close()
