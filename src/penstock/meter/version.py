"""Which version of a server is measured, where it tells."""

from __future__ import annotations

import asyncio

import msgspec

from penstock.meter.client import Client

WAIT_S = 2.0  # for all questions together: a version is worth no more
_LONGEST = 200  # characters; more is no version

PATHS = (
    "/version",  # vLLM, penstock
    "/props",  # llama.cpp
    "/info",  # TGI
    "/server_info",  # SGLang
    "/get_server_info",  # its former name
    "/api/version",  # Ollama
)


class _Told(msgspec.Struct):
    version: str | None = None
    build_info: str | None = None  # llama.cpp's word


async def version_of(client: Client) -> str:
    """What the server says of its version, else a `Server` header that has one, else "unknown".

    Takes `WAIT_S` seconds at most, and never fails.
    """
    header = ""
    try:
        async with asyncio.timeout(WAIT_S):
            for path in PATHS:
                exchange = await client.get(path)
                header = exchange.headers.get("server", header)
                if exchange.status == 200 and (version := _read(exchange.body)):
                    return version
    except TimeoutError:
        pass
    # It may be that of a web server in between, so it is said whose word it is.
    told = any(character.isdigit() for character in header) and len(header) <= _LONGEST
    return f"{header} (by its Server header)" if told else "unknown"


def _read(body: bytes) -> str | None:
    try:
        told = msgspec.json.decode(body, type=_Told)
    except (msgspec.DecodeError, RecursionError):
        return None
    version = told.version or told.build_info
    return version if version and len(version) <= _LONGEST else None
