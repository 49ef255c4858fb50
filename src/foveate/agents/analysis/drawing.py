"""What several analyses draw: maps over screens, sheets of them, and dots with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from foveate.agents.agent import PlayingAgent
from foveate.agents.games import open_game
from foveate.agents.placement import screen_centres
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval
from foveate.errors import RequestError
from foveate.viz.panels import colour, marker
from foveate.viz.video import between, overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREEN, RED, BLUE = (64, 255, 64), (224, 30, 40), (30, 80, 230)

LINE = 2
"""Pixels of the frame around a cell."""

Screen = UInt8[np.ndarray, "height width 3"]


def centres(agent: PlayingAgent, trace: Trace) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " columns"]]:
    """Row and column of the recorded screen at the middle of each of the agent's cells."""
    game = open_game(trace.environment)
    found = screen_centres(agent.network.grid, agent.observation, game.box)
    game.close()
    return found


def start(asked: int | None, otherwise: int, steps: int, trace: Trace) -> int:
    """The first of some steps of a trace that are drawn: the one asked for, or as near to `otherwise` as can be.

    Raises RequestError where they would go beyond the trace.
    """
    last = max(trace.steps - steps, 0)
    if asked is None:
        return min(max(otherwise, 0), last)
    if not 0 <= asked <= last:
        raise RequestError(f"--start is {asked}; the trace has room for what is drawn from 0 to {last}")
    return asked


def zoom_of(screen: Screen) -> int:
    """Enough to see a pixel of a small screen."""
    return max(1, round(320 / max(screen.shape[:2])))


def lit(
    screen: Screen,
    weights: Float[np.ndarray, "rows columns"],
    row_centres: Float[np.ndarray, " rows"],
    column_centres: Float[np.ndarray, " columns"],
) -> UInt8[np.ndarray, "high wide 3"]:
    """A screen as bright as it is attended to, by the map's own maximum."""
    return overlay(screen, weights / max(float(weights.max()), 1e-9), row_centres, column_centres, zoom_of(screen))


def outlined(
    picture: UInt8[np.ndarray, "high wide 3"],
    cells: Sequence[tuple[int, int]],
    row_centres: Float[np.ndarray, " rows"],
    column_centres: Float[np.ndarray, " columns"],
    zoom: int,
) -> UInt8[np.ndarray, "high wide 3"]:
    """A frame around each of some cells of an enlarged screen, halfway to the next ones' centres."""
    framed = picture.copy()
    for row, column in cells:
        top, bottom = _edges(row_centres, row, zoom, picture.shape[0])
        left, right = _edges(column_centres, column, zoom, picture.shape[1])
        inside = framed[top + LINE : bottom - LINE, left + LINE : right - LINE].copy()
        framed[top:bottom, left:right] = GREEN
        framed[top + LINE : bottom - LINE, left + LINE : right - LINE] = inside
    return framed


def _edges(centres: Float[np.ndarray, " cells"], cell: int, zoom: int, size: int) -> tuple[int, int]:
    half = (centres[1] - centres[0]) / 2 if len(centres) > 1 else size / zoom / 2
    first, last = ((centres[cell] + side * half + 0.5) * zoom for side in (-1, 1))
    return max(round(first), 0), min(round(last), size)


def tinted(
    screen: Screen,
    strength: Float[np.ndarray, "rows columns"],
    row_centres: Float[np.ndarray, " rows"],
    column_centres: Float[np.ndarray, " columns"],
    colour: tuple[int, int, int] = GREEN,
) -> UInt8[np.ndarray, "high wide 3"]:
    """A grey screen with a colour over it where a map is strong, by its own maximum."""
    zoom = zoom_of(screen)
    grey = screen.mean(2, dtype=np.float32).repeat(zoom, 0).repeat(zoom, 1)[:, :, None] * 0.7
    # A rim of nothing: beyond what the map covers there is none of it.
    strength = np.pad(strength / max(float(strength.max()), 1e-30), 1).astype(np.float32)
    down, across = (
        between(np.array([2 * c[0] - c[1], *c, 2 * c[-1] - c[-2]]), size, zoom)
        for c, size in ((row_centres, screen.shape[0]), (column_centres, screen.shape[1]))
    )
    share = (down @ strength @ across.T)[:, :, None]
    # The root shows what is weak too.
    share = np.sqrt(share.clip(0, 1))
    return (grey * (1 - share) + np.array(colour, np.float32) * share).astype(np.uint8)


