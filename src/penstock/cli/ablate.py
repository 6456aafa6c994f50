"""`penstock ablate`: what every technique gives and costs, on this machine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from penstock.cli.told import tell

MODEL, QUICK_MODEL = "qwen3-0.6b", "llama-110m"


def ablate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="embedded, a directory, or a shape, which is made if it is not there. "
            f"Default: {MODEL}, with --quick {QUICK_MODEL}."
        ),
    ] = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small shape and few requests: under five minutes.")
    ] = False,
    launch: Annotated[
        str | None,
        typer.Option(
            help="Ablate the flags of another server: the command that starts it, with {flag} "
            "where they go and {port} for a free port: 'vllm serve M --port {port} {flag}'."
        ),
    ] = None,
    flag: Annotated[
        list[str] | None, typer.Option(help="Of --launch: a flag to try, again for each.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Of --launch without {port}: where the server answers.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Of each serving.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Of each prompt.")] = None,
    shared: Annotated[int | None, typer.Option(help="Tokens all prompts begin with.")] = None,
    own: Annotated[int | None, typer.Option(help="Tokens of a prompt after these.")] = None,
    output: Annotated[int | None, typer.Option(help="Mean output tokens.")] = None,
    seats: Annotated[int | None, typer.Option(help="Requests served at once.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of every pair, interleaved.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Of distilling the pruned model.")
    ] = None,
    draft: Annotated[
        str | None, typer.Option(help="A draft model of MODEL's vocabulary, where it has none.")
    ] = None,
    leave_out: Annotated[
        str, typer.Option(help="Rungs not to measure, comma-separated, as named by --json.")
    ] = "",
    price: Annotated[str, typer.Option(help="Of this machine: 0.1/h.")] = "1/h",
    out: Annotated[
        Path | None, typer.Option(help="Where what is measured is kept. Default: under runs/.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="The page. Default: report.html in --out.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture here.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Climb the ladder of techniques, each rung interleaved with the one below it.

    From one request at a time in fp32 to everything at once: throughput, TTFT,
    TPOT, memory, cost and quality, what was claimed and what was measured. Ctrl-C
    keeps what is measured; the same command goes on from there.
    """
    from penstock.cli.parse import read
    from penstock.record.price import parse_price

    sizes = {
        "requests": requests,
        "samples": samples,
        "shared": shared,
        "own": own,
        "output": output,
        "seats": seats,
        "rounds": rounds,
        "minutes": minutes,
    }
    asked = {name: value for name, value in sizes.items() if value is not None}
    paid = read("--price", parse_price, price).per_hour
    if paid is None:
        raise typer.BadParameter("a machine is paid by the hour: 0.1/h", param_hint="--price")
    if launch is None and (flag or url):
        raise typer.BadParameter("belongs to --launch", param_hint="--flag and --url")
    if launch is not None:
        if model is not None:
            raise typer.BadParameter("the command says what is served", param_hint="MODEL")
        ours = {
            "--samples": samples,
            "--minutes": minutes,
            "--draft": draft,
            "--leave-out": leave_out,
        }
        if given := [name for name, value in ours.items() if value]:
            raise typer.BadParameter("not with --launch", param_hint=" and ".join(given))
        directory = out or Path("runs") / "ablate-launch"
        server = {"command": launch, "flags": tuple(flag or ()), "url": url}
        _launch(server, asked, directory, paid, quick=quick, html=html, png=png, json=json)
        return
    if missing := [n for n in ("torch", "safetensors") if importlib.util.find_spec(n) is None]:
        _fail(f"{', '.join(missing)} not installed. Run: pip install 'penstock[engine]'")
    import msgspec

    from penstock.ablate.ablation import Plan
    from penstock.ablate.ablation import ablate as climb
    from penstock.ablate.load import QUICK, Scale

    name = model or (QUICK_MODEL if quick else MODEL)
    directory = out or Path("runs") / f"ablate-{Path(name).name}{'-quick' if quick else ''}"
    with _kept(directory):
        scale = msgspec.structs.replace(QUICK if quick else Scale(), **asked)
        names = tuple(filter(None, (part.strip() for part in leave_out.split(","))))
        plan = Plan(model=name, scale=scale, draft=draft, without=names)
        with _bar() as progress:
            found = climb(plan, directory, paid, progress)
        tell(found, "ablate", html=html or directory / "report.html", png=png, json=json)


def _launch(
    plan: dict[str, Any],
    asked: dict[str, Any],
    directory: Path,
    price: float,
    *,
    quick: bool,
    html: Path | None,
    png: Path | None,
    json: bool,
) -> None:
    """Ablate another server's flags."""
    import msgspec

    from penstock.ablate.launch import Launch, ablate_flags
    from penstock.ablate.load import QUICK, Scale

    with _kept(directory):
        scale = msgspec.structs.replace(QUICK if quick else Scale(), samples=1, **asked)
        with _bar() as progress:
            found = ablate_flags(Launch(**plan, scale=scale), directory, price, progress)
        tell(found, "ablate_launch", html=html or directory / "report.html", png=png, json=json)


@contextmanager
def _kept(directory: Path) -> Iterator[None]:
    """Errors as one line; Ctrl-C tells where what is measured is kept."""
    try:
        yield
    except (ValueError, OSError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print(
            f"penstock ablate: interrupted; {directory} keeps what is measured. The same command "
            "goes on from there.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error: one line, whatever is being done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("", total=1)
        yield lambda title, done, total: bar.update(
            task, description=title, completed=done, total=total
        )


def _fail(message: str) -> NoReturn:
    from penstock.report.terminal import literal

    print(f"penstock ablate: {literal(message)}", file=sys.stderr)
    raise typer.Exit(1)
