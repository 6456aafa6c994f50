"""A claim from free text, for the forms in which such figures are usually given.

What is not understood stays unknown, and the audit asks for it. For certainty
write the claim as a file (see `plan/audit/claim.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from penstock.plan.audit.claim import Baseline, Claim, Technique, Whose, checked
from penstock.plan.audit.claim_words import (
    NUMBER,
    Words,
    bits_in,
    format_in,
    hardware_in,
    model_in,
    tokens,
    value,
)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = (
    rf"{NUMBER}\s*\+?\s*(output|generated|generation|decode|input|prompt|prefill|total)?\s*"
    r"(?:tps\b|(?:tokens?|toks?|t)\s?(?:/|per\s|a\s|an\s)\s?(s|m|h|d)(?:ec|econd|in|inute|our|ay)?s?\b)"
)
_COUNTS = {"output": "served", "generated": "served", "generation": "decode", "decode": "decode"}
_COUNTS |= {"input": "prefill", "prompt": "prefill", "prefill": "prefill", "total": "total"}
_PER_TOKEN = (
    rf"{NUMBER}\s*ms\s*(?:/|per\s|a\s)\s*(?:output\s)?tok(?:en)?\b",
    rf"(?:tpot|itl|inter-?token latency|time per output token)\D{{0,12}}?{NUMBER}\s*ms",
    rf"{NUMBER}\s*ms\s*(?:tpot|itl|inter-?token latency)",
)
_FIRST = (
    rf"(?:ttft|time to (?:the )?first token)\D{{0,12}}?{NUMBER}\s*(ms|s)\b",
    rf"{NUMBER}\s*(ms|s)\s*(?:ttft|(?:time )?to (?:the )?first token)",
)
_REQUESTS = rf"{NUMBER}\s*(?:requests?|reqs?|queries)\s?(?:/|per\s|a\s)\s?s(?:ec(?:ond)?)?\b"
_RATIO = r"(\d+(?:\.\d+)?)\s*(?:x\b|-?\s?fold\b|times\b)"
_SHARE = r"(\d+(?:\.\d+)?)\s*(?:%|percent)\s*(?:higher|faster|more|better|greater|speed-?up|gain)"
_NAMED = {r"\b(?:twice|doubles?|doubling)\b": 2.0, r"\b(?:triples?|thrice)\b": 3.0}
_TO = (
    r"\b(?:than|versus|vs\.?|over|compared (?:to|with)|against|relative to|"
    r"as (?:fast|much|many|high) (?:throughput )?as)\s+"
)
_ENDS = r"(?=,|;|\.\s|\.$|\s(?:on|for|with|from|by|using|at|in|when|while|through|via)\s|$)"
_PER_USER = (
    r"(?:/|per[\s-]|each\s|a\s|single[\s-]|one\s)(?:user|request|stream|session|sequence|query)\b"
)
# Before a device's name is taken out, what makes a rate that of each is spelled so.
_EACH = re.compile(
    r"(?:/|\bper[\s-]|\beach\s)(?:(?:gpu|device|chip|card|accelerator)s?\b|"
    r"(?=(?:wafer|socket|[a-z]{1,4}\d{1,3}[a-z]?)s?\b))"
)
_PER_DEVICE = r"\bperdevice\b"
_SYSTEM = r"\b(?:total|aggregate|system|overall|combined|cluster|in all|altogether|throughput)\b"
_TECHNIQUES: dict[str, Technique] = {
    r"disaggregat|prefill[\s/-]+(?:and[\s-])?decode[\s-]sp?[le]|\bp/d\b": "disaggregation",
    r"speculat|eagle|medusa|\bmtp\b|multi-?token prediction|draft": "speculation",
    r"prefix[\s-]cach|prompt[\s-]cach|kv[\s-](?:cache[\s-])?reuse|cache hit": "prefix caching",
    r"rout(?:er|ing)": "routing",
    r"batching": "batching",
    r"quanti[sz]|\d[\s-]?bits?\b|\b(?:int|fp|nvfp|mxfp)[48]\b|awq|gptq": "weights",
}


def parse(text: str, *sheets: Path) -> Claim:
    """What a sentence claims. Raises `ValueError` where no figure is found in it.

    A second figure for each user beside a first for the whole gives how many
    share it. Text after "than", "over" or "versus" is the baseline of a ratio.
    `sheets` are files of hardware of one's own, known by its names.
    """
    words = Words(text)
    words.left = _EACH.sub(" perdevice ", words.left)
    fields: dict[str, Any] = {"text": text, "up_to": bool(words.take(r"\bup to\b"))}
    technique = next((t for p, t in _TECHNIQUES.items() if words.has(p)), None)
    whole = Words(text).left
    if ratio := _ratio(words, *sheets):
        fields |= {"figure": ratio, "unit": "x", "whose": "ratio"}
        fields["baseline"] = _baseline(words, *sheets)
    fields |= _conditions(words, *sheets)
    if not ratio:
        fields |= _figure(words)
    elif technique is None and (fields["baseline"] or fields.get("hardware")):
        technique = _of_hardware(fields)
    if ratio:
        only_kv = fields["kv_precision"] is not None and fields["precision"] is None
        fields["technique"] = "kv" if technique == "weights" and only_kv else technique
    if "figure" not in fields:
        raise ValueError(
            f"no figure found in {whole!r}; write one such as '50 tokens/s', '20 ms per token' "
            "or '3x faster than ...', or give the claim as a TOML file (`penstock audit --help`)."
        )
    return checked(msgspec.convert(fields, Claim), "the claim", *sheets)


def _conditions(words: Words, *sheets: Path) -> dict[str, Any]:
    """All conditions that the words name; they are taken out."""
    found: dict[str, Any] = {}
    model = model_in(words)
    found |= {"model": model.name, "parameters": None if model.name else model.parameters}
    found["active_parameters"] = None if model.name else model.active
    hardware = hardware_in(words, *sheets)
    found |= {"hardware": hardware.name, "devices": hardware.devices}
    found |= {"other_model": model.unknown, "other_hardware": hardware.unknown}
    found["kv_precision"] = format_in(words, after=r"\s(?:kv|kv[\s-]cache)\b")
    found["precision"] = format_in(words)
    found["bits"] = None if found["precision"] else bits_in(words)
    return found | _lengths(words) | _load(words) | _speculation(words)


def _lengths(words: Words) -> dict[str, Any]:
    both = r"\b(\d+(?:\.\d+)?)(k)?\s*(?:/|\sin\s*[/,]?\s*)\s*(\d+(?:\.\d+)?)(k)?\b(?!\s*/)"
    if match := words.take(both):
        return {"prompt": tokens(match[1], match[2]), "output": tokens(match[3], match[4])}
    found = {}
    for field, names in (
        ("prompt", r"isl|inputs?|prompts?|contexts?|in"),
        ("output", r"osl|outputs?|answers?|completions?|out"),
    ):
        match = words.take(
            rf"\b(\d+(?:\.\d+)?)(k)?[\s-]*(?:tokens?\s)?(?:{names})\b(?!\s*tok\w*\s?(?:/|per))"
        ) or words.take(
            rf"\b(?:{names})(?:\s(?:length|tokens?|of|size))*\s?[=:]?\s?(\d+(?:\.\d+)?)(k)?\b"
        )
        if match:
            found[field] = tokens(match[1], match[2])
    return found


def _load(words: Words) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if match := words.take(r"\b(?:batch(?:[\s-]size)?|bs)(?:\sof)?\s?[=:]?\s?(\d+)\b"):
        found["batch"] = int(match[1])
    users = r"(?:users?|requests?|sequences?|sessions?|streams?|clients?|conversations?)"
    if match := (
        words.take(r"\bconc(?:urrency)?(?:\sof)?\s?[=:]?\s?(\d+)\b")
        or words.take(rf"\b(\d+)\s(?:concurrent|simultaneous|parallel)(?:\s{users})?\b")
        or words.take(rf"\b(\d+)\s{users}\b(?!\s?(?:/|per|a)\s?s)")
    ):
        found["concurrency"] = int(match[1])
    return found


def _speculation(words: Words) -> dict[str, Any]:
    if words.take(r"\b(?:without|no|not)\s(?:using\s)?speculat\w+(?:\sdecoding)?"):
        return {"speculation": 1.0}
    accepted = rf"{NUMBER}\s(?:accepted\s)?tokens?\s(?:accepted\s)?(?:per|a|each)\sstep"
    lengths = rf"accept\w*(?:\slengths?)?(?:\s(?:of|is))?\s?[=:]?\s?{NUMBER}"
    if match := words.take(accepted) or words.take(lengths):
        return {"speculation": value(match[1], match[2])}
    return {"speculative": words.has(r"speculat|eagle|medusa|\bmtp\b|multi-?token prediction")}


def _ratio(words: Words, *sheets: Path) -> float | None:
    """The factor claimed, unless what looks like one counts devices or is part of a name."""
    bare = Words(words.left)
    model_in(bare), hardware_in(bare)
    for pattern, named in _NAMED.items():
        if bare.take(pattern):
            words.take(pattern)
            return named
    if (match := bare.take(_SHARE)) and words.take(re.escape(match[0])):
        return 1 + float(match[1]) / 100
    if (match := bare.take(_RATIO)) and words.take(re.escape(match[0])):
        return float(match[1])
    return None


def _baseline(words: Words, *sheets: Path) -> Baseline | None:
    """What the ratio is to: the words up to the next preposition; what follows holds for both."""
    match = words.take(rf"{_TO}(.+?){_ENDS}")
    if match is None:
        return None
    part = Words(match[1])
    conditions = {k: v for k, v in _conditions(part, *sheets).items() if not k.startswith("other_")}
    found = _figure(part)
    whose = found.get("whose") or _whose(words)
    told = {"figure": found.get("figure"), "whose": whose, "said": match[1].strip()}
    return msgspec.convert(conditions | told, Baseline)


def _of_hardware(fields: dict[str, Any]) -> Technique | None:
    baseline = fields["baseline"]
    other = baseline and (baseline.hardware or re.search(r"gpu|cpu|cloud|chip", baseline.said))
    return "hardware" if other else None


def _figure(words: Words) -> dict[str, Any]:
    """The first rate, or time, with its unit, and whose it is."""
    for pattern in _PER_TOKEN:
        if match := words.take(pattern):
            return {
                "figure": value(match[1]),
                "unit": "ms/token",
                "whose": "user",
                "phase": "decode",
            }
    for pattern in _FIRST:
        if match := words.take(pattern):
            prompt = words.take(r"\b(\d+(?:\.\d+)?)(k)?[\s-]tokens?\b")
            ms = value(match[1]) * (1000 if match[3] == "s" else 1)
            first = {"unit": "ms to first token", "whose": "user", "phase": "prefill"}
            length = {"prompt": tokens(prompt[1], prompt[2])} if prompt else {}
            return {"figure": ms, **first, **length}
    if match := words.take(_REQUESTS):
        whole = {"unit": "requests/s", "whose": "system", "phase": "served"}
        return {"figure": value(match[1], match[2]), **whole}
    rates: list[tuple[float, Whose | None, str | None]] = []
    while match := re.search(_RATE, words.left):
        after = words.left[match.end() : match.end() + 24]
        words.take(_RATE)
        per_s = value(match[1], match[2]) / _SECONDS[match[4] or "s"]
        rates.append((per_s, _whose_after(after), _COUNTS.get(match[3] or "")))
    if not rates:
        return {}
    figure, whose, phase = rates[0]
    found: dict[str, Any] = {"figure": figure, "whose": whose or _whose(words)}
    for other, of, _ in rates[1:]:
        if of == "user" and found["whose"] != "user":
            found["user_speed"] = other
    found["phase"] = phase or _phase(words)
    return found


def _whose_after(after: str) -> Whose | None:
    """Whose speed the words right after a rate say it is."""
    if re.match(rf"\s?(?:{_PER_USER}|each\b(?!\s(?:gpu|device)))", after):
        return "user"
    return "device" if re.match(rf"\s?{_PER_DEVICE}", after) else None


def _whose(words: Words) -> Whose | None:
    if words.has(_PER_USER):
        return "user"
    if words.has(_PER_DEVICE):
        return "device"
    return "system" if words.has(_SYSTEM) else None


def _phase(words: Words) -> str | None:
    if words.has(r"\b(?:prefill|prompt processing|input throughput)\b"):
        return "prefill"
    return "decode" if words.has(r"\bdecode\b|\bgeneration speed\b|(?<!ve )decoding") else None
