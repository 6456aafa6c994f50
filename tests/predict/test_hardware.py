"""The machine's measured peaks: plausible, repeatable, quick, and torch-free."""

import subprocess
import sys
import time

import pytest

from penstock.predict import measure
from penstock.predict.hardware import MAX_WORKING_SET


def test_measurement_is_quick_and_plausible():
    begin = time.perf_counter()
    hardware = measure(14_000_000)
    # Under two seconds on a free machine; the tests may run on a crowded one.
    assert time.perf_counter() - begin < 10
    assert hardware.cores >= 1
    # From a slow single-board computer to a large server.
    assert 0.5e9 < hardware.read_bytes_per_s < 20e12
    assert 0.5e9 < hardware.peak_flops["fp32"] < 200e12


def test_bandwidth_repeats_within_a_factor():
    first, second = (measure(14_000_000, precisions=()).read_bytes_per_s for _ in range(2))
    assert 1 / 4 < first / second < 4


def test_working_set_is_what_was_measured():
    assert measure(1_000_000, precisions=()).working_set_bytes == 1_000_000
    assert measure(10**12, precisions=()).working_set_bytes == MAX_WORKING_SET


def test_precision_nobody_can_measure_is_absent():
    assert measure(1_000_000, precisions=("fp7",)).peak_flops == {}


def test_bf16_comes_from_torch_or_is_absent():
    peak = measure(1_000_000, precisions=("bf16",)).peak_flops.get("bf16")
    try:
        import torch  # noqa: F401
    except ImportError:
        assert peak is None
    else:
        assert peak is not None
        assert peak > 0.5e9


def test_an_empty_working_set_is_refused():
    with pytest.raises(ValueError, match="working_set_bytes=0"):
        measure(0)


def test_importing_predict_imports_no_torch():
    code = "import sys, penstock.predict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
