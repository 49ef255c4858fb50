"""Does the place of the attention matter to play? It is inverted, and moved, and levelled (Mask A3C, section 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import tyro

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.conditions import (
    Condition,
    Play,
    ValueChanged,
    decrease,
    difference,
    few_games,
    mean,
    picture,
    play_all,
    protocol,
    ratio,
    scores_numbers,
    scores_table,
    share_of_cost,
    spelled,
    value_changed,
)
from foveate.agents.analysis.edits import (
    Change,
    are_masks,
    as_bright,
    inverted,
    inverted_weights,
    level,
    of_head,
    shuffled,
    shuffled_once,
)
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.subject import Subject
from foveate.agents.evaluation import Played, chosen
from foveate.agents.games import atari_name
from foveate.agents.models.interface import Edit
from foveate.bootstrap import Interval
from foveate.errors import RequestError

AS_BRIGHT = "inverted, as bright"
WRONG = ("shuffled", "shuffled once", "constant")
"""Maps that know nothing of what the agent's mark, but have its mean."""


@dataclass(frozen=True)
class Settings:
    """Invert an agent's attention as it plays, move it and level it, and tell what each does to the score."""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    play: Annotated[Play, tyro.conf.arg(name="")]


def conditions(agent: PlayingAgent) -> list[Condition]:
    """What is played. Raises RequestError where nothing that chooses actions has attention."""
    if are_masks(agent):
        if "policy" not in agent.heads:
            raise RequestError(f"a {agent.model} has no mask on its policy; take a mask-a3c or policy-mask-a3c")
        head = agent.heads.index("policy")

        def edit(make: Callable[[torch.Generator], Change]) -> Callable[[torch.Generator], Edit]:
            return lambda rng: Edit(maps=of_head(head, make(rng)))

        upside_down = [
            Condition("inverted", "1 - M (equation 2)", edit(lambda rng: inverted)),
            Condition(
                AS_BRIGHT,
                "1 - M, times what makes its mean that of M",
                edit(lambda rng: lambda maps: as_bright(inverted(maps), maps)),
            ),
        ]
    else:
        if not agent.heads:
            raise RequestError(f"a {agent.model} has no attention to invert; take an S3TA or a masked A3C")

        def edit(make: Callable[[torch.Generator], Change]) -> Callable[[torch.Generator], Edit]:
            return lambda rng: Edit(maps=make(rng))

        upside_down = [
            Condition(
                "inverted",
                "(max A - A), divided by its sum, in every head: of a peaked map next to uniform",
                edit(lambda rng: inverted_weights),
            )
        ]
    return [
        Condition("normal", "as it is"),
        upside_down[0],
        Condition("random play", "uniformly drawn actions", None),
        Condition("shuffled", "the map's cells change places, otherwise at every step", edit(shuffled)),
        Condition("shuffled once", "the map's cells change places, always the same ones", edit(shuffled_once)),
        Condition("constant", "each step's mean of the map, everywhere", edit(lambda rng: level)),
        *upside_down[1:],
    ]


@dataclass(frozen=True)
class Published:
    """Table 2 of the paper for one agent and game: maximum and mean of 100 games; and Table 3, in per cent."""

    normal: tuple[int, float]
    inverted: tuple[int, float]
    random: tuple[int | None, float]
    decrease: tuple[float, float]


# The text of the paper that is at hand has lost two maxima: Breakout's of random play, which stays unknown, and that
# of the doubly masked agent inverted, which Table 3's 99.42% of 864 tells. The singly masked agent's 6630 of Ms Pacman
# is 6330 in Table 1, and Table 3 was reckoned from that.
PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("mask-a3c", "breakout"): Published((864, 640.0), (5, 1.8), (None, 1.2), (99.42, 99.71)),
    ("mask-a3c", "ms_pacman"): Published((6610, 5314.1), (410, 194.4), (1080, 247.8), (93.79, 96.34)),
    ("mask-a3c", "space_invaders"): Published((19810, 19212.5), (915, 420.2), (460, 142.1), (95.38, 97.80)),
    ("mask-a3c", "beam_rider"): Published((34448, 27671.1), (6380, 2063.9), (852, 356.5), (81.47, 92.54)),
    ("mask-a3c", "fishing_derby"): Published((41, 34.3), (-49, -74.7), (-85, -93.1), (98.90, 99.09)),
    ("mask-a3c", "seaquest"): Published((17150, 6701.9), (420, 280.6), (300, 82.8), (97.55, 95.81)),
    ("policy-mask-a3c", "breakout"): Published((864, 595.8), (4, 2.2), (None, 1.2), (99.53, 99.63)),
    ("policy-mask-a3c", "ms_pacman"): Published((6330, 4833.8), (290, 268.9), (1080, 247.8), (95.41, 94.43)),
    ("policy-mask-a3c", "space_invaders"): Published((19860, 19102.8), (805, 306.9), (460, 142.1), (95.94, 98.39)),
    ("policy-mask-a3c", "beam_rider"): Published((32604, 28495.3), (4996, 1554.2), (852, 356.5), (84.67, 94.54)),
    ("policy-mask-a3c", "fishing_derby"): Published((41, 37.5), (-49, -75.7), (-85, -93.1), (98.90, 99.12)),
    ("policy-mask-a3c", "seaquest"): Published((2820, 2784.0), (280, 158.2), (300, 82.8), (90.07, 94.31)),
}
"""By model and game. A decrease of Fishing Derby, whose scores are below zero, is no part of anything: it is printed
here as there."""


