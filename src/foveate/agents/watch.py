"""`foveate agent watch`: a film of a played game, and where the agent looked."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from tqdm import tqdm

from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import Games, VectorStep
from foveate.agents.evaluation import chosen
from foveate.agents.games import atari_name, open_game
from foveate.agents.models.interface import AgentOutput
from foveate.agents.placement import screen_centres
from foveate.agents.player import Player
from foveate.errors import RequestError
from foveate.viz import video
from foveate.viz.video import Blend

REMEMBERED = 288
"""Values that are drawn: one a pixel of the plot."""


@dataclass(frozen=True)
class WatchSettings:
    """Film a game, with each map over the screen, beside the policy, the value and the score."""

    agent: str
    """An agent: an embedded one's name, a directory, or a hub id."""
    video: Path
    """The film: an .mp4."""
    env: str | None = None
    """What to play; the agent's own environment unless given."""
    sheet: Path | None = None
    """A PNG of moments of the film side by side."""
    moments: int = 6
    """How many there are on it."""
    max_steps: int = 2_000
    """Agent steps after which the film ends; it ends with the game before."""
    skip: int = 0
    """Agent steps to play before the film begins."""
    blend: Blend = "light"
    """How a map is laid over the screen; see foveate.viz.video."""
    sample: bool = False
    """Draw actions from the policy; without it the likeliest is taken."""
    sticky: float | None = None
    """Probability that a frame takes the last action instead; as the agent was trained unless given."""
    seed: int = 0
    """Of the game and the drawn actions."""


@dataclass(frozen=True)
class Watched:
    """What was filmed."""

    steps: int
    score: float
    """Of the game, up to the film's end."""
    over: bool
    """The game ended."""


def watch(settings: WatchSettings) -> Watched:
    """Play and film. Raises RequestError for an agent, environment or codec that there is not."""
    return watch_agent(PlayingAgent.load(settings.agent), settings)


def watch_agent(agent: PlayingAgent, settings: WatchSettings) -> Watched:
    """The same for an agent that is at hand."""
    if settings.max_steps < 1 or settings.moments < 1 or settings.skip < 0:
        raise RequestError("--max-steps and --moments must be at least 1, --skip at least 0")
    environment = chosen(agent, settings.env, settings.sticky)
    games = Games([open_game(environment)], environment)
    agent.check(games.observation_shape, games.actions, environment.env)
    painter = Painter(agent, games, settings.blend)
    player = Player(agent, 1, sample=settings.sample, seed=settings.seed)
    # At the speed of the console: 60 frames a second.
    rate = 60 / environment.repeat if atari_name(environment.env) else 8.0
    moments = Moments(settings.moments)
    step, filmed, score, over = games.reset(settings.seed), 0, 0.0, False
    bar = tqdm(total=settings.max_steps, unit="step", disable=not sys.stderr.isatty())
    with video.film(settings.video, rate) as film, bar:
        for number in range(settings.skip + settings.max_steps):
            screen = games.games[0].screen()
            action, output = player.act(step, observe=True)
            if number >= settings.skip:
                picture = painter.paint(screen, step, output, int(action))
                film.add(picture)
                moments.add(picture)
                filmed += 1
                bar.update(1)
            step = games.step(action)
            score, over = float(step.episode_return), bool(step.over)
            if over:
                break
        if not filmed:
            raise RequestError(f"the game ended after {number + 1} steps; --skip fewer than that")
    games.close()
    if settings.sheet is not None:
        video.save_picture(video.contact_sheet(moments.chosen(), columns=2), settings.sheet)
    return Watched(filmed, score, over)


class Painter:
    """Makes a picture of a step."""

    def __init__(self, agent: PlayingAgent, games: Games, blend: Blend) -> None:
        self.agent = agent
        self.actions = games.action_names
        self.env = games.settings.env
        self.blend = blend
        self.rows, self.columns = screen_centres(agent.network.grid, agent.observation, games.box)
        high, wide = games.games[0].screen().shape[:2]
        panels = max(len(agent.heads), 1)
        # Large enough to see a sprite, small enough to see all panels.
        self.narrow = panels > 8
        wanted = 630 if panels < 3 else 210 if self.narrow else 340
        self.zoom = max(1, round(wanted / max(high, wide)))
        self.values: deque[float] = deque(maxlen=REMEMBERED)

    def paint(
        self, screen: UInt8[np.ndarray, "height width 3"], step: VectorStep, output: AgentOutput, action: int
    ) -> UInt8[np.ndarray, "high wide 3"]:
        """Each map over the screen (or the screen alone, where there is none), beside what the agent said."""
        self.values.append(float(output.value))
        plain = screen.repeat(self.zoom, 0).repeat(self.zoom, 1)
        shown, names = [plain], ["screen"]
        if output.attention is not None:
            maps = output.attention.maps[0, 0].float().cpu().numpy()
            # A softmax over hundreds of cells is small everywhere; a mask already says how much comes through.
            softmax = np.allclose(maps.sum((1, 2)), 1, atol=1e-3)
            shown, names = [], []
            for head, weights in zip(self.agent.heads, maps, strict=True):
                most = float(weights.max())
                scaled = weights / max(most, 1e-9) if softmax else weights
                shown.append(video.overlay(screen, scaled, self.rows, self.columns, self.zoom, self.blend))
                what, share = ("brightest cell ", most) if softmax else ("open ", weights.mean())
                names.append(f"{head}   {'' if self.narrow else what}{share:.0%}")
        left = video.panels(shown, names)
        right = video.side(
            len(left),
            f"{self.agent.model}  {self.env}",
            self.actions,
            torch.softmax(output.logits[0, 0], 0).tolist(),
            action,
            list(self.values),
            float(step.episode_return),
            int(step.episode_length),
        )
        return video.beside(left, right)


class Moments:
    """Keeps pictures evenly spread over a film of unknown length."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._every, self._seen = 1, 0
        self._kept: list[np.ndarray] = []

    def add(self, picture: np.ndarray) -> None:
        if self._seen % self._every == 0:
            self._kept.append(picture)
        self._seen += 1
        if len(self._kept) >= 4 * self.count:
            self._kept, self._every = self._kept[::2], self._every * 2

    def chosen(self) -> list[np.ndarray]:
        """So many, from the first to the last."""
        places = np.linspace(0, len(self._kept) - 1, min(self.count, len(self._kept))).round().astype(int)
        return [self._kept[place] for place in places]
