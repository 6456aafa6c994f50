"""When bytes came does not depend on when the client got round to reading them."""

import asyncio
import json
import socket
import sys
import time

import pytest

from penstock.meter.http import HttpTarget
from penstock.record.record import Record
from penstock.workload.plan import Ask
from tests.meter.test_bench import server_process


def kernel_stamps() -> bool:
    """Whether this machine's kernel stamps received bytes, asked without our own code."""
    option = 35  # SO_TIMESTAMPNS on Linux
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sender,
        server.accept()[0] as reader,
    ):
        reader.setsockopt(socket.SOL_SOCKET, option, 1)
        sender.sendall(b"x")
        return bool(reader.recvmsg(1, 1024)[1])


pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not kernel_stamps(),
    reason="this kernel does not stamp what a socket receives",
)


async def lateness_with_a_blocked_client(block_s):
    """How late the first event is stamped, when the client sleeps through its arrival."""
    with server_process(ttft_s=0.15, itl_s=0.5, events=2) as url:
        target = await HttpTarget.open(url)
        record = Record(request_id="1", sched_ns=0)
        ask = Ask(id="1", content="p", prompt_tokens=None, output_tokens=2)
        sending = asyncio.create_task(target.send(ask, record))
        await asyncio.sleep(0.1)
        time.sleep(block_s)
        await sending
        written = json.loads((await target.client.get("/stamps")).body)["p"][1]
        stamps = target.client.kernel_stamps
        await target.close()
    assert stamps
    return (record.first_ns - written) * 1e-9


async def test_a_client_that_sleeps_through_an_event_knows_when_it_came():
    # Read 0.15 s late; without the kernel's stamp that would be the error.
    assert -2e-5 < await lateness_with_a_blocked_client(0.2) < 0.02