def analyse(settings: Settings) -> Findings:
    """Play all conditions, and compare.

    Raises RequestError where nothing that chooses actions has attention, or OUTPUT holds other games.
    """
    subject, play = settings.subject, settings.play
    agent = subject.open()
    played = conditions(agent)
    games = play_all(agent, subject, play, played)
    environment = chosen(agent, subject.env, subject.sticky, play.max_steps)
    value = value_changed(agent, environment, subject, inverted) if "value" in agent.heads else None
    game = atari_name(environment.env)
    paper = PUBLISHED.get((agent.model, game)) if game else None
    return findings(games, played, paper, value, subject.protocol(agent) | protocol(play, environment))


def findings(
    games: Mapping[str, Played],
    played: Sequence[Condition],
    paper: Published | None,
    value: ValueChanged | None,
    protocol: Mapping[str, Any],
) -> Findings:
    """What the scores come to."""
    normal = games["normal"]
    losses = {name: loss(score, normal) for name, score in games.items() if name != "normal"}
    against = {name: difference(games["inverted"], games[name]) for name in games if name != "inverted"}
    return Findings(
        name="invert",
        title="Attention inverted",
        question="Does the agent need its attention to lie where it lies? Mask A3C, section 4.4, Tables 2 and 3, which "
        "have normal, inverted and random play; the other conditions are controls that they lack.",
        protocol=protocol,
        sentences=[*sentences(games, losses, against, paper, value), *few_games(normal, protocol)],
        numbers={
            "conditions": {name: scores_numbers(score) for name, score in games.items()},
            "decrease_percent": {name: None if part is None else asdict(part) for name, part in losses.items()},
            "inverted_less_condition": {name: asdict(by) for name, by in against.items()},
            "normal_less_condition": {n: asdict(difference(normal, games[n])) for n in losses},
            "paper": None if paper is None else asdict(paper),
            "value_inverted": None if value is None else asdict(value),
        },
        tables=[
            scores_table(games, played, "Scores of each condition; mean with its bootstrap 95% interval"),
            *([] if paper is None else [paper_table(games, losses, paper)]),
        ],
        pictures={"scores": Picture(picture(games), "Each game, and the mean of each condition with its interval.")},
    )


def loss(score: Played, normal: Played) -> Interval | None:
    """How much less than the normal mean, in per cent (Table 3); None where that is not above zero."""
    part = ratio(score, normal)
    return None if part is None else decrease(part)


def paper_table(games: Mapping[str, Played], losses: Mapping[str, Interval | None], paper: Published) -> Table:
    """Tables 2 and 3 beside what was found here."""
    rows = [
        [name, spelled(mean(games[name])), f"{max(games[name].scores):g}", f"{theirs[1]:g}", _or_unknown(theirs[0])]
        for name, theirs in (("normal", paper.normal), ("inverted", paper.inverted), ("random play", paper.random))
    ]
    least, most = max(games["inverted"].scores), max(games["normal"].scores)
    rows.append(
        [
            "decrease (%)",
            "" if losses["inverted"] is None else spelled(losses["inverted"], 2),
            f"{100 * (1 - least / most):.2f}" if most > 0 else "",
            f"{paper.decrease[1]:.2f}",
            f"{paper.decrease[0]:.2f}",
        ]
    )
    caption = (
        f"Tables 2 and 3 of the paper, of 100 games, beside {len(games['normal'].scores)} here; the paper's agent was "
        "trained anew for it, so only the decrease is to be compared"
    )
    return Table(caption, ("", "mean", "max", "paper: mean", "paper: max"), rows)


