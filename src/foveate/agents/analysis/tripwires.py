"""Tripwires and look-ahead: when is a thing where a head looks, and what happens as it crosses a place that is watched?

S3TA, sections 4.3 and 4.5, Figures 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import torch
import tyro
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import drawing
from foveate.agents.analysis.blocks import BLOCKS, FEW, between, over_blocks
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.following import CONTROL, LEVEL, as_mass, near
from foveate.agents.analysis.look_ahead import (
    RESAMPLES,
    draw_lags,
    lead_sentences,
    lead_table,
    lives,
    look_ahead,
    shifted,
)
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.models.interface import Edit
from foveate.agents.objects import tracks
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval
from foveate.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAVY = 2.0
"""A cell of a tripwire has on average at least so many times the mass that it has in a uniform map ..."""

STEADY = 0.5
"""... with a standard deviation over time of at most this part of the average."""


@dataclass(frozen=True)
class Settings:
    """Does a head look to where things will be, and does the agent act when they cross a place that it watches?"""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    recording: Annotated[Recording, tyro.conf.arg(name="")]
    radius: float = 1.0
    """Cells of the map within which attention is on a thing."""
    lags: int = 10
    """Steps back and ahead that are tried."""


@dataclass(frozen=True)
class Crossing:
    """What happens when a thing comes to a head's tripwire."""

    times: int
    change: float
    """Total variation distance between the policies of the steps before and after."""
    elsewhere: float
    """The same when it comes to other cells alone."""
    difference: Interval | None
    cut: float
    """Total variation distance to the policy with the tripwire's cells taken out of the map, as it is crossed."""
    cut_elsewhere: float
    """The same when the thing comes to other cells alone."""
    cut_difference: Interval | None


def analyse(settings: Settings) -> Findings:
    """Measure a trace; the agent is shown it again with each head's tripwires taken out."""
    if settings.radius <= 0 or settings.lags < 1:
        raise RequestError("--radius must be above 0, and --lags at least 1")
    agent = settings.subject.open_attentive()
    trace = settings.recording.open(settings.subject, agent)
    things = tracks(trace)
    rng = torch.Generator().manual_seed(settings.subject.seed)
    maps = trace.column("maps")
    mass = as_mass(maps)
    rows, columns = (torch.from_numpy(x) for x in drawing.centres(agent, trace))
    places = {name: near(track, rows, columns, settings.radius) for name, track in things.items()}
    places = {name: place for name, place in places.items() if place.any()}
    life = lives(trace)
    lags = list(range(-settings.lags, settings.lags + 1))
    leads, compared = look_ahead(mass, places, life, lags, rng)
    policy = trace.column("logits").softmax(1)
    wires = {head: tripwires(mass[:, n]) for n, head in enumerate(trace.heads)}
    crossings: dict[str, dict[str, Crossing]] = {}
    silent = []
    tests = 2 * len(places) * sum(bool(wire.any()) for wire in wires.values())
    for n, head in enumerate(trace.heads):
        if wires[head].any():
            without = policy_without(trace, agent, n, wires[head])
            if torch.allclose(without, policy, atol=1e-4):
                silent.append(head)
                continue
            found = {t: crossing(p, wires[head], life, policy, without, rng, tests) for t, p in places.items()}
            crossings[head] = {thing: c for thing, c in found.items() if c is not None}
    protocol = {
        **settings.subject.protocol(agent),
        **settings.recording.protocol(trace),
        "mass": "of each map, by its sum over the cells",
        "radius": f"{settings.radius:g} cells",
        "lags": f"{lags[0]} to {lags[-1]} steps; of all of them those steps that have them all in one life",
        "limits": "where all games go alike, a head that keeps time with them cannot be told from one that follows",
        "control": CONTROL,
        "tripwire": f"cells with a mean mass of at least {HEAVY:g} times a uniform map's, and a standard deviation "
        f"over time of at most {STEADY:g} times the mean",
        "crossing": "a thing comes within the radius of a tripwire's cell; compared with its coming to other cells "
        "alone. Policies are compared by total variation, the step before with the step after",
        "cut": "the tripwire's cells at zero, in a softmax the others in proportion; the agent is shown each piece of "
        "the trace again, from what it remembered at its start",
        "intervals_of_look_ahead": compared[0].in_words() if compared else "none",
        "intervals_of_ahead_less_behind": compared[1].in_words() if compared else "none",
        "intervals_of_lags_and_crossings": f"bootstrap over {BLOCKS} stretches of the trace (neighbouring steps are "
        f"not independent), {LEVEL:.0%} for all pairs' best lags together, and for {tests} comparisons of crossings "
        "(each of N at 1 - 0.05 / N: Bonferroni's correction)",
    }
    pictures = {}
    if any(leads.values()):
        pictures["lags"] = Picture(
            draw_lags(leads, trace.heads),
            "Mass of each head on the place where a thing is so many steps later (solid, with the interval around it "
            "of its difference to the control, 95% for all of them together) and the control (dotted). Markers: the "
            "best lag, where the thing is followed.",
        )
    if any(wire.any() for wire in wires.values()):
        pictures["tripwires"] = Picture(
            draw_wires(trace, agent, mass, wires), "Mean map of each head; its steady, heavy cells are marked."
        )
    return Findings(
        name="tripwires",
        title="Tripwires and look-ahead",
        question="Does a head look to where things will be, and does the agent act when they cross a place that it "
        "watches? S3TA, sections 4.3 and 4.5.",
        protocol=protocol,
        sentences=[*lead_sentences(leads, compared, trace.heads), *wire_sentences(wires, crossings, silent)],
        numbers={
            "leads": {
                head: {thing: None if (one := by[n]) is None else asdict(one) for thing, by in leads.items()}
                for n, head in enumerate(trace.heads)
            },
            "tripwires": {
                head: [
                    {"row": int(i), "column": int(j), "mean_mass": float(mass[:, n, i, j].mean())}
                    for i, j in wires[head].nonzero().tolist()
                ]
                for n, head in enumerate(trace.heads)
            },
            "crossings": {head: {thing: asdict(c) for thing, c in by.items()} for head, by in crossings.items()},
        },
        tables=[lead_table(leads, trace.heads), *([crossing_table(crossings)] if any(crossings.values()) else [])],
        pictures=pictures,
    )


