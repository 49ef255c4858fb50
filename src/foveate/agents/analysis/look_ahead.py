"""Look-ahead: at which lag a head's attention is most on the place of a thing (S3TA, section 4.5, Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from foveate.agents.analysis.blocks import FEW, over_blocks, stretches
from foveate.agents.analysis.findings import Table
from foveate.agents.analysis.following import LEVEL, Family, delayed, family, mass_on, spectrum
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval
from foveate.viz.panels import colour, marker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLES = 5_000
"""Enough for the narrow tails of many comparisons."""


@dataclass(frozen=True)
class Lead:
    """A head's mass on the place that a thing is at some steps later (before, where the lag is negative)."""

    lags: list[int]
    mass: list[float]
    control: list[float]
    low: list[float]
    """Of mass less control, at each lag; together with all other lags, heads and things."""
    high: list[float]
    best: int
    """The lag with most mass beyond the control."""
    earliest: int
    """Between this lag and the latest is the best one; for all heads and things together."""
    latest: int
    excess: Interval
    """Mass less control at the best lag."""
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
    then, known = _then(life, lag)
    return place[then], known


def _then(life: Int64[Tensor, " time"], lag: int) -> tuple[Int64[Tensor, " time"], Bool[Tensor, " time"]]:
    """The steps that are `lag` later, and which of them are in the same life."""
    then = torch.arange(len(life)) + lag
    inside = (then >= 0) & (then < len(life))
    then = then.clamp(0, len(life) - 1)
    return then, inside & (life[then] == life)


def look_ahead(
    mass: Float[Tensor, "time heads rows columns"],
    places: Mapping[str, Bool[Tensor, "time rows columns"]],
    life: Int64[Tensor, " time"],
    lags: Sequence[int],
    rng: torch.Generator,
) -> tuple[dict[str, list[Lead | None]], tuple[Family, Family] | None]:
    """Of each thing and head, None where the thing is too rarely seen; and what was compared: all lags, and the tilts.

    `lags` are those of both sides, and 0 in the middle.
    """
    heads = mass.shape[1]
    leads: dict[str, list[Lead | None]] = {name: [None] * heads for name in places}
    # The same steps for every lag: those whose whole neighbourhood is of one life.
    known = torch.stack([_then(life, lag)[1] for lag in lags]).all(0)
    if not known.any():
        return leads, None
    mass, now = mass[known], known.nonzero().squeeze(1)
    seen = {name: place.flatten(1).any(1) for name, place in places.items()}
    counted = {name: torch.stack([there[now + lag] for lag in lags], 1) for name, there in seen.items()}
    often = [name for name, times in counted.items() if int(stretches(times).min()) >= FEW]
    if not often:
        return leads, None
    maps, sides = spectrum(mass), torch.tensor(lags).sign() / (len(lags) // 2)
    delays = {name: torch.stack([delayed(maps, places[name][now + lag]) for lag in lags], 2) for name in often}
    at_lags = family(torch.cat([d.flatten(1) for d in delays.values()], 1))
    tilts = family(torch.cat([d @ sides for d in delays.values()], 1))
    excess, tilt = iter(at_lags.excess), iter(tilts.excess)
    for name in often:
        differ = torch.stack([torch.sub(*mass_on(mass, places[name][now + lag])) for lag in lags], 2)
        leads[name] = [
            _lead(
                delays[name][:, n],
                list(islice(excess, len(lags))),
                next(tilt),
                best_lags(differ[:, n], counted[name], lags, len(often) * heads, rng),
                lags,
            )
            for n in range(heads)
        ]
    return leads, (at_lags, tilts)


def best_lags(
    excess: Float[Tensor, "time lags"],
    counted: Bool[Tensor, "time lags"],
    lags: Sequence[int],
    comparisons: int,
    rng: torch.Generator,
) -> tuple[int, int]:
    """Between which the lag of most excess lies: for so many pairs at once, by Bonferroni's correction."""
    draws = over_blocks(excess, counted, rng, resamples=RESAMPLES).draws
    # Draws in which a lag was never measured say nothing of which is best.
    chosen = torch.tensor(lags, dtype=torch.float64)[draws[draws.isfinite().all(1)].argmax(1)]
    tail = (1 - LEVEL) / comparisons / 2
    tails = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    earliest, latest = chosen.quantile(tails, interpolation="nearest").tolist()
    return int(earliest), int(latest)


def _lead(
    delays: Float[Tensor, "time lags"],
    excess: Sequence[Interval],
    tilt: Interval,
    bounds: tuple[int, int],
    lags: Sequence[int],
) -> Lead:
    best = max(range(len(lags)), key=lambda n: excess[n].mean)
    return Lead(
        lags=list(lags),
        mass=delays[0].tolist(),
        control=delays.mean(0).tolist(),
        low=[i.low for i in excess],
        high=[i.high for i in excess],
        best=lags[best],
        earliest=bounds[0],
        latest=bounds[1],
        excess=excess[best],
        tilt=tilt,
    )


# --- in words


def lead_sentences(
    leads: Mapping[str, Sequence[Lead | None]], compared: tuple[Family, Family] | None, heads: Sequence[str]
) -> list[str]:
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
    if compared:
        leaning.append(
            f"This allows for {len(compared[0].excess):,} comparisons ({len(pairs)} pairs, at every lag): in an agent "
            f"that follows nothing, any of them would stand out in {1 - LEVEL:.0%} of traces (each alone in "
            f"{1 - compared[0].alone:.2%}); and so with the {len(pairs)} that are more on where a thing will be or was."
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
        "The lag, in steps, at which attention is most on the place of a thing; intervals for all comparisons together",
        ("head, thing", "best lag", "mass", "control", "difference", "ahead less behind"),
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
            own = colour(n)
            control = torch.tensor(found.control)
            axis.plot(found.lags, found.mass, color=own, linewidth=1.4)
            axis.plot(found.lags, found.control, color=own, linewidth=1, linestyle=":")
            low, high = ((control + torch.tensor(x)).tolist() for x in (found.low, found.high))
            axis.fill_between(found.lags, low, high, color=own, alpha=0.15, linewidth=0)
            if found.follows:
                top = found.mass[found.lags.index(found.best)]
                axis.plot([found.best], [top], marker(n), color=own)
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

    lines = [Line2D([], [], color=colour(n), marker=marker(n), label=head) for n, head in enumerate(heads)]
    figure.legend(handles=lines, loc="outside lower center", ncols=min(len(heads), 8), fontsize=9)
