"""A server over HTTP that speaks OpenAI's completions or chat API."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any, Literal

import msgspec
from tokenizers import Tokenizer

from penstock.meter.answer import read_answer
from penstock.meter.client import Client, Exchange
from penstock.meter.machine import describe
from penstock.meter.refusal import refusal
from penstock.meter.target import Reply, TargetError, TargetInfo
from penstock.meter.version import version_of
from penstock.record.record import Outcome, Record
from penstock.record.run import Condition
from penstock.workload.plan import Answer, Ask
from penstock.workload.prompts import Content, as_text

Endpoint = Literal["completions", "chat"]
PATHS: dict[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}

# By `owned_by` of /v1/models: who understands what beyond OpenAI's API.
_IGNORES_EOS = ("llamacpp", "penstock", "sglang", "vllm")
_USAGE_ON_EVERY_EVENT = ("penstock", "sglang", "vllm")

# Refusals that may only mean "I do not know this endpoint or parameter".
_NOT_KNOWN = ("http_400", "http_404", "http_405", "http_422", "http_501")


class _Model(msgspec.Struct):
    id: str
    owned_by: str | None = None
    parent: str | None = None  # of an adapter: its base model
    max_model_len: int | None = None
    meta: Any = None
    penstock: dict[str, Any] = {}

    @property
    def context(self) -> int | None:
        """Tokens that a request may have, prompt and output together."""
        told = self.meta.get("n_ctx") if isinstance(self.meta, dict) else None  # llama.cpp
        return self.max_model_len or (told if isinstance(told, int) else None)


class _Models(msgspec.Struct):
    data: list[_Model]


class HttpTarget:
    """A target made by `open`, which finds the model and tries the server out.

    With `stream` false it asks for whole answers: then only their total time is known.
    """

    def __init__(
        self,
        client: Client,
        info: TargetInfo,
        tokenizer: Tokenizer | None,
        *,
        api_key: str | None = None,
        stream: bool = True,
    ) -> None:
        self.client = client
        self.origin = client.origin
        self.info = info
        self.tokenizer = tokenizer
        self.api_key = api_key
        self.stream = stream
        self.endpoint: Endpoint = "completions"
        self._extras: dict[str, Any] = {}  # body fields this server was seen to accept

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        model: str | None = None,
        chat: bool | None = None,
        api_key: str | None = None,
        tokenizer: Tokenizer | None = None,
        timeout_s: float = 600.0,
        stream: bool = True,
    ) -> HttpTarget:
        """Find the model and send one small request to see what the server understands.

        `chat` chooses the API; None takes completions, or chat where there is no other.
        Raises `ValueError` for a bad URL and `TargetError` if nothing can be measured.
        """
        client = Client(url, api_key=api_key, timeout_s=timeout_s)
        found = await _find_model(client, url, model)
        info = TargetInfo(
            kind="http",
            name=url,
            model=found.id,
            context=found.context,
            local=_is_loopback(client.origin.host),
            facts=found.penstock or None,
        )
        target = cls(client, info, tokenizer, api_key=api_key, stream=stream)
        await target._try_out(found.owned_by or "", chat)
        version = found.penstock.get("version") or await version_of(client)
        info.conditions = target._conditions(found, version)
        return target

    async def send(self, ask: Ask, record: Record) -> Reply:
        """See `Target`."""
        exchange = Exchange()
        try:
            await self.client.run(self.request(ask), exchange)
        except asyncio.CancelledError:
            self.read(ask, exchange, record)
            raise
        return self.read(ask, exchange, record)

    def request(self, ask: Ask) -> bytes:
        """See `RemoteTarget`."""
        return self.client.request(PATHS[self.endpoint], self._body(ask))

    def read(self, ask: Ask, exchange: Exchange, record: Record) -> Reply:
        """See `RemoteTarget`."""
        record.sent_ns, record.end_ns = exchange.sent_ns, exchange.end_ns
        if error := refusal(exchange, stream=self.stream):
            record.outcome, record.error = Outcome.FAILED, error
            return Reply(answer=Answer(error=error))
        read = read_answer(
            exchange.pieces,
            record,
            self.tokenizer,
            exchange.error,
            choices=ask.n,
            stream=self.stream,
        )
        if ask.task is not None:
            for each, text in zip(read.records, read.texts, strict=True):
                each.text = text
        tokens = [r.output_tokens for r in read.records if r.output_tokens is not None]
        answer = Answer(
            texts=tuple(read.texts),
            output_tokens=sum(tokens) if len(tokens) == ask.n else None,
            error=record.error,
        )
        return Reply(read.notes, answer, read.records[1:])

    async def count_prompt(self, text: str) -> int | None:
        """See `Target`. Costs one request for one token."""
        record = Record(request_id="count", sched_ns=0)
        await self.send(Ask(id="count", content=text, prompt_tokens=None, output_tokens=1), record)
        return record.prompt_tokens

    async def close(self) -> None:
        """See `Target`."""
        self.client.close()

    def _body(self, ask: Ask) -> bytes:
        body = {
            "model": self.info.model,
            **self._prompt(ask.content),
            "max_tokens": ask.output_tokens,
            "stream": self.stream,
            **self._extras,
        }
        if ask.n > 1:
            body["n"] = ask.n
        if "min_tokens" in body:
            body["min_tokens"] = ask.output_tokens
        if (sampling := ask.sampling) is not None:
            body = {k: v for k, v in body.items() if k not in ("ignore_eos", "min_tokens")}
            body["temperature"] = sampling.temperature
            body |= {"seed": sampling.seed} if sampling.seed is not None else {}
            body |= {"stop": list(sampling.stop)} if sampling.stop else {}
        return msgspec.json.encode(body)

    def _prompt(self, content: Content) -> dict[str, Any]:
        if self.endpoint == "completions":
            return {"prompt": as_text(content)}
        if isinstance(content, str):
            return {"messages": [{"role": "user", "content": content}]}
        return {"messages": content}

    async def _try_out(self, owner: str, chat: bool | None) -> None:
        """Settle endpoint and extras: the first, most telling combination that is answered."""
        usage = {"include_usage": True}
        if owner in _USAGE_ON_EVERY_EVENT:
            usage["continuous_usage_stats"] = True
        most: dict[str, Any] = {"temperature": 0}
        if self.stream:
            most["stream_options"] = usage
        if owner in _IGNORES_EOS:
            most["ignore_eos"] = True
        if owner == "vllm":
            most["min_tokens"] = 0  # set for each ask
        if owner == "llamacpp":
            most["timings_per_token"] = True  # its running count of tokens
        endpoints: tuple[Endpoint, ...] = ("completions", "chat")
        if chat is not None:
            endpoints = ("chat",) if chat else ("completions",)
        errors: list[str] = []
        for self.endpoint in endpoints:
            for self._extras in (most, {"temperature": 0}, {}):
                record = Record(request_id="try", sched_ns=0)
                ask = Ask(id="try", content="def add(a, b):", prompt_tokens=None, output_tokens=4)
                await self.send(ask, record)
                error = record.error or ""
                # A model that has nothing to say to this was asked well all the same.
                if record.outcome is Outcome.FINISHED or error.startswith("empty_answer"):
                    self.info.chat = self.endpoint == "chat"
                    self.info.forces_length = "ignore_eos" in self._extras
                    return
                errors.append(f"{PATHS[self.endpoint]}: {error}")
                if not error.startswith(_NOT_KNOWN):
                    raise TargetError(f"{self.info.name} does not answer. {errors[-1]}")
        why = "; ".join(dict.fromkeys(errors))
        raise TargetError(f"{self.info.name} answers no request for {self.info.model}. {why}")

    def _conditions(self, model: _Model, version: str) -> dict[str, Condition]:
        facts = model.penstock
        on = facts.get("device", "cpu") if facts else None
        return {
            "model": model.id,
            "precision": facts.get("precision", "unknown"),
            "kv_precision": facts.get("kv_dtype", "unknown"),
            "hardware": describe() if self.info.local and on == "cpu" else on or "unknown",
            "target": f"{model.owned_by or 'unknown server'} over HTTP",
            "target_version": version,
            "endpoint": f"{PATHS[self.endpoint]}, {'streamed' if self.stream else 'whole answers'}",
            "sampling": "greedy" if "temperature" in self._extras else "the server's default",
            "arrival_stamps": "the kernel's" if self.client.kernel_stamps else "the client's",
            "output_length": (
                "forced (EOS ignored)"
                if self.info.forces_length
                else "at most as asked: this server is not known to ignore EOS"
            ),
        }


async def _find_model(client: Client, url: str, wanted: str | None) -> _Model:
    """The wanted model's entry, or the only one."""
    exchange = await client.get("/v1/models")
    if exchange.status is None:
        raise TargetError(f"{url} cannot be reached. {exchange.error}")
    if exchange.status in (401, 403):
        raise TargetError(
            f"{url} refuses access ({exchange.status}). Give --api-key or set PENSTOCK_API_KEY."
        )
    try:
        models = msgspec.json.decode(exchange.body, type=_Models).data
    except msgspec.DecodeError:
        models = []
    if wanted is not None:
        return next((model for model in models if model.id == wanted), _Model(id=wanted))
    bases = [model for model in models if model.parent is None]
    if len(bases) == 1:
        return bases[0]
    if not bases:
        raise TargetError(f"{url}/v1/models (HTTP {exchange.status}) names no model. Give --model.")
    names = ", ".join(model.id for model in bases[:10])
    raise TargetError(f"{url} serves {len(bases)} models. Choose one with --model: {names}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