# --- tripwires


def tripwires(mass: Float[Tensor, "time rows columns"]) -> Bool[Tensor, "rows columns"]:
    """The cells that one head watches all the time (HEAVY and STEADY)."""
    mean, deviation = mass.mean(0), mass.std(0, correction=0)
    return (mean >= HEAVY / mean.numel()) & (deviation <= STEADY * mean)


def policy_without(
    trace: Trace, agent: PlayingAgent, head: int, wire: Bool[Tensor, "rows columns"]
) -> Float[Tensor, "time actions"]:
    """The policy, had the head not seen a tripwire's cells."""

    def cut(maps: Float[Tensor, "frames heads rows columns"]) -> Float[Tensor, "frames heads rows columns"]:
        less = maps.clone()
        less[:, head] = maps[:, head].masked_fill(wire, 0)
        total = maps[:, head].sum((1, 2), keepdim=True)
        if torch.allclose(total, torch.ones(()), atol=1e-3):  # a softmax stays one
            less[:, head] *= total / less[:, head].sum((1, 2), keepdim=True).clamp_min(1e-9)
        return less

    return torch.cat([trace.replay(piece, agent, Edit(maps=cut)).logits[:, 0].softmax(1) for piece in trace.pieces()])


def crossing(
    place: Bool[Tensor, "time rows columns"],
    wire: Bool[Tensor, "rows columns"],
    life: Int64[Tensor, " time"],
    policy: Float[Tensor, "time actions"],
    without: Float[Tensor, "time actions"],
    rng: torch.Generator,
    comparisons: int = 1,
) -> Crossing | None:
    """One head and one thing, of so many comparisons; None where the thing never crosses, or never comes to another
    cell."""
    before, known_before = shifted(place, life, -1)
    _, known_after = shifted(place, life, 1)
    entered = place & ~before
    known = known_before & known_after
    at_wire = known & (entered & wire).flatten(1).any(1)
    elsewhere = known & entered.flatten(1).any(1) & ~at_wire
    if not at_wire.any() or not elsewhere.any():
        return None
    change = policy.new_zeros(len(policy))
    change[1:-1] = total_variation(policy[2:], policy[:-2])
    cut = total_variation(policy, without)
    measured = torch.stack([change, change, cut, cut], 1)
    means = over_blocks(measured, torch.stack([at_wire, elsewhere] * 2, 1), rng, resamples=RESAMPLES)
    enough = float(means.blocks.min()) >= FEW

    def difference(first: int) -> Interval | None:
        draws = means.draws[:, first] - means.draws[:, first + 1]
        level = 1 - (1 - LEVEL) / comparisons
        return between(means.mean[first] - means.mean[first + 1], draws, level) if enough else None

    at, other, cut_at, cut_other = means.mean.tolist()
    return Crossing(int(at_wire.sum()), at, other, difference(0), cut_at, cut_other, difference(2))


