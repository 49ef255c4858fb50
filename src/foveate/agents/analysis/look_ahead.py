"""Look-ahead: at which lag a head's attention is most on the place of a thing (S3TA, section 4.5, Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from foveate.agents.analysis.blocks import FEW, between, over_blocks
from foveate.agents.analysis.findings import Table
from foveate.agents.analysis.following import mass_on
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval
from foveate.viz.panels import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLES = 5_000
"""Enough for the narrow tails of many lags."""


@dataclass(frozen=True)
class Lead:
    """A head's mass on the place that a thing is at some steps later (before, where the lag is negative)."""

    lags: list[int]
    mass: list[float]
    control: list[float]
    low: list[float]
    """Of mass less control, at each lag."""
    high: list[float]
    best: int
    """The lag with most mass beyond the control."""
    earliest: int
    """The interval of the best lag."""
    latest: int
    excess: Interval
    """Mass less control at the best lag; its interval allows for the best having been chosen among all lags."""
    tilt: Interval
    """The mean excess of all lags above 0 less that of all below: attention on where a thing will be, more than on
    where it was. A thing that moves as often one way as the other is as near back as ahead, which makes it 0 without
    look-ahead or delay; of one that always goes the same way it says less."""

    @property
    def follows(self) -> bool:
        return self.excess.sign > 0


# --- the numbers


def lives(trace: Trace) -> Int64[Tensor, " time"]:
    """The number of the life that each step is of: between two, things jump."""
    return (trace.column("done") | trace.column("life_lost")).long().cumsum(0)


def shifted(
    place: Bool[Tensor, "time rows columns"], life: Int64[Tensor, " time"], lag: int
) -> tuple[Bool[Tensor, "time rows columns"], Bool[Tensor, " time"]]:
    """Where a thing is `lag` steps later, and at which steps that is in the same life."""
    steps = len(life)
    then = torch.arange(steps) + lag
    inside = (then >= 0) & (then < steps)
    then = then.clamp(0, steps - 1)
    return place[then], inside & (life[then] == life)


def lead(
    mass: Float[Tensor, "time heads rows columns"],
    place: Bool[Tensor, "time rows columns"],
    life: Int64[Tensor, " time"],
    lags: Sequence[int],
    rng: torch.Generator,
) -> list[Lead | None]:
    """Of each head; None where the thing is too rarely seen."""
    # The same steps for every lag: those whose whole neighbourhood is of one life.
    known = torch.stack([shifted(place, life, lag)[1] for lag in lags]).all(0)
    if not known.any():
        return [None] * mass.shape[1]
    actual, control, counted = [], [], []
    for lag in lags:
        later = shifted(place, life, lag)[0][known]
        on, by_chance = mass_on(mass[known], later)
        actual.append(on)
        control.append(by_chance)
        counted.append(later.flatten(1).any(1))
    times = torch.stack(counted, 1)
    masses, chances = torch.stack(actual, 2), torch.stack(control, 2)
    return [_lead(masses[:, n], chances[:, n], times, lags, rng) for n in range(mass.shape[1])]


