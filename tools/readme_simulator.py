"""The tables of docs/simulator.md: how fast it is, and what its two studies found."""

from __future__ import annotations

from typing import Any

ROUTED = (
    ("output_tokens_per_s", "{:,.0f}"),
    ("ttft_mean_s", "{:.3g}"),
    ("ttft_p90_s", "{:.3g}"),
    ("cached_share", "{:.0%}"),
)


def speed(result: dict[str, Any]) -> str:
    """Seconds of one core for each load."""
    rows = [
        "| load | requests | pages of | virtual time | CPU | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for key, name in (
        ("mooncake_8_replicas", "Mooncake's conversation trace, 8 replicas, routed by caches"),
        ("day", "a day of chat in gamma arrivals, 2 replicas"),
        ("day_large_pages", "the same in larger pages"),
    ):
        if (one := result.get(key)) is not None:
            rows.append(
                f"| {name} | {one['requests']:,} | {one['page_tokens']} "
                f"| {one['virtual_s'] / 3600:.1f} h | {one['cpu_s']:.1f} s "
                f"| {one['peak_memory_mb']} MB |"
            )
    return "\n".join(rows)


def routing(result: dict[str, Any]) -> str:
    """Every router by length of the answers, beside what was published."""
    rows = [
        "| answers of | router | output tok/s | TTFT mean, s | p90, s | cached |",
        "|---|---|---|---|---|---|",
    ]
    lengths = {f"{length} tokens": one for length, one in result["by_output_tokens"].items()}
    for length, routers in (lengths | {"published": result["published"]}).items():
        for router, figures in routers.items():
            cells = (form.format(figures[key]) if key in figures else "" for key, form in ROUTED)
            rows.append(f"| {length} | {router} | {' | '.join(cells)} |")
    for load, routers in result["controls"].items():
        for router, figures in routers.items():
            cells = (form.format(figures[key]) for key, form in ROUTED)
            rows.append(f"| 250 tokens, {load} | {router} | {' | '.join(cells)} |")
    return "\n".join(rows)


def split(result: dict[str, Any]) -> str:
    """Whole and split replicas by kind of request and link."""
    rows = [
        "| requests | whole, requests/s | link | split, requests/s | prefill : decode | gain |",
        "|---|---|---|---|---|---|",
    ]
    for kind, one in result["kinds"].items():
        whole = f"{one['whole']['requests_per_s']:.1f} (chunks of {one['whole']['chosen']})"
        for link, apart in one["split"].items():
            ratio = f"{apart['chosen']} : {8 - apart['chosen']}"
            rows.append(
                f"| {kind} | {whole} | {link} | {apart['requests_per_s']:.1f} | {ratio} "
                f"| {apart['against_whole']:+.0%} |"
            )
    return "\n".join(rows)
