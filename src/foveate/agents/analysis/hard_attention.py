"""Does an agent use the faint parts of its attention? They are cut off as it plays (S3TA, section A.6, Table 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.conditions import (
    Condition,
    Play,
    difference,
    few_games,
    looked_at,
    mean,
    play_all,
    protocol,
    ratio,
    scores_numbers,
    spelled,
)
from foveate.agents.analysis.edits import Maps, are_masks, cut_at_random, hard, of_head, renormalised
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.subject import Subject
from foveate.agents.evaluation import Played, chosen
from foveate.agents.games import atari_name
from foveate.agents.models.interface import Edit
from foveate.agents.trace import attention_of
from foveate.bootstrap import Interval
from foveate.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED: Mapping[str, tuple[float, float]] = {
    "breakout": (88.0, 11.0),
    "ms_pacman": (89.0, 13.0),
    "seaquest": (116.0, 29.0),
    "space_invaders": (98.0, 12.0),
}
"""Table 5 of the S3TA paper: the score at t = 0.1 in per cent of that at t = 0, and its uncertainty."""

PAPER_THRESHOLD = 0.1


@dataclass(frozen=True)
class Settings:
    """Cut off an agent's attention below a threshold as it plays, and tell what is left of the score."""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    play: Annotated[Play, tyro.conf.arg(name="")] = field(default_factory=lambda: Play(episodes=15, parallel=15))
    thresholds: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.5, 0.9, 1.0)
    """Parts of a map's maximum: 0 is the agent as it is, 1 leaves the maximum alone."""


def cut_name(threshold: float) -> str:
    return f"t = {threshold:g}"


def random_name(threshold: float) -> str:
    return f"t = {threshold:g}, cells at random"


def conditions(agent: PlayingAgent, thresholds: Sequence[float]) -> list[Condition]:
    """t = 0, which cuts nothing, and for each other threshold the cut and its control.

    Raises RequestError where nothing that chooses actions has attention.
    """
    masks = are_masks(agent)
    if masks and "policy" not in agent.heads:
        raise RequestError(f"a {agent.model} has no mask on its policy; take a mask-a3c or policy-mask-a3c")
    if not agent.heads:
        raise RequestError(f"a {agent.model} has no attention to cut; take an S3TA or a masked A3C")

    def edit(cut: Any) -> Edit:
        if masks:
            return Edit(maps=of_head(agent.heads.index("policy"), cut))
        return Edit(maps=lambda maps: renormalised(cut(maps)))

    def both(t: float) -> list[Condition]:
        return [
            Condition(cut_name(t), f"cut below {t:g} of the maximum", lambda rng: edit(lambda maps: hard(maps, t))),
            Condition(
                random_name(t),
                "as many cells cut, whichever",
                lambda rng: edit(lambda maps: cut_at_random(maps, t, rng)),
            ),
        ]

    return [Condition(cut_name(0.0), "as it is"), *(c for t in thresholds if t for c in both(t))]


@dataclass(frozen=True)
class Left:
    """What a cut leaves, at the mean over maps of the agent's own play."""

    cells: float
    """Part of the cells."""
    weight: float
    """Part of the map's sum."""


def left(maps: Maps, threshold: float) -> Left:
    """What a threshold leaves."""
    cut = hard(maps, threshold)
    weight = cut.sum((2, 3)) / maps.sum((2, 3)).clamp(min=1e-12)
    return Left(float((maps >= threshold * maps.amax((2, 3), keepdim=True)).float().mean()), float(weight.mean()))


def analyse(settings: Settings) -> Findings:
    """Play all thresholds, and compare.

    Raises RequestError where nothing that chooses actions has attention, a threshold is none, or OUTPUT holds other
    games.
    """
    subject, play = settings.subject, settings.play
    thresholds = sorted({0.0, *settings.thresholds})
    if not 0 <= thresholds[0] <= thresholds[-1] <= 1 or len(thresholds) < 2:
        raise RequestError("--thresholds are parts of a map's maximum, from 0 to 1, and at least one of them above 0")
    agent = subject.open()
    games = play_all(agent, subject, play, conditions(agent, thresholds))
    environment = chosen(agent, subject.env, subject.sticky, play.max_steps)
    with torch.inference_mode():
        maps = torch.cat([attention_of(out).maps[0] for _, _, out in looked_at(agent, environment, subject)])
    if are_masks(agent):
        head = agent.heads.index("policy")
        maps = maps[:, head : head + 1]
    game = atari_name(environment.env)
    return findings(
        games,
        {t: left(maps, t) for t in thresholds},
        PUBLISHED.get(game) if game and agent.model.startswith("s3ta") else None,
        subject.protocol(agent)
        | protocol(play, environment)
        | {
            "after_the_cut": "not renormalised: masks have no sum" if are_masks(agent) else "renormalised (equation 13)"
        },
    )


