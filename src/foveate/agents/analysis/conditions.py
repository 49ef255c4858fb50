"""The same games under different conditions: what an intervention does to the score, and a file that play goes on from.

Game i begins alike under every condition (the same seed, and so the same no-ops), in an environment of its own: what
an agent carries from game to game, as Mask-A3C's running mean of frames, begins anew with each. So scores are paired.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.drawing import dots
from foveate.agents.analysis.edits import Change, of_head
from foveate.agents.analysis.findings import Table
from foveate.agents.analysis.subject import Subject
from foveate.agents.envs import Games, VectorStep
from foveate.agents.evaluation import Played, check_amounts, chosen, play_out
from foveate.agents.games import EnvironmentSettings, atari_name, open_game
from foveate.agents.models.interface import AS_IT_IS, AgentInputs, AgentOutput, Edit, State
from foveate.agents.player import Player
from foveate.bootstrap import Interval, bootstrap_means, bootstrap_ratio
from foveate.errors import RequestError
from foveate.run import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "1"
"""Of games.json; another one is not gone on with."""


@dataclass(frozen=True)
class Play:
    """How much is played under each condition."""

    episodes: int = 20
    """Games of each condition."""
    max_steps: int | None = None
    """Agent steps after which a game is cut off, its score so far counted; the environment's own limit stays."""
    parallel: int = 20
    """Games played side by side, each in an environment of its own; they are saved when all of them have ended."""
    resume: bool = False
    """Go on with the games that OUTPUT/games.json has."""


@dataclass(frozen=True)
class Condition:
    """What is done to an agent while it plays."""

    name: str
    means: str
    """What is done, in a few words."""
    edit: Callable[[torch.Generator], Edit] | None = lambda rng: AS_IT_IS
    """Made anew for every batch of games, with randomness of its own; None for a player that takes any action."""


class AnyAction:
    """Plays uniformly drawn actions."""

    def __init__(self, actions: int, seed: int) -> None:
        self.actions = actions
        self._rng = torch.Generator().manual_seed(seed)

    def act(self, step: VectorStep) -> tuple[Int64[Tensor, " envs"], None]:
        return torch.randint(self.actions, step.done.shape, generator=self._rng), None

    def keep(self, stay: Tensor) -> None:
        """Nothing is remembered."""


def play_all(
    agent: PlayingAgent,
    subject: Subject,
    play: Play,
    conditions: Sequence[Condition],
    also: Mapping[str, Any] | None = None,
) -> dict[str, Played]:
    """The games of every condition, by its name; saved to OUTPUT/games.json as they end.

    `also` names what else they depend on, in JSON. Raises RequestError where the file has games already and going on
    was not asked for, or has those of another agent or of other settings.
    """
    check_amounts(episodes=play.episodes, parallel=play.parallel, max_steps=play.max_steps)
    environment = chosen(agent, subject.env, subject.sticky, play.max_steps)
    about = _settings(agent, subject, play, environment) | dict(also or {})
    kept = Kept(subject.output / "games.json", about, resume=play.resume)
    from tqdm import tqdm

    total = play.episodes * len(conditions)
    with tqdm(total=total, unit="game", disable=not sys.stderr.isatty()) as bar:
        for condition in conditions:
            bar.set_description(condition.name)
            before, done = bar.n, kept.games(condition.name)
            while len(done.scores) < play.episodes:
                start = len(done.scores) // play.parallel * play.parallel  # what is left of a batch is played again
                count = min(play.parallel, play.episodes - start)
                told = before + start

                def tell(games: int, steps: int, told: int = told) -> None:
                    bar.set_postfix_str(f"{steps} steps", refresh=False)
                    bar.update(told + games - bar.n)

                seed = int(np.random.SeedSequence((subject.seed, start)).generate_state(1)[0])
                new = _batch(agent, environment, condition, subject, count, seed, tell)
                done = _first(done, start, new)
                kept.save(condition.name, done)
            bar.update(before + play.episodes - bar.n)
    return {c.name: _first(kept.games(c.name), play.episodes) for c in conditions}


def _batch(
    agent: PlayingAgent,
    environment: EnvironmentSettings,
    condition: Condition,
    subject: Subject,
    count: int,
    seed: int,
    tell: Callable[[int, int], None],
) -> Played:
    games = Games([open_game(environment) for _ in range(count)], environment, threads=subject.threads)
    agent.check(games.observation_shape, games.actions, environment.env)
    if condition.edit is None:
        return play_out(games, AnyAction(games.actions, seed), count, seed, tell)
    edit = condition.edit(torch.Generator().manual_seed(seed))
    return play_out(games, Player(agent, count, sample=subject.sample, seed=seed, edit=edit), count, seed, tell)


