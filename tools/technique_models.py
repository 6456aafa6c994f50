"""Cheaper models and prompts: pictures and figures of docs/techniques/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from technique import Results, Technique, Told
from technique_formats import draw_weights, tell_weights
from technique_look import Lines, Panel, Rows, loss, point, spread
from technique_words import model_of, ran, times


def _draw_swiftkv(results: Results) -> list[Panel]:
    told = results["swiftkv"]
    timed = told["speed"]["bf16"]
    most = 1 / told["arithmetic"]["prompt_flops_left"]
    gain: Rows = []
    for name in sorted(timed, key=_length):
        gain.append(spread("measured", _length(name), timed[name]["times"]))
        gain.append(point("products alone", _length(name), most))
    lost = [
        point(how, kept, 100 * told["quality"][key]["loss_over_original"])
        for how, kept, key in _STOPS
    ]
    return [
        Lines(
            says="times the prompt tokens/s; dashed: products alone",
            along="tokens of the prompt",
            rows=gain,
            even=1.0,
            dashed=["products alone"],
        ),
        Lines(
            says="% of held-out loss over the original",
            along="% of the layers a prompt goes through",
            rows=lost,
            log_x=False,
        ),
    ]


_STOPS = (
    ("converted", 25, "behind 1/4"),
    ("converted", 50, "behind 1/2"),
    ("converted", 75, "behind 3/4"),
    ("a minute distilled", 25, "behind 1/4, 1 min light at 0.002"),
    ("a minute distilled", 50, "behind 1/2, 1 min light at 0.002"),
)


def _tell_swiftkv(results: Results) -> Told:
    found = results["swiftkv"]
    timed, told = found["speed"]["bf16"], found["conditions"]["speed"]
    before, after = (
        found["quality"][key]["loss_over_original"]
        for key in ("behind 1/2", "behind 1/2, 1 min light at 0.002")
    )
    short, long = timed["prompt of 128"]["times"], timed["prompt of 1,024"]["times"]
    return Told(
        f"prompts {long['median']:.2f} × as fast at half depth, {told['model']} shape, 1,024 "
        f"tokens; loss {before:+.2%}, {after:+.2%} after a minute of training, embedded model",
        f"At half depth a prompt of 1,024 tokens is computed {times(long, 2)} as fast, one of 128 "
        f"{times(short, 2)}. {ran(told)}; median of {told['rounds']} rounds (least-most). The "
        f"embedded model's held-out loss rises by {before:.2%}, by {after:.2%} after a minute of "
        "light distillation. `python -m benchmarks.swiftkv`; the tables: "
        "[compress](../compress.md#swiftkv-prompts-that-stop-half-way).",
    )


def _length(name: str) -> int:
    return int(name.rpartition(" ")[2].replace(",", ""))


def _draw_pruning(results: Results) -> list[Panel]:
    families = {
        "depth, by loss": "depth {}, loss",
        "depth, by influence": "depth {}, influence",
        "depth, at random": "depth {}, random",
        "neurons, by activation": "neurons 1/3, activation",
        "zeros, free": "zeros {}, free",
        "zeros, 2:4": "zeros {}, 2:4",
    }
    found = results["compress_pruning"]["quality"]
    rows = [
        loss(name, one, along="y") | {"x": 100 * share}
        for name, key in families.items()
        for part, share in (("1/8", 0.875), ("1/4", 0.75), ("1/2", 0.5))
        if (one := found.get(key.format(part))) is not None and one.get("of_layers", share) == share
    ]
    return [
        Lines(
            says="% of held-out loss over the original, before any training",
            along="% of the layers' weights left",
            rows=rows,
            log_x=False,
            log_y=True,
        )
    ]


def _tell_pruning(results: Results) -> Told:
    found, speed = results["compress_pruning"]["quality"], results["compress_pruning"]["speed"]
    told = results["compress_pruning"]["conditions"]
    lost = {name: found[name]["loss_over_original"] for name in found}
    gain = {name: rates["1"][1] / speed["original"]["1"][1] for name, rates in speed.items()}
    depth, width, zeros = "depth 1/4, loss", "neurons 1/3, activation", "zeros 1/4, free"
    quarter = gain["depth 1/4, random"]
    model = told["speed"]
    return Told(
        f"a quarter of the layers: {quarter:.2f} × alone ({model['model']} shape), loss "
        f"{lost[depth]:+.0%} untrained (embedded model); zeros: {gain[zeros]:.2f} ×",
        f"A quarter of the layers' weights gone, before any training: layers {lost[depth]:+.1%} of "
        f"loss, neurons {lost[width]:+.1%}, free zeros {lost[zeros]:+.1%} "
        f"({told['quality']['date']}, {model_of(told['quality'])}). One request alone on the real "
        f"shape: {quarter:.2f} × without a quarter of the layers, {gain[width]:.2f} × with a third "
        f"of the neurons out, {gain[zeros]:.2f} × with zeros; the {gain['zeros 1/2, 2:4']:.2f} × "
        f"of 2:4 runs the same products and shows the scatter. {ran(model)}, random weights; "
        "`python -m benchmarks.compress_pruning`; the table: "
        "[compress](../compress.md#zeros).",
    )


def _draw_distillation(results: Results) -> list[Panel]:
    courses = {"SwiftKV at half depth": _distilled(results), **_recovered(results)}
    rows = [
        loss(name, one, along="y") | {"x": minutes}
        for name, course in courses.items()
        for minutes, one in course
    ]
    return [
        Lines(
            says="% of held-out loss over the original",
            along="minutes of training on one core",
            rows=rows,
            log_x=False,
        )
    ]


def _tell_distillation(results: Results) -> Told:
    course = _distilled(results)
    told = results["compress_distill"]["conditions"]
    steps = [f"{one['loss_over_original']:.2%} after {minutes:g}" for minutes, one in course]
    taught, alone = (each[-1] for each in _recovered(results).values())
    pruned = results["compress_distill"]["pruned"]
    mended = [f"{each['loss_over_original']:+.1%}" for each in (pruned, taught[1], alone[1])]
    return Told(
        f"a quarter of the depth out: loss {mended[0]} → {mended[1]} in {taught[0]:g} minutes, "
        f"{mended[2]} without a teacher; embedded model, one core",
        f"A quarter of the depth out: {mended[0]} of loss, {mended[1]} after {taught[0]:g} minutes "
        f"with the whole model as teacher, {mended[2]} after as many of the text alone; doctests "
        f"right {pruned['doctests_right']:.0%}, {taught[1]['doctests_right']:.0%} and "
        f"{alone[1]['doctests_right']:.0%} ({ran(told)}, {told['held_out_tokens']:,} held-out "
        "tokens; `python -m benchmarks.compress_distill`). SwiftKV at half depth, of which only "
        f"W_q, W_k and W_v of the deep layers are trained: {', '.join(steps)} minutes "
        "(`python -m benchmarks.swiftkv`).",
    )


def _distilled(results: Results) -> list[tuple[float, Mapping[str, Any]]]:
    """SwiftKV at half depth after so many minutes, at the rate that was chosen."""
    found = results["swiftkv"]["quality"]
    keys = ("behind 1/2", "behind 1/2, 0.1 min light at 0.002", "behind 1/2, 1 min light at 0.002")
    return [(found[key].get("minutes", 0.0), found[key]) for key in keys]


def _recovered(results: Results) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """A quarter of the depth out, and trained for so many minutes; with a teacher first."""
    found = results["compress_distill"]
    whole = found["conditions"]["minutes"]
    courses = {}
    titles = ("1/4 of the depth out, distilled", "the same, without a teacher")
    for title, name in zip(titles, ("distilled", "fine-tuned"), strict=True):
        rate = found[name]["rate"]
        tenth = whole / 10, found[f"{name} tenth {rate:g}"]
        courses[title] = [(0.0, found["pruned"]), tenth, (whole, found[name])]
    return courses


def _draw_prompt_compression(results: Results) -> list[Panel]:
    found = results["prompt_speed"]["most_kept"]
    rows = [
        point(name, int(length), 100 * one[name])
        for name in ("measured", "predicted")
        for length, one in found.items()
        if one["measured"] is not None
    ]
    return [
        Lines(
            says="% kept above which shortening loses",
            along="tokens of the prompt",
            rows=rows,
            dashed=["predicted"],
        )
    ]


def _tell_prompt_compression(results: Results) -> Told:
    found, told = results["prompt_speed"]["most_kept"], results["prompt_speed"]["conditions"]
    known = [(int(n), one) for n, one in found.items() if one["measured"] is not None]
    worst = max(abs(one["error"]) for n, one in known if n >= 64)
    half = {n: one["rating_s"]["measured"] + one["half_s"]["measured"] for n, one in known}
    whole = {n: one["full_s"]["measured"] for n, one in known}
    long = max(whole)
    lost = results["prompt_quality"]["summary"]["continuation"]["surprise, lines"]["0.5"]
    cut = results["prompt_quality"]["summary"]["continuation"]["cut the beginning"]["0.5"]
    low, high = lost["rise_ci95"]
    return Told(
        f"half of {long:,} tokens: first token {whole[long] / half[long]:.2f} × as soon, "
        f"{told['model']} shape; loses above {dict(known)[long]['measured']:.0%} kept",
        f"With half of a prompt of {long:,} tokens kept, judging and prefill took "
        f"{half[long]:.2f} s instead of {whole[long]:.2f} ({whole[long] / half[long]:.2f} ×). It "
        f"loses where more than {dict(known)[long]['measured']:.0%} stays; from 64 tokens on the "
        f"prediction of that share is off by at most {worst:.0%}. {ran(told)} judged by "
        f"{told['scorer']}, {told['prompts']}; `python -m benchmarks.prompt_compression speed`.\n\n"
        f"Half kept by lines, the loss of what follows changes by {lost['rise']:+.3f} nats "
        f"({low:+.3f} to {high:+.3f}); to cut the beginning off costs {cut['rise']:+.3f} and no "
        "judge. Embedded model; the tables: "
        "[prompt compression](../prompt_compression.md#what-it-loses).",
    )


MODELS = (
    Technique(
        page="weights",
        title="int8 and int4 weights",
        text="lossy",
        switch="`--weights int8`, `--weights int4`",
        loses="int4: steps of many rows, where arithmetic binds",
        tell=tell_weights,
        draw=draw_weights,
    ),
    Technique(
        page="swiftkv",
        title="SwiftKV",
        text="lossy",
        switch="`penstock compress MODEL --swiftkv 0.5`",
        loses="answers are long, prompts short or cached",
        tell=_tell_swiftkv,
        draw=_draw_swiftkv,
    ),
    Technique(
        page="pruning",
        title="Pruning: depth, width, zeros",
        text="lossy",
        switch="`penstock compress MODEL --layers`, `--neurons`, `--heads`, `--zeros`",
        loses="there is no training afterwards; zeros: always, in speed",
        tell=_tell_pruning,
        draw=_draw_pruning,
    ),
    Technique(
        page="distillation",
        title="Distillation",
        text="lossy",
        switch="`penstock compress MODEL --distill MINUTES`",
        loses="few tokens will be served: training costs more than it saves",
        tell=_tell_distillation,
        draw=_draw_distillation,
    ),
    Technique(
        page="prompt_compression",
        title="Prompt compression",
        text="lossy",
        switch="`--compress-prompts 0.5`; `penstock compress-prompt`",
        loses="short prompts, mild cuts, prompts that are cached",
        tell=_tell_prompt_compression,
        draw=_draw_prompt_compression,
    ),
)
