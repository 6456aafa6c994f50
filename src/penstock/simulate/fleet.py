"""What a fleet is, as a TOML file says it; docs/simulator.md describes every field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec

from penstock.predict.steptime import Costs
from penstock.schedule import Policy
from penstock.schedule.routing import LOAD_TOKENS

PRESETS = {"penstock": Policy, "vllm": Policy.vllm_like}
RouterName = Literal[
    "round-robin", "random", "least-loaded", "power-of-two", "session", "prefix", "kv"
]


def _at_least(field: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{field}={value:g} must be at least {least:g}")


def _above(field: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{field}={value:g} must be above zero")


def _share(field: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{field}={value:g} must lie between 0 and 1")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file; unknown fields are errors."""


class Speculation(_Table, frozen=True, kw_only=True):
    """Drafts of `draft_tokens`, each accepted with probability `acceptance` if those before were.

    `draft_s` is what drafting them costs a step, in seconds.
    """

    draft_tokens: int
    acceptance: float
    draft_s: float = 0.0

    def __post_init__(self) -> None:
        _at_least("speculation.draft_tokens", self.draft_tokens, 1)
        _share("speculation.acceptance", self.acceptance)
        _at_least("speculation.draft_s", self.draft_s, 0)

    @property
    def tokens_a_step(self) -> float:
        """Expected tokens of a step: 1 + a + ... + a^k (Leviathan et al. 2023, equation 1)."""
        return sum(self.acceptance**i for i in range(self.draft_tokens + 1))


class Group(_Table, frozen=True, kw_only=True):
    """`count` equal replicas.

    How long a step takes comes from a model on a device, from a file that
    `penstock calibrate` wrote (`steptime`), or from `costs`. How much KV there
    is comes from `kv_tokens`, from that file, or from the device's memory.
    `policy` has a `preset` and any field of `Policy`.
    """

    count: int = 1
    role: Literal["whole", "prefill", "decode"] = "whole"
    model: str | None = None
    device: str | None = None
    weights: str = "bf16"
    kv: str = "bf16"
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    steptime: str | None = None  # path, from the fleet's file
    costs: Costs | None = None
    kv_tokens: int | None = None
    page_tokens: int = 16
    memory_share: float = 0.9
    link_bytes_per_s: float | None = None  # of each replica, in one direction
    kv_bytes_per_token: float | None = None  # None: the model's
    policy: Mapping[str, Any] = {}
    speculation: Speculation | None = None

    def __post_init__(self) -> None:
        _at_least("replicas.count", self.count, 1)
        _at_least("replicas.page_tokens", self.page_tokens, 1)
        _share("replicas.memory_share", self.memory_share)
        if self.kv_tokens is not None:
            _at_least("replicas.kv_tokens", self.kv_tokens, self.page_tokens)
        if self.link_bytes_per_s is not None:
            _above("replicas.link_bytes_per_s", self.link_bytes_per_s)
        if (self.model is None) != (self.device is None):
            raise ValueError("a group of replicas needs model and device together, or neither")
        ways = [self.model, self.steptime, self.costs]
        if len(given := [way for way in ways if way is not None]) > 1:
            raise ValueError(
                f"a group of replicas has {len(given)} step times; keep one of model with device, "
                "steptime, and costs"
            )
        self.scheduling().check(self.page_tokens)

    def scheduling(self) -> Policy:
        """The policy. Raises `ValueError` for a preset or a field that is unknown."""
        told = dict(self.policy)
        preset = told.pop("preset", "vllm")
        if preset not in PRESETS:
            raise ValueError(f"policy.preset={preset!r} must be one of {', '.join(PRESETS)}")
        base = asdict(PRESETS[preset]())
        if unknown := told.keys() - base.keys():
            raise ValueError(
                f"policy.{min(unknown)} is unknown; there are preset, {', '.join(base)}"
            )
        for name in ("kv_budget", "kv_keep"):
            if name in told:
                raise ValueError(
                    f"policy.{name}={told[name]} is not simulated: all KV is kept. Leave it out."
                )
        try:
            return msgspec.convert(base | told, Policy)
        except msgspec.ValidationError as error:
            raise ValueError(f"policy: {error}") from None


