"""The masking game on agents: the fewest cells whose blurring changes the action, and whether the agent looks there.

AttExplainer's game (section 3.2, attack) with the cells of an agent's attention map in the place of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import drawing
from foveate.agents.analysis.blur import ATARI, MINATAR, in_words
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.masking_agent import learn
from foveate.agents.analysis.masking_beside import (
    Beside,
    attention_shares,
    beside_table,
    compare,
    draw_beside,
)
from foveate.agents.analysis.moments import Moments, moments_of
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.models.grid import small
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval, bootstrap_means
from foveate.errors import RequestError
from foveate.masking.goal import Attack
from foveate.masking.play import play
from foveate.masking.protocols import fork, mask_in_order
from foveate.masking.record import Found
from foveate.masking.search import beam, expand, greedy
from foveate.viz.panels import colour, marker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOAL = Attack()

BEAMS = 3
"""Masks of each size that beam search goes on from."""

LEARNED_FROM = 500
"""Moments, at most, that the agent of the game learns from."""


@dataclass(frozen=True)
class Settings:
    """Blur as few places as can be until the agent acts otherwise: are they where it looks?"""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    recording: Annotated[Recording, tyro.conf.arg(name="")]
    moments: int = 20
    """Steps of the trace that are examined, evenly spread over it."""
    cells: int = 5
    """The most cells of a moment that are blurred."""
    learn: int = 4_000
    """Queries that an agent of the game learns from, on other moments of the trace; 0 for none."""
    drawn: int = 4
    """Of the moments, how many are drawn."""


def analyse(settings: Settings) -> Findings:
    """Every method on the same moments, and the smallest sets found beside the attention."""
    if settings.moments < 2:
        raise RequestError(f"--moments is {settings.moments}; it must be at least 2")
    if settings.cells < 1 or settings.learn < 0:
        raise RequestError("--cells must be at least 1, and --learn at least 0")
    agent = settings.subject.open()
    if not agent.heads:
        raise RequestError(f"{settings.subject.agent} ({agent.model}) has no attention map whose cells could be masked")
    trace = settings.recording.open(settings.subject, agent)
    if trace.steps < settings.moments:
        raise RequestError(f"the trace has {trace.steps} steps; --moments {settings.moments} needs as many")
    blur = MINATAR if small(agent.observation) else ATARI
    steps = [int((n + 0.5) * trace.steps / settings.moments) for n in range(settings.moments)]
    probe = moments_of(trace, steps, agent, blur)
    names, maps = attention_shares(agent, probe.maps)
    rng = torch.Generator().manual_seed(settings.subject.seed)
    found = search(probe, dict(zip(names, maps.unbind(1), strict=True)), settings.cells, rng)
    others = [step for step in range(trace.steps) if step not in set(steps)]
    learned = settings.learn if others else 0
    if learned:
        chosen = [others[int(n)] for n in np.linspace(0, len(others) - 1, min(LEARNED_FROM, len(others)))]
        pupil = learn(
            moments_of(trace, sorted(set(chosen)), agent, blur),
            GOAL,
            agent.network.grid,
            learned,
            settings.cells,
            settings.subject.seed,
        )
        found["agent"] = play(fork(probe), GOAL, pupil, max_steps=settings.cells)
    outcomes = {name: outcome(f, settings.cells, rng) for name, f in found.items()}
    best = smallest(found)
    sets = torch.zeros_like(probe.maskable)
    for row, f in enumerate(best):
        sets[row, list(f.masked) if f.solved else []] = True
    grid = agent.network.grid
    beside = {
        name: compare(map_.view(-1, grid.height, grid.width), sets, probe.maskable, rng)
        for name, map_ in zip(names, maps.unbind(1), strict=True)
    }
    main = "policy" if "policy" in names else names[-1]
    ahead = _ahead(found[f"attention: {main}"], found["random"], rng)
    return Findings(
        name="masking-game",
        title="Masking game",
        question="How few places must be blurred until the agent acts otherwise, and does it look at them? "
        "(the attacking game of AttExplainer, section 3.2, on the cells of the attention map)",
        protocol={
            **settings.subject.protocol(agent),
            **settings.recording.protocol(trace),
            "moments": settings.moments,
            "goal": "another action is the likeliest",
            "most_cells": settings.cells,
            "blur": in_words(blur) + " around the middle of each cell's receptive field",
            "beams": BEAMS,
            "maskable": "cells whose blur changes the screen",
            "learned_queries": learned,
            "learned_on": "other moments of the same play" if learned else "nothing",
            "intervals": "95%, bootstrap over moments",
        },
        sentences=_sentences(settings, probe, best, outcomes, beside[main], main, ahead),
        numbers={
            "methods": {name: asdict(o) for name, o in outcomes.items()},
            "smallest": [
                {"step": step, "cells": list(f.masked) if f.solved else None, "action": a, "then": f.label}
                for step, f, a in zip(steps, best, probe.label.tolist(), strict=True)
            ],
            "attention": {name: b and asdict(b) for name, b in beside.items()},
            "attention_before_random": asdict(ahead),
        },
        tables=_tables(outcomes, beside, settings.cells),
        pictures=_pictures(settings, trace, agent, probe, best, outcomes, beside, main, steps),
    )


# --- the game


def search(
    probe: Moments, orders: Mapping[str, Float[Tensor, "moments cells"]], cells: int, rng: torch.Generator
) -> dict[str, list[Found]]:
    """What each method finds: two searches; then early stopping in the order of each map, of what every cell does
    alone, and of chance. Each counts its own queries."""
    found = {"greedy": greedy(fork(probe), GOAL, cells), "beam": beam(fork(probe), GOAL, cells, BEAMS)}
    for name, scores in orders.items():
        found[f"attention: {name}"] = mask_in_order(fork(probe), GOAL, scores, cells)
    # Greedy's first round over again, counted anew: an order by what each cell does alone is bought with it.
    counted = fork(probe)
    rows = torch.arange(len(probe))
    alone = expand(counted, GOAL, rows, probe.real[:, None])[0][:, 0]
    found["each cell alone"] = mask_in_order(counted, GOAL, alone, cells)
    found["random"] = mask_in_order(fork(probe), GOAL, torch.rand(probe.maskable.shape, generator=rng), cells)
    return found


def smallest(found: Mapping[str, Sequence[Found]]) -> list[Found]:
    """The smallest set that any method found in each moment; of equals the first method's."""
    return [min(one, key=lambda f: len(f.masked) if f.solved else 10**9) for one in zip(*found.values(), strict=True)]