def signed(
    screen: Screen,
    values: Float[np.ndarray, "rows columns"],
    row_centres: Float[np.ndarray, " rows"],
    column_centres: Float[np.ndarray, " columns"],
) -> UInt8[np.ndarray, "high wide 3"]:
    """Red where a map is 1, blue where it is -1, white where it is 0; on it the screen, pale."""
    zoom = zoom_of(screen)
    light = 1 - 0.35 * screen.max(2).astype(np.float32).repeat(zoom, 0).repeat(zoom, 1)[:, :, None] / 255
    down, across = between(row_centres, screen.shape[0], zoom), between(column_centres, screen.shape[1], zoom)
    value = (down @ values.astype(np.float32) @ across.T)[:, :, None]
    # The root shows what is weak too.
    share = np.sqrt(np.abs(value).clip(0, 1))
    colour = np.where(value > 0, np.array(RED, np.float32), np.array(BLUE, np.float32))
    return (light * (255 * (1 - share) + colour * share)).astype(np.uint8)


def sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[UInt8[np.ndarray, "_ _ 3"]]]]) -> Figure:
    """Pictures in a grid: a name above each column, one beside each row."""
    from matplotlib.figure import Figure

    high, wide = rows[0][1][0].shape[:2]
    across = min(2.4, 12 / len(columns))
    figure = Figure(figsize=(across * len(columns) + 0.4, across * high / wide * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, pictures) in zip(grid, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, fontsize=10, parse_math=False)
    for axis, name in zip(grid[0], columns, strict=True):
        axis.set_title(name, fontsize=10, parse_math=False)
    return figure


def strips(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[UInt8[np.ndarray, "_ _ 3"]]]], long: int
) -> Figure:
    """Long rows of pictures, in parts of `long` one below the other: a name above each column, one beside each row.

    A part is a single picture, as laying out a hundred small ones takes longer than an analysis.
    """
    from matplotlib.figure import Figure

    high, wide = rows[0][1][0].shape[:2]
    gap = max(wide // 30, 2)
    parts = [range(first, min(first + long, len(columns))) for first in range(0, len(columns), long)]
    across = 12.5 / long
    figure = Figure(
        figsize=(12.9, (across * (high + gap) / (wide + gap) * len(rows) + 0.35) * len(parts)), layout="constrained"
    )
    for axis, part in zip(figure.subplots(len(parts), 1, squeeze=False)[:, 0], parts, strict=True):
        whole = np.full((len(rows) * (high + gap) - gap, long * (wide + gap) - gap, 3), 222, np.uint8)
        for line, (_, pictures) in enumerate(rows):
            for place, number in enumerate(part):
                top, left = line * (high + gap), place * (wide + gap)
                whole[top : top + high, left : left + wide] = pictures[number]
        axis.imshow(whole, interpolation="nearest")
        axis.set_xticks([n * (wide + gap) + wide / 2 for n in range(len(part))], [columns[n] for n in part], fontsize=8)
        axis.set_yticks([n * (high + gap) + high / 2 for n in range(len(rows))], [name for name, _ in rows], fontsize=9)
        axis.tick_params(length=0, labeltop=True, labelbottom=False)
        axis.tick_params(axis="y", labelrotation=90)
        for label in axis.get_yticklabels():
            label.set_verticalalignment("center")
        axis.spines[:].set_visible(False)
    return figure


def dots(axes: Axes, names: Sequence[str], series: Mapping[str, Sequence[Interval | None]]) -> None:
    """Means with their intervals along x: a line a name, the series one below the other on it."""
    lines = np.arange(len(names))
    for n, (label, intervals) in enumerate(series.items()):
        known = [(line, i) for line, i in zip(lines, intervals, strict=True) if i is not None]
        shift = 0.7 * (n - (len(series) - 1) / 2) / max(len(series), 2)
        axes.errorbar(
            [i.mean for _, i in known],
            [line + shift for line, _ in known],
            xerr=np.array([(i.mean - i.low, i.high - i.mean) for _, i in known]).reshape(-1, 2).T.clip(0),
            fmt=marker(n),
            color=colour(n),
            label=label,
            markersize=4.5,
            elinewidth=1.2,
            linestyle="none",
        )
    axes.set_yticks(lines, names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axvline(0, color="#868e96", linewidth=0.8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
