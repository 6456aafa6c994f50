"""A plan: in the terminal, as one HTML file, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.plan.answer import Answer, Fleet
from penstock.plan.models import Plans
from penstock.plan.pocket import Pocket
from penstock.record.sentences import number
from penstock.report import html, look
from penstock.report.compare import paragraph
from penstock.report.figures import plan as figures
from penstock.report.table import duration, figure, percent

HEAD = ("replicas", "$/month", "$/M tok", "load")
_TIGHT = 1.05  # a day that is this much busier is nothing unusual
_WIDE, _HIGH = 460, 290  # of a figure in the picture


def show_pocket(found: Pocket, console: Console) -> None:
    """Print the pocket estimate and its warning."""
    console.print()
    for sentence in pocket_sentences(found):
        paragraph(console, sentence)
    console.print()
    paragraph(console, f"Warning: {found.warning}", "yellow")


def pocket_sentences(found: Pocket) -> Iterator[str]:
    """What a speed means to one user and asks of a system."""
    yield (
        f"At {figure(found.tokens_per_s)} tokens/s, an answer of {found.output:,} tokens takes "
        f"{duration(found.answer_s)}."
    )
    if found.concurrent > 1:
        yield (
            f"{found.concurrent:,} at once, each at that speed, ask for "
            f"{number(found.system_tokens_per_s)} tokens/s of the system, which then finishes "
            f"{figure(found.requests_per_s)} requests/s, {number(found.requests_per_hour)} an "
            f"hour, and holds about {number(found.kv_tokens)} tokens of answers in memory, their "
            f"prompts besides. One after the other they would take "
            f"{duration(found.one_after_another_s)}."
        )


def show(plans: Plans, console: Console) -> None:
    """Print the plan of each model, and how they compare."""
    for answer in plans.answers:
        _show(answer, console)
    for name, why in plans.unserved.items():
        console.print()
        paragraph(console, f"{name}: {why}", "yellow")
    if plans.beside:
        console.print()
        for sentence in plans.beside:
            paragraph(console, sentence, "bold")


def _show(answer: Answer, console: Console) -> None:
    console.print()
    paragraph(console, question(answer), "cyan")
    paragraph(console, choice(answer), "bold")
    console.print()
    console.print(Padding(_table(answer), (0, 0, 0, 2)))
    console.print()
    for sentence in sentences(answer):
        paragraph(console, sentence)
    console.print()
    for advice in answer.advice:
        paragraph(console, advice.says)
    console.print()
    for end in answer.ends:
        paragraph(console, end)


def question(answer: Answer) -> str:
    """What was asked."""
    return (
        f"{answer.model}: {figure(answer.demand.rate)} requests/s in the busy hour, prompts of "
        f"{answer.prompt} and answers of {answer.output} tokens; {', '.join(answer.slo)}."
    )


def choice(answer: Answer) -> str:
    """The fleet to take, and its cost."""
    fleet, cost = answer.fleets[0], answer.fleets[0].cost
    return (
        f"Take {counts(fleet)} of {fleet.name}: ${cost.per_month:,.0f} a month, "
        f"${figure(cost.per_million_tokens)} a million tokens, "
        f"${figure(cost.per_request, 1000)} a thousand requests."
    )


def counts(fleet: Fleet) -> str:
    """How many replicas, of which kinds."""
    if fleet.prefill_replicas:
        return f"{fleet.prefill_replicas} replicas for prompts and {fleet.replicas} for answers"
    return "1 replica" if fleet.replicas == 1 else f"{fleet.replicas} replicas"


def cells(fleet: Fleet) -> list[str]:
    """A fleet's figures as text, under `HEAD` and its limits."""
    split = f"{fleet.prefill_replicas} + " if fleet.prefill_replicas else ""
    return [
        f"{split}{fleet.replicas}",
        f"{fleet.cost.per_month:,.0f}",
        figure(fleet.cost.per_million_tokens),
        percent(fleet.utilisation),
        *(duration(value) for value in fleet.response.limits.values()),
    ]


