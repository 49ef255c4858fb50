"""Figures of panels side by side: agents on classifiers (AttExplainer, Table 4), and curves over seeds (Figure 4)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1c7ed6", "#f76707", "#e03131", "#2f9e44", "#7048e8", "#868e96", "#0b7285", "#e64980", "#9c6b00")
"""Of curves, in their order; told apart by those who see no red too, and by the markers."""
MARKERS = "osD^vXP<>"

Curve = Sequence[tuple[float, Interval]]
"""Points (x, mean with its interval), in the order of x."""


def colour(n: int) -> str:
    """Of the nth curve; they begin again when there are no more."""
    return COLOURS[n % len(COLOURS)]


def marker(n: int) -> str:
    """Of the nth curve's points; another one where the colours have begun again."""
    return MARKERS[(n + n // len(COLOURS)) % len(MARKERS)]


def heat_maps(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[str, Sequence[Sequence[float | None]]],
    title: str = "",
) -> Figure:
    """A panel a measure, rows against columns, each cell with its value; None is a cell without one.

    Dark is better: high of the first measure, low of the others; each panel has its own scale.
    """
    from matplotlib.figure import Figure

    width = 1.6 + 0.13 * max(map(len, rows)) + 1.0 * len(columns) * len(values)
    figure = Figure(figsize=(max(width, 6), 1.4 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(values), squeeze=False)[0]
    for number, (axis, (name, cells)) in enumerate(zip(axes, values.items(), strict=True)):
        _heat_map(axis, cells, higher_is_better=number == 0, rate=name != "queries")
        axis.set_title(name, fontsize=10, parse_math=False)
        axis.set_xticks(range(len(columns)), columns, fontsize=9, parse_math=False)
        axis.set_yticks(range(len(rows)), rows if number == 0 else [""] * len(rows), fontsize=9, parse_math=False)
        axis.tick_params(length=0)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _heat_map(axes: Axes, cells: Sequence[Sequence[float | None]], higher_is_better: bool, rate: bool) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    known = [value for row in cells for value in row if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    # Queries span orders of magnitude.
    norm = Normalize(low, high) if rate else LogNorm(max(low, 0.1), max(high, 0.11))
    values = np.array([[np.nan if v is None else max(v, 0.0 if rate else 0.1) for v in row] for row in cells], float)
    colours = "Blues" if higher_is_better else "Blues_r"
    axes.imshow(values, norm=norm, cmap=colours, aspect="auto", alpha=0.9)
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            if value is None:
                axes.text(j, i, "–", ha="center", va="center", fontsize=9)
                continue
            share = float(norm(max(value, 0.0 if rate else 0.1))) if high > low else 0.0
            dark = share > 0.6 if higher_is_better else share < 0.4 and high > low
            shown = f"{value:.3f}" if rate else f"{value:.2f}"
            axes.text(j, i, shown, ha="center", va="center", fontsize=9, color="white" if dark else "black")


def curves(panels: Sequence[tuple[str, str, Mapping[str, Curve]]], names: Sequence[str], title: str = "") -> Figure:
    """Panels of curves with bands, side by side, and one legend of `names`, which fixes each curve's colour.

    A panel is (title, label of the x axis, curves by name); a name without a curve is left out of that panel.
    """
    from matplotlib.figure import Figure

    wide = min(len(panels), 5)
    rows = math.ceil(len(panels) / wide)
    figure = Figure(figsize=(3.3 * wide, 3.2 * rows + 0.4), layout="constrained")
    places = figure.subplots(rows, wide, squeeze=False).flat
    lines = {}
    for (heading, x_label, drawn), axis in zip(panels, places, strict=False):
        for number, name in enumerate(names):
            if points := drawn.get(name):
                x, means = [at for at, _ in points], [i.mean for _, i in points]
                low, high = [i.low for _, i in points], [i.high for _, i in points]
                own = colour(number)
                axis.fill_between(x, low, high, color=own, alpha=0.15, linewidth=0)
                (lines[name],) = axis.plot(x, means, color=own, marker=marker(number), markersize=3.5, linewidth=1.3)
        _limit(axis, drawn)
        axis.set_title(heading, fontsize=10, loc="left")
        axis.set_xlabel(x_label, fontsize=9)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    for axis in list(places):
        axis.remove()
    shown = [name for name in names if name in lines]
    handles = [lines[name] for name in shown]
    beside = min(len(shown), 2 * wide - 1)
    figure.legend(handles, shown, loc="outside lower center", ncols=max(beside, 1), fontsize=9, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _limit(axes: Axes, drawn: Mapping[str, Curve]) -> None:
    """Bands of a few seeds can be wider than everything that is to be seen: the means decide the scale."""
    means = [interval.mean for points in drawn.values() for _, interval in points]
    if means:
        low, high = min(means), max(means)
        room = 0.35 * (high - low) or 0.1 * abs(high) or 0.1
        bottom = low - room
        axes.set_ylim(0.0 if bottom < 0 <= low else bottom, high + room)


def save(figure: Figure, place: Path) -> None:
    """Write `place`.png and `place`.svg."""
    for ending in ("png", "svg"):
        temporary = place.with_name(f"{place.name}.{ending}.tmp")
        figure.savefig(temporary, format=ending, dpi=150)
        os.replace(temporary, place.with_name(f"{place.name}.{ending}"))
