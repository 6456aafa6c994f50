"""What K and V take, and what of them is kept: pictures and figures of docs/techniques/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from technique import Results, Technique, Told
from technique_formats import draw_kv_formats, tell_kv_formats
from technique_look import Dots, Lines, Panel, Rows, dot, point, spread
from technique_words import model_of, ran, times


def _draw_kv_cache(results: Results) -> list[Panel]:
    found = results["batching_gain"]["kv_cache"]
    lengths = [int(key) for key in found if key != "conditions"]
    prompt = found["conditions"]["prompt_tokens"]
    rows = [
        *(spread("measured", n, found[str(n)]["gain"]) for n in lengths),
        *(point("mean tokens of context", n, prompt + n / 2) for n in lengths),
    ]
    return [
        Lines(
            says="times the tokens/s without a cache; dashed: what arithmetic would allow",
            along="tokens of the answer",
            rows=rows,
            log_y=True,
            dashed=["mean tokens of context"],
        )
    ]


def _tell_kv_cache(results: Results) -> Told:
    found = results["batching_gain"]["kv_cache"]
    told = found["conditions"]
    gains = [f"{times(found[n]['gain'], 1)} at {n}" for n in found if n != "conditions"]
    return Told(
        f"{found['512']['gain']['median']:.0f} × at answers of 512 tokens, {model_of(told)}, alone",
        f"Over computing everything anew: {', '.join(gains)} tokens of the answer. "
        f"{ran(told)}, {told['prompt_tokens']} prompt tokens, one request at a time; "
        "median (least-most). `python -m benchmarks.batching_gain`.",
    )


def _draw_paged_kv(results: Results) -> list[Panel]:
    found = results["cache_validate"]
    rows: Rows = []
    for trace, name in (("mooncake", "chats"), ("agentic", "a coding agent's sessions")):
        for one in found[trace]["four at once"]["sizes"]:
            rows.append(point(name, one["kv_tokens"], 100 * one["measured"]))
    ways = results["shared_prefix"]["ways"]
    names = {
        "shared": "computed and read once",
        "apart": "computed once, read by each",
        "unshared": "computed and read by each",
    }
    return [
        Lines(says="% of prompt tokens found, measured", along="tokens of KV pool", rows=rows),
        Dots(
            says="64 samples of a prompt of 512 tokens",
            along="tokens/s",
            rows=[dot(name, ways[way]["tokens_per_s"]) for way, name in names.items()],
        ),
    ]


def _tell_paged_kv(results: Results) -> Told:
    found, told = results["shared_prefix"], results["shared_prefix"]["conditions"]
    ways, gain = found["ways"], found["throughput_ratios"]["unshared over shared"]
    hits = results["cache_validate"]
    least, most = (hits["agentic"]["four at once"]["sizes"][end]["measured"] for end in (-1, 0))
    assert least < most
    kept, copied = (ways[way]["kv_bytes_peak"] / 1e6 for way in ("shared", "unshared"))
    return Told(
        f"{gain['median']:.1f} × for 64 samples of a prompt of 512 tokens, {told['model']} shape, "
        f"KV {kept:,.0f} instead of {copied:,.0f} MB",
        f"64 samples of a prompt of 512 tokens, 64 tokens each: {times(gain, 1)} the tokens/s of "
        f"prompts that are computed and kept for each, with {kept:,.0f} instead of {copied:,.0f} "
        f"MB of K and V. {ran(told)}, {told['weights']}, KV {told['kv']}; "
        "`python -m benchmarks.shared_prefix`.\n\n"
        f"Hits, four requests at once: {least:.0%} of the agentic piece's prompt tokens in the "
        f"smallest pool and {most:.0%} in the largest. {hits['conditions']['date']}, embedded "
        f"model, {hits['agentic']['requests']} and {hits['mooncake']['requests']} requests of real "
        "traces, lengths divided to fit the model; `python -m benchmarks.cache_validate`.",
    )


def _tell_prefix_cache(results: Results) -> Told:
    chat, agents = (results[name] for name in ("cache_mooncake", "cache_agentic"))

    def knee(swept: Mapping[str, Any]) -> str:
        at, own = swept["knee"]["at"], swept["held"]
        return (
            f"{own['gigabytes']:,.0f} GB of its own, {own['hit_rate']:.0%} hits; the knee at "
            f"{at['gigabytes']:,.0f} GB, {at['hit_rate']:.0%}"
        )

    return Told(
        f"Mooncake's chats: {chat['held']['hit_rate']:.0%} → {chat['knee']['at']['hit_rate']:.0%} "
        f"hits from {chat['held']['gigabytes']:,.0f} to {chat['knee']['at']['gigabytes']:,.0f} GB, "
        "simulated",
        f"Mooncake's chats on {chat['hardware']}: {knee(chat)}. A coding assistant's sessions on "
        f"{agents['hardware']}: {knee(agents)}. Hits are exact for this policy and these arrivals, "
        "seconds are *simulated*; pieces of both traces sent to the engine differ from the "
        f"simulator by at most {max(results['cache_validate']['worst_points'].values())} points "
        f"({results['cache_validate']['conditions']['date']}; `python -m "
        "benchmarks.cache_validate`).",
    )


_KEEPS = ("snapkv", "streaming", "recent", "random")


def _budgets(results: Results) -> list[int]:
    found = results["kv_budget"]["copy"]["results"]
    return sorted({int(name.split()[1]) for name in found if " " in name})


def _draw_kv_budget(results: Results) -> list[Panel]:
    found, budgets = results["kv_budget"]["copy"]["results"], _budgets(results)

    def rows(figure: str) -> Rows:
        kept = [
            point(keep, budget, 100 * found[f"{keep} {budget}"][figure])
            for keep in _KEEPS
            for budget in budgets
        ]
        return kept + [point("all", budget, 100 * found["all"][figure]) for budget in budgets]

    return [
        Lines(says=says, along="tokens kept", rows=rows(figure), dashed=["all"])
        for figure, says in (
            ("right", "% of tokens copied rightly; dashed: with all KV kept"),
            ("whole", "% of passages copied whole, without an error"),
        )
    ]


def _tell_kv_budget(results: Results) -> Told:
    copy, speed = results["kv_budget"]["copy"], results["kv_budget"]["speed"]
    found, told, ratios = copy["results"], copy["conditions"], speed["ratios_to_all"]
    budget = _budgets(results)[1]
    shares = {keep: f"{found[f'{keep} {budget}']['right']:.0%}" for keep in _KEEPS}
    wider = _budgets(results)[1:]
    told_budgets = " / ".join(map(str, wider))
    whole = {
        keep: " / ".join(f"{found[f'{keep} {kept}']['whole']:.0%}" for kept in wider)
        for keep in ("recent", "streaming", "snapkv")
    }
    under = speed["conditions"]
    asked, output = under["prompt_tokens"], under["output_tokens"]
    gains = " and ".join(f"{times(ratios[way], 2)} with `{way}`" for way in ratios if way != "all")
    return Told(
        f"{ratios['snapkv']['median']:.2f} × where the pool holds two of eight requests, "
        f"{under['model']} shape; a model that copies is right {shares['snapkv']} "
        f"of the time with an {round(told['prompt_tokens'] / budget)}th of its context "
        f"(recent {shares['recent']}, random {shares['random']}), but whole passages at "
        f"{wider[1]} tokens: {found[f'snapkv {wider[1]}']['whole']:.0%} "
        f"(recent {found[f'recent {wider[1]}']['whole']:.0%})",
        f"Copying {told['passage'] - told['cue']} tokens of a passage that stands anywhere in "
        f"{told['prompt_tokens']:,} random ones, from its first {told['cue']} at the end: with "
        f"{budget} tokens kept {', '.join(f'`{k}` {v}' for k, v in shares.items())}, with all "
        f"{found['all']['right']:.0%} ({told['tasks']} prompts, greedy, a model of two layers "
        f"trained to copy; {told['date']}; `python -m benchmarks.kv_budget --part copy`). **Of "
        f"whole passages, without one error, the newest copy more**: with {told_budgets} kept "
        f"{', '.join(f'`{keep}` {shares}' for keep, shares in whole.items())}, with all "
        f"{found['all']['whole']:.0%}. What is near is there from end to end; farther off a "
        "passage goes on behind the pages that its beginning points at. "
        f"Throughput against keeping all: {gains}, {under['kept_tokens']} tokens kept, "
        f"{under['requests']} requests at once of {asked:,} tokens in and {output} out in a pool "
        f"of {under['pool_tokens']:,}; {ran(under)}, {under['weights']}, KV {under['kv']}; "
        "`python -m benchmarks.kv_budget --part speed`.",
    )


MEMORY = (
    Technique(
        page="kv_cache",
        title="KV cache",
        text="exact",
        switch="on; `--no-kv-cache`",
        loses="never in speed; its memory bounds the batch",
        tell=_tell_kv_cache,
        draw=_draw_kv_cache,
    ),
    Technique(
        page="paged_kv",
        title="Pages and shared prefixes",
        text="exact",
        switch="on; `--no-prefix-sharing`",
        loses="prompts have nothing in common, or the pool forgets them first",
        tell=_tell_paged_kv,
        draw=_draw_paged_kv,
    ),
    Technique(
        page="prefix_cache",
        title="Sizing the prefix cache",
        text="exact",
        switch="`penstock cache TRACE`",
        loses="the load is served already: more hits then save work that nobody waits for",
        tell=_tell_prefix_cache,
    ),
    Technique(
        page="kv_formats",
        title="Quantized KV",
        text="lossy",
        switch="`--kv int8`, `--kv int4`",
        loses="contexts are short beside the weights",
        tell=tell_kv_formats,
        draw=draw_kv_formats,
    ),
    Technique(
        page="kv_budget",
        title="A budget of KV",
        text="lossy",
        switch="`--kv-budget`, `--kv-keep`",
        loses="memory is not what binds; the answer needs what nobody foresaw",
        tell=_tell_kv_budget,
        draw=_draw_kv_budget,
    ),
)