class Routing(_Table, frozen=True, kw_only=True):
    """Who takes a request.

    `load_tokens` is what a request outstanding counts, in prompt tokens, for
    `prefix` and `kv`; `stale_s` how late `kv` hears of a replica's cache;
    `cache_tokens` how much `prefix` believes a replica keeps (None: what it does);
    `match_tokens` how far into a prompt both look (None: to its end).
    """

    policy: RouterName = "round-robin"
    load_tokens: float = LOAD_TOKENS
    stale_s: float = 0.0
    cache_tokens: int | None = None
    match_tokens: int | None = None

    def __post_init__(self) -> None:
        _at_least("router.load_tokens", self.load_tokens, 0)
        _at_least("router.stale_s", self.stale_s, 0)
        for name in ("cache_tokens", "match_tokens"):
            if (tokens := getattr(self, name)) is not None:
                _at_least(f"router.{name}", tokens, 1)


class Admission(_Table, frozen=True, kw_only=True):
    """The fleet's door: how many requests may be under way, and how long clients wait.

    Beyond `max_outstanding` a request is refused (429). A client whose first
    token has not come after `patience_s` goes away, and its request is cancelled.
    """

    max_outstanding: int | None = None
    patience_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_outstanding is not None:
            _at_least("admission.max_outstanding", self.max_outstanding, 1)
        if self.patience_s is not None:
            _above("admission.patience_s", self.patience_s)


class Split(_Table, frozen=True, kw_only=True):
    """Prefill and decode on replicas of their own.

    Prompts of fewer than `min_prompt_tokens` are not sent over: a decode
    replica computes them itself. `latency_s` is that of a transfer beside its bytes.
    """

    min_prompt_tokens: int = 0
    latency_s: float = 0.001

    def __post_init__(self) -> None:
        _at_least("split.min_prompt_tokens", self.min_prompt_tokens, 0)
        _at_least("split.latency_s", self.latency_s, 0)


class Failure(_Table, frozen=True, kw_only=True):
    """One replica is lost at `at_s` and comes back after `down_s` (None: never), its cache empty.

    Replicas are numbered from 0, through the groups.
    """

    replica: int
    at_s: float
    down_s: float | None = None

    def __post_init__(self) -> None:
        _at_least("failures.replica", self.replica, 0)
        _at_least("failures.at_s", self.at_s, 0)
        if self.down_s is not None:
            _above("failures.down_s", self.down_s)


class Faults(_Table, frozen=True, kw_only=True):
    """Failures at random: each replica runs `mean_up_s` on average, and is down `mean_down_s`.

    Both times are exponential.
    """

    mean_up_s: float
    mean_down_s: float

    def __post_init__(self) -> None:
        _above("faults.mean_up_s", self.mean_up_s)
        _above("faults.mean_down_s", self.mean_down_s)


class Autoscale(_Table, frozen=True, kw_only=True):
    """As many replicas as keep each at `target` outstanding requests.

    Begins with the group's `count`, and looks every `interval_s`. A new
    replica serves `start_s` after it was asked for. One too many, for `calm_s`
    without a break, takes no more requests and goes when it has none.
    """

    min: int = 1
    max: int
    target: float
    interval_s: float = 15.0
    start_s: float = 60.0
    calm_s: float = 300.0

    def __post_init__(self) -> None:
        _at_least("autoscale.min", self.min, 1)
        _at_least("autoscale.max", self.max, self.min)
        _above("autoscale.target", self.target)
        _above("autoscale.interval_s", self.interval_s)
        _at_least("autoscale.start_s", self.start_s, 0)
        _at_least("autoscale.calm_s", self.calm_s, 0)


