"""Attention: how narrow each head's map is, how it lies along the axes, and which things of the game it follows.

S3TA, section A.7 and Figure 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from torch import Tensor

from foveate.agents.analysis import drawing
from foveate.agents.analysis.blocks import FEW, IN_WORDS, over_blocks, stretches
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.following import CONTROL, LEVEL, Family, as_mass, delayed, family, near, spectrum
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.objects import Tracks, tracks
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval
from foveate.errors import RequestError
from foveate.viz.panels import colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Settings:
    """How narrow is each head's attention, and which things of the game does it follow?"""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    recording: Annotated[Recording, tyro.conf.arg(name="")]
    radius: float = 1.0
    """Cells of the map within which attention is on a thing."""


@dataclass(frozen=True)
class Shape:
    """How a head's attention is spread."""

    entropy: Interval | None
    """In nats."""
    share: Interval | None
    """The entropy by that of a uniform map."""
    peak: Interval | None
    """Mass of the heaviest cell."""
    columns: list[float]
    """Mean mass of each column of cells, from the left: the marginal along x."""
    rows: list[float]
    """That of each row, from the top: along y."""


@dataclass(frozen=True)
class Followed:
    """How much of a head's mass is on a thing, over the steps that it is seen at."""

    steps: int
    mass: float
    chance: float
    """The control."""
    excess: Interval | None
    """Mass less chance, with an interval that allows for all comparisons; None where it is too rarely seen."""

    @property
    def beyond(self) -> int:
        """1 where it is followed, -1 where it is looked away from, 0 where neither is shown."""
        return 0 if self.excess is None else self.excess.sign


def analyse(settings: Settings) -> Findings:
    """Measure a trace."""
    if settings.radius <= 0:
        raise RequestError(f"--radius is {settings.radius:g}; it must be above 0")
    agent = settings.subject.open_attentive()
    trace = settings.recording.open(settings.subject, agent)
    rng = torch.Generator().manual_seed(settings.subject.seed)
    maps = trace.column("maps")
    mass = as_mass(maps)
    shapes = {head: shape(mass[:, n], rng) for n, head in enumerate(trace.heads)}
    try:
        things = tracks(trace)
    except RequestError as error:
        things, unknown = {}, str(error)
    else:
        unknown = ""
    rows, columns = drawing.centres(agent, trace)
    centres = (torch.from_numpy(rows), torch.from_numpy(columns))
    found, compared = follow(mass, trace.heads, things, *centres, settings.radius)
    softmax = torch.allclose(maps.sum((2, 3)), torch.ones(()), atol=1e-3)
    protocol = {
        **settings.subject.protocol(agent),
        **settings.recording.protocol(trace),
        "cells": f"{mass.shape[2]} x {mass.shape[3]}",
        "mass": "the softmax's weights" if softmax else "the mask by its sum over the cells",
        "radius": f"{settings.radius:g} cells",
        "control": CONTROL,
        "intervals_of_spread": IN_WORDS,
        "intervals_of_what_is_followed": compared.in_words() if compared else "none",
    }
    open_share = {head: float(maps[:, n].mean()) for n, head in enumerate(trace.heads)}
    pictures = {
        "marginals": Picture(
            draw_marginals(trace, mass, rows, columns),
            "A step of the trace, and the mean of all: each map, and what it comes to along x (above) and y (right), "
            "as in Figure 10. Bars go up to their own greatest.",
        ),
        "over-time": Picture(
            draw_over_time(mass, trace.heads), "Entropy as a share of a uniform map's, and the heaviest cell, by step."
        ),
    }
    if found:
        pictures["follows"] = Picture(
            draw_following(found, trace.heads),
            "Mass on each thing less that of the control, with intervals of 95% for all of them together; where one is "
            "right of the line, the thing is followed.",
        )
    return Findings(
        name="attention",
        title="How attention is spread, and what it follows",
        question="How narrow is each head's map, and which things of the game does it follow? S3TA, section A.7 and "
        "Figure 10.",
        protocol=protocol,
        sentences=sentences(shapes, found, compared, unknown, {} if softmax else open_share),
        numbers={
            "heads": {head: asdict(s) for head, s in shapes.items()},
            "follows": {head: {thing: asdict(f) for thing, f in by.items()} for head, by in found.items()},
            "mean_mask": None if softmax else open_share,
        },
        tables=[spread_table(shapes), *([following_table(found)] if found else [])],
        pictures=pictures,
    )


# --- the numbers


def entropy(mass: Float[Tensor, "time rows columns"]) -> Float[Tensor, " time"]:
    """Of each map, in nats."""
    return -torch.xlogy(mass, mass).sum((1, 2))


