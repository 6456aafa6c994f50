"""With `deterministic`, a text is the same in any company, in every format.

Kernels that sum in another order would show here, and nowhere in fp32, whose tests run
PyTorch's: so would guesses, and a shared prefix that is read once for all.
"""

from __future__ import annotations

import msgspec
import pytest

from penstock.engine.kernels.native import library
from penstock.engine.kernels.native.step import NativeStep
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions
from penstock.engine.request import SamplingParams

try:
    library.library()
except library.NotHere as error:
    pytest.skip(f"native kernels do not run here: {error}", allow_module_level=True)

SHARED = "def read(path):\n    with open(path) as file:\n        return file.read()\n\n" * 3
PROMPTS = [
    "import os\n",
    SHARED + "def write(path, text):\n",
    ">>> 3 + 4\n",
    SHARED + "class Reader:\n",
    "def main():\n    parser = argparse.ArgumentParser()\n" * 6,
    SHARED,
]
GREEDY = SamplingParams(max_tokens=48, temperature=0.0, ignore_eos=True)
DRAWN = SamplingParams(max_tokens=48, temperature=0.9, seed=3, ignore_eos=True)


@pytest.mark.parametrize(
    "formats",
    [
        {},
        {"weights": "int8"},
        {"weights": "int8", "kv": "int8"},
        {"weights": "int4", "kv": "int4"},
    ],
    ids=["bf16", "int8", "int8 and KV int8", "int4 and KV int4"],
)
def test_a_text_does_not_depend_on_its_company(formats):
    options = {"dtype": "bf16", "deterministic": True, **formats}
    alone = LLM("embedded", EngineOptions(prefix_sharing=False, threads=1, **options))
    params = [GREEDY, DRAWN] * 3
    texts = [alone.generate([p], [s])[0].token_ids for p, s in zip(PROMPTS, params, strict=True)]
    # Small steps cut prompts; the pool is too small for all, so some are preempted.
    crowd = EngineOptions(max_step_tokens=24, kv_tokens=320, max_running=5, threads=2, **options)
    together = LLM("embedded", crowd)
    for _ in range(2):  # the second time on cached prefixes
        said = together.generate(PROMPTS * 2, params * 2)
        assert [completion.token_ids for completion in said] == texts * 2
    assert together.engine.stats().preemptions > 0


@pytest.mark.parametrize("speculate", ["lookup", "suffix", "draft"])
@pytest.mark.parametrize(
    "formats",
    [
        {},
        {"weights": "int8", "kv": "int8"},
        {"weights": "int4", "kv": "int4"},
        {"weights": "int8", "kv": "int4"},
    ],
    ids=["bf16", "int8 and KV int8", "int4 and KV int4", "int8 and KV int4"],
)
def test_a_text_does_not_depend_on_guesses(formats, speculate):
    options = EngineOptions(dtype="bf16", deterministic=True, threads=1, **formats)
    params = [GREEDY, DRAWN] * 3
    texts = [c.token_ids for c in LLM("embedded", options).generate(PROMPTS, params)]
    guessing = msgspec.structs.replace(
        options,
        speculate=speculate,
        draft_tokens=6,
        max_running=5,
        max_step_tokens=64,
        kv_tokens=272,
    )
    llm = LLM("embedded", guessing)
    for _ in range(2):  # the second time on cached prefixes, and after texts like it
        assert [c.token_ids for c in llm.generate(PROMPTS, params)] == texts
    stats = llm.engine.stats()
    assert 0.1 < sum(stats.guessed_right) / sum(stats.guessed) < 1
    assert stats.preemptions > 0


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many blocks of queries read a prefix that their decodes share, by layer and step."""
    plan, blocks = NativeStep._plan, []

    def told(*args):
        planned = plan(*args)
        blocks.append(planned[1])
        return planned

    monkeypatch.setattr(NativeStep, "_plan", told)
    return blocks


MANY = [
    msgspec.structs.replace(DRAWN, n=8, max_tokens=24),
    msgspec.structs.replace(GREEDY, max_tokens=24),
]
ASKED = [SHARED * 2 + "def write(path, text):\n", SHARED * 2 + "class Reader:\n"]
ALONE = {}


def choices(options):
    llm = LLM("embedded", options)
    said = [c.token_ids for each in llm.generate(ASKED, MANY) for c in each.choices]
    return said, llm.engine.stats()


@pytest.mark.usefixtures("guesses_pay")
@pytest.mark.parametrize("speculate", ["off", "lookup", "suffix", "draft"])
@pytest.mark.parametrize("squeeze", [{"max_step_tokens": 32}, {"kv_tokens": 352}], ids=str)
@pytest.mark.parametrize("kv", ["plain", "int4"])
def test_a_text_does_not_depend_on_who_reads_its_prompt_too(kv, squeeze, speculate, together):
    options = EngineOptions(dtype="bf16", deterministic=True, threads=1, kv=kv)
    if kv not in ALONE:
        ALONE[kv] = choices(msgspec.structs.replace(options, max_running=1))[0]
        assert not any(together)
    crowd = msgspec.structs.replace(options, speculate=speculate, max_running=9, **squeeze)
    said, stats = choices(crowd)
    assert said == ALONE[kv]
    assert sum(together) > 20
    if speculate != "off":
        assert 0 < sum(stats.guessed_right) < sum(stats.guessed)
    assert ("kv_tokens" in squeeze) <= (stats.preemptions > 0)
