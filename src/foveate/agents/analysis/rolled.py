"""Rolled: play gone on with from several moments of a trace at once, as it was and with something pasted into what the
agent sees. The game knows nothing of it: only the picture changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.sprites import Sprite, cut, on_screen, paste
from foveate.agents.analysis.subject import Subject
from foveate.agents.envs import Games, VectorStep
from foveate.agents.games import Paint
from foveate.agents.models.interface import State
from foveate.agents.placement import screen_centres
from foveate.agents.player import Player
from foveate.agents.screens import Box
from foveate.agents.trace import Trace


@dataclass(frozen=True)
class Beginning:
    """Games and the agent at several moments of a trace, side by side."""

    games: Games
    snapshots: list[bytes]
    step: VectorStep
    state: State
    action: Int64[Tensor, " starts"]
    screens: list[UInt8[np.ndarray, "height width 3"]]
    """As recorded; a game that goes on from a snapshot shows nothing before its next step."""


@dataclass(frozen=True)
class Rolled:
    """What became of the moments; the first row is the moment itself, before anything is pasted."""

    maps: Float[Tensor, "time starts heads rows columns"]
    probabilities: Float[Tensor, "time starts actions"]
    action: Int64[Tensor, "time starts"]
    reward: Float[Tensor, "time starts"]
    screens: list[list[UInt8[np.ndarray, "height width 3"]]]
    """By time and start, with what was pasted."""


def together(trace: Trace, agent: PlayingAgent, starts: Sequence[int]) -> Beginning:
    """Several moments as one batch. Raises RequestError where the environment's state could not be taken."""
    moments = [trace.moment(start, agent) for start in starts]
    games = Games([moment.games.games[0] for moment in moments], trace.environment)
    step = VectorStep(**{f.name: torch.cat([getattr(m.step, f.name) for m in moments]) for f in fields(VectorStep)})
    state = {name: torch.cat([m.state[name] for m in moments]) for name in moments[0].state}
    snapshots = [moment.games.snapshot()[0] for moment in moments]
    screens = [trace.piece(start).screen[start - trace.piece(start).start].numpy() for start in starts]
    return Beginning(games, snapshots, step, state, torch.cat([m.action for m in moments]), screens)


def roll(
    agent: PlayingAgent,
    beginning: Beginning,
    sprites: Sequence[Sprite] | None,
    places: Sequence[tuple[int, int]],
    rows: int,
    forced: Int64[Tensor, "time starts"] | None,
    subject: Subject,
) -> Rolled:
    """Play on from the moments, with each start's sprite at the first of `places` in the second row, and so on.

    `forced` actions are taken, whatever the agent would do.
    """
    games = beginning.games
    games.restore(beginning.snapshots)
    player = Player(agent, games.envs, sample=subject.sample, seed=subject.seed)
    player.state, player.action, step = dict(beginning.state), beginning.action, beginning.step
    outputs, actions, rewards, screens = [], [], [], []
    for t in range(rows):
        now = [game.screen().copy() for game in games.games] if t else beginning.screens
        if sprites is not None and 1 <= t <= len(places):
            now = [
                paste(screen, on_screen(sprite), *places[t - 1]) for screen, sprite in zip(now, sprites, strict=True)
            ]
        screens.append(now)
        chosen, output = player.act(step, observe=True)
        player.action = chosen if forced is None else forced[t]
        outputs.append(output)
        actions.append(player.action)
        _paint(games, sprites, places[t] if t < len(places) else None)
        step = games.step(player.action)
        rewards.append(step.reward)
    _paint(games, None, None)
    nothing = torch.zeros(games.envs, 0, 1, 1)
    return Rolled(
        maps=torch.stack([o.attention.maps[0] if o.attention is not None else nothing for o in outputs]),
        probabilities=torch.stack([o.logits[0].softmax(-1) for o in outputs]),
        action=torch.stack(actions),
        reward=torch.stack(rewards),
        screens=screens,
    )


def _paint(games: Games, sprites: Sequence[Sprite] | None, place: tuple[int, int] | None) -> None:
    """Have the games' next pictures painted."""
    for n, game in enumerate(games.games):
        paint: Paint | None = None
        if sprites is not None and place is not None:
            paint = partial(paste, sprite=sprites[n], top=place[0], left=place[1])
        game.paint = paint


def source(trace: Trace, step: int) -> UInt8[np.ndarray, "height width channels"]:
    """What sprites are cut from: the screen; in MinAtar, whose screen has colours for channels, those channels."""
    piece = trace.piece(step)
    row = step - piece.start
    if trace.environment.env.startswith("MinAtar/"):
        return piece.step.observation[row].permute(1, 2, 0).numpy()
    return piece.screen[row].numpy()


def elsewhere(
    trace: Trace, step: int, sprite: Sprite, place: tuple[int, int], box: Box, rng: np.random.Generator
) -> Sprite:
    """The control: of the same screen, a piece in the sprite's outline that lies beside it where that is possible."""
    picture = source(trace, step)
    rows = np.arange(box.top, max(box.top + box.height - sprite.height, box.top) + 1)
    columns = np.arange(box.left, max(box.left + box.width - sprite.width, box.left) + 1)
    apart = (np.abs(rows - place[0]) >= sprite.height)[:, None] | (np.abs(columns - place[1]) >= sprite.width)
    candidates = np.argwhere(apart if apart.any() else np.ones_like(apart))
    row, column = candidates[rng.integers(len(candidates))]
    size = (min(sprite.height, picture.shape[0]), min(sprite.width, picture.shape[1]))
    piece = cut(picture, Box(int(rows[row]), int(columns[column]), *size), name="patch from elsewhere")
    return Sprite(piece.pixels, sprite.opacity[: size[0], : size[1]], piece.name)


def cells_under(
    agent: PlayingAgent, box: Box, sprite: Sprite, places: Sequence[tuple[int, int]]
) -> Bool[Tensor, "time rows columns"]:
    """The cells of a map that are nearest to the sprite's pixels, at each of its places; none where it is off what the
    agent sees."""
    centres = screen_centres(agent.network.grid, agent.observation, box)

    def nearest(centres: np.ndarray, first: int, length: int, low: int, size: int) -> np.ndarray:
        pixels = np.arange(max(first, low), min(first + length, low + size))
        some = np.zeros(len(centres), bool)
        some[np.abs(pixels[:, None] - centres).argmin(1)] = len(pixels) > 0
        return some

    return torch.from_numpy(
        np.stack(
            [
                nearest(centres[0], top, sprite.height, box.top, box.height)[:, None]
                & nearest(centres[1], left, sprite.width, box.left, box.width)
                for top, left in places
            ]
        )
    )
