"""Finds what a claim's words name: numbers, a model, hardware, a weight format.

Each finder takes what it recognised out of a `Words`, so that no number is
read twice: the 8 of "Mixtral 8x7B" is no ratio and that of "8xH100" no batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from penstock.predict.architecture import architecture, shapes
from penstock.predict.sheet import devices, read

NUMBER = r"(\d+(?:\.\d+)?|\.\d+)(?:\s*(k|m|thousand|million|billion)(?![a-z]))?"
_SCALE = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "billion": 1e9}
_COUNTED = {"a": 1, "an": 1, "one": 1, "single": 1, "a single": 1, "two": 2, "three": 3, "four": 4}
_COUNTED |= {"six": 6, "eight": 8, "sixteen": 16, "thirty-two": 32, "seventy-two": 72}
_SPELLED = "|".join(sorted(_COUNTED, key=len, reverse=True))
_COUNT = rf"(?:(?<![\w.])(\d+)\s*(?:x\s*|-\s*)?|({_SPELLED})\s+)?"

_START = r"(?:(?<=\dx)|\b)"  # of a name: "8xh100" is no word

# Formats as they are called, most particular first. 8 bits may be fp8 or int8, which weigh
# the same; 4 bits without a name are the weight-only kind.
_FORMATS: Mapping[str, str] = {
    r"mxfp4": "mxfp4",
    r"nv-?fp4|fp4|e2m1": "fp4",
    r"int-?4|w4a16|w4a8|awq|gptq|iq?4_\w+|q4_\w+|q4|(?:4|four)[\s-]?bits?": "int4",
    r"fp8|e4m3|float8|(?:8|eight)[\s-]?bits?": "fp8",
    r"int-?8|w8a8|w8a16|q8_0|q8": "int8",
    r"bf-?16|bfloat16|(?:16|sixteen)[\s-]?bits?": "bf16",
    r"fp-?16|float16|half[\s-]precision|full[\s-]precision|unquantized|native precision": "fp16",
    r"fp-?32|float32|(?:32|thirty-two)[\s-]?bits?|single[\s-]precision": "fp32",
}
# What hardware is called in prose, beside the names of the sheets. The second part is how
# many devices the name itself means.
_CALLED: Mapping[str, tuple[str, int | None]] = {
    r"(?:cerebras\s+)?(?:wse-?3|cs-?3|wafer[\s-]?scale(?:\s+(?:engine|chip))?|wafer)": (
        "wse-3",
        None,
    ),
    r"cerebras": ("wse-3", None),
    r"(?:dgx|hgx)[\s-]?(?P<of>h100|h200|b200|b300|a100)": ("", 8),
    r"(?P<of>gb200|gb300)[\s-]?nvl\s*72": ("", 72),
    r"dgx[\s-]?spark": ("gb10", None),
}
# Hardware people claim figures for, of which no sheet is shipped.
_UNKNOWN = (
    r"groq\w*|lpus?|tpus?(?:[\s-]?v\d\w*)?|trainium\s?\d?|inferentia\s?\d?|gaudi\s?\d?|sn40l|"
    r"sambanova\w*|mi\s?2\d0x?|mi\s?35\dx|v100s?|t4|a10g?|a800s?|h800s?|h20|l20|gh200|b100|"
    r"ascend\w*|rtx[\s-]?\d{4}(?:\s?ti)?|jetson(?:\s\w+)?|raspberry pi|i?phones?|laptops?|"
    r"macbooks?(?:\s(?:air|pro))?|npus?"
)
_HOSTED = (
    r"\b(?:gpt|claude|gemini|grok)\b"
    r"(?:[\s-](?:class|\d[\w.-]*|opus|sonnet|haiku|pro|flash|ultra|mini|nano)\b)*|"
    r"(?:large|big|frontier)\s(?:\w+\s)?model"
)
_BITS = r"\b(\d+(?:\.\d+)?)[\s-]?bits?\b"


class Words:
    """A text in lower case that loses what is taken from it."""

    def __init__(self, text: str) -> None:
        spelled = text.lower().translate(str.maketrans("×–—\u00a0\u202f", "x--  "))
        self.left = re.sub(r"(?<=\d),(?=\d{3}\b)", "", spelled)

    def take(self, pattern: str) -> re.Match[str] | None:
        """The first match, taken out; None where there is none."""
        match = re.search(pattern, self.left)
        if match is not None:
            self.left = f"{self.left[: match.start()]} ; {self.left[match.end() :]}"
        return match

    def has(self, pattern: str) -> bool:
        """Whether the pattern occurs; nothing is taken."""
        return re.search(pattern, self.left) is not None


class Hardware(NamedTuple):
    """A sheet's name and how many; `unknown` is a name no sheet is shipped for."""

    name: str | None = None
    devices: int | None = None
    unknown: str | None = None


