"""What a step does, and for whom: pictures and figures of docs/techniques/."""

from __future__ import annotations

from technique import Results, Technique, Told
from technique_look import Lines, Panel, Rows, point, spread
from technique_words import interval, model_of, ran, times


def _draw_batching(results: Results) -> list[Panel]:
    found = results["batching_gain"]["batching"]
    shapes = [one for key, one in found.items() if key != "conditions"]
    rows = []
    for one in shapes:
        waste = round(one["expected_longest_over_mean"]["median"], 2)
        rows.append(spread("measured", waste, one["gain"]))
        rows.append(point("ratio of steps", waste, one["ratio_of_steps"]["median"]))
    return [
        Lines(
            says="times the tokens/s of static batches",
            along="longest over mean length of a batch's answers",
            rows=rows,
            even=1.0,
            log_x=False,
            dashed=["ratio of steps"],
        )
    ]


def _tell_batching(results: Results) -> Told:
    found = results["batching_gain"]["batching"]
    told = found["conditions"]
    gains = [
        f"{times(one['gain'], 2)} where lengths are {name} (longest over mean "
        f"{one['expected_longest_over_mean']['median']:.2f})"
        for name, one in found.items()
        if name != "conditions"
    ]
    even, spread = (found[name]["gain"]["median"] for name in ("equal", "exponential"))
    return Told(
        f"{spread:.2f} × where lengths are exponential, {even:.2f} × where they are equal, "
        f"{model_of(told)}, {told['rows']} rows",
        f"Over static batches: {'; '.join(gains)}. {ran(told)}, {told['rows']} rows, "
        f"{told['requests']} requests {told['arrivals']}; median (least-most). "
        "`python -m benchmarks.batching_gain`.",
    )


def _draw_chunked_prefill(results: Results) -> list[Panel]:
    rows = []
    for kind, one in results["disaggregation_study"]["kinds"].items():
        tried = {int(chunk): rate for chunk, rate in one["whole"]["tried"].items()}
        largest = tried[max(tried)]
        rows += [point(kind, chunk, rate / largest) for chunk, rate in tried.items()]
    return [
        Lines(
            says="requests/s within the limits, of those in the largest chunks; simulated",
            along="tokens of a step",
            rows=rows,
            even=1.0,
        )
    ]


def _tell_chunked_prefill(results: Results) -> Told:
    told = results["disaggregation_study"]
    hasty, patient = (
        told["kinds"][kind]["whole"]["tried"]
        for kind in ("long prompts", "long prompts, patient readers")
    )
    gain, loss = (tried["320"] / tried["2048"] - 1 for tried in (hasty, patient))
    return Told(
        f"{gain:+.0%} requests/s at 30 ms a token, {loss:+.0%} at 200 ms, simulated (70B, 8 × 2 "
        "H200, long prompts)",
        f"Long prompts, steps of 320 instead of 2,048 tokens: {gain:+.0%} requests/s within 30 ms "
        f"a token ({hasty['320']} instead of {hasty['2048']}), {loss:+.0%} within 200 ms "
        f"({patient['320']} instead of {patient['2048']}). *Simulated*, {told['date']}: Llama 3.1 "
        "70B in fp8, eight replicas of two H200, prompts of 6,000 tokens on average, "
        f"{told['share']:.0%} of the requests within 3 s to the first token and the limit a token; "
        "`python -m benchmarks.disaggregation_study`.",
    )


def _draw_prefill_attention(results: Results) -> list[Panel]:
    rows = []
    for length, one in results["prompt_speed"]["most_kept"].items():
        n = int(length)
        rows.append(point("measured", n, n / one["full_s"]["measured"]))
        rows.append(point("predicted from steps", n, n / one["full_s"]["predicted"]))
    return [
        Lines(
            says="prompt tokens/s of qwen3-0.6b in bf16, one prompt alone",
            along="tokens of the prompt",
            rows=rows,
            dashed=["predicted from steps"],
        )
    ]


def _tell_prefill_attention(results: Results) -> Told:
    found, told = results["prompt_speed"]["most_kept"], results["prompt_speed"]["conditions"]
    rates = {int(n): int(n) / one["full_s"]["measured"] for n, one in found.items()}
    best, longest = max(rates, key=lambda n: rates[n]), max(rates)
    return Told(
        f"not measured apart; with it {rates[best]:,.0f} prompt tokens/s at {best} tokens and "
        f"still {rates[longest]:,.0f} at {longest:,}, {told['model']} shape in {told['precision']}",
        f"{rates[best]:,.0f} prompt tokens/s at {best} tokens, {rates[longest]:,.0f} at "
        f"{longest:,}, {rates[longest] / rates[best]:.0%} of it: products take as long for every "
        f"token, so about the rest of a prompt of {longest:,} is attention. {ran(told)}, "
        f"{told['prompts']}; medians of {told['rounds']} rounds. "
        "`python -m benchmarks.prompt_compression speed`. What our kernels give over PyTorch's "
        "own is a rung of [`penstock ablate`](../ablate.md).",
    )


def _draw_speculation(results: Results) -> list[Panel]:
    told = results["speculation"]
    gain: Rows = []
    for row in told["replayed"]["rows"]:
        for mode in ("draft model", "lookup", "suffix", "draft model, always 2"):
            one = row["speedup"][mode]
            ends = {"low": one["low95"], "high": one["high95"]}
            gain.append(point(mode, row["batch"], one["ratio"]) | ends)
    right = [
        point(f"{source}, {text}", place + 1, 100 * rate)
        for text in ("greedy", "drawn")
        for source in ("draft", "lookup", "suffix")
        for place, rate in enumerate(told["acceptance"][text][source]["acceptance_by_position"][:8])
    ]
    return [
        Lines(
            says="times the tokens/s without guesses, acceptance replayed",
            along="requests at once",
            rows=gain,
            even=1.0,
        ),
        Lines(
            says="% of guesses right after right ones; dashed: drawn at temperature 1",
            along="position of the guess",
            rows=right,
            log_x=False,
            dashed=[f"{source}, drawn" for source in ("draft", "lookup", "suffix")],
        ),
    ]