def sentences(answer: Answer) -> Iterator[str]:
    """Time, headroom, interval, and what was asked besides."""
    fleet, room = answer.fleets[0], answer.headroom
    spent = fleet.response
    yield (
        f"An answer takes {duration(spent.queue_s + spent.prefill_s + spent.decode_s)} on average: "
        f"{duration(spent.queue_s)} in the queue, {duration(spent.prefill_s)} for its prompt, "
        f"{duration(spent.decode_s)} for its tokens. Each replica runs {fleet.max_running} answers "
        f"at once and {fleet.max_step_tokens:,} tokens a step at most; requests go to the replica "
        "with the fewest."
    )
    burst = room.spike
    tight = ""
    if room.factor < _TIGHT:
        kinds = 2 if fleet.prefill_replicas else 1
        more = fleet.cost.per_month * kinds / (fleet.replicas + fleet.prefill_replicas)
        tight = (
            f": next to nothing to spare; a replica more of each kind costs ${more:,.0f} a month"
        )
    end = "never" if burst.recovery_s == math.inf else f"{duration(burst.recovery_s)} later"
    left = (
        f"leaves {number(burst.backlog)} requests in the queue: the last of them waits "
        f"{duration(burst.wait_s)}, and the queue is empty {end}"
        if burst.backlog
        else "leaves no queue"
    )
    yield (
        f"The limits hold up to {room.factor:.2f} times this demand{tight}. {burst.factor:g} times "
        f"as much for {duration(burst.seconds)} {left} (as a fluid, at the "
        f"{figure(room.saturated)} requests/s that the fleet serves when all wait)."
    )
    low, high = answer.interval.usd_per_month
    bill = "stays" if low == high else f"is ${low:,.0f} to ${high:,.0f} a month"
    yield (
        f"With step times as far off as they may be, the bill {bill}. {fleet.hardware} at "
        f"${fleet.usd_per_device_hour:g} an hour: {fleet.price_source}."
    )
    for api in answer.api:
        reach = "" if api.reachable else ", more than this fleet carries within the limits"
        yield (
            f"{api.name[:1].upper()}{api.name[1:]}: ${api.api_per_month:,.0f} a month, the fleet "
            f"${api.fleet_per_month:,.0f}; the {api.cheaper} is cheaper. They break even at "
            f"{number(api.break_even_a_month)} requests a month, {figure(api.break_even_rate)} a "
            f"second on average{reach}; the smallest such fleet at {figure(api.smallest_rate)}."
        )
    if (moved := answer.off_peak) is not None:
        yield (
            f"Moving {moved.share:.0%} of requests off the peak makes {moved.replicas_after} "
            f"replicas of {moved.replicas_before} and saves ${moved.usd_per_month_saved:,.0f} a "
            f"month ({moved.why}). They wait up to {moved.longest_wait_h:.1f} hours."
        )
    if (over := answer.hours) is not None:
        yield (
            f"Over {over.source} ({over.hours:.3g} hours) a fleet that follows the load has "
            f"{over.mean_replicas:.3g} on average, at the peak {over.peak_replicas} replicas: "
            f"{number(over.device_hours_followed)} device-hours (${over.usd_followed:,.0f}), not "
            f"{number(over.device_hours_standing)} (${over.usd_standing:,.0f}), {over.saving:.0%} "
            f"less. That is the least: it knows the load {duration(over.startup_s)} ahead, which "
            f"is how long a replica takes to start, {over.starts} of them in all."
        )


def _table(answer: Answer) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2), header_style="bold")
    grid.add_column(Text("Fleets", "cyan"))  # of a narrow terminal's columns, the one that wraps
    for name in (*HEAD, *(slo.partition("<")[0] for slo in answer.slo)):
        grid.add_column(name, justify="right", no_wrap=True)
    for fleet in answer.fleets:
        grid.add_row(fleet.name, *cells(fleet))
    return grid


def write_html(plans: Plans, path: Path) -> None:
    """Write the plans as one self-contained page. Raises `OSError` where it cannot."""
    parts = [
        {
            "answer": answer,
            "question": question(answer),
            "choice": choice(answer),
            "columns": (*HEAD, *(slo.partition("<")[0] for slo in answer.slo)),
            "sentences": list(sentences(answer)),
            "figures": html.drawn(
                *(
                    html.figure(title, f"{name}{i}", draw, answer)
                    for name, title, draw in figures.FIGURES
                )
            ),
        }
        for i, answer in enumerate(plans.answers)
    ]
    most = max(len(answer.fleets) for answer in plans.answers)
    page = html.page(
        "plan.html.jinja", plans=plans, parts=parts, cells=cells, palette=look.palette(most)
    )
    path.write_text(page, encoding="utf-8")


def write_png(plans: Plans, path: Path) -> None:
    """Write the figures of all models as one picture. Raises `OSError` where it cannot."""
    rows = [_row(answer) for answer in plans.answers]
    whole = alt.vconcat(*rows, spacing=40).resolve_scale(color="independent", shape="independent")
    path.write_bytes(look.png(look.on_paper(whole)))


def _row(answer: Answer) -> Any:
    drawn = [draw(answer, _WIDE, _HIGH) for _, _, draw in figures.FIGURES]
    lines = look.wrapped((choice(answer), *answer.ends), 165)
    head = look.head(question(answer), lines, fontSize=18)
    charts: Sequence[Any] = [look.bare(chart) for chart in drawn if chart is not None]
    # What a colour or a shape means is told beside the figure in which it is used.
    return alt.hconcat(*charts, spacing=48, title=head).resolve_scale(
        color="independent", shape="independent"
    )
