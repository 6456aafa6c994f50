"""Hardware sheets: the shipped ones are sane and sourced, a user's own are read strictly."""

import re
from pathlib import Path

import pytest

from penstock.predict import sheet
from penstock.predict.sheet import device, devices, parse, to_toml

GOOD = """
[mine]
memory_bytes = 80e9
read_bytes_per_s = 3.35e12
flops = { bf16 = 989e12 }
link_bytes_per_s = 450e9
link_devices = 8
[[mine.prices]]
usd_per_hour = 2.5
provider = "us"
date = "2026-11-01"
terms = "spot"
source = "bill"
"""


def test_the_hardware_that_users_name_is_there():
    wanted = (
        "h100 h200 b200 gb200 b300 gb300 a100 l40s l4 mi300x rtx-4090 rtx-pro-6000 gb10 "
        "m4-max m3-ultra epyc-9654 epyc-9755 xeon-6980p wse-3"
    )
    assert set(wanted.split()) <= set(devices())


@pytest.mark.parametrize("name", devices())
def test_every_sheet_says_where_its_figures_come_from_and_what_is_missing(name):
    one = devices()[name]
    assert one.sources
    assert all(price.date.startswith("2026-") and price.terms for price in one.prices)
    if not one.flops or one.power_w is None:
        assert "publish" in one.notes or "given" in one.notes or "no rate" in one.notes


# Published figures "with sparsity", and rates of both directions: twice these.
@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("h100", "bf16", 989e12),
        ("l40s", "fp8", 733e12),
        ("b200", "fp4", 9000e12),
        ("mi300x", "bf16", 1307e12),
        ("rtx-4090", "bf16", 165.2e12),
        ("h100", "link", 450e9),
        ("b200", "link", 900e9),
        ("a100", "link", 300e9),
    ],
)
def test_rates_are_dense_and_links_one_directional(name, field, value):
    one = device(name)
    assert (one.link_bytes_per_s if field == "link" else one.flops[field]) == value


def test_blackwell_ultra_lost_its_int8():
    assert device("b300").flops["int8"] < device("b200").flops["int8"] / 20


def test_the_wafer_holds_what_its_vendor_says():
    wafer = device("wse-3")
    assert (wafer.memory_bytes, wafer.read_bytes_per_s) == (44e9, 21e15)
    assert wafer.matmul_flops("bf16") is None


def test_wider_formats_are_taken_where_the_hardware_lacks_a_narrow_one():
    assert device("a100").arithmetic("fp8") == "bf16"
    assert device("h100").arithmetic("fp4") == "bf16"
    assert device("b200").arithmetic("mxfp4") == "fp4"
    assert device("b200").arithmetic("int4") == "bf16"
    with pytest.raises(ValueError, match=r"weights='fp7'.*take fp32, bf16"):
        device("b200").arithmetic("fp7")


def test_names_are_taken_as_people_write_them():
    assert device("H100_SXM") == device("h100-sxm") == device("h100")


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"'h10'.*did you mean 'h100'.*Known are h100, h200"):
        device("h10")


def test_a_sheet_of_ones_own_is_read_and_comes_before_the_shipped(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + "[h100]\nmemory_bytes = 94e9\nread_bytes_per_s = 3.9e12\n")
    assert device("mine", path).prices[0].usd_per_hour == 2.5
    assert device("h100", path).memory_bytes == 94e9
    with pytest.raises(ValueError, match="holds 2 devices"):
        device(str(path))
    path.write_text(GOOD)
    assert device(str(path)).name == "mine"


@pytest.mark.parametrize("name", devices())
def test_a_sheet_written_as_toml_reads_back_the_same(name):
    one = devices()[name]
    assert parse(to_toml(one), "text") == {name: one}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("memory_bytes = 80e9", "memory_gb = 80", r"mine\.memory_gb .*did you mean memory_bytes"),
        ("memory_bytes = 80e9", "memory_bytes = 80", r"memory_bytes=80 .*write 80e9"),
        ("3.35e12", "3350", r"read_bytes_per_s=3350 .*write 3350e9"),
        ("3.35e12", "-3.35e12", r"read_bytes_per_s=-3\.35e\+12 must lie between"),
        ("3.35e12", "'fast'", r"Expected `float`.*read_bytes_per_s"),
        ("3.35e12", "nan", r"read_bytes_per_s=nan must lie between"),
        ("bf16 = 989e12", "bf16 = 989", r"flops\.bf16=989 .*write 989e9 or 989e12"),
        ("bf16 = 989e12", "fp16 = 989e12", r"flops\.fp16 .*fp16 runs at the rate of bf16"),
        ("bf16 = 989e12", "bf16 = -1", r"flops\.bf16=-1 must lie between"),
        ("link_devices = 8", "link_devices = 0", r"link_devices=0 must lie between"),
        ("usd_per_hour = 2.5", "usd_per_hour = -2.5", r"usd_per_hour=-2\.5 must lie between"),
        ('provider = "us"', "", r"missing required field `provider`"),
        ("read_bytes_per_s = 3.35e12", "", r"missing required field `read_bytes_per_s`"),
        ("[mine]", "[mine", "is not TOML"),
    ],
)
def test_a_wrong_sheet_is_told_field_and_remedy(old, new, says):
    assert old in GOOD
    with pytest.raises(ValueError, match=says):
        parse(GOOD.replace(old, new), "mine.toml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.toml cannot be read: No such file"):
        sheet.read(tmp_path / "gone.toml")


def test_the_example_of_the_docs_is_a_sheet():
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    assert parse(example, "docs")["my-gpu"].flops == {"bf16": 200e12, "fp8": 400e12}
