"""The ladder: what each technique changes, what was claimed of it, and why that differs here.

A rung is data. It is measured twice: *together*, with everything kept below it,
and *alone*, added to the one rung named by `on`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.ablate.load import Scale
from penstock.ablate.setting import Setting
from penstock.engine.options import EngineOptions


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What others published, word for word in numbers, and why it is another number here."""

    says: str
    source: str
    differs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One technique. `options` are the engine's that it sets, the rest fields of `Setting`.

    `exact` promises the same text; where it only `rounds`, sums are taken in
    another order and texts may part where two tokens are nearly as likely. `count`
    is how many of the requests are served at this rung and for its sake. A
    rung that `stays` is kept even where it loses: later ones need it. Of rungs of
    one `kind` a later one takes the place of an earlier.
    """

    name: str
    title: str
    exact: bool
    claimed: Claim
    options: Mapping[str, Any] = field(default_factory=dict)
    form: str | None = None
    samples_together: bool = False
    shortened: bool = False
    on: str = "continuous"
    rounds: bool = False
    stays: bool = False
    kind: str | None = None
    curve: bool = False
    count: int | None = None  # None: all

    def over(self, setting: Setting) -> Setting:
        """A setting with this technique added."""
        return msgspec.structs.replace(
            setting,
            options=msgspec.structs.replace(setting.options, **self.options),
            forms=(*setting.forms, self.form) if self.form else setting.forms,
            samples_together=setting.samples_together or self.samples_together,
            shortened=setting.shortened or self.shortened,
        )


BASE = "kv-cache"  # what gains are counted from


def bottom(scale: Scale) -> Setting:
    """The setting under the first rung: fp32, one request at a time, nothing shared or cached."""
    tokens = scale.longest + 16
    return Setting(
        options=EngineOptions(
            dtype="fp32",
            kernels="torch",
            max_running=1,
            max_step_tokens=max(512, scale.prompt + 16),
            kv_tokens=scale.requests * tokens,
            kv_cache=False,
            prefix_sharing=False,
            chunked_prefill=False,
        )
    )


def ladder(scale: Scale, draft: str | None) -> tuple[Rung, ...]:
    """Every rung, in the order they are climbed; `draft` is a draft model, if there is one."""
    return (
        *_foundations(scale),
        *_weights(scale),
        *_guesses(draft),
        *_smaller(),
        *_prompts(),
        *_crowds(scale),
    )


def _foundations(scale: Scale) -> tuple[Rung, ...]:
    return (
        Rung(
            name="no-cache",
            title="fp32, one at a time, everything computed anew for each token",
            exact=True,
            stays=True,
            count=1,
            claimed=Claim(says="nothing", source="", differs="the bottom of the ladder"),
        ),
        Rung(
            name="kv-cache",
            title="KV cache",
            exact=True,
            rounds=True,
            stays=True,
            on="no-cache",
            options={"kv_cache": True},
            count=scale.few,
            claimed=Claim(
                says="as many times as a context has tokens",
                source="arithmetic: a token costs one position instead of all",
                differs="one position reads all weights, as many do: it is less than the tokens",
            ),
        ),
        Rung(
            name="bf16",
            title="bf16 in place of fp32",
            exact=False,
            stays=True,
            on="kv-cache",
            options={"dtype": "bf16"},
            count=scale.few,
            claimed=Claim(
                says="up to 2 x",
                source="arithmetic: half the bytes",
                differs="PyTorch's bf16 product of one row reads at half the rate of its fp32 one",
            ),
        ),
        Rung(
            name="native",
            title="native kernels in place of PyTorch's",
            exact=True,
            rounds=True,
            stays=True,
            on="bf16",
            options={"kernels": "native"},
            count=scale.few,
            claimed=Claim(
                says="25.5 to about 105 tokens/s",
                source="gpt-fast, compiled against eager, Llama-2-7B on an A100",
                differs="other machine, other kernels: ours fuse a layer and pack weights once",
            ),
        ),
        Rung(
            name="static",
            title="static batches",
            exact=True,
            stays=True,
            on="native",
            options={
                "max_running": scale.seats,
                "batching": "static",
                "max_step_tokens": max(512, scale.prompt + 16, scale.crowd),
            },
            claimed=Claim(
                says=f"up to {scale.seats} x, one for each row",
                source="arithmetic: weights are read once for all rows",
                differs="prompts are as dear as before, and a batch waits for its longest answer",
            ),
        ),
        Rung(
            name="continuous",
            title="continuous batching",
            exact=True,
            stays=True,
            on="static",
            options={"batching": "continuous"},
            claimed=Claim(
                says="36.9 x at equal latency, GPT-3 175B; 23 x, OPT-13B on an A100",
                source="Yu et al. 2022 (Orca), over FasterTransformer; Anyscale 2023, vLLM over "
                "naive static batches",
                differs="their baselines reserve memory for the longest answer and pad; the "
                "slots that a static batch wastes are all there is to win here, "
                "longest / mean of its lengths",
            ),
        ),
    )


def _weights(scale: Scale) -> tuple[Rung, ...]:
    native = {"kernels": "native"}
    chunk = max(128, scale.crowd)
    return (
        Rung(
            name="sharing",
            title="pages, and prefixes shared through them",
            exact=True,
            options={"prefix_sharing": True},
            curve=True,
            claimed=Claim(
                says="2 to 4 x",
                source="Kwon et al. 2023 (PagedAttention), over reserved buffers",
                differs="paging buys room, which is not short here and is always on; sharing "
                "saves prefill in proportion to what prompts have in common",
            ),
        ),
        Rung(
            name="chunked",
            title=f"chunked prefill, {chunk} tokens a step",
            exact=True,
            options={"chunked_prefill": True, "max_step_tokens": chunk},
            claimed=Claim(
                says="2.6 x the capacity under a limit on the tail of token gaps",
                source="Agrawal et al. 2024 (Sarathi-Serve), Mistral-7B on an A100",
                differs="it buys even gaps, not throughput: without a limit on gaps it gains "
                "nothing; see TPOT",
            ),
        ),
        Rung(
            name="int8",
            title="int8 weights and activations",
            exact=False,
            options={"weights": "int8", **native},
            kind="weights",
            curve=True,
            claimed=Claim(
                says="1.48 x",
                source="gpt-fast, Llama-2-7B on an A100, one sequence, weights only",
                differs="here products are in int8 as well, so it also gains where arithmetic "
                "binds: many rows, and prefill",
            ),
        ),
        Rung(
            name="int4",
            title="int4 weights in place of int8",
            exact=False,
            options={"weights": "int4", **native},
            kind="weights",
            curve=True,
            claimed=Claim(
                says="1.88 x; 4 x up to 16 to 32 rows, fading by 64 to 128",
                source="gpt-fast, Llama-2-7B on an A100, one sequence; Frantar et al. 2024 "
                "(MARLIN), a layer's product",
                differs="a CPU has little arithmetic for its bandwidth: a batch stops being "
                "bound by bytes at some 10 rows, not 100",
            ),
        ),
        Rung(
            name="kv-int8",
            title="K and V in int8",
            exact=False,
            options={"kv": "int8", **native},
            claimed=Claim(
                says="14.9 % more throughput; break-even at 7k tokens of context",
                source="vLLM 2026, fp8 KV, Llama-3.1-8B on an H100 under load",
                differs="contexts here are short, so K and V are a small part of what is read",
            ),
        ),
    )


def _guesses(draft: str | None) -> tuple[Rung, ...]:
    return (
        Rung(
            name="draft",
            title="speculation: a draft model",
            exact=True,
            options={"speculate": "draft", "draft_model": draft},
            kind="guesses",
            curve=True,
            claimed=Claim(
                says="2.36 x for one sequence (158 to 373 tokens/s); 1.38 x at a batch of 64",
                source="Li et al. 2025 (EAGLE-3), Llama-3.1-8B on an H100",
                differs="a plain draft model, not EAGLE's; guesses need arithmetic to spare, "
                "which a CPU's batch of a dozen has not",
            ),
        ),
        Rung(
            name="lookup",
            title="speculation: copied from the prompt",
            exact=True,
            options={"speculate": "lookup", "draft_model": None},
            kind="guesses",
            curve=True,
            claimed=Claim(
                says="1.20 x on chats, 2.30 x on edits of code (76 to 91 and to 175 tokens/s)",
                source="Oliaro et al. 2024 (suffix decoding), its n-gram baseline, one sequence",
                differs="many sequences at once; code is written, not edited",
            ),
        ),
        Rung(
            name="suffix",
            title="speculation: copied from all texts so far",
            exact=True,
            options={"speculate": "suffix", "draft_model": None},
            kind="guesses",
            curve=True,
            claimed=Claim(
                says="1.49 x on chats, 3.76 x on edits of code (76 to 113 and to 286 tokens/s)",
                source="Oliaro et al. 2024 (suffix decoding), one sequence",
                differs="many sequences at once; code is written, not edited",
            ),
        ),
    )


def _smaller() -> tuple[Rung, ...]:
    return (
        Rung(
            name="pruned",
            title="a quarter of the layers out, then distilled",
            exact=False,
            form="pruned",
            curve=True,
            claimed=Claim(
                says="2.7 x with half the layers",
                source="Muralidharan et al. 2024 (Minitron), Llama-3.1-8B to 4B, TensorRT-LLM",
                differs="a quarter goes here: four thirds is all that layers can give",
            ),
        ),
        Rung(
            name="swiftkv",
            title="SwiftKV: prompts stop half way, then distilled",
            exact=False,
            form="swiftkv",
            curve=True,
            claimed=Claim(
                says="up to 2 x the throughput, half the compute of prefill",
                source="Qiao et al. 2024 (SwiftKV), Llama-3.1-70B on four H100, prompts ten times "
                "as long as answers",
                differs="it saves prefill alone: decoding and, where prefixes are shared, most "
                "of the prompts are left as they were",
            ),
        ),
    )


def _prompts() -> tuple[Rung, ...]:
    return (
        Rung(
            name="shortened",
            title="half of each prompt dropped, by a small model's surprise",
            exact=False,
            shortened=True,
            claimed=Claim(
                says="1.6 to 2.9 x end to end at 2 to 5 times fewer tokens; by others at most 18 %",
                source="Pan et al. 2024 (LLMLingua-2); an independent study of 30,000 queries, "
                "arXiv 2604.02985",
                differs="rating takes time too, prompts are short, and where prefixes are shared "
                "little prefill is left to save",
            ),
        ),
    )


def _crowds(scale: Scale) -> tuple[Rung, ...]:
    return (
        Rung(
            name="samples",
            title=f"{scale.samples} samples of a prompt as one request",
            exact=True,
            samples_together=True,
            on="sharing",
            claimed=Claim(
                says="up to 32 x",
                source="Juravsky et al. 2024 (Hydragen), CodeLlama-13B, long prefix, large batch",
                differs="over an engine that shares no prefix; over one that does, what is left "
                "is each sample's last page and place in the queue",
            ),
        ),
        Rung(
            name="batch",
            title=f"batch mode: {scale.requests} at once, as nobody waits",
            exact=True,
            options={"max_running": scale.requests},
            claimed=Claim(
                says="half the price",
                source="batch APIs of Anthropic and OpenAI, second-hand",
                differs="a price, not a cost: what is measured is the engine's gain when no "
                "latency is owed",
            ),
        ),
    )
