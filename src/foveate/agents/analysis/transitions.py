"""Transitions: how the maps go from frame to frame, and what is looked at where the value turns.

Mask A3C, Figures 13 to 18 (strips of frames) and Figure 3 (the value's curve).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import drawing
from foveate.agents.analysis.blocks import FEW, IN_WORDS, between, over_blocks
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.following import as_mass
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval
from foveate.viz.panels import colour
from foveate.viz.video import overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIP = 16
"""Frames of the strip, in two rows; Figure 13 has 15."""

SMOOTH = 5
"""Steps that the value is averaged over before its turning points are sought."""

MEASURED = 20
"""Turning points, those of greatest prominence, around which the maps' changes are measured ..."""

DRAWN = 8
"""... and that are drawn."""

AROUND = 1
"""Steps before and after a turning point that count as at it."""


@dataclass(frozen=True)
class Settings:
    """How do the maps go from frame to frame, and what is looked at where the value turns?"""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    recording: Annotated[Recording, tyro.conf.arg(name="")]
    start: int | None = None
    """Step of the first frame of the strip; unless given, it lies around the turning point of greatest prominence."""


@dataclass(frozen=True)
class TurningPoint:
    """A local extreme of the smoothed value."""

    step: int
    kind: str
    """`peak` or `trough`."""
    value: float
    """Smoothed."""
    prominence: float
    """How far the curve goes back at least, on both sides, before it gets beyond this point (or the game ends)."""


