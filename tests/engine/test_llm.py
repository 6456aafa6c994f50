"""The library's two faces on a real checkpoint: a batch offline, streams in asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from penstock.engine.llm import LLM, AsyncLLM
from penstock.engine.options import EngineOptions
from penstock.engine.request import SamplingParams
from penstock.schedule import RequestRefused

OPTIONS = EngineOptions(dtype="fp32", kv_tokens=2048, max_running=8, max_step_tokens=64, threads=1)
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def test_a_batch_comes_back_in_order_and_reports_progress(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), OPTIONS)
    seen: list[int] = []
    prompts = [f"prompt {i}" for i in range(20)]
    together = llm.generate(prompts, GREEDY, progress=seen.append)
    assert seen[-1] == 20
    for prompt, completion in zip(prompts[:4], together, strict=False):
        alone = llm.generate([prompt], GREEDY)[0]
        assert alone.token_ids == completion.token_ids
        assert completion.text == llm.tokenizer.decode(completion.token_ids)
        assert completion.finish_reason == "length"


def test_a_refused_prompt_leaves_nothing_behind(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), OPTIONS)
    with pytest.raises(RequestRefused):
        llm.generate(["fine", "x" * 600], GREEDY)
    assert not llm.engine.has_work
    with pytest.raises(ValueError, match="1 params for 2 prompts"):
        llm.generate(["a", "b"], [GREEDY])


def test_what_was_dropped_is_computed_anew(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), OPTIONS)
    prompt = "the same beginning " * 4
    first, kept = (llm.generate([prompt], GREEDY)[0] for _ in range(2))
    llm.drop_cache()
    anew, again = (llm.generate([prompt], GREEDY)[0] for _ in range(2))
    assert first.cached_tokens == anew.cached_tokens == 0
    assert kept.cached_tokens == again.cached_tokens > 0
    assert first.token_ids == anew.token_ids


def test_nothing_is_dropped_while_requests_run(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), OPTIONS)
    lengths = [msgspec.structs.replace(GREEDY, max_tokens=count) for count in (1, 9)]
    ended: list[int] = []

    def drop(count: int) -> None:
        ended.append(count)
        llm.drop_cache()

    with pytest.raises(RuntimeError, match="before or after generate"):
        llm.generate(["short", "long"], lengths, progress=drop)
    assert ended == [1]
    llm.drop_cache()  # what ran was abandoned


async def test_streams_run_side_by_side_and_equal_the_batch(checkpoint: Path) -> None:
    llm = AsyncLLM(str(checkpoint), OPTIONS)
    prompts = [f"stream {i}" for i in range(10)]

    async def collect(prompt: str) -> tuple[list[int], str]:
        ids, text = [], ""
        async for delta in llm.stream(prompt, GREEDY):
            ids += delta.token_ids
            text += delta.text
        return ids, text

    streamed = await asyncio.gather(*(collect(p) for p in prompts))
    await llm.close()
    batch = LLM(str(checkpoint), OPTIONS).generate(prompts, GREEDY)
    assert [ids for ids, _ in streamed] == [c.token_ids for c in batch]
    assert [text for _, text in streamed] == [c.text for c in batch]


async def test_leaving_a_stream_aborts_it(checkpoint: Path) -> None:
    llm = AsyncLLM(str(checkpoint), OPTIONS)
    long = msgspec.structs.replace(GREEDY, max_tokens=400)
    stream = llm.stream("gone soon", long)
    await anext(stream)
    await stream.aclose()
    async for _ in llm.stream("another", GREEDY):
        pass
    stats = llm._engine.stats()
    assert (stats.cancelled, stats.finished, stats.pages_held) == (1, 1, 0)
    await llm.close()


async def test_a_refusal_reaches_the_caller(checkpoint: Path) -> None:
    llm = AsyncLLM(str(checkpoint), OPTIONS)
    with pytest.raises(RequestRefused, match="600"):
        async for _ in llm.stream([1] * 600, GREEDY):
            pass
    await llm.close()
    with pytest.raises(RuntimeError, match="closed"):
        async for _ in llm.stream("late", GREEDY):
            pass


async def test_closing_ends_what_runs(checkpoint: Path) -> None:
    llm = AsyncLLM(str(checkpoint), OPTIONS)
    long = msgspec.structs.replace(GREEDY, max_tokens=400)
    stream = llm.stream("still running", long)
    await anext(stream)
    await llm.close()
    reasons = [d.finish_reason async for d in stream]
    assert reasons[-1] == "abort"


def test_the_shared_types_import_no_torch() -> None:
    code = (
        "import sys, penstock.engine, penstock.engine.request, penstock.engine.options, "
        "penstock.engine.model.tokenizer, penstock.schedule, penstock.models; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