class Model(NamedTuple):
    """A bundled model's name, or a size; `unknown` is a model nobody published the size of."""

    name: str | None = None
    parameters: float | None = None
    active: float | None = None
    unknown: str | None = None


def value(number: str, scale: str | None = None) -> float:
    """The number that `NUMBER` matched."""
    return float(number) * _SCALE.get(scale or "", 1.0)


def tokens(number: str, scale: str | None = None) -> int:
    """A length in tokens: the k of "1k/8k" is 1,024, as in the benchmarks named so."""
    return round(float(number) * (1024 if scale == "k" else _SCALE.get(scale or "", 1.0)))


def format_in(words: Words, before: str = "", after: str = "") -> str | None:
    """The weight format named, between the two patterns where they are given."""
    for pattern, name in _FORMATS.items():
        if words.take(rf"{before}\b(?:{pattern})\b{after}"):
            return name
    return None


def bits_in(words: Words) -> float | None:
    """Bits of a weight in a format that is not known here, such as 2 or 1.58."""
    match = words.take(_BITS)
    return float(match[1]) if match and float(match[1]) > 0 else None


def hardware_in(words: Words, *sheets: Path) -> Hardware:
    """The first hardware named, and how many of it; plain "GPUs" have a count and no name."""
    for pattern, (name, each) in (*_CALLED.items(), *_sheets(*sheets).items()):
        match = words.take(rf"{_COUNT}(?:\w+\s)?{_START}{pattern}s?\b(?:\s?\(?x\s?(\d+)\b\)?)?")
        if match is not None:
            groups = match.groupdict()
            said = match[1] or match[match.re.groups]
            count = int(said) if said else _COUNTED.get(match[2] or "")
            if each is not None:
                count = each * (count or 1)
            return Hardware(groups.get("of") or name, count)
    if match := words.take(rf"{_COUNT}{_START}({_UNKNOWN})\b"):
        return Hardware(None, _number(match), match[3])
    plain = rf"{_START}(?:gpus?|accelerators?|chips?|cards?)\b"
    if match := words.take(_COUNT.removesuffix("?") + plain) or words.take(_COUNT + plain):
        return Hardware(None, _number(match))
    return Hardware()


def model_in(words: Words) -> Model:
    """The first model named: a bundled one, a family's size, or a size alone."""
    for path in re.finditer(r"\b[\w.-]+/[\w.-]*\d[\w.-]*", words.left):
        try:
            name = architecture(path[0]).name
        except ValueError:
            continue
        words.take(re.escape(path[0]))
        return Model(name)
    for pattern, name in _models().items():
        if words.take(rf"\b{pattern}(?:[\s-](?:instruct|chat|it)\b)?"):
            return Model(name)
    size = r"(\d+(?:\.\d+)?)[\s-]?(?:b|billion)\b"
    if match := words.take(r"\b(\d+(?:\.\d+)?)(?:[\s-]?trillion|t(?=[\s-](?:param|model)))"):
        return Model(None, float(match[1]) * 1e12, _active(words, size))
    if match := words.take(rf"(?:\b([a-z]+)[\s-]?\d*(?:\.\d+)?[\s-])?\b{size}(?:[\s-]?a{size})?"):
        parameters, active = (float(g) * 1e9 if g else None for g in match.groups()[1:])
        return Model(_of_family(match[1], match[2]), parameters, active or _active(words, size))
    if match := words.take(_HOSTED):
        return Model(unknown=match[0])
    return Model()


def _active(words: Words, size: str) -> float | None:
    match = words.take(rf"{size}[\s-](?:active|activated)")
    return float(match[1]) * 1e9 if match else None


def _number(match: re.Match[str]) -> int | None:
    return int(match[1]) if match[1] else _COUNTED.get(match[2] or "")


def _of_family(family: str | None, size: str) -> str | None:
    """The newest bundled model of a family and size; "Llama 70B" is llama-3.1-70b."""
    found = [n for n in shapes() if family and re.fullmatch(rf"{family}[\d.-]*-{size}b", n)]
    return max(found, default=None)


@cache
def _models() -> Mapping[str, str]:
    longest = sorted(shapes(), key=len, reverse=True)
    return {re.escape(n).replace(r"\-", r"[\s-]?") + r"(?![\w.]*\d)": n for n in longest}


@cache
def _sheets(*own: Path) -> Mapping[str, tuple[str, int | None]]:
    names = [*devices(), *(name for path in own for name in read(path))]
    longest = sorted(names, key=len, reverse=True)
    return {
        re.escape(n).replace(r"\-", r"[\s-]?") + r"(?:[\s-]sxm5?|[\s-]pcie)?": (n, None)
        for n in longest
    }
