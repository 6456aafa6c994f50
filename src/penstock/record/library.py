"""The runs kept under one directory: found by name, listed, and some named as baselines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from penstock.record.measures import ACCURACY, CORRECT, ERRORS, GOODPUT, named
from penstock.record.run import Run, load_bare
from penstock.record.stats import Interval

ROOT = Path("runs")
_BASELINES = "baselines.json"


class Listed(msgspec.Struct, kw_only=True):
    """A directory that may be a run: its `run` without records, or its `fault`."""

    directory: Path
    name: str  # its path under the root
    run: Run | None = None
    fault: str | None = None


def listed(root: Path) -> list[Listed]:
    """Every directory under `root`, earliest run first; what cannot be read comes last."""
    if not root.is_dir():
        return []
    found = [_look(root / name, name) for name in _names(root)]
    return sorted(found, key=lambda one: (one.run is None, one.run.started if one.run else ""))


def _names(root: Path) -> list[str]:
    """Paths under `root`: of its directories, and of the two runs in one of `--interleave`."""
    found: list[Path] = []
    for directory in sorted(root.iterdir()):
        if directory.is_dir():
            inner = sorted(file.parent for file in directory.glob("*/run.json"))
            found += inner or [directory]
    return [str(directory.relative_to(root)) for directory in found]


def _look(directory: Path, name: str) -> Listed:
    try:
        run = load_bare(directory)
        points = run.summary["points"]
        _check(points)
    except ValueError as error:
        return Listed(directory=directory, name=name, fault=str(error))
    except (KeyError, TypeError, AttributeError) as error:
        fault = f"{directory} is damaged: its summary: {error!r}"
        return Listed(directory=directory, name=name, fault=fault)
    return Listed(directory=directory, name=name, run=run)


def _check(points: Any) -> None:
    """Whether the parts that a list shows are there. Raises `KeyError` or `TypeError` if not."""
    for point in points:
        figure(point, "output_throughput")
        _ = point["load"]["kind"], point["ttft_from_schedule"]["p50"]
        for reason in point.get("verdict", {"reasons": []})["reasons"]:
            _ = reason["code"]
        point["conditions"].get("model")


def find(name: str, root: Path) -> Path:
    """The directory of a run: a path, a baseline's name, or the name or unique start of one
    under `root`.

    Raises `ValueError` where there is none, or several.
    """
    if (Path(name) / "run.json").exists():
        return Path(name)
    if (baseline := baselines(root).get(name)) is not None:
        return root / baseline
    names = _names(root) if root.is_dir() else []
    matching = [name] if name in names else [n for n in names if n.startswith(name)]
    if len(matching) == 1:
        return root / matching[0]
    if matching:
        raise ValueError(f"{name!r} may be any of these runs: {', '.join(sorted(matching))}")
    raise ValueError(
        f"{name!r} is neither the directory of a run, nor a baseline, nor a run under {root}/; "
        "`penstock runs` lists them"
    )


def baselines(root: Path) -> dict[str, str]:
    """Named runs, as paths relative to `root`. Raises `ValueError` where the list is damaged."""
    file = root / _BASELINES
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise ValueError(f"{file} is damaged: {error}. Delete it and name them again.") from error


def set_baseline(name: str, directory: Path, root: Path) -> None:
    """Name a run. Raises `ValueError` where it is none, and `OSError` where `root` is read-only."""
    load_bare(directory)
    if not name or "/" in name:
        raise ValueError(f"{name!r} is no name for a baseline; it may hold no /")
    kept = {**baselines(root), name: os.path.relpath(directory, root)}
    root.mkdir(parents=True, exist_ok=True)
    part = root / f"{_BASELINES}.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    part.replace(root / _BASELINES)


def figure(point: dict[str, Any], name: str) -> tuple[float | None, Interval | None]:
    """A metric of a summary's point, named as in comparisons, with its 95 % interval.

    Raises `ValueError` for a name there is not.
    """
    full = named(name).name
    metric, _, statistic = full.partition(".")
    if full == ERRORS:
        ended = point["completed"] + point["errors"]["count"]
        return (point["errors"]["count"] / ended if ended else None), None
    if full in (ACCURACY, CORRECT):
        found = (point.get("quality") or {}).get(full, {})
        return found.get("value"), found.get("ci95")
    if full == GOODPUT:
        return point["goodput"]["requests_per_s"], None
    if not statistic:
        return point[metric]["value"], point[metric]["ci95"]
    intervals = point[metric].get("intervals", {"mean": point[metric].get("ci95")})
    return point[metric][statistic], intervals.get(statistic)


def history(runs: list[Listed], target: str | None) -> Iterator[tuple[Listed, dict[str, Any]]]:
    """Each operating point of each readable run, of one target only where one is named.

    A target is named by its model's or its own name, or a part of it.
    """
    for one in runs:
        if one.run is not None and (target is None or target in named_target(one.run)):
            yield from ((one, point) for point in one.run.summary["points"])


def named_target(run: Run) -> str:
    """What was measured: the target's name and its model."""
    return f"{run.target.get('name') or 'unknown'} {run.target.get('model') or ''}".strip()
