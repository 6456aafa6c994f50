"""The table of what `penstock audit` says of published measurements, for docs/audit.md."""

from typing import Any

_NAMES = {
    "serving": "ai-dynamo/aiconfigurator, serving",
    "offline": "NVIDIA/TensorRT-LLM, offline",
    "llama.cpp": "ggml-org/llama.cpp, batches",
}


def audited(result: dict[str, Any]) -> str:
    """Verdicts and factors by table."""
    rows = [
        "| table | claims | impossible | implausible | times, median (p10-p90) "
        "| implausible without its model |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in {**result["by_table"], "all": result["overall"]}.items():
        factor = one["factor"]
        rows.append(
            f"| {_NAMES.get(name, name)} | {one['claims']:,} | {one['impossible']} "
            f"| {one['verdicts'].get('implausible', 0)} "
            f"| {factor['median']:.1f} ({factor['p10']:.1f}-{factor['p90']:.1f}) "
            f"| {one['without_its_model'].get('implausible', 0)} |"
        )
    return "\n".join(rows)
