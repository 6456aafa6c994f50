"""A process that serves one setting: lines of JSON in, lines of JSON out.

A process of its own, so that its peak of memory is its own, and what it leaves
in allocators and caches meets nobody else. Run by `hand`, not by users.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import msgspec

from penstock.ablate.replay import Replay, recorded
from penstock.ablate.setting import Asked, Order, Ready, Shot, Start
from penstock.ablate.shorter import Shortener
from penstock.engine.llm import LLM
from penstock.engine.options import Speculate
from penstock.engine.request import SamplingParams
from penstock.engine.sampling import choice_seed


def main() -> None:
    """Load what the first line says, then serve a line at a time until there are no more."""
    lines = iter(sys.stdin.buffer.readline, b"")
    start = msgspec.json.decode(next(lines), type=Start)
    try:
        # Before the model, whose choice of threads then holds for both.
        shorten = Shortener(start.shortener) if start.shortener else None
        llm = LLM(start.model, start.options)
    except (ValueError, OSError, MemoryError) as error:
        _tell(Ready(error=str(error) or type(error).__name__))
        return
    replay = _replay(llm, start.options.speculate, start.replay)
    facts = llm.engine.facts
    _tell(
        Ready(
            precision=facts.precision,
            kv=facts.kv_dtype,
            threads=facts.threads,
            weight_bytes=facts.weight_bytes,
            parameters=facts.parameters,
        )
    )
    for line in lines:
        _tell(_serve(llm, msgspec.json.decode(line, type=Order), replay, shorten))


def _replay(llm: LLM, source: Speculate, file: str | None) -> Replay | None:
    """Guesses that are replayed in place of those of the engine's drafter."""
    speculator = llm.engine.speculator
    if speculator is None or file is None:
        return None
    inner = speculator.drafter if source == "draft" else None
    speculator.drafter = replay = Replay(inner, recorded(Path(file)))
    return replay


def _serve(llm: LLM, order: Order, replay: Replay | None, shorten: Shortener | None = None) -> Shot:
    asked, shortening = order.asked, 0.0
    if shorten is not None:
        started = time.perf_counter()
        prompts = shorten([one.prompt for one in asked])
        shortening = time.perf_counter() - started
        asked = [
            msgspec.structs.replace(one, prompt=prompt)
            for one, prompt in zip(asked, prompts, strict=True)
        ]
    params = [
        SamplingParams(
            n=one.samples,
            max_tokens=one.output,
            temperature=order.temperature,
            seed=one.seed,
            ignore_eos=True,
        )
        for one in asked
    ]
    prompts = [one.prompt for one in asked]
    if replay is not None:
        replay.truths = _truths(llm, asked, params)
    llm.drop_cache()  # every serving begins with nothing in it
    _forget_peak()
    started = time.perf_counter()
    completions = llm.generate(prompts, params)
    seconds = time.perf_counter() - started + shortening
    choices = [choice for completion in completions for choice in completion.choices]
    if failed := [choice.error for choice in choices if choice.error]:
        raise RuntimeError(f"{len(failed)} of {len(choices)} answers failed: {failed[0]}")
    return Shot(
        seconds=seconds,
        prompt_tokens=sum(c.prompt_tokens * len(c.choices) for c in completions),
        cached_tokens=sum(c.cached_tokens * len(c.choices) for c in completions),
        ttft=[choice.timing.prefill_s + shortening / len(asked) for choice in choices],
        tpot=[c.timing.decode_s / (len(c.token_ids) - 1) for c in choices if len(c.token_ids) > 1],
        peak_bytes=_peak(),
        said=[choice.token_ids for choice in choices],
    )


def _truths(
    llm: LLM, asked: list[Asked], params: list[SamplingParams]
) -> dict[tuple[tuple[int, ...], int], list[int]]:
    """What will be said, found out without guesses."""
    engine = llm.engine
    had, engine.speculator = engine.speculator, None
    said = llm.generate([one.prompt for one in asked], params)
    engine.speculator = had
    return {
        (tuple(one.prompt), choice_seed(one.seed, sample)): one.prompt + choice.token_ids
        for one, completion in zip(asked, said, strict=True)
        for sample, choice in enumerate(completion.choices)
    }


def _forget_peak() -> None:
    """Let the peak of resident memory begin anew, where the kernel can (Linux)."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Bytes of resident memory at their peak; of the whole process, where that is all we hear."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _tell(message: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
