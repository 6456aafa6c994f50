"""A claim: somebody's figure, with whatever conditions came with it.

A claim file is TOML or JSON with the fields of `Claim`; one that is left out
is unknown, which is something else than a default:

    figure = 2100
    unit = "tokens/s"
    whose = "user"            # or "device", "system", "ratio"
    model = "llama-3.1-70b"   # or only parameters = 70e9
    precision = "fp16"        # of the weights
    hardware = "wse-3"
    devices = 1
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from penstock.predict.architecture import BYTES, Architecture, architecture
from penstock.predict.sheet import Device, device

Whose = Literal["user", "device", "system", "ratio"]
Phase = Literal["decode", "prefill", "served", "total"]
Unit = Literal["tokens/s", "ms/token", "ms to first token", "requests/s", "x"]
Technique = Literal[
    "weights",
    "kv",
    "speculation",
    "disaggregation",
    "batching",
    "prefix caching",
    "routing",
    "hardware",
]

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Under what a figure holds; None is unknown.

    `parameters` and `active_parameters` are counts, for models of which only
    the size is told. `precision` is that of the weights, or `bits` of each
    where no format that is known here has so many. `hardware` is a
    sheet's name and `devices` how many of it there are. `batch` sequences are
    in one step and must all be held; `concurrency` requests are in flight,
    of which some may wait; `user_speed` in tokens/s is what each of them gets
    meanwhile. `prompt` and `output` are tokens of a request. `phase`: output
    tokens while answers are written (`decode`), output tokens of whole
    requests, their prompts computed too (`served`), prompt and output tokens
    of those (`total`), or prompt tokens (`prefill`). `speculation` is how many
    tokens a sequence gains a step on average, 1 where there is none;
    `speculative` says that it is used although nobody said how many.
    """

    model: _Text | None = None
    parameters: _Positive | None = None
    active_parameters: _Positive | None = None
    precision: _Text | None = None
    bits: Annotated[float, msgspec.Meta(gt=0, le=64)] | None = None
    kv_precision: _Text | None = None
    hardware: _Text | None = None
    devices: _Count | None = None
    batch: _Count | None = None
    concurrency: _Count | None = None
    user_speed: _Positive | None = None
    prompt: _Count | None = None
    output: _Count | None = None
    phase: Phase | None = None
    speculation: Annotated[float, msgspec.Meta(ge=1, le=1000)] | None = None
    speculative: bool = False

    def sheet(self, *sheets: Path) -> Device | None:
        """The hardware's sheet; None where it is unknown. Raises `ValueError` naming the known."""
        return None if self.hardware is None else device(self.hardware, *sheets)

    def shape(self) -> Architecture | Sized | None:
        """The model; by its size alone where no more is known, None where not even that is."""
        if self.model is not None and (self.parameters is None or _known(self.model)):
            return architecture(self.model)
        if self.parameters is None:
            return None
        active = self.active_parameters or self.parameters
        return Sized(self.model or f"{self.parameters / 1e9:g}B", self.parameters, active)


class Baseline(Conditions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a ratio is to: `figure` in tokens/s where it is told, and the conditions that differ."""

    figure: _Positive | None = None
    whose: Literal["user", "device", "system"] | None = None
    said: str = ""


class Claim(Conditions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure in its unit, whose speed it is, and its conditions.

    A ratio (`unit` "x") names the `technique` that is to give it, and its
    `baseline`. `text` is the claim as it was made; `other_model` and
    `other_hardware` name what nothing is known of here; `up_to` says that
    only the best case is claimed. `ceiling` is the most that whoever measured
    reckons his hardware allows at this load, in tokens/s, on what `basis`.
    """

    figure: _Positive
    unit: Unit = "tokens/s"
    whose: Whose | None = None
    technique: Technique | None = None
    baseline: Baseline | None = None
    up_to: bool = False
    text: str = ""
    other_model: str | None = None
    other_hardware: str | None = None
    ceiling: _Positive | None = None
    basis: str = ""


class Sized(msgspec.Struct, frozen=True):
    """A model of which only the size is known. Its KV cannot be known: it is taken as nothing."""

    name: str
    parameters: float
    active_parameters: float

    @property
    def is_moe(self) -> bool:
        """Whether a token takes a part of the weights only."""
        return self.active_parameters < self.parameters

    def weight_bytes(self, precision: str) -> float:
        """Bytes of all weights."""
        return BYTES[precision] * self.parameters

    def read_bytes(self, tokens: float, precision: str) -> float:
        """Bytes of weights that a step reads at least: the active ones."""
        return BYTES[precision] * self.active_parameters

    def kv_bytes(self, context: float, precision: str) -> float:
        """Nothing: how much is kept depends on the architecture."""
        return 0.0

    def kv_read_bytes(self, context: float, precision: str) -> float:
        """Nothing, as `kv_bytes`."""
        return 0.0

    def matmul_flops(self, tokens: float, logits: float) -> float:
        """Operations on weights: a multiply and an add for each active one and token."""
        return 2 * self.active_parameters * tokens

    def attended_flops(self, context: float, *, expanded: bool = False) -> float:
        """Nothing, as `kv_bytes`."""
        return 0.0


def read(path: Path, *sheets: Path) -> Claim:
    """The claim in a TOML or JSON file. Raises `ValueError` naming the field and what to do."""
    try:
        raw = path.read_text(encoding="utf-8")
        fields = tomllib.loads(raw) if path.suffix == ".toml" else msgspec.json.decode(raw)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no {path.suffix[1:].upper()}: {error}.") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold one claim: fields such as figure = 50.")
    return parse(fields, str(path), *sheets)


