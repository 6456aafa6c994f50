"""Fewer bits for weights, and for K and V: pictures and figures of docs/techniques/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from technique import Results, Told
from technique_look import Dots, Lines, Panel, Rows, loss, point, spread
from technique_words import model_of, ran, times

_ALL, _FEWER = ("bf16", "int8", "int4"), ("int8", "int4")


def draw_weights(results: Results) -> list[Panel]:
    lossy = results["compress_quality"]["as it is"]
    found = results["format_speed"]["found"]["weights"]
    rows: Rows = [
        spread(kind, int(at), kinds[kind]["ms"]) for kind in _ALL for at, kinds in found.items()
    ]
    rows += [
        point(f"{kind}, at least", int(at), kinds[kind]["limit_ms"])
        for kind in _ALL
        for at, kinds in found.items()
    ]
    return [
        Dots(
            says="held-out loss over the original, with 95 % intervals",
            along="%",
            rows=[loss(name, one) for name, one in lossy.items() if name != "original"],
        ),
        Lines(
            says=f"ms of a step of {_model(results)}; dashed: the least at measured rates",
            along="rows of the step",
            rows=rows,
            log_y=True,
            dashed=[f"{kind}, at least" for kind in _ALL],
        ),
    ]


def tell_weights(results: Results) -> Told:
    lossy, told = results["compress_quality"]["as it is"], results["compress_quality"]["conditions"]
    lost = {
        name: lossy[key]["loss_over_original"]
        for name, key in (("int8", "int8 RTN"), ("rtn", "int4 RTN"), ("gptq", "int4 GPTQ"))
    }
    speed = results["format_speed"]
    steps, prompt = speed["found"]["weights"], speed["found"]["prompt"]["weights"]
    under, (first, *_, last) = speed["conditions"], steps
    over = {
        kind: " / ".join(f"{one[kind]['times_bf16']['median']:.2f}" for one in steps.values())
        for kind in _FEWER
    }
    reached = {kind: f"{steps[first][kind]['of_limit']:.0%}" for kind in _ALL}
    unpacked = " / ".join(f"{_ms(one, 'int8') / _ms(one, 'int4'):.2f}" for one in steps.values())
    return Told(
        f"loss {lost['int8']:+.2%} in int8, {lost['gptq']:+.2%} in int4 by GPTQ "
        f"({lost['rtn']:+.2%} rounded to nearest), embedded model; a step of {first} row "
        f"{_medians(steps[first])} as fast as in bf16, of {last} rows {_medians(steps[last])}, "
        f"{_model(results)} shape",
        f"Held-out loss: int8 {lost['int8']:+.2%}, int4 rounded to nearest {lost['rtn']:+.2%}, by "
        f"GPTQ {lost['gptq']:+.2%} ({told['date']}, {model_of(told)}, {told['held_out_tokens']:,} "
        "tokens; `python -m benchmarks.compress_quality`).\n\n"
        f"Steps of {' / '.join(steps)} rows: {over['int8']} × as fast in int8 as in bf16, "
        f"{over['int4']} × in int4, so int4 {unpacked} × as fast as int8. With {first} row they "
        f"reach {_listed(reached)} of what the machine could do at the rates it was measured to "
        f"read and to multiply at{_when(reached)}. A "
        f"prompt of {under['prompt_tokens']} tokens: {_timed(prompt)}. {ran(under)}, K and V in "
        f"bf16, {under['step_context']} tokens of context; medians of {_rounds(prompt)} rounds in "
        "turn; `python -m benchmarks.format_speed`.",
    )


def draw_kv_formats(results: Results) -> list[Panel]:
    found, told = results["format_speed"]["found"], results["format_speed"]["conditions"]
    weights, per_token = told["weight_bytes"]["int8"], told["kv_bytes_per_token"]

    def gains(part: str) -> Rows:
        return [
            spread(f"{kind}, {_rows(at)} at once", _tokens(at), one[kind]["times_bf16"])
            for kind in _FEWER
            for at, one in found[part].items()
        ]

    def read(kind: str, tokens: int) -> int:
        return int(weights + tokens * per_token[kind])

    fewer = [
        point(f"{kind}, by bytes", tokens, read("bf16", tokens) / read(kind, tokens))
        for kind in _FEWER
        for tokens in sorted(map(_tokens, found["kv"]))
    ]
    along = "tokens of context in the batch, all sequences together"
    return [
        Lines(
            says="times the speed of a step with KV bf16; dashed: times fewer bytes",
            along=along,
            rows=[*gains("kv"), *fewer],
            even=1.0,
            dashed=[f"{kind}, by bytes" for kind in _FEWER],
        ),
        Lines(
            says="the same of attention alone",
            along=along,
            rows=gains("attention"),
            even=1.0,
        ),
    ]


def tell_kv_formats(results: Results) -> Told:
    quality = results["format_quality"]
    found, outliers = quality["as it is"], quality["with outliers"]
    told = found["conditions"]
    plain, both, four = (
        found[name]["loss_over_fp32"] for name in ("int8", "int8, KV int8", "bf16, KV int4")
    )
    spread_out, alone = (
        outliers[name]["loss_over_fp32"]
        for name in ("bf16, KV int4", "fp32, KV int4 without Hadamard")
    )
    speed = results["format_speed"]
    under, steps, prompt = speed["conditions"], speed["found"]["kv"], speed["found"]["prompt"]["kv"]
    sizes = under["kv_bytes_per_token"]
    shares = " and ".join(f"{sizes[kind] / sizes['bf16']:.0%}" for kind in _FEWER)
    short, long = (pick(steps, key=_tokens) for pick in (min, max))
    reached = {kind: f"{speed['found']['attention'][long][kind]['of_limit']:.0%}" for kind in _ALL}
    return Told(
        f"{shares} of the bytes in int8 and int4 ({_model(results)}); a step of {_told(long)} "
        f"{_medians(steps[long])} as fast, of {_told(short)} {_medians(steps[short])}; loss "
        f"{plain:+.2%} with int8 weights alone, {both:+.2%} with KV int8; KV int4 alone "
        f"{four:+.2%}; embedded model",
        f"Held-out loss over fp32: {plain:+.2%} with int8 weights, {both:+.2%} with KV int8 as "
        f"well; {four:+.2%} with KV int4 and bf16 weights, {spread_out:+.2%} where channels of K "
        f"are large, which would be {alone:+.2%} without Hadamard's matrix ({told['date']}, "
        f"{model_of(told)}, {told['held_out_tokens']:,} tokens; "
        "`python -m benchmarks.format_quality`). "
        f"A token of {_model(results)} takes {_listed({k: f'{n:,}' for k, n in sizes.items()})} "
        f"bytes. Against KV in bf16 a step with int8 weights is, over {_told(short)}, "
        f"{_gains(steps[short])} as fast, over {_told(long)} {_gains(steps[long])}. Attention "
        f"reaches {_listed(reached)} there of what the machine was measured to read "
        f"at{_when(reached)}. A prompt of {under['prompt_tokens']} tokens: {_timed(prompt)}. "
        f"{ran(under)}; medians of {_rounds(prompt)} rounds in turn; "
        "`python -m benchmarks.format_speed`.",
    )


def _when(reached: Mapping[str, str]) -> str:
    """What to know where a limit is passed: rates are measured once, before the rounds."""
    passed = any(float(share.rstrip("%")) > 100 for share in reached.values())
    return ", once, in a slower minute than those of the rounds" if passed else ""


def _model(results: Results) -> str:
    return str(results["format_speed"]["conditions"]["model"])


def _ms(kinds: Mapping[str, Any], kind: str) -> float:
    return float(kinds[kind]["ms"]["median"])


def _gains(kinds: Mapping[str, Any]) -> str:
    return " and ".join(f"{times(kinds[kind]['times_bf16'], 2)} ({kind})" for kind in _FEWER)


def _medians(kinds: Mapping[str, Any]) -> str:
    return " and ".join(f"{kinds[kind]['times_bf16']['median']:.2f} × ({kind})" for kind in _FEWER)


def _timed(kinds: Mapping[str, Any]) -> str:
    ms = {kind: f"{_ms(kinds, kind):,.0f} ms" for kind in _ALL}
    return f"{_listed(ms)}, so {_gains(kinds)} as fast"


def _listed(said: Mapping[str, str]) -> str:
    """Of every format, its own: `1 (bf16), 2 (int8), 3 (int4)`."""
    return ", ".join(f"{said[kind]} ({kind})" for kind in _ALL)


def _rounds(kinds: Mapping[str, Any]) -> int:
    return int(kinds["bf16"]["ms"]["n"])


def _rows(at: str) -> int:
    return int(at.split(" x ", maxsplit=1)[0])


def _tokens(at: str) -> int:
    """Of all sequences: of `8 x 256`, 2,048."""
    rows, context = map(int, at.split(" x "))
    return rows * context


def _told(at: str) -> str:
    return f"{_rows(at)} × {_tokens(at) // _rows(at):,} tokens"