def _lead(
    mass: Float[Tensor, "time lags"],
    control: Float[Tensor, "time lags"],
    counted: Bool[Tensor, "time lags"],
    lags: Sequence[int],
    rng: torch.Generator,
) -> Lead | None:
    excess = over_blocks(mass - control, counted, rng, resamples=RESAMPLES)
    if float(excess.blocks.min()) < FEW:
        return None
    # Draws in which a lag was never measured say nothing of which is best.
    draws = excess.draws[excess.draws.isfinite().all(1)]
    best = int(excess.mean.argmax())
    # Lags are those of both sides, and 0 in the middle.
    sides = torch.tensor(lags).sign().double() / (len(lags) // 2)
    chosen = torch.tensor(lags, dtype=torch.float64)[draws.argmax(1)]
    tails = torch.tensor([0.025, 0.975], dtype=torch.float64)
    earliest, latest = chosen.quantile(tails, interpolation="nearest").tolist()
    intervals = [between(mean, draws[:, n]) for n, mean in enumerate(excess.mean)]
    return Lead(
        lags=list(lags),
        mass=over_blocks(mass, counted, rng, resamples=1).mean.tolist(),
        control=over_blocks(control, counted, rng, resamples=1).mean.tolist(),
        low=[i.low for i in intervals],
        high=[i.high for i in intervals],
        best=lags[best],
        earliest=int(earliest),
        latest=int(latest),
        excess=between(excess.mean[best], draws[:, best], 1 - 0.05 / len(lags)),
        tilt=between(excess.mean @ sides, draws @ sides),
    )


# --- in words


def lead_sentences(leads: Mapping[str, Sequence[Lead | None]], heads: Sequence[str]) -> list[str]:
    """Which heads look ahead, and which behind."""
    known = [(head, thing, by[n]) for thing, by in leads.items() for n, head in enumerate(heads)]
    pairs = [(h, t, found) for h, t, found in known if found is not None]
    followed = sorted([p for p in pairs if p[2].follows], key=lambda p: -p[2].excess.mean)
    tilted = sorted((p for p in pairs if p[2].tilt.sign), key=lambda p: -abs(p[2].tilt.mean))
    leaning = [
        f"More on where a thing will be than on where it was: {_tilts([p for p in tilted if p[2].tilt.sign > 0])}; the "
        f"other way round: {_tilts([p for p in tilted if p[2].tilt.sign < 0])}; of {len(pairs)} pairs."
    ]
    shunned = [(h, t, f) for h, t, f in pairs if f.high[f.lags.index(0)] < 0]
    if shunned:
        leaning.append(
            "Less than chance where a thing is now: "
            + "; ".join(
                f"{h} on the {t}, {f.mass[z]:.1%} against {f.control[z]:.1%}"
                for h, t, f in shunned[:6]
                for z in [f.lags.index(0)]
            )
            + "."
        )
    if not followed:
        return [
            "No head looks ahead: at no lag is its attention on any thing beyond chance "
            f"({len(pairs)} pairs of head and thing).",
            *leaning,
        ]
    ahead = [p for p in followed if p[2].earliest > 0]
    behind = [p for p in followed if p[2].latest < 0]
    now = [p for p in followed if p not in ahead and p not in behind]
    said = [
        f"Look-ahead was found in {len(ahead)} of {len(pairs)} pairs of head and thing; in {len(behind)} the attention "
        f"trails the thing, in {len(now)} it follows it at a lag not told from 0, in {len(pairs) - len(followed)} it "
        "does not follow it at any lag."
    ]
    for word, part in (("Ahead", ahead), ("Behind", behind), ("Not told from now", now)):
        if part:
            said.append(f"{word}: " + "; ".join(_words(*p) for p in part[:6]) + ".")
    return [*said, *leaning]


def _tilts(pairs: Sequence[tuple[str, str, Lead]]) -> str:
    words = [f"{head} on the {thing} ({found.tilt:+.1%})" for head, thing, found in pairs]
    more = f" and {len(words) - 4} more" if len(words) > 4 else ""
    return ", ".join(words[:4]) + more or "none"


def _words(head: str, thing: str, lead: Lead) -> str:
    at = lead.lags.index(lead.best)
    return (
        f"{head} on the {thing} {lead.best:+d} steps ({lead.earliest:+d} to {lead.latest:+d}), {lead.mass[at]:.1%} of "
        f"its mass against {lead.control[at]:.1%}"
    )


def lead_table(leads: Mapping[str, Sequence[Lead | None]], heads: Sequence[str]) -> Table:
    """A row for each head and thing."""
    rows = []
    for n, head in enumerate(heads):
        for thing, by in leads.items():
            found = by[n]
            if found is None:
                rows.append([f"{head}, {thing}", "too rare", "", "", "", ""])
                continue
            at = found.lags.index(found.best)
            rows.append(
                [
                    f"{head}, {thing}",
                    f"{found.best:+d} ({found.earliest:+d} to {found.latest:+d})",
                    f"{found.mass[at]:.1%}",
                    f"{found.control[at]:.1%}",
                    f"{found.excess:+.1%}",
                    f"{found.tilt:+.1%}",
                ]
            )
    return Table(
        "The lag, in steps, at which attention is most on the place of a thing",
        ("head, thing", "best lag", "mass", "control", "difference (for all lags)", "ahead less behind"),
        rows,
    )


# --- in pictures


def draw_lags(leads: Mapping[str, Sequence[Lead | None]], heads: Sequence[str]) -> Figure:
    """A panel a thing, a line a head."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = {thing: by for thing, by in leads.items() if any(by)}
    across = min(len(shown), 3)
    down = -(-len(shown) // across)
    figure = Figure(figsize=(4.4 * across, 3.4 * down + 0.4), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for (thing, by), axis in zip(shown.items(), panels, strict=False):
        for n, found in enumerate(by):
            if found is None:
                continue
            colour = COLOURS[n % len(COLOURS)]
            control = torch.tensor(found.control)
            axis.plot(found.lags, found.mass, color=colour, linewidth=1.4)
            axis.plot(found.lags, found.control, color=colour, linewidth=1, linestyle=":")
            low, high = ((control + torch.tensor(x)).tolist() for x in (found.low, found.high))
            axis.fill_between(found.lags, low, high, color=colour, alpha=0.15, linewidth=0)
            if found.follows:
                top = found.mass[found.lags.index(found.best)]
                axis.plot([found.best], [top], MARKERS[n % len(MARKERS)], color=colour)
        axis.axvline(0, color="#868e96", linewidth=0.8)
        axis.set_title(thing, fontsize=10, loc="left", parse_math=False)
        axis.set_xlabel("lag (steps)", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    for axis in panels[len(shown) :]:
        axis.axis("off")
    _legend(figure, heads)
    return figure


def _legend(figure: Figure, heads: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=COLOURS[n % len(COLOURS)], marker=MARKERS[n % len(MARKERS)], label=head)
        for n, head in enumerate(heads)
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(heads), fontsize=9)