def shape(mass: Float[Tensor, "time rows columns"], rng: torch.Generator) -> Shape:
    """One head over time."""
    nats = entropy(mass)
    uniform = math.log(mass[0].numel())
    peak = mass.flatten(1).amax(1)
    means = over_blocks(torch.stack([nats, nats / uniform, peak], 1), None, rng)
    mean = mass.mean(0)
    spread, share, heaviest = (means.interval(n) for n in range(3))
    return Shape(spread, share, heaviest, columns=mean.sum(0).tolist(), rows=mean.sum(1).tolist())


def follow(
    mass: Float[Tensor, "time heads rows columns"],
    heads: Sequence[str],
    things: Tracks,
    row_centres: Float[Tensor, " rows"],
    column_centres: Float[Tensor, " columns"],
    radius: float,
) -> tuple[dict[str, dict[str, Followed]], Family | None]:
    """Every head on every thing that is ever seen; and what was compared, None where all are too rare."""
    maps = spectrum(mass)
    delays, steps, often = {}, {}, []
    for name, track in things.items():
        place = near(track, row_centres, column_centres, radius)
        there = place.flatten(1).any(1)
        if there.any():
            delays[name], steps[name] = delayed(maps, place), int(there.sum())
            if int(stretches(there[:, None])) >= FEW:
                often.append(name)
    compared = family(torch.cat([delays[name] for name in often], 1)) if often else None
    excess = iter(compared.excess if compared else ())
    intervals = {(name, head): next(excess) for name in often for head in heads}
    found = {
        head: {
            name: Followed(steps[name], float(d[0, n]), float(d[:, n].mean()), intervals.get((name, head)))
            for name, d in delays.items()
        }
        for n, head in enumerate(heads)
    }
    return (found if delays else {}), compared


# --- in words


def sentences(
    shapes: Mapping[str, Shape],
    found: Mapping[str, Mapping[str, Followed]],
    compared: Family | None,
    unknown: str,
    openness: Mapping[str, float],
) -> list[str]:
    """What came out."""
    spread = "; ".join(
        f"{head}: {s.share.mean:.0%} of a uniform map's entropy ({s.share.low:.0%} to {s.share.high:.0%}), heaviest "
        f"cell {s.peak.mean:.1%}"
        for head, s in shapes.items()
        if s.share and s.peak
    )
    said = [] if not spread else [spread + "."]
    if openness:
        said.append(
            "A mask lets through "
            + ", ".join(f"{share:.0%} ({head})" for head, share in openness.items())
            + " of the features on average; here its share of the whole counts as attention."
        )
    if unknown:
        return [*said, f"What is followed was not measured: {unknown}."]
    pairs = [(h, t, f) for h, by in found.items() for t, f in by.items() if f.excess is not None]
    likely = sorted((p for p in pairs if p[2].beyond > 0), key=lambda p: -_gain(p[2]))
    shunned = [p for p in pairs if p[2].beyond < 0]
    if likely:
        parts = [
            f"{h} the {t} ({f.mass:.1%} of its mass against {f.chance:.1%} by chance, {_gain(f):.1f} times)"
            for h, t, f in likely[:6]
        ]
        said.insert(
            0, f"Followed beyond chance in {len(likely)} of {len(pairs)} pairs of head and thing: {'; '.join(parts)}."
        )
    else:
        said.insert(0, f"No head follows any thing of the game beyond chance ({len(pairs)} pairs of head and thing).")
    if shunned:
        said.append(
            "Looked away from: "
            + "; ".join(f"{h} the {t} ({f.mass:.1%} against {f.chance:.1%})" for h, t, f in shunned[:6])
            + "."
        )
    if compared:
        said.append(
            f"This allows for {len(pairs)} comparisons: in an agent that follows nothing, any of them would stand out "
            f"in {1 - LEVEL:.0%} of traces (each alone in {1 - compared.alone:.2%})."
        )
    return said


def _gain(followed: Followed) -> float:
    return followed.mass / max(followed.chance, 1e-9)


def spread_table(shapes: Mapping[str, Shape]) -> Table:
    """A row a head."""
    return Table(
        "How each head's map is spread; mean over the steps with its 95% interval",
        ("head", "entropy (nats)", "of a uniform map's", "heaviest cell"),
        [[head, _show(s.entropy, ".2f"), _show(s.share), _show(s.peak)] for head, s in shapes.items()],
    )