def parse(fields: dict[str, Any], where: str, *sheets: Path) -> Claim:
    """A claim from its fields; `where` names the source in errors (`ValueError`)."""
    for table, kind in ((fields, Claim), (fields.get("baseline"), Baseline)):
        for field in table if isinstance(table, dict) else ():
            if field not in kind.__struct_fields__:
                raise ValueError(f"{where}: {field} is no field of a claim{_meant(field, kind)}")
    if "figure" not in fields:
        raise ValueError(f"{where}: figure is missing; write figure = 50 for 50 tokens/s.")
    try:
        claim = msgspec.convert(fields, Claim)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}; see `penstock audit --help` for the fields.") from None
    return checked(claim, where, *sheets)


def checked(claim: Claim, where: str, *sheets: Path) -> Claim:
    """The claim, if its fields go together and what they name is known. Raises `ValueError`."""
    if not claim.figure < float("inf"):
        raise ValueError(f"{where}: figure={claim.figure} must be a finite number.")
    if (claim.unit == "x") != (claim.whose == "ratio") and claim.whose is not None:
        raise ValueError(
            f"{where}: unit={claim.unit!r} with whose={claim.whose!r}: a ratio, and nothing "
            'else, has unit = "x" and whose = "ratio" (or no whose).'
        )
    if claim.unit == "ms to first token" and claim.prompt is None:
        raise ValueError(f"{where}: a time to the first token needs prompt, its tokens.")
    if claim.unit == "requests/s" and claim.output is None:
        raise ValueError(f"{where}: a rate of requests needs output, the tokens of an answer.")
    for name, part in (("", claim), ("baseline.", claim.baseline)):
        if part is not None:
            _check_names(part, f"{where}: {name}", *sheets)
    return claim


def rate(claim: Claim) -> float:
    """The figure as tokens per second; a ratio as it is."""
    if claim.unit in ("tokens/s", "x"):
        return claim.figure
    if claim.unit == "ms/token":
        return 1000 / claim.figure
    if claim.unit == "requests/s":
        assert claim.output is not None  # `checked`
        return claim.figure * claim.output
    assert claim.prompt is not None
    return 1000 * claim.prompt / claim.figure


def _check_names(part: Conditions, where: str, *sheets: Path) -> None:
    for field in ("precision", "kv_precision"):
        value = getattr(part, field)
        if value is not None and value not in BYTES:
            raise ValueError(f"{where}{field}={value!r} is unknown; take {', '.join(BYTES)}.")
    if (part.active_parameters or 0) > (part.parameters or float("inf")):
        raise ValueError(
            f"{where}active_parameters={part.active_parameters:g} is more than "
            f"parameters={part.parameters:g}; the active ones are a part of them."
        )
    if part.bits is not None and part.precision is not None:
        raise ValueError(
            f"{where}bits={part.bits:g} with precision={part.precision!r}: give one of them, "
            "precision where the format is known here."
        )
    if part.speculative and part.speculation == 1:
        raise ValueError(
            f"{where}speculative=true with speculation=1 contradict each other; leave one out."
        )
    try:
        part.sheet(*sheets)
        part.shape()
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


def _known(model: str) -> bool:
    try:
        architecture(model)
    except ValueError:
        return False
    return True


def _meant(field: str, kind: type[Conditions]) -> str:
    near = difflib.get_close_matches(field, kind.__struct_fields__, 1)
    known = ", ".join(kind.__struct_fields__)
    return f"{f'; did you mean {near[0]}?' if near else '.'} Fields are {known}."