@dataclass(frozen=True)
class Outcome:
    """What a method achieved, per moment."""

    changed: Interval
    """Share of the moments in which the action changed."""
    cells: Interval
    """Cells that it took, where it did not change as many as were allowed, and one."""
    queries: Interval
    within: list[float]
    """Share in which it changed with at most 0, 1, ... cells blurred."""


def outcome(found: Sequence[Found], cells: int, rng: torch.Generator) -> Outcome:
    """The measures of a method, with their intervals over the moments."""
    size = torch.tensor([len(f.masked) if f.solved else cells + 1 for f in found]).float()
    queries = torch.tensor([f.queries for f in found]).float()
    changed, took, asked = bootstrap_means(torch.stack([(size <= cells).float(), size, queries], 1), rng)
    return Outcome(changed, took, asked, [float((size <= n).float().mean()) for n in range(cells + 1)])


def _ahead(first: Sequence[Found], second: Sequence[Found], rng: torch.Generator) -> Interval:
    """By how much more often the first changed the action than the second, moment by moment."""
    differ = torch.tensor([float(a.solved) - float(b.solved) for a, b in zip(first, second, strict=True)])
    return bootstrap_means(differ[:, None], rng)[0]


# --- words


def _sentences(
    settings: Settings,
    probe: Moments,
    best: Sequence[Found],
    outcomes: Mapping[str, Outcome],
    beside: Beside | None,
    main: str,
    ahead: Interval,
) -> list[str]:
    sizes = sorted(len(f.masked) for f in best if f.solved)
    share = len(sizes) / len(best)
    if not sizes:
        return [f"Blurring up to {settings.cells} cells changed the action in none of the {len(best)} moments."]
    attention = f"the {main} mask" if main == "policy" else "attention"
    few = sum(size <= 2 for size in sizes)
    middle = sizes[len(sizes) // 2]
    certain = (
        f" {few} of the {len(sizes)} sets are of one or two cells, and so certain to be the smallest, as every smaller "
        "one was asked."
        if few
        else ""
    )
    said = [
        f"Blurring at most {settings.cells} of {float(probe.maskable.sum(1).float().mean()):.0f} cells changes the "
        f"action in {share:.0%} of {len(best)} moments; there the smallest set found has {middle} "
        f"{'cell' if middle == 1 else 'cells'} in the median, {np.mean(sizes):.1f} on average.{certain}"
    ]
    if beside is not None:
        on, near = beside.on, beside.near
        if on.above_random.sign <= 0:
            where = f"It is not shown that {attention} lies on them"
        else:
            where = f"{attention.capitalize()} lies on them more than on others" + (
                ", and follows them from moment to moment"
                if on.above_other.sign > 0
                else " on average, and is not shown to follow them"
            )
        said.append(
            f"{where}: they hold {on.inside:.1%} of it, against {on.random.mean:.1%} in as many random cells "
            f"and {on.other.mean:.1%} of the map of another moment; in the order of attention their place is "
            f"{beside.rank.mean:.2f} ({beside.rank.low:.2f} to {beside.rank.high:.2f}; 0 is the most attended, 0.5 "
            f"chance). With each cell's attention spread over the cells beside it, it is {near.inside:.1%}, "
            f"against {near.random.mean:.1%} and {near.other.mean:.1%}."
        )
    ordered, chance = outcomes[f"attention: {main}"], outcomes["random"]
    said.append(
        f"Blurring the most attended cells first changes the action in {ordered.changed:.0%} of the moments, a "
        f"random order in {chance.changed:.0%}; the difference is {ahead:.0%}."
    )
    if (learned := outcomes.get("agent")) is not None:
        searched = outcomes["greedy"]
        said.append(
            f"An agent that learned the game from attention on other moments changes it in {learned.changed:.0%} "
            f"at {learned.queries.mean:.1f} queries a moment; greedy search in {searched.changed:.0%} at "
            f"{searched.queries.mean:.0f}."
        )
    return said


def _tables(outcomes: Mapping[str, Outcome], beside: Mapping[str, Beside | None], cells: int) -> list[Table]:
    methods = Table(
        f"methods; where the action did not change, {cells + 1} cells are counted",
        ["method", "changed", "cells", "queries"],
        [[name, f"{o.changed:.0%}", f"{o.cells:.1f}", f"{o.queries:.1f}"] for name, o in outcomes.items()],
    )
    return [methods, *([beside_table(beside)] if any(beside.values()) else [])]


# --- pictures


def _pictures(
    settings: Settings,
    trace: Trace,
    agent: PlayingAgent,
    probe: Moments,
    best: Sequence[Found],
    outcomes: Mapping[str, Outcome],
    beside: Mapping[str, Beside | None],
    main: str,
    steps: Sequence[int],
) -> dict[str, Picture]:
    rows = [row for row, f in enumerate(best) if f.solved]
    chosen = [rows[int(n)] for n in np.linspace(0, len(rows) - 1, min(max(settings.drawn, 1), len(rows)))]
    pictures = {}
    if chosen:
        pictures["moments"] = Picture(
            draw_moments(trace, agent, probe, best, chosen, steps),
            "The smallest set of cells whose blurring changes the action, outlined over the screen and over the "
            "attention, which lights it up; and what the agent sees with them blurred.",
        )
    # The other orders are in the table.
    others = {f"attention: {name}" for name in beside if name != main}
    pictures["methods"] = Picture(
        draw_methods({n: o for n, o in outcomes.items() if n not in others}),
        "Share of the moments in which the action has changed with so many cells blurred; means over the moments.",
    )
    if any(beside.values()):
        pictures["attention"] = Picture(
            draw_beside(beside),
            "Share of the attention inside the smallest sets found, beside the two controls; bars are 95% intervals.",
        )
    return pictures


def draw_moments(
    trace: Trace,
    agent: PlayingAgent,
    probe: Moments,
    best: Sequence[Found],
    chosen: Sequence[int],
    steps: Sequence[int],
) -> Figure:
    """A row a moment: the screen, what the agent sees with the cells blurred, and where each head looked."""
    down, across = drawing.centres(agent, trace)
    grid = (len(down), len(across))
    rows = []
    for row in chosen:
        step, f = steps[row], best[row]
        piece = trace.piece(step)
        screen = piece.screen[step - piece.start].numpy()
        zoom = drawing.zoom_of(screen)
        visible = probe.real[[row]].clone()
        visible[0, list(f.masked)] = False
        plain = screen.repeat(zoom, 0).repeat(zoom, 1)
        lights = [drawing.lit(screen, m.view(grid).numpy(), down, across) for m in probe.maps[row]]
        whole, *lit = (
            drawing.outlined(p, [divmod(c, grid[1]) for c in f.masked], down, across, zoom) for p in (plain, *lights)
        )
        seen = as_seen(probe.shown(torch.tensor([row]), visible)[0])
        then = f"{trace.action_names[int(probe.label[row])]} → {trace.action_names[f.label]}"
        rows.append((f"step {step}\n{then}", [whole, seen, *lit]))
    return drawing.sheet(["screen", "blurred, as seen", *(f"attention: {head}" for head in agent.heads)], rows)


def as_seen(observation: UInt8[Tensor, "channels height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Colours where there are three channels; else grey, as bright as the brightest channel."""
    colours = observation if len(observation) == 3 else observation.amax(0, keepdim=True).expand(3, -1, -1)
    return colours.permute(1, 2, 0).numpy()


def draw_methods(outcomes: Mapping[str, Outcome]) -> Figure:
    """A curve a method: how often the action has changed with so many cells blurred."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    # Chance last, grey, so that the others have the colours.
    for n, (name, o) in enumerate(sorted(outcomes.items(), key=lambda item: item[0] == "random")):
        chance = name == "random"
        axes.plot(
            o.within,
            marker=marker(n),
            color="#868e96" if chance else colour(n),
            linestyle="--" if chance else "-",
            linewidth=1.3,
            markersize=4.5,
            label=name,
        )
    axes.set_xticks(range(max(len(o.within) for o in outcomes.values())))
    axes.set_xlabel("cells blurred, at most", fontsize=9)
    axes.set_ylabel("share of moments in which the action changed", fontsize=9)
    axes.set_ylim(-0.03, 1.03)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return figure