def analyse(settings: Settings) -> Findings:
    """Look at a trace."""
    agent = settings.subject.open_attentive()
    trace = settings.recording.open(settings.subject, agent)
    rng = torch.Generator().manual_seed(settings.subject.seed)
    value, maps = trace.column("value"), trace.column("maps")
    points = turning_points(value.numpy(), trace.episodes())
    start = drawing.start(settings.start, (points[0].step if points else trace.steps // 2) - STRIP // 2, STRIP, trace)
    change = changes(as_mass(maps))
    within = same_game(trace)
    at = torch.zeros(trace.steps, dtype=torch.bool)
    for point in points[:MEASURED]:
        at[max(point.step - AROUND, 0) : point.step + AROUND + 1] = True
    compared = {
        head: at_and_elsewhere(change[:, n], at & within, ~at & within, rng) for n, head in enumerate(trace.heads)
    }
    softmax = torch.allclose(maps.sum((2, 3)), torch.ones(()), atol=1e-3)
    openness = (
        {} if softmax else {h: correlation(maps[:, n].mean((1, 2)), value, rng) for n, h in enumerate(trace.heads)}
    )
    shown = sorted(points[:DRAWN], key=lambda point: point.step)
    pictures = {
        "strip": Picture(
            draw_strip(trace, agent, start),
            "Consecutive steps: the screen, and each head's map over it, by the head's own greatest in the strip; with "
            "the action that followed, and the value.",
        ),
        "value": Picture(
            draw_value(trace, agent, shown),
            f"The value (smoothed over {SMOOTH} steps) and its turning points of greatest prominence, with "
            f"{'the value mask' if 'value' in trace.heads else 'the mean map'} over their screens. Dashed: a new game.",
        ),
    }
    return Findings(
        name="transitions",
        title="Transitions",
        question="How do the maps go from frame to frame, and what is looked at where the value turns? Mask A3C, "
        "Figures 3 and 13 to 18.",
        protocol={
            **settings.subject.protocol(agent),
            **settings.recording.protocol(trace),
            "turning_points": f"local extremes of the value's mean over {SMOOTH} steps, by prominence (how far the "
            "curve goes back on both sides before it gets beyond the point), within a game",
            "change_of_a_map": "total variation between the maps of a step and of the one before, each by its sum",
            "compared": f"steps at most {AROUND} from the {MEASURED} greatest turning points, and all others",
            "intervals": IN_WORDS,
        },
        sentences=sentences(points, compared, openness),
        numbers={
            "turning_points": [asdict(point) for point in points[:MEASURED]],
            "change": {head: asdict(c) for head, c in compared.items()},
            "openness_with_value": {head: None if c is None else asdict(c) for head, c in openness.items()},
            "strip": [start, min(start + STRIP, trace.steps)],
        },
        tables=[points_table(shown)] if shown else [],
        pictures=pictures,
    )


# --- the numbers


def turning_points(value: Float[np.ndarray, " time"], games: Sequence[range]) -> list[TurningPoint]:
    """Of all games, the most prominent first."""
    found = []
    for game in games:
        curve = smoothed(value[game.start : game.stop])
        for kind, sign in (("peak", 1.0), ("trough", -1.0)):
            for at in peaks(sign * curve):
                high = prominence(sign * curve, at)
                found.append(TurningPoint(game.start + at, kind, float(curve[at]), high))
    return sorted(found, key=lambda point: -point.prominence)


def smoothed(values: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Means over SMOOTH steps around each, fewer at the ends."""
    window = np.ones(SMOOTH)
    total = np.convolve(values.astype(np.float64), window)[SMOOTH // 2 :][: len(values)]
    return total / np.convolve(np.ones(len(values)), window)[SMOOTH // 2 :][: len(values)]


def peaks(curve: Float[np.ndarray, " time"]) -> list[int]:
    """Where the curve is higher than before and after; the first step of one that is flat at the top."""
    steps = np.diff(curve)
    moved = np.flatnonzero(steps)
    turns = np.flatnonzero((steps[moved[:-1]] > 0) & (steps[moved[1:]] < 0))
    return [int(at) + 1 for at in moved[turns]]


def prominence(curve: Float[np.ndarray, " time"], peak: int) -> float:
    """The height above the higher of the two lowest points that lie between a peak and what is higher, on each side."""

    def lowest(side: Float[np.ndarray, " steps"]) -> float:
        higher = np.flatnonzero(side > curve[peak])
        return float(side[: higher[0] if len(higher) else len(side)].min())

    return float(curve[peak]) - max(lowest(curve[peak::-1]), lowest(curve[peak:]))


def changes(mass: Float[Tensor, "time heads rows columns"]) -> Float[Tensor, "time heads"]:
    """Total variation between each map and the one before; 0 at the first."""
    moved = (mass[1:] - mass[:-1]).abs().sum((2, 3)) / 2
    return torch.cat([torch.zeros_like(moved[:1]), moved])


def same_game(trace: Trace) -> Bool[Tensor, " time"]:
    """The steps whose previous one is of the same game."""
    same = torch.ones(trace.steps, dtype=torch.bool)
    same[[game.start for game in trace.episodes()]] = False
    return same


@dataclass(frozen=True)
class Change:
    """How much a map changes from step to step."""

    at: Interval | None
    """At turning points of the value."""
    elsewhere: Interval | None
    """The control."""
    difference: Interval | None


def at_and_elsewhere(
    change: Float[Tensor, " time"], at: Bool[Tensor, " time"], elsewhere: Bool[Tensor, " time"], rng: torch.Generator
) -> Change:
    """The mean of some steps, of others, and the difference."""
    means = over_blocks(torch.stack([change, change], 1), torch.stack([at, elsewhere], 1), rng)
    enough = float(means.blocks.min()) >= FEW
    difference = between(means.mean[0] - means.mean[1], means.draws[:, 0] - means.draws[:, 1]) if enough else None
    return Change(means.interval(0), means.interval(1), difference)


def correlation(x: Float[Tensor, " time"], y: Float[Tensor, " time"], rng: torch.Generator) -> Interval | None:
    """Pearson's, of two quantities over time; None where one of them does not change."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    means = over_blocks(torch.stack([x, y, x * y, x * x, y * y], 1), None, rng)

    def pearson(m: Tensor) -> Tensor:
        spread = (m[..., 3] - m[..., 0] ** 2) * (m[..., 4] - m[..., 1] ** 2)
        return (m[..., 2] - m[..., 0] * m[..., 1]) / spread.clamp_min(0).sqrt()

    return between(pearson(means.mean), pearson(means.draws)) if min(x.std(), y.std()) > 1e-9 else None


# --- in words


def sentences(
    points: Sequence[TurningPoint], compared: Mapping[str, Change], openness: Mapping[str, Interval | None]
) -> list[str]:
    """What came out."""
    if not points:
        return ["The value never turns in this trace; record a longer one."]
    known = {head: c for head, c in compared.items() if c.at and c.elsewhere and c.difference}
    said = []
    words = {1: "more", 0: "neither more nor less", -1: "less"}
    for sign, word in words.items():
        heads = [h for h, c in known.items() if c.difference and c.difference.sign == sign]
        parts = [
            f"{h} ({c.at.mean:.1%} of it moves in a step, elsewhere {c.elsewhere.mean:.1%}; {c.difference:+.1%})"
            for h, c in known.items()
            if h in heads and c.at and c.elsewhere and c.difference
        ]
        if parts:
            said.append(f"Where the value turns, the map changes {word} than elsewhere: {'; '.join(parts)}.")
    if not known:
        said.append("The value turns too rarely in this trace to compare its maps with those of other steps.")
    top = points[0]
    said.append(
        f"The value turns most at step {top.step}, a {top.kind} of {top.value:.2f} from which it goes back by at least "
        f"{top.prominence:.2f} on both sides."
    )
    for head, r in openness.items():
        if r is not None:
            how = {1: "more open the higher the value", -1: "less open the higher the value"}
            said.append(
                f"The {head} mask is {how.get(r.sign, 'as open whatever the value')} (correlation {r.mean:.2f}, "
                f"{r.low:.2f} to {r.high:.2f})."
            )
    return said


def points_table(points: Sequence[TurningPoint]) -> Table:
    """The ones that are drawn."""
    return Table(
        "Turning points of the value, as numbered in the figure",
        ("", "step", "kind", "value", "prominence"),
        [
            [str(n), f"{p.step:,}", p.kind, f"{p.value:.2f}", f"{p.prominence:.2f}"]
            for n, p in enumerate(points, start=1)
        ],
    )


# --- in pictures


def draw_strip(trace: Trace, agent: PlayingAgent, start: int) -> Figure:
    """The screen, then each head's map over it, step by step (Figure 13)."""
    steps = list(range(start, min(start + STRIP, trace.steps)))
    rows, columns = drawing.centres(agent, trace)
    screens, maps, titles = [], [], []
    for step in steps:
        piece = trace.piece(step)
        row = step - piece.start
        screens.append(piece.screen[row].numpy())
        maps.append(piece.maps[row].numpy())
        titles.append(f"{step}: {trace.action_names[int(piece.action[row])]}, {float(piece.value[row]):.2f}")
    most = np.stack(maps).max((0, 2, 3)).clip(1e-9)
    zoom = drawing.zoom_of(screens[0])
    lines = [("screen", [s.repeat(zoom, 0).repeat(zoom, 1) for s in screens])]
    for n, head in enumerate(trace.heads):
        lines.append(
            (head, [overlay(s, m[n] / most[n], rows, columns, zoom) for s, m in zip(screens, maps, strict=True)])
        )
    return drawing.strips(titles, lines, STRIP // 2)


def draw_value(trace: Trace, agent: PlayingAgent, points: Sequence[TurningPoint]) -> Figure:
    """The curve, and above it the screens of its turning points with what was looked at (Figure 3)."""
    from matplotlib.figure import Figure

    value = trace.column("value").numpy()
    rows, columns = drawing.centres(agent, trace)
    figure = Figure(figsize=(12, 6.0), layout="constrained")
    grid = figure.add_gridspec(2, max(len(points), 1), height_ratios=(1, 1.1))
    for n, point in enumerate(points):
        piece = trace.piece(point.step)
        row = point.step - piece.start
        maps = dict(zip(trace.heads, piece.maps[row].numpy(), strict=True))
        weights = maps["value"] if "value" in maps else piece.maps[row].mean(0).numpy()
        axis = figure.add_subplot(grid[0, n])
        axis.imshow(drawing.lit(piece.screen[row].numpy(), weights, rows, columns), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"{n + 1}: step {point.step}", fontsize=9)
    axes = figure.add_subplot(grid[1, :])
    for game in trace.episodes():
        curve = smoothed(value[game.start : game.stop])
        axes.plot(np.arange(game.start, game.stop), curve, color=colour(0), linewidth=1)
        if game.start:
            axes.axvline(game.start, color="#868e96", linewidth=0.8, linestyle="--")
    for n, point in enumerate(points):
        up = point.kind == "peak"
        axes.plot([point.step], [point.value], "^" if up else "v", color=colour(2), markersize=6)
        axes.annotate(
            str(n + 1),
            (point.step, point.value),
            xytext=(0, 7 if up else -7),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            fontsize=9,
        )
    axes.set_xlabel("step")
    axes.set_ylabel("value")
    axes.margins(x=0.01, y=0.12)
    axes.grid(alpha=0.25)
    return figure
