"""Llama 4: chunks of attention, and experts in every layer or every other."""

import pytest

from penstock.predict.architecture import architecture


@pytest.mark.parametrize(
    ("name", "total", "active"),
    # Meta's model card: 109B and 400B in all, 17B active, vision and embedding counted.
    [("meta-llama/Llama-4-Scout-17B-16E-Instruct", 109e9, 17e9), ("llama-4-maverick", 400e9, 17e9)],
)
def test_sizes_are_those_of_the_model_card(name, total, active):
    model = architecture(name)
    assert model.parameters == pytest.approx(total, rel=0.02)
    assert model.active_parameters == pytest.approx(active, rel=0.06)


def test_three_layers_in_four_keep_no_more_than_a_chunk():
    scout = architecture("llama-4-scout")
    short, long = (scout.kv_bytes(context, "bf16") for context in (8192, 4 * 8192))
    assert long == pytest.approx(short * (3 / 4 + 4 / 4))
