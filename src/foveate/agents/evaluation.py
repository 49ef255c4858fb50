"""`foveate agent evaluate`: games played to their end, and what they scored."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import Games, VectorStep
from foveate.agents.games import EnvironmentSettings, atari_name, open_game
from foveate.agents.human_scores import human_normalised
from foveate.agents.models.interface import AS_IT_IS, Edit
from foveate.agents.player import Player
from foveate.bootstrap import Interval, bootstrap_means
from foveate.errors import RequestError


@dataclass(frozen=True)
class EvaluationSettings:
    """Play games to their end, and tell what they scored."""

    agent: str
    """An agent: an embedded one's name, a directory, or a hub id."""
    env: str | None = None
    """What to play; the agent's own environment unless given."""
    episodes: int = 10
    """Games."""
    sample: bool = False
    """Draw actions from the policy; without it the likeliest is taken."""
    sticky: float | None = None
    """Probability that a frame takes the last action instead; as the agent was trained unless given."""
    max_steps: int | None = None
    """Agent steps after which a game is cut off, its score so far counted; the environment's own limit stays."""
    parallel: int = 8
    """Games played side by side."""
    threads: int = 0
    """CPU threads; 0 for torch's own choice."""
    seed: int = 0
    """Of the games and the drawn actions."""
    json: bool = False
    """Print JSON, alone, on standard output."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of games, unclipped, one a game in the order that they were begun."""

    agent: str
    env: str
    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    """Agent steps."""
    cut_off: int
    """Games that a limit of time ended."""
    sampled: bool
    sticky: float
    seed: int

    @property
    def interval(self) -> Interval:
        """The mean score and its bootstrap 95% interval."""
        values = torch.tensor(self.scores, dtype=torch.float64)[:, None]
        return bootstrap_means(values.float(), torch.Generator().manual_seed(0))[0]

    @property
    def human_normalised(self) -> float | None:
        """Of the mean score; None where there is no human score."""
        return human_normalised(atari_name(self.env), self.interval.mean)

    def to_json(self) -> str:
        mean = self.interval
        about = {
            "mean": mean.mean,
            "low": mean.low,
            "high": mean.high,
            "max": max(self.scores),
            "min": min(self.scores),
        }
        return json.dumps(asdict(self) | about | {"human_normalised": self.human_normalised})

    def to_text(self) -> str:
        """A few lines for a person."""
        mean = self.interval
        how = ("sampled" if self.sampled else "greedy") + (f", sticky actions {self.sticky}" if self.sticky else "")
        lines = [
            f"{self.env}, {len(self.scores)} games, {how}",
            f"score   mean {mean.mean:.1f} (95% interval {mean.low:.1f} to {mean.high:.1f})  max {max(self.scores):g}"
            f"  min {min(self.scores):g}",
            f"length  mean {sum(self.lengths) / len(self.lengths):.0f} steps, {self.cut_off} cut off",
        ]
        if self.human_normalised is not None:
            lines.append(f"human-normalised {100 * self.human_normalised:.1f}%")
        return "\n".join(lines)


def evaluate(settings: EvaluationSettings) -> Evaluation:
    """Play and count. Raises RequestError for an agent or environment that there is not, or that do not fit."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    agent = PlayingAgent.load(settings.agent)
    from tqdm import tqdm

    with tqdm(total=settings.episodes, unit="game", disable=not sys.stderr.isatty()) as bar:

        def tell(games: int, steps: int) -> None:
            bar.set_postfix_str(f"{steps} steps", refresh=False)
            bar.update(games - bar.n)

        return evaluate_agent(agent, settings, tell)


def evaluate_agent(
    agent: PlayingAgent,
    settings: EvaluationSettings,
    tell: Callable[[int, int], None] | None = None,
    edit: Edit = AS_IT_IS,
) -> Evaluation:
    """The same for an agent that is at hand, whose attention an `edit` may change; `tell` is told how many games have
    ended, and how many steps were played.
    """
    check_amounts(episodes=settings.episodes, parallel=settings.parallel, max_steps=settings.max_steps)
    environment = chosen(agent, settings.env, settings.sticky, settings.max_steps)
    envs = min(settings.parallel, settings.episodes)
    games = Games([open_game(environment) for _ in range(envs)], environment, threads=settings.threads)
    agent.check(games.observation_shape, games.actions, environment.env)
    player = Player(agent, envs, sample=settings.sample, seed=settings.seed, edit=edit)
    played = play_out(games, player, settings.episodes, settings.seed, tell)
    return Evaluation(
        agent=settings.agent,
        env=environment.env,
        scores=played.scores,
        lengths=played.lengths,
        cut_off=sum(played.cut),
        sampled=settings.sample,
        sticky=environment.sticky,
        seed=settings.seed,
    )


def check_amounts(**amounts: int | None) -> None:
    """Raises RequestError where one that is given is not positive."""
    for name, amount in amounts.items():
        if amount is not None and amount < 1:
            raise RequestError(f"--{name.replace('_', '-')} is {amount}; it must be at least 1")


@runtime_checkable
class Plays(Protocol):
    """Whoever chooses actions: a Player, or one that looks at nothing."""

    def act(self, step: VectorStep) -> tuple[Int64[Tensor, " envs"], Any]:
        """Actions, and whatever else was made of the step."""
        ...

    def keep(self, stay: Bool[Tensor, " envs"]) -> None:
        """Forget the environments that left."""
        ...


@dataclass(frozen=True)
class Played:
    """Games in the order that they were begun."""

    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    """Agent steps."""
    cut: tuple[bool, ...]
    """A limit of time ended it."""


def play_out(
    games: Games, player: Plays, episodes: int, seed: int, tell: Callable[[int, int], None] | None = None
) -> Played:
    """Play so many games to their end, in as many environments as there are; those are closed then.

    Every environment plays a fixed number of games: to stop at the first `episodes` ends would prefer the short ones.
    """
    envs = games.envs
    number = torch.arange(envs)  # of the game that each environment plays; its next one is `envs` further on
    ended: dict[int, tuple[float, int, bool]] = {}
    steps = 0
    step = games.reset(seed)
    while games.envs:
        step = games.step(player.act(step)[0])
        steps += games.envs
        for env in step.over.nonzero().squeeze(1).tolist():
            ended[int(number[env])] = (
                float(step.episode_return[env]),
                int(step.episode_length[env]),
                bool(step.truncated[env]),
            )
        number = number + envs * step.over
        stay = number < episodes
        if not stay.all():
            games.keep(stay)
            player.keep(stay)
            number, step = number[stay], step.rows(stay)
        if tell is not None:
            tell(len(ended), steps)
    games.close()
    scores, lengths, cut = zip(*(ended[game] for game in sorted(ended)), strict=True)
    return Played(scores, lengths, cut)


def chosen(
    agent: PlayingAgent, env: str | None, sticky: float | None = None, max_steps: int | None = None
) -> EnvironmentSettings:
    """The agent's environment, but for what was asked for."""
    environment = agent.environment if env is None else replace(agent.environment, env=env)
    if sticky is not None:
        environment = replace(environment, sticky=sticky)
    if max_steps is not None:
        held = environment.repeat if atari_name(environment.env) else 1
        environment = replace(environment, max_frames=min(environment.max_frames, max_steps * held))
    return environment
