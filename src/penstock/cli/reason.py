"""`penstock reason`: accuracy against time and cost, by samples of each question."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from penstock.cli.told import tell


def reason(
    model: Annotated[
        str, typer.Argument(help="embedded, or a directory in Hugging Face layout.")
    ] = "embedded",
    *,
    samples: Annotated[
        str, typer.Option(help="Samples of each question to compare, comma-separated.")
    ] = "1,4,16,64",
    questions: Annotated[int, typer.Option(min=1, help="Held-out doctests to ask.")] = 200,
    few_shot: Annotated[int, typer.Option(min=0, help="Answered ones before each.")] = 4,
    temperature: Annotated[float, typer.Option(help="Of the samples, above 0.")] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="Of questions and samples.")] = 0,
    speed: Annotated[
        str | None,
        typer.Option(
            help="Ask what engines of these speeds would buy, such as 50,200,1000: tokens/s that "
            "one question gets, all its samples together."
        ),
    ] = None,
    first_token: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds to their first token. Default: as much less than measured here as they "
            "are faster.",
        ),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            help="2.5/h (the hardware, for as long as a question takes) or in=0.15,out=0.6 (a "
            "million tokens)."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture here.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Ask doctests with many samples each: what a vote over them gains, and takes.

    Every number of samples is read off the largest; time is measured here, or
    follows from --speed. Ctrl-C ends after the question at hand and reports what
    there is.
    """
    if missing := [n for n in ("torch", "safetensors") if importlib.util.find_spec(n) is None]:
        _fail(f"{', '.join(missing)} not installed. Run: pip install 'penstock[engine]'")
    from penstock.cli.parse import counts, numbers, read
    from penstock.plan.reason.ask import Asking, ask, open_model
    from penstock.plan.reason.trade import trade
    from penstock.record.price import parse_price

    speeds = () if speed is None else read("--speed", numbers, speed)
    if first_token is not None and not speeds:
        raise typer.BadParameter("belongs to --speed", param_hint="--first-token")
    paid = None if price is None else read("--price", parse_price, price)
    try:
        asking = Asking(
            samples=tuple(sorted(set(read("--samples", counts, samples)))),
            questions=questions,
            shots=few_shot,
            temperature=temperature,
            seed=seed,
        )
        llm = open_model(model, asking)
        with _watched() as go_on:
            answers = ask(llm, asking, go_on)
        found = trade(answers, speeds, price=paid, first_s=first_token)
    except (ValueError, OSError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; nothing was kept", code=130)
    try:
        tell(found, "reason", html=html, png=png, json=json)
    except OSError as error:
        _fail(str(error))
    if not answers.whole:
        raise typer.Exit(130)


@contextmanager
def _watched() -> Iterator[Callable[[int, int], bool]]:
    """A bar on standard error, and whether to go on: no more after the first Ctrl-C.

    Before the first question Ctrl-C ends everything, as there is nothing to keep.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        "questions",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("Ending after this question; Ctrl-C again gives it all up.", file=sys.stderr)

    def go_on(done: int, all_: int) -> bool:
        if not done:
            signal.signal(signal.SIGINT, stop)
        bar.update(task, completed=done, total=all_)
        return not stopped

    before = signal.getsignal(signal.SIGINT)
    try:
        with bar:
            task = bar.add_task("", total=None)
            yield go_on
    finally:
        signal.signal(signal.SIGINT, before)


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"penstock reason: {message}", file=sys.stderr)
    raise typer.Exit(code)
