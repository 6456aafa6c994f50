"""The share of a step spent outside the model and sampling, at 32 concurrent requests.

python -m benchmarks.host_overhead
"""

from __future__ import annotations

import msgspec

from benchmarks.common import arguments, conditions, publish, requests, spread
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions

CONCURRENT = 32
STEPS = 200


def main() -> None:
    """Time the parts of decode steps and publish their shares."""
    given = arguments(__doc__).parse_args()
    shares, parts = [], []
    for seed in range(given.rounds):
        engine = Engine.load(given.model, EngineOptions(kv_tokens=CONCURRENT * 512))
        for request in requests(engine, [320] * CONCURRENT, prompt=64, seed=seed):
            engine.submit(request)
        while engine.stats().output_tokens < CONCURRENT * 8:  # all prefilled and warm
            engine.step()
        before = msgspec.structs.asdict(engine.spent)
        for _ in range(STEPS):
            engine.step()
        after = msgspec.structs.asdict(engine.spent)
        part = {name: 1e3 * (after[name] - before[name]) / STEPS for name in after}
        parts.append(part)
        shares.append(1 - (part["model"] + part["sample"]) / sum(part.values()))
    publish(
        {
            "host_share_of_step": spread(shares),
            "milliseconds_per_step": {
                name: spread([part[name] for part in parts]) for name in parts[0]
            },
            "conditions": conditions(engine)
            | {"concurrency": CONCURRENT, "context": "64 prompt + 8 to 208 output tokens"},
        },
        given.out,
    )


if __name__ == "__main__":
    main()
