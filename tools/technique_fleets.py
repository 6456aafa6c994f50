"""Many replicas, and work that nobody waits for: pictures and figures of docs/techniques/."""

from __future__ import annotations

from technique import Results, Technique, Told
from technique_look import Lines, Panel, point, spread
from technique_words import ran


def _draw_disaggregation(results: Results) -> list[Panel]:
    rows = []
    for kind, one in results["disaggregation_study"]["kinds"].items():
        whole = one["whole"]["requests_per_s"]
        tried = one["split"]["400 Gbit/s"]["tried"]
        rows += [point(kind, int(count), rate / whole) for count, rate in tried.items()]
    return [
        Lines(
            says="requests/s within the limits, of those of whole replicas; simulated",
            along="prefill replicas of eight, links of 400 Gbit/s",
            rows=rows,
            even=1.0,
            log_x=False,
        )
    ]


def _tell_disaggregation(results: Results) -> Told:
    told = results["disaggregation_study"]
    gain = {
        (kind, link): one["split"][link]["against_whole"]
        for kind, one in told["kinds"].items()
        for link in one["split"]
    }
    fast, slow = "400 Gbit/s", "25 Gbit/s"
    long, patient = "long prompts", "long prompts, patient readers"
    return Told(
        f"{gain[long, fast]:+.0%} requests/s with long prompts, 30 ms a token and {fast}; "
        f"{gain[patient, fast]:+.0%} at 200 ms; {gain[long, slow]:+.0%} at {slow}; simulated",
        f"Long prompts within 30 ms a token: {gain[long, fast]:+.0%} requests/s over whole "
        f"replicas with links of {fast}, {gain[long, slow]:+.0%} with {slow}; within 200 ms a "
        f"token {gain[patient, fast]:+.0%} even with the fast ones. *Simulated*, {told['date']}: "
        "Llama 3.1 70B in fp8, eight replicas of two H200, each side with its best chunks or "
        "ratio; `python -m benchmarks.disaggregation_study`; table and picture over links: "
        "[simulator](../simulator.md#does-it-pay-to-split-prefill-from-decode).",
    )


def _draw_routing(results: Results) -> list[Panel]:
    rows = []
    for length, routers in results["routing_study"]["by_output_tokens"].items():
        blind = routers["random"]["output_tokens_per_s"]
        for name in ("precise", "approximate", "by load"):
            rate = routers[name]["output_tokens_per_s"]
            rows.append(point(name, int(length), rate / blind))
    return [
        Lines(
            says="tokens/s, of those with routing at random; simulated",
            along="tokens of an answer",
            rows=rows,
            even=1.0,
            log_x=False,
        )
    ]


def _tell_routing(results: Results) -> Told:
    told = results["routing_study"]
    short = told["by_output_tokens"]["250"]
    gain = short["precise"]["output_tokens_per_s"] / short["by load"]["output_tokens_per_s"]
    light = told["controls"]["light load, distinct prompts"]
    even = light["precise"]["output_tokens_per_s"] / light["by load"]["output_tokens_per_s"]
    return Told(
        f"{gain:.2f} × the tokens/s of routing by load, shared prefixes under overload; "
        f"{even:.2f} × with nothing shared; simulated",
        f"Answers of 250 tokens: {short['precise']['output_tokens_per_s']:,} tokens/s with the "
        f"caches known, {short['by load']['output_tokens_per_s']:,} by load ({gain:.2f} ×); "
        f"{short['precise']['cached_share']:.0%} of the prompt tokens found instead of "
        f"{short['by load']['cached_share']:.0%}. Under a light load of distinct prompts: "
        f"{even:.2f} ×. *Simulated*, {told['date']}: eight replicas of two H100, Qwen3-32B, 150 "
        "prefixes of 6,000 tokens, after a study of llm-d's; `python -m benchmarks.routing_study`; "
        "every router: [simulator](../simulator.md#does-it-pay-to-route-by-prefix).",
    )


def _draw_batch_jobs(results: Results) -> list[Panel]:
    plain = {
        row["batch"]: row["plain_tokens_per_s"]
        for row in results["speculation"]["replayed"]["rows"]
    }
    return [
        Lines(
            says="tokens/s of all together",
            along="requests at once",
            rows=[spread("all", n, rate) for n, rate in plain.items()],
        ),
        Lines(
            says="tokens/s of each",
            along="requests at once",
            rows=[point("each", n, rate["median"] / n) for n, rate in plain.items()],
        ),
    ]


def _tell_batch_jobs(results: Results) -> Told:
    told = results["speculation"]["replayed"]
    first, last = told["rows"][0], told["rows"][-1]
    alone, all_ = (row["plain_tokens_per_s"]["median"] for row in (first, last))
    each, model = all_ / last["batch"], told["conditions"]
    return Told(
        f"{all_ / alone:.1f} × the tokens/s with {last['batch']} at once as with one, each at "
        f"{each / alone:.2f} of the speed, {model['model']} shape in int8",
        f"{alone:.0f} tokens/s with one request at a time, {all_:.0f} with {last['batch']} at "
        f"once ({all_ / alone:.1f} ×), of which each gets {each:.0f}. {ran(model)}, weights "
        f"{model['weights']}, KV {model['kv']}, {model['prompt']} tokens in, {model['output']} "
        "out; medians, the rows without guesses of `python -m benchmarks.speculation`.",
    )


FLEETS = (
    Technique(
        page="disaggregation",
        title="Prefill and decode apart",
        text="exact",
        switch="simulated: roles in a fleet file",
        loses="slow links, patient readers, a ratio that does not fit",
        tell=_tell_disaggregation,
        draw=_draw_disaggregation,
    ),
    Technique(
        page="routing",
        title="Routing by what caches hold",
        text="exact",
        switch="simulated: `policy` of a fleet's router",
        loses="prompts share nothing; a light load",
        tell=_tell_routing,
        draw=_draw_routing,
    ),
    Technique(
        page="batch_jobs",
        title="Batch jobs",
        text="exact",
        switch="`priority`; `--max-running`",
        loses="somebody waits for the answer",
        tell=_tell_batch_jobs,
        draw=_draw_batch_jobs,
    ),
)