def _tell_speculation(results: Results) -> Told:
    told = results["speculation"]["replayed"]
    one, last = told["rows"][0], told["rows"][-1]
    gain = {name: row["speedup"] for name, row in (("one", one), ("last", last))}
    first = ", ".join(
        f"{name} {interval(gain['one'][name])}" for name in ("draft model", "lookup", "suffix")
    )
    fixed = gain["last"]["draft model, always 2"]
    model = told["conditions"]
    return Told(
        f"{gain['one']['draft model']['ratio']:.2f} × with a draft model for one request, "
        f"{gain['last']['draft model']['ratio']:.2f} × at {last['batch']}, {model['model']} shape "
        "in int8, acceptance replayed",
        f"One request at a time: {first} times the speed. At {last['batch']} at once the automatic "
        f"length gives {interval(gain['last']['draft model'])}, a fixed one of two "
        f"{interval(fixed)}. {ran(model)}, weights {model['weights']}, KV {model['kv']}, "
        f"{model['prompt']} tokens in, {model['output']} out, *replayed* acceptance of the "
        "embedded model's greedy text; geometric mean and 95 % interval. "
        "`python -m benchmarks.speculation`; all of it: [speculation](../speculation.md).",
    )


def _draw_sampling(results: Results) -> list[Panel]:
    spent = next(one for one in results["reason"]["engines"] if one["measured"])["spent"]
    alone = spent[0]["seconds"]
    rows = []
    for one in spent:
        low, high = (1000 * end for end in one["seconds_ci95"])
        rows.append(
            point("at once", one["samples"], 1000 * one["seconds"]) | {"low": low, "high": high}
        )
        rows.append(point("one after another", one["samples"], 1000 * alone * one["samples"]))
    right = [
        point(name, one["samples"], 100 * one[key]["value"])
        for key, name in (("majority", "majority vote"), ("any_right", "one of them right"))
        for one in results["reason"]["quality"]
    ]
    return [
        Lines(
            says="ms of a question; dashed: in proportion",
            along="samples of the question",
            rows=rows,
            log_y=True,
            dashed=["one after another"],
        ),
        Lines(says="% of questions right", along="samples of the question", rows=right),
    ]


def _tell_sampling(results: Results) -> Told:
    found, shared = results["reason"], results["shared_prefix"]
    engine = next(one for one in found["engines"] if one["measured"])
    first, last = engine["spent"][0], engine["spent"][-1]
    vote, known = found["quality"][0]["majority"]["value"], found["quality"][-1]
    ratio = last["seconds"] / first["seconds"]
    cascade, beams = shared["decode_ratio_of_the_cascade"], results["request_features"]
    four = beams["beams_4_over_samples_4"]["1 request"]
    model = found["model"]
    return Told(
        f"{last['samples']} samples of a question in {ratio:.1f} times the time of one, "
        f"embedded model; vote {vote:.0%} → {known['majority']['value']:.0%} right, one of them "
        f"{known['any_right']['value']:.0%}",
        f"{last['samples']} samples of a question take {ratio:.1f} times as long as one. The vote "
        f"is right in {known['majority']['value']:.1%} of {found['questions']} questions instead "
        f"of {vote:.1%}, a greedy answer in {found['greedy']['value']:.0%}; one of "
        f"{last['samples']} at least in {known['any_right']['value']:.0%}. {model_of(model)}, "
        f"temperature {found['temperature']}, doctests; `penstock reason`, "
        "[reasoning](../reasoning.md).\n\n"
        f"Of 64 samples of a prompt of 512 tokens, reading it once for all gives "
        f"{times(cascade, 2)} in decoding (qwen3-0.6b shape, {shared['conditions']['date']}): "
        "a layer's 2 MB of it lie in this processor's cache anyway. Four beams take "
        f"{times(four, 2)} the time of four samples, one request at once, embedded model "
        f"({beams['conditions']['date']}; `python -m benchmarks.request_features`).",
    )


STEPS = (
    Technique(
        page="batching",
        title="Continuous batching",
        text="exact",
        switch="on; `--batching static`",
        loses="answers are equally long",
        tell=_tell_batching,
        draw=_draw_batching,
    ),
    Technique(
        page="chunked_prefill",
        title="Chunked prefill",
        text="exact",
        switch="on; `--max-step-tokens`, `--no-chunked-prefill`",
        loses="nobody minds a gap between tokens",
        tell=_tell_chunked_prefill,
        draw=_draw_chunked_prefill,
    ),
    Technique(
        page="prefill_attention",
        title="Attention in blocks",
        text="exact",
        switch="`--kernels`",
        loses="prompts are so short that attention is nothing beside the products",
        tell=_tell_prefill_attention,
        draw=_draw_prefill_attention,
    ),
    Technique(
        page="speculation",
        title="Speculative decoding",
        text="exact",
        switch="`--speculate lookup`, `suffix`, `draft`",
        loses="many requests at once, where a length is fixed; text that cannot be guessed",
        tell=_tell_speculation,
        draw=_draw_speculation,
    ),
    Technique(
        page="sampling",
        title="Many samples, beams, one reading of the prefix",
        text="exact",
        switch="`n`, `best_of`, `use_beam_search`; `penstock reason`",
        loses="the majority is wrong; the prefix is short or in the processor's cache anyway",
        tell=_tell_sampling,
        draw=_draw_sampling,
    ),
)
