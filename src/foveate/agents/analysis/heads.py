"""What is each head good for? One is knocked out, two change places, one asks always the same (beyond the papers)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations, pairwise
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.conditions import (
    Condition,
    Play,
    ValueChanged,
    difference,
    effects_picture,
    few_games,
    mean,
    play_all,
    protocol,
    ratio,
    scores_numbers,
    scores_table,
    spelled,
    value_changed,
)
from foveate.agents.analysis.edits import Change, are_masks, level, of_head, opened
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.evaluation import Played, chosen
from foveate.agents.models.interface import Edit
from foveate.bootstrap import Interval
from foveate.errors import RequestError

Queries = Float[Tensor, "envs heads channels"]

WHY_UNIFORM = (
    "its map made uniform, which the agent knows from its first steps of learning: the answer is then the screen's "
    "mean, and says nothing of a place; a map of zeros would give an answer that it never saw"
)

SWAPPED = "each asks the other's query, and the policy is told so"
FROZEN = "it asks its mean query, and the policy is told so"

MANY = 8
"""Changes without an effect; more of them are counted, and not told one by one: the table has them."""

PAIRED = 8
"""Heads up to which every two change places; of more, each and the next: sixteen would be 120 pairs."""


@dataclass(frozen=True)
class Settings:
    """Knock out an agent's heads, swap and freeze their queries, and tell what each does to the score."""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    recording: Annotated[Recording, tyro.conf.arg(name="")]
    play: Annotated[Play, tyro.conf.arg(name="")] = field(default_factory=Play)


def swapped(a: int, b: int) -> Callable[[Queries], Queries]:
    """Two heads ask each other's question."""

    def change(queries: Queries) -> Queries:
        order = list(range(queries.shape[1]))
        order[a], order[b] = b, a
        return queries[:, order]

    return change


def frozen(head: int, query: Float[Tensor, " channels"]) -> Callable[[Queries], Queries]:
    """A head asks always the same."""

    def change(queries: Queries) -> Queries:
        rest = queries.clone()
        rest[:, head] = query
        return rest

    return change


def of_maps(head: int, change: Change) -> Callable[[torch.Generator], Edit]:
    return lambda rng: Edit(maps=of_head(head, change))


def of_queries(change: Callable[[Queries], Queries]) -> Callable[[torch.Generator], Edit]:
    return lambda rng: Edit(queries=change)


NORMAL = Condition("normal", "as it is")


def mask_conditions(agent: PlayingAgent) -> list[Condition]:
    """The policy's mask taken away, or its shape. Raises RequestError where there is none."""
    if "policy" not in agent.heads:
        raise RequestError(f"a {agent.model} has no mask on its policy; take a mask-a3c or policy-mask-a3c")
    head = agent.heads.index("policy")
    return [
        NORMAL,
        Condition("policy: open", "a mask of ones: nothing is held back", of_maps(head, opened)),
        Condition("policy: level", "each step's mean of the mask, everywhere", of_maps(head, level)),
    ]


def head_conditions(agent: PlayingAgent, mean_queries: Float[Tensor, "heads channels"] | None) -> list[Condition]:
    """Every head knocked out, every two swapped (of many, each and the next), every one frozen at its mean query; where
    nothing is asked, the first alone. Raises RequestError where there are no heads."""
    if not agent.heads:
        raise RequestError(f"a {agent.model} has no heads; take an S3TA or a masked A3C")
    heads = list(enumerate(agent.heads))
    found = [NORMAL, *(Condition(f"{name}: knocked out", "its map uniform", of_maps(n, level)) for n, name in heads)]
    if mean_queries is None:
        return found
    pairs = combinations(heads, 2) if len(heads) <= PAIRED else pairwise([*heads, heads[0]])
    found += [Condition(f"{a} and {b}: swapped", SWAPPED, of_queries(swapped(n, m))) for (n, a), (m, b) in pairs]
    return found + [Condition(f"{name}: frozen", FROZEN, of_queries(frozen(n, mean_queries[n]))) for n, name in heads]