def _first(games: Played, count: int, more: Played | None = None) -> Played:
    """So many games, and some more."""
    new = more or Played((), (), ())
    return Played(games.scores[:count] + new.scores, games.lengths[:count] + new.lengths, games.cut[:count] + new.cut)


def _settings(agent: PlayingAgent, subject: Subject, play: Play, environment: EnvironmentSettings) -> dict[str, Any]:
    """All that a game depends on."""
    weights = 0
    for tensor in agent.state_dict().values():
        weights = zlib.crc32(tensor.contiguous().numpy().tobytes(), weights)
    about = {
        "weights": f"{weights:08x}",
        "environment": asdict(environment),
        "sample": subject.sample,
        "seed": subject.seed,
        "parallel": play.parallel,
    }
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


class Kept:
    """Games in a file."""

    def __init__(self, file: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Raises RequestError where the file is not to be gone on with, or cannot be."""
        self.file = file
        self.settings = settings
        self._games: dict[str, Any] = {}
        if not file.exists():
            return
        if not resume:
            raise RequestError(f"{file} holds games already; add --resume to go on with them, or name another --output")
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            old, self._games = about["settings"], about["games"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{file} does not hold games; name another --output") from error
        differ = sorted(name for name in old.keys() | settings.keys() if old.get(name) != settings.get(name))
        if about.get("format") != FORMAT or differ:
            raise RequestError(
                f"{file} has games of others ({', '.join(differ) or 'format'}); resume with the same, or name another "
                "--output"
            )

    def games(self, condition: str) -> Played:
        """Those of a condition; none where it was not played yet."""
        rows = self._games.get(condition, {"scores": [], "lengths": [], "cut": []})
        return Played(tuple(rows["scores"]), tuple(rows["lengths"]), tuple(rows["cut"]))

    def save(self, condition: str, games: Played) -> None:
        """Raises RequestError where the file cannot be written to."""
        self._games[condition] = asdict(games)
        about = {"format": FORMAT, "settings": self.settings, "games": self._games}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(about) + "\n")
        except OSError as error:
            raise RequestError(f"cannot write to {self.file.parent}: {error.strerror or error}") from error


@dataclass(frozen=True)
class ValueChanged:
    """The same steps with and without a change of the value's mask."""

    steps: int
    logits: float
    """The largest change of a logit of the policy."""
    value: float
    """Mean value as it is."""
    changed: float
    """And with the change."""


STEPS = 200
"""Of four games, where something is looked at beside the scores."""


@torch.inference_mode()
def value_changed(
    agent: PlayingAgent, environment: EnvironmentSettings, subject: Subject, change: Change
) -> ValueChanged:
    """Play some steps as it is, and look at each once more with the value's mask changed.

    Mask-A3C's branches part behind the ConvLSTM, so that nothing of the value's reaches the policy, or what is
    remembered: where no logit moves, every game is played as without the change, and need not be.
    """
    edit = Edit(maps=of_head(agent.heads.index("value"), change))
    moved_most, values, others = 0.0, [], []
    for inputs, state, output in looked_at(agent, environment, subject):
        other = agent(inputs, state, False, edit)[0]
        moved_most = max(moved_most, float((other.logits - output.logits).abs().max()))
        values.append(output.value)
        others.append(other.value)
    value, changed = torch.cat(values), torch.cat(others)
    return ValueChanged(value.numel(), moved_most, float(value.mean()), float(changed.mean()))


def looked_at(
    agent: PlayingAgent, environment: EnvironmentSettings, subject: Subject
) -> Iterator[tuple[AgentInputs, State, AgentOutput]]:
    """STEPS of four games as the agent plays them: what it was shown, what it remembered, what it made of it."""
    games = Games([open_game(environment) for _ in range(4)], environment, threads=subject.threads)
    agent.check(games.observation_shape, games.actions, environment.env)
    player = Player(agent, games.envs, sample=subject.sample, seed=subject.seed)
    step = games.reset(subject.seed)
    for _ in range(STEPS):
        inputs = AgentInputs(step.observation[None], step.clipped[None], player.action[None], step.done[None])
        state = player.state
        action, output = player.act(step, observe=True)
        yield inputs, state, output
        step = games.step(action)
    games.close()


def column(*games: Played) -> Float[Tensor, "games conditions"]:
    """Scores side by side."""
    return torch.tensor([played.scores for played in games], dtype=torch.float64).T


def mean(games: Played) -> Interval:
    """Of the scores, with its bootstrap 95% interval."""
    return bootstrap_means(column(games), torch.Generator().manual_seed(0))[0]


def difference(a: Played, b: Played) -> Interval:
    """Mean of a's score less b's in the game that began alike."""
    return bootstrap_means(column(a) - column(b), torch.Generator().manual_seed(0))[0]


def ratio(a: Played, b: Played) -> Interval | None:
    """a's mean score as a part of b's, games drawn in pairs.

    None where b's may be zero or less, which has no parts, or where a score is below zero (Pong), which is no part.
    """
    if mean(b).low <= 0 or min(*a.scores, *b.scores) < 0:
        return None
    return bootstrap_ratio(column(a, b), torch.Generator().manual_seed(0))


def share_of_cost(normal: Played, a: Played, b: Played) -> Interval:
    """What a costs in per cent of what b does, of normal; b must cost something."""
    costs = column(normal) - column(a, b)
    share = bootstrap_ratio(costs, torch.Generator().manual_seed(0))
    return Interval(100 * share.mean, 100 * share.low, 100 * share.high)


def few_games(games: Played, protocol: Mapping[str, Any]) -> list[str]:
    """A warning where games are many, and what was played is not."""
    different, count = len(set(games.scores)), len(games.scores)
    only_noops = protocol.get("actions") == "greedy" and not protocol.get("sticky") and protocol.get("noops") != "none"
    if not protocol or not only_noops or 2 * different > count:
        return []
    return [
        f"Nothing but no-ops tells the games of a greedy agent without sticky actions apart: these {count} have "
        f"{different} different scores as it is. So the intervals are of starts, and too narrow for other play; "
        "--sticky 0.25 or --sample makes games differ."
    ]


def spelled(value: Interval, digits: int = 1, unit: str = "") -> str:
    """A mean and its interval for a person."""
    return f"{value.mean:.{digits}f}{unit} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def decrease(part: Interval) -> Interval:
    """What is lost where such a part is left, in per cent."""
    return Interval(100 * (1 - part.mean), 100 * (1 - part.high), 100 * (1 - part.low))


def scores_numbers(games: Played) -> dict[str, Any]:
    """All of a condition, for a program."""
    return {
        "games": len(games.scores),
        "different_scores": len(set(games.scores)),
        **asdict(mean(games)),
        "max": max(games.scores),
        "min": min(games.scores),
        "scores": list(games.scores),
        "lengths": list(games.lengths),
        "cut_off": sum(games.cut),
    }


def scores_table(games: Mapping[str, Played], conditions: Sequence[Condition], caption: str) -> Table:
    """A condition a row."""
    means = {condition.name: condition.means for condition in conditions}
    rows = [
        [
            name,
            spelled(mean(score)),
            f"{max(score.scores):g}",
            f"{min(score.scores):g}",
            str(len(score.scores)),
            str(len(set(score.scores))),
            f"{sum(score.lengths) / len(score.lengths):.0f}",
            str(sum(score.cut)),
            means[name],
        ]
        for name, score in games.items()
    ]
    columns = (
        "condition",
        "mean score",
        "max",
        "min",
        "games",
        "different scores",
        "mean steps",
        "cut off",
        "what it is",
    )
    return Table(caption, columns, rows)


def picture(games: Mapping[str, Played]) -> Figure:
    """A line a condition: its games, and their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.38 * len(games)), layout="constrained")
    axes = figure.subplots()
    for line, score in enumerate(games.values()):
        axes.scatter(score.scores, [line + 0.22] * len(score.scores), s=12, color="#868e96", alpha=0.5, linewidths=0)
    dots(axes, list(games), {"mean": [mean(score) for score in games.values()]})
    axes.set_xlabel("score (a grey dot is a game)", fontsize=9)
    return figure


def effects_picture(effects: Mapping[str, Interval], label: str) -> Figure:
    """A line a condition: what it changes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.3 * len(effects)), layout="constrained")
    axes = figure.subplots()
    dots(axes, list(effects), {label: list(effects.values())})
    axes.set_xlabel(label, fontsize=9)
    return figure


def protocol(play: Play, environment: EnvironmentSettings) -> dict[str, Any]:
    """How the games were played."""
    return {
        "episodes": play.episodes,
        "at_most_frames": environment.max_frames,
        "noops": f"up to {environment.noops}" if atari_name(environment.env) else "none",
        "environments": "one a game, with no-ops and a running mean of frames of its own; game i begins alike under "
        "every condition",
        "intervals": "percentile bootstrap, 95%, over games, in pairs where two conditions are compared",
    }