def findings(
    games: Mapping[str, Played],
    leaves: Mapping[float, Left],
    paper: tuple[float, float] | None,
    protocol: Mapping[str, Any],
) -> Findings:
    """What the scores come to; `games` by the names of `conditions`, `leaves` by threshold."""
    whole = games[cut_name(0.0)]
    cuts = [t for t in leaves if t]
    relative = {name: ratio(score, whole) for name, score in games.items()}
    against = {name: difference(score, whole) for name, score in games.items()}
    over = {t: difference(games[cut_name(t)], games[random_name(t)]) for t in cuts}
    rows = [
        [
            f"{t:g}",
            spelled(mean(games[cut_name(t)])),
            _percent(relative[cut_name(t)]),
            _percent(relative[random_name(t)]) if t else "",
            spelled(over[t]) if t else "",
            f"{100 * kept.cells:.1f}",
            f"{100 * kept.weight:.1f}",
            "" if paper is None or t != PAPER_THRESHOLD else f"{paper[0]:.0f} ± {paper[1]:.0f}",
        ]
        for t, kept in leaves.items()
    ]
    columns = (
        "t",
        "mean score",
        "relative score (%)",
        "cells at random (%)",
        "score less that",
        "cells left (%)",
        "weight left (%)",
        "paper (%)",
    )
    return Findings(
        name="hard-attention",
        title="Hard attention",
        question="Does the agent use what it attends to faintly? S3TA, section A.6, equations 12 and 13, Table 5; with "
        "as many cells cut at random beside it.",
        protocol=protocol,
        sentences=[*sentences(games, leaves, relative, against, over, paper), *few_games(whole, protocol)],
        numbers={
            "conditions": {name: scores_numbers(score) for name, score in games.items()},
            "relative_score": {name: None if part is None else asdict(part) for name, part in relative.items()},
            "less_whole": {name: asdict(by) for name, by in against.items()},
            "less_random": {cut_name(t): asdict(by) for t, by in over.items()},
            "left": {cut_name(t): asdict(kept) for t, kept in leaves.items()},
            "paper_percent": paper,
        },
        tables=[Table("Relative score, of the score at t = 0; bootstrap 95% intervals of the ratio", columns, rows)],
        pictures={
            "relative_score": Picture(
                picture(games, cuts), "Score at each threshold: the faint cut away, and as many cells at random."
            )
        },
    )


def sentences(
    games: Mapping[str, Played],
    leaves: Mapping[float, Left],
    relative: Mapping[str, Interval | None],
    against: Mapping[str, Interval],
    over: Mapping[float, Interval],
    paper: tuple[float, float] | None,
) -> list[str]:
    """What came out, in words that follow from the numbers."""
    cuts = list(over)
    count = len(games[cut_name(0.0)].scores)
    near = min(cuts, key=lambda t: abs(t - PAPER_THRESHOLD))
    unharmed = []
    for t in cuts:
        if against[cut_name(t)].sign < 0:
            break
        unharmed.append(t)
    said = []
    part = relative[cut_name(near)]
    score = f"{spelled(mean(games[cut_name(near)]))}, and {spelled(mean(games[cut_name(0.0)]))} with nothing cut"
    said.append(
        f"Cut below {near:g} of its maximum the attention leaves a score of {score}, in {count} games each"
        + ("" if part is None else f": {_percent(part)}% of it")
        + f"; that keeps {100 * leaves[near].cells:.1f}% of the cells and {100 * leaves[near].weight:.1f}% of the "
        "weight."
        + ("" if paper is None or near != PAPER_THRESHOLD else f" The paper has {paper[0]:.0f}% ± {paper[1]:.0f}%.")
    )
    other = relative[random_name(near)]
    if leaves[near].cells > 0.999:
        said.append("Next to nothing of these maps lies below that: this threshold says nothing of them.")
    else:
        said.append(
            f"With as many cells cut at random the score is {spelled(mean(games[random_name(near)]))}"
            + ("" if other is None else f", {_percent(other)}%")
            + ". "
            + {
                1: "So it matters which cells are cut, and the bright ones are those that count.",
                0: "The two are not told apart: nothing shows here that the bright cells are those that count.",
                -1: "That is more: the agent needs the faint cells, and the attention does not show what it uses.",
            }[over[near].sign]
        )
    if len(unharmed) == len(cuts):
        said.append("No threshold costs score that these games show.")
    else:
        first = cuts[len(unharmed)]
        cost = spelled(_turned(against[cut_name(first)]))
        said.append(f"The lowest threshold that costs score is {first:g}, by {cost} points.")
    worse = [f"{t:g}" for t in cuts if over[t].sign > 0]
    said.append(
        f"Cutting the faint costs less than cutting at random at t = {', '.join(worse)}."
        if worse
        else "At no threshold does cutting the faint cost less than cutting at random."
    )
    return said


def picture(games: Mapping[str, Played], cuts: Sequence[float]) -> Figure:
    """Scores over thresholds, both ways to cut."""
    from matplotlib.figure import Figure

    from foveate.viz.panels import colour, marker

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    whole = mean(games[cut_name(0.0)])
    axes.axhline(whole.mean, color="#868e96", linewidth=0.8)
    axes.axhspan(whole.low, whole.high, color="#868e96", alpha=0.15, linewidth=0)
    for n, (label, name) in enumerate((("below t of the maximum", cut_name), ("as many at random", random_name))):
        means = [mean(games[name(t)]) for t in cuts]
        axes.errorbar(
            [place + 0.12 * (2 * n - 1) for place in range(len(cuts))],
            [i.mean for i in means],
            yerr=torch.tensor([[i.mean - i.low for i in means], [i.high - i.mean for i in means]]).clamp(min=0).numpy(),
            fmt=marker(n),
            color=colour(n),
            label=label,
            markersize=5,
            linestyle="none",
        )
    axes.set_xticks(range(len(cuts)), [f"{t:g}" for t in cuts])
    axes.set_xlabel("threshold t (grey: nothing is cut)", fontsize=9)
    axes.set_ylabel("score", fontsize=9)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    figure.legend(fontsize=9, frameon=False, ncols=2, loc="outside upper center")
    return figure


def _percent(part: Interval | None) -> str:
    if part is None:
        return "none"
    return spelled(Interval(100 * part.mean, 100 * part.low, 100 * part.high))


def _turned(by: Interval) -> Interval:
    return Interval(-by.mean, -by.high, -by.low)