def analyse(settings: Settings) -> Findings:
    """Play all conditions, and compare.

    Raises RequestError where the agent has no heads, or OUTPUT holds other games.
    """
    subject, play = settings.subject, settings.play
    agent = subject.open()
    environment = chosen(agent, subject.env, subject.sticky, play.max_steps)
    about = subject.protocol(agent) | protocol(play, environment)
    if are_masks(agent):
        played = mask_conditions(agent)
        games = play_all(agent, subject, play, played)
        value = {}
        if "value" in agent.heads:
            changes = {"open": opened, "level": level}
            value = {name: value_changed(agent, environment, subject, change) for name, change in changes.items()}
        return findings(games, played, value, about)
    queries = None
    also = {}
    if agent.heads and getattr(agent.network.settings, "queries", None) == "top-down":
        trace = settings.recording.open(subject, agent)
        queries = trace.column("queries").mean(0)
        also = {"mean_queries": f"{zlib.crc32(queries.numpy().tobytes()):08x}"}
        # The games' own where the two differ.
        about = settings.recording.protocol(trace) | about
    played = head_conditions(agent, queries)
    games = play_all(agent, subject, play, played, also)
    return findings(games, played, {}, about | {"knocked_out": WHY_UNIFORM, "many_comparisons": many(len(played) - 1)})


def many(comparisons: int) -> str:
    """A warning that each interval stands for itself."""
    return f"of {comparisons} intervals of 95% one in twenty misses by chance"


def findings(
    games: Mapping[str, Played],
    played: Sequence[Condition],
    value: Mapping[str, ValueChanged],
    protocol: Mapping[str, Any],
) -> Findings:
    """What the scores come to."""
    normal = games["normal"]
    names = [name for name in games if name != "normal"]
    effects = {name: difference(games[name], normal) for name in names}
    parts = {name: ratio(games[name], normal) for name in names}
    rows = [
        [name, spelled(effects[name]), "" if part is None else spelled(_percent(part), 0)]
        for name, part in parts.items()
    ]
    return Findings(
        name="heads",
        title="Heads",
        question="What is each head good for? Its map is knocked out, its query swapped with another's, or frozen, as "
        "the agent plays. Beyond the papers.",
        protocol=protocol,
        sentences=[*sentences(games, effects, parts, value), *few_games(normal, protocol)],
        numbers={
            "conditions": {name: scores_numbers(score) for name, score in games.items()},
            "less_normal": {name: asdict(by) for name, by in effects.items()},
            "relative_score": {name: None if part is None else asdict(part) for name, part in parts.items()},
            "value": {name: asdict(changed) for name, changed in value.items()},
        },
        tables=[
            Table(
                "What each does to the score, in games that begin alike; bootstrap 95% intervals",
                ("", "score less normal", "% of normal"),
                rows,
            ),
            scores_table(games, played, "Scores"),
        ],
        pictures={
            "effects": Picture(
                effects_picture(effects, "score less normal"), "What each does to the score, with its interval."
            )
        },
    )


def sentences(
    games: Mapping[str, Played],
    effects: Mapping[str, Interval],
    parts: Mapping[str, Interval | None],
    value: Mapping[str, ValueChanged],
) -> list[str]:
    """What came out, in words that follow from the numbers."""
    count = len(games["normal"].scores)
    kinds: dict[str, list[str]] = {}
    for name in effects:
        kinds.setdefault(name.rpartition(": ")[2], []).append(name)
    said = []
    for kind, names in kinds.items():
        lost = sorted((n for n in names if effects[n].sign < 0), key=lambda n: effects[n].mean)
        won = [n for n in names if effects[n].sign > 0]
        same = [n for n in names if effects[n].sign == 0]
        words = [f"{_who(n)} {spelled(effects[n])}{_of_normal(parts[n])}" for n in [*lost, *won]]
        if len(same) > MANY:
            words.append(f"no effect shows of the {'other ' if words else ''}{len(same)}")
        elif same:
            words.append("no effect shows of " + ", ".join(f"{_who(n)} {spelled(effects[n])}" for n in same))
        said.append(f"{kind.capitalize()}, the score changes by: {'; '.join(words)}.")
    said[0] = f"As it is the agent scores {spelled(mean(games['normal']))} in {count} games. " + said[0]
    for name, changed in value.items():
        said.append(
            f"The value's mask, {name}, moves the mean value from {changed.value:.2f} to {changed.changed:.2f}, and "
            + (
                f"no logit of the policy in {changed.steps} steps: the score stays."
                if changed.logits == 0
                else f"logits of the policy by up to {changed.logits:.2g} in {changed.steps} steps."
            )
        )
    return said


def _who(name: str) -> str:
    return name.rpartition(": ")[0]


def _of_normal(part: Interval | None) -> str:
    return "" if part is None else f" (to {spelled(_percent(part), 0)}%)"


def _percent(part: Interval) -> Interval:
    return Interval(100 * part.mean, 100 * part.low, 100 * part.high)
