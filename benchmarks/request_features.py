"""What a request pays for what it asks: beams, a JSON schema, penalties, log probabilities.

Each is measured in pairs with the same work done plainly, interleaved. Beams
against as many parallel samples of the same prompts and lengths. A schema
against plain sampling forced to the very lengths that the schema's outputs
had, all requests at once. Penalties and log probabilities against the same
requests without them.

    python -m benchmarks.request_features
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks.common import arguments, conditions, publish, requests, serve, spread
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import Beam, GenerateRequest, Grammar, SamplingParams

CONCURRENT = 32
PROMPT = 64
LENGTH = 128

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "kind": {"enum": ["function", "class", "module"]},
        "line": {"type": "integer", "minimum": 1, "maximum": 9999},
        "arguments": {
            "type": "array",
            "minItems": 2,
            "maxItems": 5,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 20},
                    "optional": {"type": "boolean"},
                },
                "required": ["name", "optional"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["name", "kind", "line", "arguments"],
    "additionalProperties": False,
}


def with_params(work: list[GenerateRequest], **params: object) -> list[GenerateRequest]:
    """The same prompts, asked in another way."""
    return [
        msgspec.structs.replace(r, params=msgspec.structs.replace(r.params, **params)) for r in work
    ]


def paired(
    engine: Engine, rounds: int, make: Callable[[int], tuple[list[GenerateRequest], ...]]
) -> dict[str, float]:
    """Time of the first of `make`'s two loads over that of the second, a pair a round."""
    ratios = []
    for seed in range(rounds + 1):
        asked, plain = make(seed)
        pair = [(0, asked), (1, plain)]
        if seed % 2:
            pair.reverse()
        seconds = {which: serve(engine, work) for which, work in pair}
        if seed:  # the first pair warms up
            ratios.append(seconds[0] / seconds[1])
    return spread(ratios)


def beams(engine: Engine, rounds: int, at_once: int) -> dict[str, float]:
    """Four beams against four samples, `at_once` requests together."""

    def make(seed: int) -> tuple[list[GenerateRequest], ...]:
        work = requests(engine, [LENGTH] * at_once, PROMPT, seed)
        limits: dict[str, Any] = {"max_tokens": LENGTH, "ignore_eos": True}
        samples = SamplingParams(n=4, seed=seed, **limits)
        search = SamplingParams(n=4, beam=Beam(width=4), **limits)
        return tuple(
            [msgspec.structs.replace(r, params=params) for r in work]
            for params in (search, samples)
        )

    return paired(engine, rounds, make)


def schema(engine: Engine, rounds: int) -> dict[str, Any]:
    """Output under a schema against plain output of the same lengths, of other prompts."""
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    ratios, lengths = [], []
    for seed in range(rounds + 1):
        guided = SamplingParams(max_tokens=512, seed=seed, grammar=grammar)
        work = requests(engine, [512] * CONCURRENT, PROMPT, seed)
        made, seconds = _serve_counting(
            engine, [msgspec.structs.replace(r, params=guided) for r in work]
        )
        # Prompts of its own: those above are in the prefix cache now.
        plain = with_params(
            requests(engine, list(made.values()), PROMPT, seed + 1000), temperature=1.0, seed=seed
        )
        ratio = serve(engine, plain) / seconds
        if seed:  # the first pair warms up
            ratios.append(ratio)
            lengths.append(sum(made.values()) / CONCURRENT)
    return {"throughput_share": spread(ratios), "mean_output_tokens": spread(lengths)}


def _serve_counting(engine: Engine, work: list[GenerateRequest]) -> tuple[dict[str, int], float]:
    """Serve everything; output tokens of each request, in order, and the seconds it took."""
    made = {request.id: 0 for request in work}
    for request in work:
        engine.submit(request)
    started = time.perf_counter()
    while engine.has_work:
        for delta in engine.step():
            made[delta.request_id] += len(delta.token_ids)
    return made, time.perf_counter() - started


def against_plain(engine: Engine, rounds: int, **params: object) -> dict[str, float]:
    """Time of requests with `params` over the time of the same without."""

    def make(seed: int) -> tuple[list[GenerateRequest], ...]:
        sampled = {"temperature": 0.8, "seed": seed}
        work = with_params(requests(engine, [LENGTH] * CONCURRENT, PROMPT, seed), **sampled)
        return with_params(work, **params), work

    return paired(engine, rounds, make)


def main() -> None:
    """Measure all and publish."""
    given = arguments(__doc__).parse_args()
    engine = Engine.load(given.model, EngineOptions(kv_tokens=64 * 1024, page_size=16))
    penalties = {"repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.2}
    publish(
        {
            "beams_4_over_samples_4": {
                "1 request": beams(engine, given.rounds, 1),
                "8 requests": beams(engine, given.rounds, 8),
            },
            "json_schema_at_32": schema(engine, given.rounds),
            "time_over_plain_at_32": {
                "top_p 0.95": against_plain(engine, given.rounds, top_p=0.95),
                "min_p 0.05": against_plain(engine, given.rounds, min_p=0.05),
                "penalties": against_plain(engine, given.rounds, **penalties),
                "logprobs 5": against_plain(engine, given.rounds, logprobs=5),
            },
            "conditions": conditions(engine)
            | {"concurrency": CONCURRENT, "prompt_tokens": PROMPT, "output_tokens": LENGTH},
        },
        given.out,
    )


if __name__ == "__main__":
    main()
