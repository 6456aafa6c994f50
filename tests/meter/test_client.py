"""Over real sockets: right figures from well-behaved servers, named errors from the others."""

import asyncio
import shutil
import socket
import ssl
import subprocess

import pytest

from penstock.meter.driver import Drive, Limits
from penstock.meter.http import HttpTarget
from penstock.meter.target import TargetError
from penstock.record.record import Outcome, Record
from penstock.record.run import Load
from penstock.workload.plan import Ask, Plan
from tests.meter.scripted import serving


def ask(content="a prompt", output_tokens=8):
    return Ask(id="1", content=content, prompt_tokens=None, output_tokens=output_tokens)


async def send(target, **options):
    record = Record(request_id="1", sched_ns=0)
    reply = await target.send(ask(**options), record)
    return record, reply.caveats


@pytest.mark.parametrize(
    "script",
    [
        {},
        {"eol": "\r\n"},
        {"eol": "\r"},
        {"comments": True},
        {"cut": 1},
        {"cut": 7, "eol": "\r\n", "comments": True},
        {"hang_after_done": True},
    ],
    ids=str,
)
async def test_however_it_is_sent_eight_tokens_are_eight_tokens(script):
    async with serving(**script) as server:
        target = await HttpTarget.open(server.url)
        record, notes = await send(target)
        await target.close()
    assert record.outcome is Outcome.FINISHED
    assert record.output_tokens == 8
    assert record.event_tokens == [1] * 8
    assert (record.prompt_tokens, record.cached_tokens) == (7, 3)
    assert notes == []
    assert record.sent_ns < record.first_ns < record.last_ns <= record.end_ns


async def test_connections_are_kept():
    async with serving() as server:
        target = await HttpTarget.open(server.url)
        for _ in range(5):
            await send(target)
        await target.close()
    assert server.connections == 1


async def test_a_connection_that_went_stale_is_replaced():
    async with serving() as server:
        target = await HttpTarget.open(server.url)
        # As if the server had closed it just as the request was written.
        target.client._connections.idle[0]._link._socket.shutdown(socket.SHUT_RDWR)
        record, _ = await send(target)
        await target.close()
    assert record.outcome is Outcome.FINISHED
    assert server.connections == 2


async def test_chat_reasoning_and_tool_calls():
    async with serving(chat=True, no_completions=True) as server:
        target = await HttpTarget.open(server.url)
        assert target.endpoint == "chat"
        record, _ = await send(target)
        await target.close()
    assert record.output_tokens == 8
    assert len(record.event_ns) == 8


async def test_several_tokens_an_event():
    async with serving(tokens_per_event=4, usage="every") as server:
        target = await HttpTarget.open(server.url)
        record, _ = await send(target)
        await target.close()
    assert record.event_tokens == [4] * 8
    assert record.laid_by == "event usage"


async def test_no_usage():
    async with serving(usage="none") as server:
        target = await HttpTarget.open(server.url)
        record, notes = await send(target)
        await target.close()
    assert record.output_tokens is None
    assert "no token count" in notes[0]


async def test_wrong_usage_is_noticed_where_events_tell():
    async with serving(usage="80", ids=True) as server:
        target = await HttpTarget.open(server.url)
        record, notes = await send(target)
        await target.close()
    assert record.output_tokens == 80
    assert "disagree" in notes[0]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("503", "http_503: no room now"),
        ("not_a_stream", "not_a_stream"),
        ("close_at_once", "early_close"),
        ("garbage", "malformed_http"),
        ("half_head", "early_close"),
        ("early_close", "early_close"),
        ("reset", "reset"),
        ("bad_json", "malformed_event"),
        ("bad_utf8", "malformed_event"),
        ("error_event", "server_error: out of memory"),
        ("truncated", "truncated"),
        ("stall", "timeout"),
    ],
)
async def test_every_fault_ends_in_a_named_error(fault, error):
    async with serving(fault=fault) as server:
        target = await HttpTarget.open(server.url, timeout_s=1.0)
        record, notes = await send(target)
        assert record.outcome is Outcome.FAILED
        assert record.error.startswith(error)
        assert record.end_ns is not None
        assert notes == []
        # And the next request is none the worse for it.
        server.script.fault = None
        assert (await send(target))[0].outcome is Outcome.FINISHED
        await target.close()


