"""The README's tables of load generators held against a known truth."""

from __future__ import annotations

from typing import Any

PACKAGES = {
    "penstock": "Penstock",
    "aiperf": "AIPerf",
    "guidellm": "GuideLLM",
    "evalscope": "EvalScope",
    "inference-perf": "inference-perf",
    "vllm": "vllm bench serve",
}


def meter(truth: dict[str, Any], ceiling: dict[str, Any]) -> str:
    """Errors by number of streams, then what a thousand streams cost, then the commands."""
    levels = sorted({row["streams"] for row in truth["rows"]})
    versions = truth["conditions"]["versions"]
    lines: list[str] = []
    for start, words in (("burst", "all streams begin at once"), ("staggered", "evenly spread")):
        lines += [
            f"| {words} | " + " | ".join(f"{level:,}" for level in levels) + " |",
            "|---|" + "---|" * len(levels),
        ]
        for tool in PACKAGES:
            rows = {r["streams"]: r for r in _rows(truth, tool, start)}
            cells = [_ttft(rows.get(level)) for level in levels]
            lines.append(f"| {_name(tool, versions)} | " + " | ".join(cells) + " |")
        lines.append("")
    most = levels[-1]
    lines += [
        f"| at {most:,} streams that begin at once | error of the gaps' p99, ms "
        "| CPU s per 1,000 events | throughput at 12 ms a token, share of the ideal |",
        "|---|---|---|---|",
    ]
    for tool in PACKAGES:
        row = next((r for r in _rows(truth, tool, "burst") if r["streams"] == most), None)
        fast = next(iter(_rows(ceiling, tool, "burst")), None)
        lines.append(
            f"| {_name(tool, versions)} | {_gap(row)} | {_figure(row, 'cpu_s_per_1000_events', 3)} "
            f"| {_share(fast)} |"
        )
    told = truth["conditions"]
    dates = sorted({row["date"] for row in truth["rows"]})
    lines += [
        "",
        f"{' and '.join(dates)}, {told['hardware']}, shared with the server; true TTFT "
        f"{told['ttft_ms']} ms and {truth['rows'][0]['itl_ms']:.0f} ms between tokens, "
        f"{told['events']} tokens, {told['rounds']} answers a stream; one run a cell, tools in "
        f"turn; the last column {ceiling['conditions']['events']} tokens. Cells are the errors of "
        "the mean and of the p99 that a tool reports, in ms; void: the server was late itself. CPU "
        "is the client's, from the first request to a quarter of a second after the last event.",
        "",
        "<details><summary>Versions and commands</summary>",
        "",
        "```",
        *(f"{tool} {versions[tool]}: {_command(truth, tool)}" for tool in PACKAGES),
        "```",
        "",
        "</details>",
    ]
    return "\n".join(lines)


def _rows(result: dict[str, Any], tool: str, start: str) -> list[dict[str, Any]]:
    return [r for r in result["rows"] if r["tool"] == tool and r["start"] == start]


def _name(tool: str, versions: dict[str, str]) -> str:
    version = versions[tool]
    return f"{PACKAGES[tool]} {version}" if version[:1].isdigit() else PACKAGES[tool]


def _command(truth: dict[str, Any], tool: str) -> str:
    return next((r["command"] for r in truth["rows"] if r["tool"] == tool), "never ran")


def _ttft(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not measured"
    if "failed" in row:
        return "failed"
    if row["void"]:
        return "void"
    error = row["error_ms"]
    return f"{_ms(error['ttft_mean'])} / {_ms(error['ttft_p99'])}"


def _gap(row: dict[str, Any] | None) -> str:
    if row is None or "failed" in row or row["void"]:
        return _ttft(row)
    return _ms(row["error_ms"]["gap_p99"]) if "gap_p99" in row["error_ms"] else "not reported"


def _figure(row: dict[str, Any] | None, key: str, digits: int) -> str:
    if row is None or "failed" in row:
        return _ttft(row)
    return f"{row[key]:.{digits}f}"


def _share(row: dict[str, Any] | None) -> str:
    if row is None or "failed" in row or row["void"]:
        return _ttft(row)
    return f"{100 * row['ideal_share']:.0f} %"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"
