"""A request's parameters are refused by the name of the field that is wrong."""

import pytest

from penstock.engine.request import BadValue, Beam, Grammar, SamplingParams

DIGITS = Grammar(kind="regex", text="[0-9]+")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("n", {"n": 0}),
        ("temperature", {"temperature": float("nan")}),
        ("top_p", {"top_p": 0.0}),
        ("repetition_penalty", {"repetition_penalty": 0.0}),
        ("seed", {"seed": 2**63}),
        ("min_tokens", {"min_tokens": 5, "max_tokens": 4}),
        ("logit_bias", {"logit_bias": {7: 101.0}}),
        ("ignore_eos", {"grammar": DIGITS, "ignore_eos": True}),
        ("min_tokens", {"grammar": DIGITS, "min_tokens": 1}),
        ("n", {"n": 3, "beam": Beam(width=2)}),
        ("length_penalty", {"beam": Beam(width=2, length_penalty=11.0)}),
        ("top_k", {"beam": Beam(width=2), "top_k": 5}),
    ],
)
def test_a_bad_value_names_its_field(field, values):
    with pytest.raises(BadValue) as raised:
        SamplingParams(**values)
    assert raised.value.field == field
