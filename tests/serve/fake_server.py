"""`penstock serve` with the fake engine: MODEL, engine options and server options as JSON."""

import sys
from pathlib import Path

import msgspec

from penstock.engine.options import EngineOptions
from penstock.serve import logs
from penstock.serve.options import ServeOptions
from penstock.serve.server import run

if __name__ == "__main__":
    model, engine, server = sys.argv[1:]
    options = msgspec.json.decode(server, type=ServeOptions)
    logs.set_up(options.log_format, "server", quote_exceptions=False)
    run(
        model,
        msgspec.json.decode(engine, type=EngineOptions),
        options,
        [sys.executable, str(Path(__file__).with_name("fake_engine.py"))],
    )
