"""`penstock serve`: the engine over HTTP."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated, Literal

import typer

from penstock.engine.options import (
    KV,
    Batching,
    Dtype,
    EngineOptions,
    Kernels,
    Speculate,
    Weights,
)
from penstock.schedule.policy import Keep
from penstock.serve.options import KEYS_VARIABLE, ServeOptions
from penstock.serve.signals import exit_on_signal

_ENGINE = EngineOptions()
_SERVER = ServeOptions()

# Of the extra `engine`; looked for without importing: this process never loads torch.
_MODULES = ("torch", "safetensors", "fastapi", "uvicorn", "zmq", "pydantic", "prometheus_client")


LogForm = Literal["text", "json"]


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="A name that `penstock models` lists, or a directory in Hugging Face layout."
        ),
    ] = "embedded",
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _SERVER.host,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = _SERVER.port,
    dtype: Annotated[Dtype, typer.Option(help="Precision to compute in.")] = _ENGINE.dtype,
    weights: Annotated[
        Weights,
        typer.Option(
            help="plain: in the precision of --dtype; int8, int4: quantized while they are loaded."
        ),
    ] = _ENGINE.weights,
    kv: Annotated[
        KV,
        typer.Option(
            help="How keys and values are stored: plain, as they are computed; int8, int4: "
            "quantized, in about a half and a quarter of the bytes of bf16."
        ),
    ] = _ENGINE.kv,
    kernels: Annotated[
        Kernels,
        typer.Option(help="native: in C, for a CPU with AVX-512; auto: those where they run."),
    ] = _ENGINE.kernels,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="Refuse to start if a result could depend on the batch."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="As PyTorch names it.")] = _ENGINE.device,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine.")] = None,
    page_size: Annotated[
        int, typer.Option(min=1, help="Tokens in one KV page.")
    ] = _ENGINE.page_size,
    kv_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens the KV pool holds; sized to memory if absent.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Tokens of prompt and output; the model's if absent.")
    ] = None,
    max_running: Annotated[
        int, typer.Option(min=1, help="Requests in the batch at once.")
    ] = _ENGINE.max_running,
    max_step_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens one step takes through the model.")
    ] = _ENGINE.max_step_tokens,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Queued requests; more get 429.")
    ] = _ENGINE.max_waiting,
    max_waiting_tokens: Annotated[
        int, typer.Option(min=0, help="Queued prompt tokens; more get 429.")
    ] = _ENGINE.max_waiting_tokens,
    batching: Annotated[
        Batching, typer.Option(help="static is the baseline to compare with.")
    ] = _ENGINE.batching,
    fill_wait: Annotated[
        float, typer.Option(min=0, help="Static batching: seconds a batch waits to fill.")
    ] = _ENGINE.fill_wait_s,
    kv_cache: Annotated[
        bool, typer.Option(help="Without it every step computes all tokens again.")
    ] = _ENGINE.kv_cache,
    kv_budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens whose K and V a request keeps behind its prompt, in whole pages; "
            "longer ones give up the rest. Answers change.",
        ),
    ] = None,
    kv_keep: Annotated[
        Keep | None,
        typer.Option(
            help="What they keep: the beginning and the newest (streaming, unless told), what the "
            "end of the prompt attends to and the newest (snapkv); baselines: recent, random."
        ),
    ] = None,
    prefix_sharing: Annotated[
        bool, typer.Option(help="Compute a prefix that requests share once.")
    ] = _ENGINE.prefix_sharing,
    chunked_prefill: Annotated[
        bool, typer.Option(help="Take long prompts in parts, beside running requests.")
    ] = _ENGINE.chunked_prefill,
    speculate: Annotated[
        Speculate,
        typer.Option(
            help="Guess the next tokens and judge many at once, the text unchanged: from the "
            "request's own text (lookup), past outputs too (suffix), or a small model (draft)."
        ),
    ] = _ENGINE.speculate,
    draft_model: Annotated[
        str | None, typer.Option(help="For --speculate draft: a model of the same vocabulary.")
    ] = None,
    draft_tokens: Annotated[
        int | None, typer.Option(min=1, help="Guesses a step; as many as pay if absent.")
    ] = None,
    compress_prompts: Annotated[
        float | None,
        typer.Option(
            help="Shorten long prompts to about this share before they are queued: a small model "
            "drops what it finds predictable. Answers change; a request can opt out."
        ),
    ] = None,
    compress_over: Annotated[
        int, typer.Option(min=0, help="Tokens above which a prompt is long.")
    ] = _SERVER.compress_over,
    compress_model: Annotated[
        str | None,
        typer.Option(help="The small model that judges, of the same vocabulary; else the draft."),
    ] = None,
    stall_after: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a step before /health fails.")
    ] = _SERVER.stall_after_s,
    kill_stalled_after: Annotated[
        float,
        typer.Option(min=0, help="Seconds without a step before the engine is restarted; 0 never."),
    ] = _SERVER.kill_stalled_after_s,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds requests in flight may go on when stopping.")
    ] = _SERVER.drain_s,
    deadline: Annotated[
        float | None,
        typer.Option(help="Seconds a request may take, queue and all; none if absent."),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="A key that requests may come with; repeatable. Others on this machine can "
            f"read command lines: prefer {KEYS_VARIABLE}, keys with commas between."
        ),
    ] = None,
    max_open: Annotated[
        int, typer.Option(min=1, help="Requests in the server at once; more get 429.")
    ] = _SERVER.max_open,
    max_body: Annotated[
        int, typer.Option(min=1, help="Bytes of a request's body; more get 413.")
    ] = _SERVER.max_body,
    body_timeout: Annotated[
        float, typer.Option(help="Seconds for a request to arrive whole.")
    ] = _SERVER.body_timeout_s,
    write_timeout: Annotated[
        float, typer.Option(help="Seconds a client may leave its answer unread.")
    ] = _SERVER.write_timeout_s,
    log_format: Annotated[LogForm, typer.Option(help="Of standard error.")] = "text",
) -> None:
    """Serve MODEL over HTTP with OpenAI's completions and chat APIs.

    Prints {"url": ..., "model": ...} once it serves; logs go to standard
    error. SIGTERM or Ctrl-C finishes what runs, then stops; again, at once.
    """
    # The imports below take a while, and leave nothing to clean up.
    exit_on_signal()
    if missing := [name for name in _MODULES if importlib.util.find_spec(name) is None]:
        _fail(f"{', '.join(missing)} not installed. Run: pip install 'penstock[engine]'")
    from penstock.serve import logs
    from penstock.serve.client import EngineDied
    from penstock.serve.server import run

    logs.set_up(log_format, "server", quote_exceptions=False)
    engine_options = EngineOptions(
        dtype=dtype,
        weights=weights,
        kv=kv,
        kernels=kernels,
        deterministic=deterministic,
        device=device,
        threads=threads,
        page_size=page_size,
        kv_tokens=kv_tokens,
        max_model_len=max_model_len,
        max_running=max_running,
        max_step_tokens=max_step_tokens,
        max_waiting=max_waiting,
        max_waiting_tokens=max_waiting_tokens,
        batching=batching,
        fill_wait_s=fill_wait,
        kv_cache=kv_cache,
        kv_budget=kv_budget,
        kv_keep=kv_keep,
        prefix_sharing=prefix_sharing,
        chunked_prefill=chunked_prefill,
        speculate=speculate,
        draft_model=draft_model,
        draft_tokens=draft_tokens,
    )
    try:
        options = ServeOptions(
            host=host,
            port=port,
            stall_after_s=stall_after,
            kill_stalled_after_s=kill_stalled_after,
            drain_s=drain,
            deadline_s=deadline,
            api_keys=(*(api_key or ()), *_keys_of_environment()),
            max_open=max_open,
            max_body=max_body,
            body_timeout_s=body_timeout,
            write_timeout_s=write_timeout,
            log_format=log_format,
            compress_keep=compress_prompts,
            compress_over=compress_over,
            compress_model=compress_model,
        )
        run(model, engine_options, options)
    except (ValueError, OSError, EngineDied) as error:
        _fail(str(error))


def _keys_of_environment() -> list[str]:
    listed = os.environ.get(KEYS_VARIABLE)
    if listed is None:
        return []
    keys = [key for part in listed.split(",") if (key := part.strip())]
    if not keys:
        # Someone wanted a door that is locked.
        raise ValueError(f"{KEYS_VARIABLE} is set and holds no key. Set keys, or unset it.")
    return keys


def _fail(message: str) -> None:
    print(f"penstock serve: {message}", file=sys.stderr)
    raise typer.Exit(1)
