"""`penstock compress-prompt`: a shorter prompt, and whether that pays."""

from __future__ import annotations

import importlib.util
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from penstock.cli.parse import positive, read

if TYPE_CHECKING:
    from penstock.prompts.run import Asked, Found


class Way(StrEnum):
    """By what is chosen."""

    SURPRISE = "surprise"
    RANDOM = "random"
    START = "start"
    END = "end"
    ENDS = "ends"
    STOPWORDS = "stopwords"


class By(StrEnum):
    """What stays or goes together."""

    TOKEN = "token"
    WORD = "word"
    LINE = "line"


class Weights(StrEnum):
    """Of the small model."""

    PLAIN = "plain"
    INT8 = "int8"
    INT4 = "int4"


def compress_prompt(
    file: Annotated[
        Path | None, typer.Argument(help="The prompt, UTF-8; - or nothing: standard input.")
    ] = None,
    *,
    model: Annotated[
        str, typer.Option(help="The small model that judges: a name or a directory.")
    ] = "embedded-draft",
    keep: Annotated[
        float, typer.Option(help="Share to keep of what is not protected, above 0 to 1.")
    ] = 0.5,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Instead: tokens of the whole result, at most.")
    ] = None,
    way: Annotated[
        Way,
        typer.Option(
            help="What stays: the surprising; or, to compare: any, the start, the end, both "
            "ends, all but stop words."
        ),
    ] = Way.SURPRISE,
    by: Annotated[
        By, typer.Option(help="What stays or goes together: lines (and sentences), words, tokens.")
    ] = By.LINE,
    first: Annotated[int, typer.Option(min=0, help="Tokens protected at the beginning.")] = 16,
    last: Annotated[int, typer.Option(min=0, help="Tokens protected at the end.")] = 128,
    protect: Annotated[
        list[str] | None,
        typer.Option(help="Keep what this regular expression matches, on a line; repeatable."),
    ] = None,
    segment: Annotated[
        int,
        typer.Option(
            min=0,
            help="Every so many tokens keep their own share, so that prompts that begin alike "
            "still do; 0: one share for all.",
        ),
    ] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of --way random.")] = 0,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="The input is JSON messages: only what users say gets shorter."
        ),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(
            help="What would read the prompt: a model, timed here, or step times that `penstock "
            "calibrate` wrote. Tells when compressing pays."
        ),
    ] = None,
    prefill_rate: Annotated[
        str | None, typer.Option(help="Instead of --target: prompt tokens/s of a server.")
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(help="An API's, a million tokens: in=0.15,cached=0.015,out=0.6."),
    ] = None,
    cached: Annotated[
        int, typer.Option(min=0, help="Of --price: tokens the API's cache would hold.")
    ] = 0,
    weights: Annotated[Weights, typer.Option(help="Of the models timed here.")] = Weights.PLAIN,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page here: what was kept.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture here.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result, and only that, as JSON.")
    ] = False,
) -> None:
    """Print the prompt without what a small model finds predictable; the report is on stderr.

    With --target (or --prefill-rate) it predicts the break-even: prefill saved against time
    spent. With --price it says when the cache makes compressing lose.
    """
    if missing := [n for n in ("torch", "safetensors") if importlib.util.find_spec(n) is None]:
        _fail(f"{', '.join(missing)} not installed. Run: pip install 'penstock[engine]'")
    if target is not None and prefill_rate is not None:
        raise typer.BadParameter("choose one of them", param_hint="--target and --prefill-rate")
    if cached and price is None:
        raise typer.BadParameter("this belongs to --price; leave it out", param_hint="--cached")
    from penstock.engine.options import EngineOptions
    from penstock.prompts.keep import Rule
    from penstock.prompts.run import Asked
    from penstock.record.price import parse_price

    rate = None if prefill_rate is None else read("--prefill-rate", positive, prefill_rate)
    bought = None if price is None else read("--price", parse_price, price)
    try:
        asked = Asked(
            rule=Rule(
                keep=keep,
                tokens=tokens,
                way=way.value,
                by=by.value,
                first=first,
                last=last,
                segment=segment or None,
                seed=seed,
            ),
            protect=tuple(protect or ()),
            target=target,
            tokens_per_s=rate,
            engine=EngineOptions(weights=weights.value, threads=threads),
            price=bought,
            cached=cached,
        )
        found = _run(_read(file), model, asked, chat)
        _tell(found, html=html, png=png, json=json)
    except (ValueError, OSError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", code=130)


def _read(file: Path | None) -> str:
    try:
        if file is None or str(file) == "-":
            return sys.stdin.buffer.read().decode()
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt is not UTF-8 text: {error}") from error


def _run(text: str, model: str, asked: Asked, chat: bool) -> Found:
    from rich.console import Console

    from penstock.prompts.run import compress_chat, compress_text
    from penstock.prompts.scorer import Scorer

    messages = _messages(text) if chat else None
    with Console(stderr=True).status(f"loading {model}") as status:
        scorer = Scorer(model, asked.engine)
        if messages is not None:
            return compress_chat(messages, scorer, asked, status.update)
        return compress_text(text, scorer, asked, status.update)


def _messages(text: str) -> list[dict[str, Any]]:
    """The messages of a chat: a JSON list, or what an API is sent, with `messages` in it."""
    import msgspec

    try:
        given = msgspec.json.decode(text)
        inner = given.get("messages") if isinstance(given, dict) else given
        return msgspec.convert(inner, list[dict[str, Any]])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"--chat needs a JSON list of messages: {error}") from error


def _tell(found: Found, *, html: Path | None, png: Path | None, json: bool) -> None:
    from penstock.report import prompt as report

    if json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
    else:
        from rich.console import Console

        sys.stdout.write(found.text)
        sys.stdout.flush()
        report.show(found, Console(stderr=True))
    if html is not None:
        report.write_html(found, html)
    if png is not None:
        report.write_png(found, png)


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"penstock compress-prompt: {message}", file=sys.stderr)
    raise typer.Exit(code)
