"""One prompt's way through the engine, for the terminal: sentences first, then the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.engine.explain import Choice, Explanation, Piece
from penstock.engine.stages import Stage, Step
from penstock.report.terminal import literal

_SHOWN = 96  # tokens of a prompt; of a longer one the start and the end
_PIECE = 20  # characters of a token
_BAR = 24  # characters of a full bar
_STYLES = {"text": "cyan", "bytes": "yellow", "special": "magenta"}
_LABELS = {
    "tokenize": "tokenize",
    "schedule": "schedule",
    "prepare": "lay out the batch",
    "embed": "embed",
    "layers": "layers",
    "attention": "attention",
    "feed-forward": "feed-forward",
    "head": "head",
    "sample": "sample",
    "step": "whole step",
}


def show(told: Explanation, console: Console) -> None:
    """Print an explanation. Prompt and tokens are shown literally: no markup, no control."""
    console.print()
    for sentence in _sentences(told):
        console.print(Padding(Text(sentence), (0, 0, 0, 2)))
    _part(
        console,
        f"The prompt in {_tokens(len(told.tokens))}",
        *_prompt(told.tokens, console.width - 4),
    )
    settings = told.settings
    _part(
        console,
        "What may come next",
        _candidates(told),
        Text(
            f"sum: logit / temperature {settings.temperature:g} + noise of seed {settings.seed}; "
            "sampling takes the largest",
            "dim",
        ),
    )
    _part(
        console,
        "What each way of choosing makes of it",
        _choices(told),
        Text("among, holding: the tokens left to choose from, their probability together", "dim"),
        Text("with, log p: the model's own, of the token and of all it goes on with", "dim"),
    )
    gap = 1 if console.width < 90 else 2
    for step in told.steps:
        tokenize = told.tokenize if step.name == "prefill" else None
        _part(console, None, _stages(step, tokenize, gap))
    _part(console, None, _layers(told.steps))
    _part(console, "Conditions", *(Text(line, "dim") for line in _conditions(told)))
    console.print()


def _part(console: Console, title: str | None, *what: RenderableType) -> None:
    console.print()
    if title is not None:
        console.print(Text(f"  {title}", "bold"))
    for each in what:
        console.print(Padding(each, (0, 0, 0, 2)))


def _sentences(told: Explanation) -> Iterator[str]:
    best = told.candidates[0]
    yield (
        f"The likeliest next token is {spelled(best.token)}, with {best.probability:.1%} "
        f"of the probability."
    )
    prefill, decode = told.steps
    yield (
        f"Reading the prompt takes {_ms(prefill.total.warm_s)} ms once warm "
        f"({_ms(prefill.total.first_s)} ms the first time), each further token "
        f"{_ms(decode.total.warm_s)} ms: {1 / decode.total.warm_s:,.0f} tokens/s for one user."
    )
    cost = decode.total.cost
    assert cost is not None
    yield (
        f"Such a step cannot do with less than {cost.bytes / 1e6:,.1f} MB read and "
        f"{cost.flops / 1e6:,.1f} MFLOP, which take this machine {_ms(cost.bound_s)} ms at best: "
        f"{cost.share:.0%} of the step. The rest is what each operation costs whatever its size, "
        "which a larger batch shares, and cores left idle."
    )


def _prompt(tokens: Sequence[Piece], width: int) -> Iterator[Text]:
    """The pieces with their ids beneath, in lines."""
    half = _SHOWN // 2
    shown: list[Piece | None] = list(tokens)
    if len(tokens) > _SHOWN:
        shown = [*tokens[:half], None, *tokens[-half:]]
    top, bottom = Text(), Text()
    for piece in shown:
        if piece is None:
            cells = ("…", f"{len(tokens) - 2 * half:,} more", "dim")
        else:
            cells = (spelled(piece), str(piece.id), _STYLES[piece.kind])
        text, number, style = cells
        size = max(cell_len(text), len(number))
        if top.cell_len + size > width and top:
            yield top
            yield bottom
            top, bottom = Text(), Text()
        top.append(text + " " * (size + 1 - cell_len(text)), style)
        bottom.append(f"{number:<{size + 1}}", "dim")
    yield top
    yield bottom


def _candidates(told: Explanation) -> Table:
    grid = _grid("", ">logit", ">probability", "", ">noise", ">sum", gap=2)
    shown = list(told.candidates)
    if told.drawn not in shown:
        shown.append(told.drawn)
    for candidate in shown:
        grid.add_row(
            _token(candidate.token),
            f"{candidate.logit:.2f}",
            f"{candidate.probability:.1%}",
            _bar(candidate.probability),
            f"{candidate.noise:.2f}",
            Text(f"{candidate.score:.2f}", "bold" if candidate == told.drawn else ""),
        )
    return grid


def _choices(told: Explanation) -> Table:
    grid = _grid("", ">among", ">holding", "chooses", ">with", ">log p", "and goes on", gap=2)
    for choice in told.choices:
        grid.add_row(
            _way(choice, told),
            f"{choice.kept:,}",
            f"{choice.mass:.1%}",
            _token(choice.token),
            f"{choice.probability:.1%}",
            f"{choice.logprob:.2f}",
            Text("".join(_plain(each) for each in choice.continuation)),
        )
    return grid


def _way(choice: Choice, told: Explanation) -> str:
    settings = told.settings
    values = {
        "top-k": f" {settings.top_k}",
        "top-p": f" {settings.top_p:g}",
        "beam": f" {settings.beams}",
    }
    return choice.strategy + values.get(choice.strategy, "")


def _stages(step: Step, tokenize: Stage | None, gap: int) -> Table:
    grid = _grid(
        f"{step.name.capitalize()}, {_tokens(step.tokens)}",
        ">first ms",
        ">warm ms",
        ">of step",
        ">GFLOP/s",
        ">GB/s",
        "of the limit",
        gap=gap,
    )
    if tokenize is not None:
        grid.add_row(f"{'tokenize':<20}", _ms(tokenize.first_s), _ms(tokenize.warm_s))
    for stage in step.stages:
        grid.add_row(*_row(stage, step))
        if stage.name == "layers":
            for part in step.parts:
                grid.add_row(*_row(part, step, "  "), style="dim")
    grid.add_row(*_row(step.total, step), style="bold")
    return grid


def _row(stage: Stage, step: Step, indent: str = "") -> list[str]:
    cells = [
        f"{indent + _LABELS[stage.name]:<20}",
        _ms(stage.first_s),
        _ms(stage.warm_s),
        f"{stage.warm_s / step.total.warm_s:.0%}",
    ]
    if (cost := stage.cost) is not None:
        rate = f"{cost.flops_per_s / 1e9:,.1f}" if cost.flops else ""
        binds = "compute" if cost.binds == "compute" else "memory"
        cells += [rate, f"{cost.bytes_per_s / 1e9:,.2f}", f"{cost.share:>4.0%} {binds}"]
    return cells


def _layers(steps: Sequence[Step]) -> Table:
    titles = (f">{step.name}\n{part.name}" for step in steps for part in step.parts)
    grid = _grid("Each layer,\nwarm ms", *titles, gap=2)
    for index in range(len(steps[0].layers) // 2):
        times = [stage for step in steps for stage in step.layers if stage.layer == index]
        grid.add_row(f"layer {index}", *(_ms(stage.warm_s) for stage in times))
    return grid


def _conditions(told: Explanation) -> Iterator[str]:
    model, machine = told.model, told.hardware
    threads = "1 thread" if model.threads == 1 else f"{model.threads} threads"
    yield (
        f"{literal(model.name)}: {model.architecture}, {model.parameters / 1e6:,.1f} M parameters "
        f"in {model.precision} on {model.device}, {threads}; "
        f"warm: medians of {told.warm_passes} passes"
    )
    peak = machine.peak_flops.get(model.compute)
    computing = (
        f"{peak / 1e9:,.0f} GFLOP/s in {model.compute}" if peak else "an unknown compute peak"
    )
    yield (
        f"limit, measured on all {machine.cores} cores: {computing}, "
        f"{machine.read_bytes_per_s / 1e9:,.0f} GB/s over {machine.working_set_bytes / 1e6:,.1f} MB"
    )


def spelled(piece: Piece) -> str:
    """A token as it can be told apart, shortened to fit a line."""
    text = _plain(piece)
    return text if len(text) <= _PIECE else text[: _PIECE - 1] + "…"


def _plain(piece: Piece) -> str:
    """A token with its spaces visible and its control characters spelled out."""
    return literal(piece.text.replace(" ", "·"))


def _token(piece: Piece) -> Text:
    return Text(spelled(piece), _STYLES[piece.kind])


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count:,} tokens"


def _bar(share: float) -> Text:
    return Text("█" * round(share * _BAR), "cyan")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}"


def _grid(*titles: str, gap: int = 1) -> Table:
    """A table without lines; a title that begins with > stands right."""
    grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for title in titles:
        right = title.startswith(">")
        grid.add_column(title.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return grid