def total_variation(p: Float[Tensor, "time actions"], q: Float[Tensor, "time actions"]) -> Float[Tensor, " time"]:
    """Half the summed difference of two distributions: 0 where they are the same, 1 where they share nothing."""
    return (p - q).abs().sum(1) / 2


# --- in words


def wire_sentences(
    wires: Mapping[str, Bool[Tensor, "rows columns"]],
    crossings: Mapping[str, Mapping[str, Crossing]],
    silent: Sequence[str],
) -> list[str]:
    """What becomes of the tripwires; those of the `silent` heads do not reach the policy."""
    counts = {head: int(wire.sum()) for head, wire in wires.items()}
    if not any(counts.values()):
        return [
            f"Tripwires: none. No head has a cell that is watched all the time (mean mass of {HEAVY:g} times a uniform "
            f"map's, deviation at most {STEADY:g} of it), so nothing can be said of what happens as one is crossed."
        ]
    said = [
        "Tripwires, cells that are watched all the time: "
        + ", ".join(f"{count or 'none'} ({head})" for head, count in counts.items())
        + "."
    ]
    if silent:
        said.append(f"Those of {', '.join(silent)} do not reach the policy at all: no action hangs on them.")
    if len(silent) == sum(count > 0 for count in counts.values()):
        return said
    pairs = [(h, t, c) for h, by in crossings.items() for t, c in by.items()]
    judged = [(h, t, c) for h, t, c in pairs if c.difference is not None and c.cut_difference is not None]
    if not judged:
        most = max((c.times for _, _, c in pairs), default=0)
        return [*said, f"Things cross them too rarely in this trace to say what happens then (at most {most} times)."]
    for h, t, c in judged:
        assert c.difference is not None and c.cut_difference is not None
        said.append(
            f"When the {t} crosses one of {h} ({c.times} times) the policy changes by {c.change:.2f}, when it comes to "
            f"other cells by {c.elsewhere:.2f}: {_verdict(c.difference, 'more', 'less')}. With these cells out of the "
            f"map the policy is another by {c.cut:.2f} at the crossing, by {c.cut_elsewhere:.2f} elsewhere: "
            f"{_verdict(c.cut_difference, 'they matter more then', 'they matter less then')}."
        )
    said.append(
        "A change at the crossing alone may come from where the cells lie; a tripwire proper also matters more as it "
        "is crossed."
    )
    return said


def _verdict(difference: Interval, more: str, less: str) -> str:
    word = {1: more, 0: "no difference that shows", -1: less}[difference.sign]
    return f"{word}, {difference:+.2f}"


def crossing_table(crossings: Mapping[str, Mapping[str, Crossing]]) -> Table:
    """A row for each head with tripwires and each thing that crosses them."""
    return Table(
        "Change of the policy (total variation) as a thing comes to a tripwire, and to other cells; and what taking "
        "the tripwire out changes at these steps",
        ("head, thing", "crossings", "change", "elsewhere", "difference", "cut", "elsewhere", "difference"),
        [
            [
                f"{head}, {thing}",
                str(c.times),
                f"{c.change:.3f}",
                f"{c.elsewhere:.3f}",
                _plain(c.difference),
                f"{c.cut:.3f}",
                f"{c.cut_elsewhere:.3f}",
                _plain(c.cut_difference),
            ]
            for head, by in crossings.items()
            for thing, c in by.items()
        ],
    )


def _plain(interval: Interval | None) -> str:
    return "too rare" if interval is None else f"{interval:+.3f}"


# --- in pictures


def draw_wires(
    trace: Trace,
    agent: PlayingAgent,
    mass: Float[Tensor, "time heads rows columns"],
    wires: Mapping[str, Bool[Tensor, "rows columns"]],
) -> Figure:
    """The mean maps over a screen of the trace, and what is steady in them."""
    rows, columns = drawing.centres(agent, trace)
    middle = trace.steps // 2
    piece = trace.piece(middle)
    screen = piece.screen[middle - piece.start].numpy()
    pictures = [drawing.lit(screen, m.numpy(), rows, columns) for m in mass.mean(0)]
    figure = drawing.sheet(list(wires), [("mean map", pictures)])
    zoom = drawing.zoom_of(screen)
    for axis, wire in zip(figure.axes, wires.values(), strict=True):
        cells = wire.nonzero().tolist()
        axis.scatter(
            [(columns[j] + 0.5) * zoom - 0.5 for _, j in cells],
            [(rows[i] + 0.5) * zoom - 0.5 for i, _ in cells],
            s=30,
            marker="s",
            facecolors="none",
            edgecolors="#ff3b30",
            linewidths=1.2,
        )
    return figure