def following_table(found: Mapping[str, Mapping[str, Followed]]) -> Table:
    """A row for each head and thing."""
    return Table(
        "Mass within the radius of a thing, and at the same places under maps of other times",
        ("head, thing", "steps", "mass", "control", "difference", "times the control"),
        [
            [
                f"{head}, {thing}",
                f"{f.steps:,}",
                f"{f.mass:.1%}",
                f"{f.chance:.1%}",
                _show(f.excess),
                f"{_gain(f):.2f}",
            ]
            for head, by in found.items()
            for thing, f in by.items()
        ],
    )


def _show(interval: Interval | None, how: str = ".1%") -> str:
    return "too rare" if interval is None else f"{interval:{how}}"


# --- in pictures


def draw_marginals(
    trace: Trace,
    mass: Float[Tensor, "time heads rows columns"],
    row_centres: Float[np.ndarray, " rows"],
    column_centres: Float[np.ndarray, " columns"],
) -> Figure:
    """A picture a head: the step in the middle of the trace, and the mean over all steps, over the screen."""
    from matplotlib.figure import Figure

    middle = trace.steps // 2
    piece = trace.piece(middle)
    screen = piece.screen[middle - piece.start].numpy()
    shown = {f"step {middle}": mass[middle], "mean of all": mass.mean(0)}
    wide = min(len(trace.heads), 4)
    high = math.ceil(len(trace.heads) / wide)
    figure = Figure(figsize=(3.0 * wide + 0.4, 3.9 * high * len(shown)), layout="constrained")
    outer = figure.subfigures(len(shown) * high, wide, squeeze=False).reshape(len(shown), -1)
    for line, (name, maps) in zip(outer, shown.items(), strict=True):
        for part, head, weights in zip(line, trace.heads, maps.numpy(), strict=False):
            _with_marginals(part, f"{head}, {name}", screen, weights, row_centres, column_centres)
    return figure


def _with_marginals(
    part: Any,
    title: str,
    screen: UInt8[np.ndarray, "height width 3"],
    weights: Float[np.ndarray, "rows columns"],
    row_centres: Float[np.ndarray, " rows"],
    column_centres: Float[np.ndarray, " columns"],
) -> None:
    axes = part.subplots(2, 2, width_ratios=(4, 1), height_ratios=(1, 4), squeeze=False)
    (top, corner), (picture, right) = axes
    corner.axis("off")
    height, width = screen.shape[:2]
    picture.imshow(
        drawing.lit(screen, weights, row_centres, column_centres),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
        aspect="auto",
    )
    across, down = weights.sum(0), weights.sum(1)
    step = (column_centres[1] - column_centres[0], row_centres[1] - row_centres[0])
    top.bar(column_centres, across, width=0.9 * step[0], color=colour(0))
    right.barh(row_centres, down, height=0.9 * step[1], color=colour(0))
    top.set_xlim(picture.get_xlim())
    right.set_ylim(picture.get_ylim())
    for axis in (top, right, picture):
        axis.set_xticks([])
        axis.set_yticks([])
    top.set_yticks([across.max()], [f"{across.max():.0%}"], fontsize=7)
    right.set_xticks([down.max()], [f"{down.max():.0%}"], fontsize=7)
    top.set_title(title, fontsize=10, loc="left", parse_math=False)


def draw_over_time(mass: Float[Tensor, "time heads rows columns"], heads: Sequence[str]) -> Figure:
    """Two panels: entropy and peak of every head, step by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    uniform = math.log(mass[0, 0].numel())
    for n, head in enumerate(heads):
        own = colour(n)
        upper.plot((entropy(mass[:, n]) / uniform).numpy(), color=own, linewidth=0.8, label=head)
        lower.plot(mass[:, n].flatten(1).amax(1).numpy(), color=own, linewidth=0.8)
    upper.set_ylabel("entropy / uniform's")
    upper.set_ylim(0, 1.02)
    lower.set_ylabel("heaviest cell")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("step")
    upper.legend(ncols=len(heads), fontsize=9, loc="lower right")
    for axis in (upper, lower):
        axis.grid(alpha=0.25)
    return figure


def draw_following(found: Mapping[str, Mapping[str, Followed]], heads: Sequence[str]) -> Figure:
    """A line a thing, a dot a head."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(thing for by in found.values() for thing in by))
    figure = Figure(figsize=(8, 1.2 + len(names) * (0.3 + 0.16 * len(heads))), layout="constrained")
    axes = figure.subplots()
    series = {head: [found[head][name].excess if name in found[head] else None for name in names] for head in heads}
    drawing.dots(axes, names, series)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.set_xlabel("mass on it, less the control")
    figure.legend(fontsize=9, loc="outside upper right", ncols=min(len(heads), 8))
    return figure
