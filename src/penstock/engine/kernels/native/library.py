"""The C functions of this directory, compiled for this machine on first use."""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

from penstock.compiled import CannotCompile, compiled

_HERE = Path(__file__).parent
_NEEDS = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"})
_FLAGS = ["-O3", "-march=native", "-shared", "-fPIC", "-pthread"]


class Linear(ctypes.Structure):
    """As `Linear` in matmul.c."""

    _fields_ = (
        ("data", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("format", c_int32),
        ("group", c_int32),
        ("gated", c_int32),
    )


class Pages(ctypes.Structure):
    """As `Pages` in pages.h."""

    _fields_ = (
        ("data", c_void_p),
        ("scale", c_void_p),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("pages", c_int64),
        ("page_size", c_int64),
        ("bits", c_int64),
    )


class Batch(ctypes.Structure):
    """As `Batch` in attention.c."""

    _fields_ = (
        ("decodes", c_int64),
        ("tables", c_void_p),
        ("width", c_int64),
        ("contexts", c_void_p),
        ("spans", c_int64),
        ("span", c_void_p),
    )


_P, _N = c_void_p, c_int64
_ARGUMENTS = {
    "penstock_threads": [c_int],
    "penstock_large_pages": [_P, _N],
    "penstock_sizes": [_P, _P, _P],
    "penstock_columns": [_P, _N, _N, _N, _P],
    "penstock_pack": [_P, _P, _N, _P, _P, _P],
    "penstock_unpack": [_P, _P, _N, _P],
    "penstock_linear": [_P, _P, _P, c_float, _P, _P, c_int, _N],
    "penstock_angles": [_P, _N, _P, _N, _P],
    "penstock_place": [_P, _N, _N, _N, _P, _P, c_float, _P, _P, _P, _P],
    "penstock_block_bytes": [],
    "penstock_plan": [_P, _N, _N, _N, _N, _P, _P, _P, _P],
    "penstock_attend": [_P, _N, _P, _P, _N, _N, _P, _P],
    "penstock_draw": [_P, _N, _N, _P, _P, _P],
    "penstock_score": [_P, _N, _N, _P, _P, _P],
}
_RETURNS = {"penstock_threads": c_int, "penstock_block_bytes": _N, "penstock_plan": _N}


class NotHere(Exception):
    """These kernels do not run on this machine; the message says why."""


@functools.cache
def library() -> ctypes.CDLL:
    """Compile, if that was not done before, and load.

    Raises `NotHere` where the processor lacks the instructions, or there is no compiler.
    """
    processor = _processor()
    if lacking := _NEEDS - processor:
        raise NotHere(f"the processor has no {', '.join(sorted(lacking))}")
    sources = sorted(_HERE.glob("*.c"))
    try:
        file = compiled(
            sources, _FLAGS, headers=sorted(_HERE.glob("*.h")), key=" ".join(sorted(processor))
        )
        loaded = ctypes.CDLL(str(file))
    except (CannotCompile, OSError) as error:
        raise NotHere(str(error)) from error
    for name, arguments in _ARGUMENTS.items():
        function = getattr(loaded, name)
        function.argtypes = arguments
        function.restype = _RETURNS.get(name)
    return loaded


def _processor() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