def _or_unknown(value: int | None) -> str:
    return "not legible" if value is None else str(value)


def sentences(
    games: Mapping[str, Played],
    losses: Mapping[str, Interval | None],
    against: Mapping[str, Interval],
    paper: Published | None,
    value: ValueChanged | None,
) -> list[str]:
    """What came out, in words that follow from the numbers."""
    count = len(games["normal"].scores)
    theirs = "" if paper is None else f" The paper has {paper.decrease[1]:.2f}%."
    lost = losses["inverted"]
    said = [
        f"With its attention inverted the agent scores {spelled(mean(games['inverted']))}, as it is "
        f"{spelled(mean(games['normal']))}, in {count} games each"
        + ("." if lost is None else f": {_less(lost, 1)}.")
        + theirs
    ]
    said.append(
        f"Random play scores {spelled(mean(games['random play']))}; the inverted agent is "
        + _compared(against["random play"], "better by", "worse by", "not told from it, the difference being")
        + "."
    )
    if AS_BRIGHT in games:
        said.append(brightness(games))
    controls = [name for name in WRONG if name in games]
    said.append(
        "Maps that are wrong without being the inverse, of the same mean: "
        + "; ".join(
            f"{name} {spelled(mean(games[name]))}" + ("" if (part := losses[name]) is None else f", {_less(part, 0)}")
            for name in controls
        )
        + "."
    )
    said.append(verdict(games, controls))
    if value is not None:
        said.append(
            f"The value's mask inverted moves the mean value from {value.value:.2f} to {value.changed:.2f}, and "
            + (
                f"no logit of the policy in {value.steps} steps: every game is played as before, to the same score."
                if value.logits == 0
                else f"logits of the policy by up to {value.logits:.2g} in {value.steps} steps."
            )
        )
    return said


def brightness(games: Mapping[str, Played]) -> str:
    """Whether the inversion costs because it changes the mask's mean."""
    bright = games[AS_BRIGHT]
    costs = difference(games["normal"], bright).sign > 0
    return (
        f"An inverted mask also has another mean; made as bright as the mask was, it leaves {spelled(mean(bright))}: "
        + ("it is not the brightness that costs." if costs else "it is the brightness that costs, not the place.")
    )


def verdict(games: Mapping[str, Played], controls: Sequence[str]) -> str:
    """What the controls, which know nothing of what the map marks, leave of the paper's conclusion.

    They have the map's mean, and so are compared with the inversion that has it too.
    """
    normal, fair = games["normal"], games[AS_BRIGHT if AS_BRIGHT in games else "inverted"]
    if difference(normal, fair).sign <= 0:
        return "So inversion says nothing for this map: at the same mean it costs nothing that these games show."
    costly = [name for name in controls if difference(normal, games[name]).sign > 0]
    harmless = [name for name in controls if name not in costly]
    said = []
    if costly:
        shares = [(name, share_of_cost(normal, games[name], fair)) for name in costly]
        said.append(
            "Of the points that inversion at the same mean costs, "
            + "; ".join(f"{name} costs already {spelled(share, 0, '%')}" for name, share in shares)
            + ": so much is due to the map's being wrong, not to its being the inverse."
        )
    if harmless:
        said.append(f"Play does not suffer where the map is {', '.join(harmless)}: it does not need its own shape.")
    no_worse = [name for name in controls if difference(fair, games[name]).sign >= 0]
    if no_worse:
        said.append(
            f"Inversion costs no more than {', '.join(no_worse)}; so its drop does not show that the map marks what is "
            "useful."
        )
    else:
        said.append(
            "Inversion costs more than each of them, as it must if the map marks what is useful: here the paper's "
            "claim holds against its controls."
        )
    return " ".join(said)


def _less(lost: Interval, digits: int) -> str:
    """A decrease in per cent, or an increase."""
    if lost.mean >= 0:
        return f"{spelled(lost, digits, '%')} less"
    return f"{spelled(Interval(-lost.mean, -lost.high, -lost.low), digits, '%')} more"


def _compared(by: Interval, above: str, below: str, neither: str) -> str:
    if by.sign == 0:
        return f"{neither} {spelled(by)}"
    shown = by if by.sign > 0 else Interval(-by.mean, -by.high, -by.low)
    return f"{above if by.sign > 0 else below} {spelled(shown)}"
