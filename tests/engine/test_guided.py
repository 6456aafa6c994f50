"""Grammars in the running batch: every output matches, nobody else notices."""

from __future__ import annotations

import json
import re
from concurrent.futures import Future
from pathlib import Path

import jsonschema
import msgspec
import pytest

from penstock.engine.engine import Engine
from penstock.engine.grammar import Matcher
from penstock.engine.request import Beam, GenerateRequest, Grammar, SamplingParams
from tests.engine.test_engine import BASE, GREEDY, drain, prompts, request, tokens

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
}
JSON = Grammar("json_schema", json.dumps(SCHEMA))


def guided(grammar: Grammar, **more: object) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 120, "seed": 3, "grammar": grammar} | more))


def text(ids: list[int]) -> str:
    """Of the small model's byte tokens, without the end."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in own]
    byte_of = {chr(b): b for b in own} | {chr(0x100 + i): b for i, b in enumerate(rest)}
    return bytes(byte_of[alphabet[i]] for i in ids if i < 256).decode()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"page_size": 4, "max_step_tokens": 12},
        {"kv_tokens": 200, "page_size": 4},  # preemptions
        {"kv_cache": False, "max_step_tokens": 512},
        {"batching": "static", "fill_wait_s": 0.0},
    ],
    ids=str,
)
def test_every_output_matches_and_others_do_not_notice(
    checkpoint: Path, more: dict[str, object]
) -> None:
    engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, **more))
    asked = prompts(8)
    engine.submit(request("alone", asked[0], GREEDY))
    alone = tokens(drain(engine)["alone"])
    for i, prompt in enumerate(asked):
        engine.submit(request(f"json{i}", prompt[:30], guided(JSON, n=2, presence_penalty=0.5)))
        engine.submit(request(f"word{i}", prompt[:30], guided(Grammar("regex", "(ab|c)+d"))))
    engine.submit(request("beside", asked[0], GREEDY))
    for name, deltas in drain(engine).items():
        for index in {d.index for d in deltas}:
            own = [d for d in deltas if d.index == index]
            out = tokens(own)
            if name.startswith("json") and own[-1].finish_reason == "stop":
                jsonschema.validate(json.loads(text(out)), SCHEMA)
            elif name.startswith("word") and own[-1].finish_reason == "stop":
                assert re.fullmatch("(ab|c)+d", text(out))
            elif name == "beside":
                assert out == alone
            else:
                assert own[-1].finish_reason == "length"
                assert len(out) == 120
    if "kv_tokens" in more:
        assert engine.stats().preemptions > 0


def test_it_stops_where_nothing_more_can_come(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    engine.submit(request("a", [1, 2, 3], guided(Grammar("lark", 'start: "yes" | "no"'))))
    deltas = drain(engine)["a"]
    assert text(tokens(deltas)) in ("yes", "no")
    assert deltas[-1].finish_reason == "stop"


def test_a_grammar_that_fails_fails_alone(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    engine.submit(request("bad", [1, 2, 3], guided(Grammar("lark", "start: nonsense"))))
    engine.submit(request("good", [1, 2, 3], GREEDY))
    out = drain(engine)
    assert out["bad"][-1].finish_reason == "error"
    assert "nonsense" in (out["bad"][-1].error or "")
    assert len(tokens(out["good"])) == GREEDY.max_tokens
    assert engine.stats().failed == 1


def test_what_cannot_go_together_is_refused() -> None:
    for more in ({"ignore_eos": True}, {"min_tokens": 3}, {"beam": Beam(width=2)}):
        with pytest.raises(ValueError, match=next(iter(more)) if "beam" not in more else "grammar"):
            guided(JSON, **more)


def test_aborts_between_steps(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    for i in range(12):
        engine.submit(GenerateRequest(id=str(i), prompt=[i] * 9, params=guided(JSON)))
    for i in range(12):
        engine.step()
        engine.abort(str(i))
    ends = {name: deltas[-1].finish_reason for name, deltas in drain(engine).items()}
    assert set(ends.values()) <= {"abort", "stop"}
    assert engine.scheduler.pool.held == 0


def test_nobody_waits_for_a_grammar_to_compile(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    slow: Future[Matcher] = Future()
    ready = engine._grammars.start(JSON).result()
    monkeypatch.setattr(engine._grammars, "start", lambda grammar: slow)
    engine.submit(request("slow", [1, 2, 3], guided(JSON)))
    engine.submit(request("gone", [1, 2, 3], guided(JSON)))
    assert engine.has_work
    assert engine.stats().waiting == 2
    assert engine.step() == []
    assert engine.wake_at is not None
    engine.submit(request("other", [1, 2, 3], GREEDY))
    engine.abort("gone")
    ended = [d for _ in range(40) for d in engine.step() if d.finish_reason is not None]
    assert {d.request_id: d.finish_reason for d in ended} == {"other": "length", "gone": "abort"}
    slow.set_result(ready)
    (last,) = [d for d in drain(engine)["slow"] if d.finish_reason is not None]
    assert last.finish_reason in ("stop", "length")
