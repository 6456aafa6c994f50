"""Hardware sheets: what a device can do at most by its vendor's word, and what renting it costs.

Shipped sheets are data (`data/hardware.toml`), and a user's own are read the
same way from TOML: one table for each device, its fields those of `Device`,
in bytes, bytes per second, operations per second and watts.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

PRECISIONS = ("fp32", "bf16", "fp8", "int8", "fp4")
# Least and most that a field may hold. Nothing outside has been built, so a value
# there is in another unit: 3350 for 3,350 GB/s, or 989 for 989 Tflop/s.
_RANGES = {
    "memory_bytes": (1e8, 1e14),
    "read_bytes_per_s": (1e9, 1e17),
    "flops": (1e9, 1e18),
    "link_bytes_per_s": (1e8, 1e14),
    "network_bytes_per_s": (1e7, 1e13),
    "link_devices": (1, 1e5),
    "power_w": (0.5, 1e5),
    "usd_per_hour": (1e-4, 1e4),
}
# Which precision's arithmetic does the products of weights held in a format:
# the first that the hardware has. Weight-only formats are widened to bf16.
_ARITHMETIC = {
    "fp32": ("fp32",),
    "bf16": ("bf16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "fp8": ("fp8", "bf16", "fp32"),
    "int8": ("int8", "bf16", "fp32"),
    "fp4": ("fp4", "bf16", "fp32"),
    "mxfp4": ("fp4", "bf16", "fp32"),
    "int4": ("bf16", "fp32"),
}


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one device costs for an hour, at whose counter, read when (ISO date), on what terms."""

    usd_per_hour: float
    provider: str
    date: str
    terms: str
    source: str


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device's sheet. What nobody published is absent (None, or no entry in `flops`).

    `memory_bytes` is what programs may take of its memory, `read_bytes_per_s` that memory's
    peak rate.
    `flops` maps a precision to *dense* operations per second with
    accumulation in 32 bits; figures "with sparsity" are twice as large and
    have no place here. `link_bytes_per_s` is one device's rate to others of
    its `link_devices`, in ONE direction (vendors add both), and
    `network_bytes_per_s` that to devices beyond, also in one. `power_w` is
    the board's limit. `sources` says where the figures come from.
    """

    name: str
    title: str
    memory_bytes: float
    read_bytes_per_s: float
    flops: Mapping[str, float] = {}
    link_bytes_per_s: float | None = None
    link_devices: int = 1
    network_bytes_per_s: float | None = None
    power_w: float | None = None
    prices: tuple[Price, ...] = ()
    sources: tuple[str, ...] = ()
    notes: str = ""

    def arithmetic(self, weights: str) -> str | None:
        """Precision whose units multiply weights held as `weights`; None where no rate is known.

        Hardware without units for a format widens it to bf16 first. Raises
        `ValueError` for a format that is unknown.
        """
        if weights not in _ARITHMETIC:
            raise ValueError(
                f"weights={weights!r} is no format known here; take {', '.join(_ARITHMETIC)}."
            )
        return next((name for name in _ARITHMETIC[weights] if name in self.flops), None)

    def matmul_flops(self, weights: str) -> float | None:
        """Dense operations per second on weights held as `weights`; None where it is unknown."""
        name = self.arithmetic(weights)
        return None if name is None else self.flops[name]


@cache
def devices() -> Mapping[str, Device]:
    """The shipped sheets, by name."""
    text = files("penstock.predict").joinpath("data", "hardware.toml").read_text(encoding="utf-8")
    return parse(text, "hardware.toml")


def device(name: str, *sheets: Path) -> Device:
    """The sheet of that name in one of the files, else a shipped one.

    `name` may itself be the path of a TOML file that holds one device. Raises
    `ValueError` that names the known ones, or the field that is wrong.
    """
    if name.endswith(".toml"):
        found = read(Path(name))
        if len(found) != 1:
            raise ValueError(
                f"{name} holds {len(found)} devices ({', '.join(found)}): "
                "keep one in the file that is named as a device."
            )
        return next(iter(found.values()))
    known = dict(devices())
    for sheet in sheets:
        known |= read(sheet)
    wanted = name.lower().replace("_", "-").removesuffix("-sxm")
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, 1)
        raise ValueError(
            f"hardware {name!r} is unknown{f'; did you mean {near[0]!r}?' if near else '.'} "
            f"Known are {', '.join(known)}; or give a TOML file of your own "
            "(`penstock hardware show NAME --toml` prints one to start from)."
        )
    return known[wanted]


def read(path: Path) -> dict[str, Device]:
    """The sheets in a TOML file. Raises `ValueError` naming the field that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    return parse(text, str(path))


def parse(text: str, where: str) -> dict[str, Device]:
    """The sheets in a TOML text; `where` names it in errors (`ValueError`)."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} is not TOML: {error}.") from None
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(
            f'{where} must hold one table for each device, such as [my-gpu] with title = "...", '
            "memory_bytes = 80e9 and read_bytes_per_s = 3.35e12."
        )
    return {name: _device(name, table, f"{where}: {name}") for name, table in tables.items()}


def _device(name: str, table: dict[str, Any], where: str) -> Device:
    for field in table:
        if field not in Device.__struct_fields__ or field == "name":
            raise ValueError(f"{where}.{field} is no field of a sheet{_meant(field)}")
    try:
        found = msgspec.convert({"title": name} | table | {"name": name}, Device)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from None
    for precision, rate in found.flops.items():
        if precision not in PRECISIONS:
            raise ValueError(
                f"{where}.flops.{precision} is no precision known here; "
                f"take {', '.join(PRECISIONS)} (fp16 runs at the rate of bf16)."
            )
        _check(f"{where}.flops.{precision}", "flops", rate)
    for field in _RANGES:
        if getattr(found, field, None) is not None and field != "flops":
            _check(f"{where}.{field}", field, getattr(found, field))
    for price in found.prices:
        _check(f"{where}.prices.usd_per_hour", "usd_per_hour", price.usd_per_hour)
    return found


def _check(where: str, field: str, value: float) -> None:
    low, high = _RANGES[field]
    if low <= value <= high:
        return
    remedy = "give what the device has, or leave the field out where it has none"
    if 0 < value < low and low >= 1e7:
        remedy = f"the unit is the plain one of the field's name: write {value:g}e9 or {value:g}e12"
    raise ValueError(f"{where}={value:g} must lie between {low:g} and {high:g}: {remedy}.")


def _meant(field: str) -> str:
    near = difflib.get_close_matches(field, Device.__struct_fields__[1:], 1, 0.4)
    known = ", ".join(Device.__struct_fields__[1:])
    return f"{f'; did you mean {near[0]}?' if near else ':'} Fields are {known}."


def to_toml(device: Device) -> str:
    """A sheet as TOML that `read` takes, to keep or to change."""
    fields: dict[str, Any] = msgspec.to_builtins(device)
    lines = [f"[{_value(fields.pop('name'))}]"]
    for field, value in fields.items():
        if not value:
            continue  # nobody published it
        if isinstance(value, tuple):
            rows = "".join(f"    {_value(each)},\n" for each in value)
            lines.append(f"{field} = [\n{rows}]")
        else:
            lines.append(f"{field} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"  # 8e+10 rather than 80000000000.0
    # Texts and numbers are written in TOML as they are in JSON.
    return msgspec.json.encode(value).decode()
