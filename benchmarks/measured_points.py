"""Reads the file of measured serving points, and says what it leaves open."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import msgspec

from penstock.predict.architecture import architecture
from penstock.predict.deployment import Deployment
from penstock.predict.sheet import device

NODE = 8  # devices of the nodes that were measured


class Replicas(msgspec.Struct, frozen=True, kw_only=True):
    """So many replicas of one shape; `dp` are groups with attention of their own."""

    count: int = 1
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def devices(self) -> int:
        """Devices of all of them."""
        return self.count * self.tp * self.pp * self.dp


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One row, in seconds and counts: a closed loop on `parts`.

    Those are the one aggregated replica, or the prefill replicas and the
    decode replicas. With `drawn`, lengths are not equal.
    """

    model: str
    system: str
    backend: str
    weights: str
    prompt: float
    output: float
    concurrency: float
    drawn: bool
    parts: tuple[Replicas, ...]
    ttft_s: float
    tpot_s: float

    @property
    def mode(self) -> str:
        """As the file calls it."""
        return "agg" if len(self.parts) == 1 else "disagg"

    @property
    def devices(self) -> int:
        """Devices of the whole deployment."""
        return sum(part.devices for part in self.parts)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows that hold a measured point. Raises `ValueError` for another format."""
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    needed = {"model_path", "system", "backend", "mode", "isl", "osl", "ttft_ms", "tpot_ms"}
    if not found or not needed <= set(found[0]):
        raise ValueError(
            f"{path} lacks the columns {', '.join(sorted(needed - set(found[0] if found else ())))}"
            ": give a file of the format of serving_measured_h100_b200.csv."
        )
    needed = {"isl", "osl", "tpot_ms"}
    return [row for row in found if all(_number(row, name) > 0 for name in needed)]


def measured(row: dict[str, str]) -> Measured:
    """What a row says. Raises `ValueError` where it does not say enough to predict."""
    parts = _aggregated(row) if row["mode"] == "agg" else _split(row)
    groups = parts[-1].count * parts[-1].dp * parts[-1].pp
    each = _number(row, "batch_size") or _number(row, "decode_batch_size")
    concurrency = _number(row, "concurrency") or each * groups
    if not concurrency:
        raise ValueError("neither concurrency nor batch_size was recorded")
    # Dated rows come from a public nightly benchmark, which draws each length
    # from 80 to 100 % of the nominal one; the others from sweeps of equal lengths.
    drawn = bool(row.get("measured"))
    mean = 0.9 if drawn else 1.0
    return Measured(
        model=row["model_path"],
        system=row["system"],
        backend=row["backend"],
        weights=_weights(row),
        prompt=mean * _number(row, "isl"),
        output=mean * _number(row, "osl"),
        concurrency=concurrency,
        drawn=drawn,
        parts=parts,
        ttft_s=_number(row, "ttft_ms") / 1e3,
        tpot_s=_number(row, "tpot_ms") / 1e3,
    )


def devices(row: dict[str, str]) -> int | None:
    """Devices of the whole deployment as far as the row tells; None where a split one does not.

    Of those only the width of tensor parallelism is told, which is a worker's
    number of devices where each holds a part of every layer: not with experts.
    """
    if row["mode"] == "agg":
        return _aggregated(row)[0].devices
    if architecture(row["model_path"]).is_moe:
        return None
    kinds = ("prefill", "decode")
    told = [_number(row, f"{k}_num_workers") * _number(row, f"{k}_tp_size") for k in kinds]
    return int(sum(told)) if all(told) else None


def _aggregated(row: dict[str, str]) -> tuple[Replicas, ...]:
    tp, pp, dp, ep = (
        int(_number(row, f"{name}_size") or 1) for name in ("tp", "pp", "attention_dp", "moe_ep")
    )
    side = math.isqrt(tp * dp)
    if tp * dp > NODE and side**2 == tp * dp and side in (dp, ep):
        # Two columns count the same devices there: 64 of them are the 8 of one node.
        tp, dp, ep = (1, side, side) if dp > 1 else (side, 1, side)
    return (Replicas(tp=tp, pp=pp, dp=dp, ep=min(ep, tp * dp)),)


def _split(row: dict[str, str]) -> tuple[Replicas, ...]:
    prefills, decodes = (int(_number(row, f"{name}_num_workers")) for name in ("prefill", "decode"))
    if not prefills or not decodes:
        raise ValueError("a split whose number of replicas was not recorded")
    # A tp of 1 is that of attention; the groups beside it follow from the batch of each,
    # or else from how many devices the weights need.
    sizes = [int(_number(row, f"{name}_tp_size") or 1) for name in ("prefill", "decode")]
    batch = _number(row, "decode_batch_size")
    together = _number(row, "concurrency") / (batch * decodes) if batch else 1
    groups = [_groups(row, sizes[0]), max(_groups(row, sizes[1]), round(together))]
    return tuple(
        Replicas(count=count, tp=tp, dp=dp, ep=dp)
        for count, tp, dp in zip((prefills, decodes), sizes, groups, strict=True)
    )


def _groups(row: dict[str, str], tp: int) -> int:
    """The least power of two of groups of `tp` devices that hold the experts."""
    model, groups = architecture(row["model_path"]), 1
    if not model.is_moe:
        return 1
    while groups * tp < NODE:
        try:
            shape = Deployment(model, device(row["system"]), _weights(row), tp=tp, dp=groups)
            shape.check_fits()
        except ValueError:
            groups *= 2
        else:
            break
    return groups


def _weights(row: dict[str, str]) -> str:
    """The format by the file's name for it (fp8_block, nvfp4 ...), else by the model's."""
    said = (row.get("precision") or row["model_path"].rpartition("-")[2]).lower()
    known = ("fp4", "fp8", "int8", "int4", "fp32")
    return next((name for name in known if name in said), "bf16")


def _number(row: dict[str, str], name: str) -> float:
    return float(row.get(name) or 0)
