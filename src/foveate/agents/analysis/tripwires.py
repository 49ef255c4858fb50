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
from foveate.agents.analysis.blocks import FEW, IN_WORDS, between, over_blocks
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.following import CONTROL, as_mass, mass_on, near
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.models.interface import Edit
from foveate.agents.objects import tracks
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval
from foveate.errors import RequestError
from foveate.viz.panels import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAVY = 2.0
"""A cell of a tripwire has on average at least so many times the mass that it has in a uniform map ..."""

STEADY = 0.5
"""... with a standard deviation over time of at most this part of the average."""

RESAMPLES = 5_000
"""Enough for the narrow tails of many lags."""


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
    agent = settings.subject.open()
    if not agent.heads:
        raise RequestError(f"{settings.subject.agent} ({agent.model}) has no attention; take an S3TA or a masked A3C")
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
    leads = {name: lead(mass, place, life, lags, rng) for name, place in places.items()}
    policy = trace.column("logits").softmax(1)
    wires = {head: tripwires(mass[:, n]) for n, head in enumerate(trace.heads)}
    crossings: dict[str, dict[str, Crossing]] = {}
    silent = []
    for n, head in enumerate(trace.heads):
        if wires[head].any():
            without = policy_without(trace, agent, n, wires[head])
            if torch.allclose(without, policy, atol=1e-4):
                silent.append(head)
                continue
            found = {t: crossing(p, wires[head], life, policy, without, rng) for t, p in places.items()}
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
        "intervals": IN_WORDS,
    }
    pictures = {}
    if any(leads.values()):
        pictures["lags"] = Picture(
            draw_lags(leads, trace.heads),
            "Mass of each head on the place where a thing is so many steps later (solid, with the 95% interval around "
            "it of its difference to the control) and the control (dotted). Markers: the best lag.",
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
        sentences=[*lead_sentences(leads, trace.heads), *wire_sentences(wires, crossings, silent)],
        numbers={
            "leads": {
                head: {thing: _numbers(by[n]) for thing, by in leads.items()} for n, head in enumerate(trace.heads)
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


# --- look-ahead


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


def _numbers(lead: Lead | None) -> dict | None:
    return None if lead is None else asdict(lead)


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
) -> Crossing | None:
    """One head and one thing; None where the thing never crosses, or never comes to another cell."""
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
        return between(means.mean[first] - means.mean[first + 1], draws) if enough else None

    at, other, cut_at, cut_other = means.mean.tolist()
    return Crossing(int(at_wire.sum()), at, other, difference(0), cut_at, cut_other, difference(2))


def total_variation(p: Float[Tensor, "time actions"], q: Float[Tensor, "time actions"]) -> Float[Tensor, " time"]:
    """Half the summed difference of two distributions: 0 where they are the same, 1 where they share nothing."""
    return (p - q).abs().sum(1) / 2


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
    words = [f"{head} on the {thing} ({_show(found.tilt)})" for head, thing, found in pairs]
    more = f" and {len(words) - 4} more" if len(words) > 4 else ""
    return ", ".join(words[:4]) + more or "none"


def _words(head: str, thing: str, lead: Lead) -> str:
    at = lead.lags.index(lead.best)
    return (
        f"{head} on the {thing} {lead.best:+d} steps ({lead.earliest:+d} to {lead.latest:+d}), {lead.mass[at]:.1%} of "
        f"its mass against {lead.control[at]:.1%}"
    )


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
    return f"{word}, {difference.mean:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"


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
                    _show(found.excess),
                    _show(found.tilt),
                ]
            )
    return Table(
        "The lag, in steps, at which attention is most on the place of a thing",
        ("head, thing", "best lag", "mass", "control", "difference (for all lags)", "ahead less behind"),
        rows,
    )


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


def _show(interval: Interval) -> str:
    return f"{interval.mean:+.1%} ({interval.low:+.1%} to {interval.high:+.1%})"


def _plain(interval: Interval | None) -> str:
    if interval is None:
        return "too rare"
    return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


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