class Batch(_Table, frozen=True, kw_only=True):
    """Work that waits for gaps: `requests` of so many tokens each, behind all others.

    Whenever fewer than `fill` sequences run or wait on a replica, it gets one more.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    fill: int = 16

    def __post_init__(self) -> None:
        for name in ("requests", "prompt_tokens", "output_tokens", "fill"):
            _at_least(f"batch.{name}", getattr(self, name), 1)


class Fleet(_Table, frozen=True, kw_only=True):
    """Replicas, who sends requests to which, and what may go wrong.

    A `background_share` of the requests, drawn by the seed, is served behind
    the others. `retries` says how often a request of a lost replica is taken up by
    another, with what it had said so far; then it fails.
    """

    name: str = "fleet"
    replicas: tuple[Group, ...]
    router: Routing = Routing()
    admission: Admission = Admission()
    split: Split = Split()
    background_share: float = 0.0
    retries: int = 1
    failures: tuple[Failure, ...] = ()
    faults: Faults | None = None
    autoscale: Autoscale | None = None
    batch: Batch | None = None
    context: int | None = None  # tokens of prompt and output; longer requests are refused

    def __post_init__(self) -> None:
        if not self.replicas:
            raise ValueError("the fleet has no replicas; give [[replicas]]")
        _at_least("retries", self.retries, 0)
        _share("background_share", self.background_share)
        if self.context is not None:
            _at_least("context", self.context, 2)
        roles = {group.role for group in self.replicas}
        if len({"prefill", "decode"} & roles) == 1:
            raise ValueError("prefill and decode replicas need each other; give groups of both")
        if "whole" in roles and len(roles) > 1:
            raise ValueError("replicas are whole, or prefill and decode; not all three at once")
        count = sum(group.count for group in self.replicas)
        for failure in self.failures:
            if failure.replica >= count:
                raise ValueError(
                    f"failures.replica={failure.replica} is not there; "
                    f"the fleet's {count} replicas are 0 to {count - 1}"
                )
        if len({group.page_tokens for group in self.replicas}) > 1:
            raise ValueError("replicas of one fleet have equal page_tokens; give one for all")
        if (scale := self.autoscale) is not None:
            if len(self.replicas) > 1:
                raise ValueError("autoscale is of a fleet with one group of replicas; give one")
            if not scale.min <= count <= scale.max:
                raise ValueError(
                    f"replicas.count={count} is what the fleet begins with, and must lie between "
                    f"autoscale.min={scale.min} and autoscale.max={scale.max}"
                )

    @property
    def is_split(self) -> bool:
        """Whether prefill and decode have replicas of their own."""
        return self.replicas[0].role != "whole"

    @property
    def model(self) -> str:
        """Its models' names, where they are given."""
        return self.told("model")

    @property
    def hardware(self) -> str:
        """Its replicas in words: how many of which devices."""
        parts = []
        for group in self.replicas:
            devices = group.tp * group.pp * group.dp
            what = f"{devices} x {group.device}" if devices > 1 else group.device
            role = "" if group.role == "whole" else f"{group.role} "
            parts.append(f"{group.count} {role}replicas of {what or 'unnamed hardware'}")
        return ", ".join(parts)

    def told(self, field: str) -> str:
        """What the groups say of a field, or "unknown"."""
        said = (group for group in self.replicas if group.model is not None)
        return ", ".join(dict.fromkeys(str(getattr(group, field)) for group in said)) or "unknown"


def examples() -> dict[str, str]:
    """The fleets that come with the package: their texts by name."""
    folder = files("penstock.simulate") / "examples"
    found = (file for file in folder.iterdir() if file.name.endswith(".toml"))
    return {file.name: file.read_text() for file in sorted(found, key=lambda file: file.name)}


def read_fleet(name: str | Path) -> Fleet:
    """The fleet of a TOML file, or of an example's name.

    Raises `ValueError` naming the file, the field and what may stand there.
    """
    path, shipped = Path(name), examples()
    if path.exists():
        text, folder = path.read_text(encoding="utf-8"), path.parent
    elif (key := path.with_suffix(".toml").name) in shipped and path.parent == Path():
        text, folder = shipped[key], Path()
    else:
        raise ValueError(
            f"there is no fleet file {name}; give a TOML file (docs/simulator.md says what is "
            f"in it), or one of the examples: {', '.join(shipped)}"
        )
    try:
        fleet = msgspec.toml.decode(text, type=Fleet)
    except msgspec.DecodeError as error:  # of values, too
        raise ValueError(f"{name}: {error}") from None
    if fleet.name == "fleet":
        fleet = msgspec.structs.replace(fleet, name=path.stem)
    groups = [
        msgspec.structs.replace(group, steptime=str(folder / group.steptime))
        if group.steptime is not None
        else group
        for group in fleet.replicas
    ]
    return msgspec.structs.replace(fleet, replicas=tuple(groups))