async def test_cancelled_while_streaming_keeps_what_came():
    async with serving(itl_s=0.05, usage="every") as server:
        target = await HttpTarget.open(server.url)
        record = Record(request_id="1", sched_ns=0)
        task = asyncio.create_task(target.send(ask(), record))
        await asyncio.sleep(0.15)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await target.close()
    assert record.sent_ns is not None
    assert 1 <= len(record.event_ns) < 8
    assert sum(record.event_tokens) == len(record.event_ns)


async def test_a_large_prompt_is_sent_whole_and_stamped_when_it_is():
    async with serving() as server:
        target = await HttpTarget.open(server.url)
        record, _ = await send(target, content="x" * 5_000_000)
        await target.close()
        read_ns, first_ns = server.stamps["x" * 5_000_000][:2]
    assert record.outcome is Outcome.FINISHED
    # Sent before the server had read it all, but not long before.
    assert 0 < (read_ns - record.sent_ns) * 1e-9 + 0.005 < 0.5
    assert record.sent_ns < first_ns


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "names no model. Give --model"),
        ([{"id": "a"}, {"id": "b"}], "Choose one with --model: a, b"),
    ],
)
async def test_which_model_is_asked_for(models, message):
    async with serving(models=models) as server:
        with pytest.raises(TargetError, match=message):
            await HttpTarget.open(server.url)
        target = await HttpTarget.open(server.url, model="b")
        assert target.info.model == "b"
        await target.close()


async def test_an_adapter_is_not_a_second_model():
    async with serving(models=[{"id": "base"}, {"id": "lora", "parent": "base"}]) as server:
        target = await HttpTarget.open(server.url)
        assert target.info.model == "base"
        await target.close()


async def test_length_is_forced_only_where_the_server_understands_it():
    async with serving() as server:
        target = await HttpTarget.open(server.url)
        assert not target.info.forces_length
        assert "not known to ignore EOS" in target.info.conditions["output_length"]
        assert "ignore_eos" not in server.bodies[-1]
        await target.close()
    async with serving(models=[{"id": "m", "owned_by": "vllm", "max_model_len": 99}]) as server:
        target = await HttpTarget.open(server.url)
        await send(target, output_tokens=8)
        assert target.info.forces_length
        assert target.info.context == 99
        assert server.bodies[-1]["ignore_eos"] is True
        assert server.bodies[-1]["min_tokens"] == server.bodies[-1]["max_tokens"] == 8
        assert server.bodies[-1]["stream_options"]["continuous_usage_stats"] is True
        await target.close()


async def test_nobody_there():
    with pytest.raises(TargetError, match="cannot be reached"):
        await HttpTarget.open("http://127.0.0.1:9")


async def test_no_address():
    with pytest.raises(ValueError, match="is no http"):
        await HttpTarget.open("ftp://x")


async def test_tls_that_is_none_is_named():
    async def plain(reader, writer):
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(TargetError, match="tls: "):
        await HttpTarget.open(f"https://127.0.0.1:{port}")
    server.close()


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A server's TLS context whose certificate this process trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


async def test_over_tls_the_clients_clock_stamps_and_says_so(certificate):
    async with serving(certificate) as server:
        target = await HttpTarget.open(server.url)
        record, _ = await send(target, content="x" * 1_000_000)
        again, _ = await send(target)
        await target.close()
    for r in (record, again):
        assert r.outcome is Outcome.FINISHED
        assert r.event_tokens == [1] * 8
        assert r.sent_ns < r.first_ns
    assert server.connections == 1
    assert target.info.conditions["arrival_stamps"] == "the client's"


async def test_workers_speak_tls_too(certificate):
    asks = [Ask(id=str(i), content="p", prompt_tokens=1, output_tokens=8) for i in range(8)]
    plan = Plan(load=Load(kind="closed", concurrency=2), asks=asks, warmup=0)
    async with serving(certificate) as server:
        target = await HttpTarget.open(server.url)
        driven = Drive(target, plan, Limits(duration_s=60), workers=2)
        await driven.run()
        await target.close()
    assert driven.done == 8
    assert all(r.sent_ns < r.first_ns < r.last_ns for r in driven.records)


async def test_the_api_key_is_a_bearer_token():
    async with serving() as server:
        target = await HttpTarget.open(server.url, api_key="secret")
        await target.close()
    assert all("\r\nAuthorization: Bearer secret\r\n" in head for head in server.heads)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_name_v1_or_not(suffix):
    async with serving() as server:
        target = await HttpTarget.open(server.url + suffix)
        await target.close()
    assert server.heads[0].startswith("GET /v1/models ")
