"""Kernels are chosen by what the model and the machine permit, and refusals say why."""

from __future__ import annotations

import logging

import pytest
import torch

from penstock import models
from penstock.engine.kernels import choose as choosing
from penstock.engine.kernels.choose import choose
from penstock.engine.kernels.native import library
from penstock.engine.kernels.plain import PlainKernels
from penstock.engine.model.config import ModelConfig


@pytest.fixture
def config():
    return ModelConfig.load(models.path("embedded"))


@pytest.fixture
def nowhere(monkeypatch):
    """A machine without the instructions."""

    def missing():
        raise library.NotHere("the processor has no avx512_bf16")

    monkeypatch.setattr(choosing.library, "library", missing)


BF16 = {"dtype": torch.bfloat16, "device": "cpu", "page_size": 16}


def test_fp32_is_pytorchs_and_nobody_is_warned(config, caplog):
    kernels = choose(config, **BF16 | {"dtype": torch.float32})
    assert isinstance(kernels, PlainKernels)
    assert not caplog.records


def test_without_the_instructions_the_log_says_why_once(config, nowhere, caplog):
    with caplog.at_level(logging.WARNING):
        assert isinstance(choose(config, **BF16), PlainKernels)
    (record,) = caplog.records
    assert "avx512_bf16" in record.getMessage()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kernels": "native"}, "avx512_bf16"),
        ({"deterministic": True}, "avx512_bf16"),
        ({"deterministic": True, "kernels": "torch"}, "kernels=torch was asked for"),
        ({"kernels": "native", "dtype": torch.float32}, "not in float32"),
        ({"kernels": "native", "device": "cuda"}, "not device=cuda"),
    ],
)
def test_what_cannot_be_had_is_refused(config, nowhere, asked, said):
    with pytest.raises(ValueError, match=said):
        choose(config, **BF16 | asked)


def test_pages_of_odd_size_are_pytorchs(config, monkeypatch):
    monkeypatch.setattr(choosing.library, "library", lambda: None)
    with pytest.raises(ValueError, match="page_size=24"):
        choose(config, **BF16 | {"page_size": 24, "kernels": "native"})
