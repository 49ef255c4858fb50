"""Single games: how they are set, what each of them can do, and which is meant by an id."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from foveate.agents.screens import Box, ScreenName
from foveate.errors import RequestError


@dataclass(frozen=True)
class EnvironmentSettings:
    """What is played, and how an agent sees it. All but `env`, `max_frames` and `options` is for Atari alone."""

    env: str
    """`ALE/Breakout-v5` (or just `Breakout`), `MinAtar/Breakout-v1`, or any gymnasium id with image observations."""
    screen: ScreenName = "rgb"
    """What the agent sees; see foveate.agents.screens."""
    size: tuple[int, int] = (84, 84)
    """Height and width of a grey screen."""
    stack: int = 1
    """Grey screens of so many steps at once, for an agent without a memory."""
    repeat: int = 4
    """Frames that an action is held for."""
    max_pool: bool = True
    """See the brighter of the last two frames of a step, as sprites may flicker; the S3TA paper does not say."""
    sticky: float = 0.0
    """Probability that a frame takes the last action instead (Machado et al. 2018: 0.25)."""
    noops: int = 30
    """A game begins after up to so many frames without an action."""
    fire: bool = True
    """Press FIRE when a game begins that waits for it."""
    life_loss_ends: bool = False
    """A lost life ends the agent's episode, though the game goes on; the S3TA paper does not say."""
    max_frames: int = 108_000
    """A game is cut off after so many frames (30 minutes); elsewhere than on Atari a step is a frame."""
    options: tuple[str, ...] = ()
    """NAME=VALUE, in JSON, handed to gymnasium.make: continuous=false."""


def published_mask_a3c(env: str) -> EnvironmentSettings:
    """How the published Mask-A3C agents were trained and are evaluated: 10,000 steps, no sticky actions."""
    return EnvironmentSettings(env=env, screen="mask-a3c", life_loss_ends=True, max_frames=40_000)


Paint = Callable[[UInt8[np.ndarray, "height width *channels"]], UInt8[np.ndarray, "height width *channels"]]
"""What an experiment does to the pictures that observations are made of, before they are shrunk; the game goes on as if
nothing were. In colour, or grey where the agent's screen is; MinAtar's have a channel for each kind of thing."""


@dataclass(frozen=True)
class Turn:
    """What a step of one game brought."""

    observation: UInt8[np.ndarray, "channels height width"]
    reward: float
    """The game's own, unclipped."""
    over: bool = False
    """The game ended or was cut off; it must be reset before the next step."""
    truncated: bool = False
    life_lost: bool = False


@runtime_checkable
class Game(Protocol):
    """One game. Everything random in it comes from the seed of the first reset."""

    actions: int
    action_names: tuple[str, ...]
    observation_shape: tuple[int, int, int]
    box: Box
    """The part of the screen that the observation shows."""
    threaded: bool
    """Whether stepping it lets other threads run."""
    paint: Paint | None
    """Of the observations from the next one on."""

    def reset(self, seed: int | None = None) -> UInt8[np.ndarray, "channels height width"]: ...
    def step(self, action: int) -> Turn: ...
    def screen(self) -> UInt8[np.ndarray, "height width 3"]:
        """What a person sees."""
        ...

    def snapshot(self) -> bytes:
        """All that the game's future depends on. Raises RequestError where it cannot be had."""
        ...

    def restore(self, snapshot: bytes) -> None: ...
    def close(self) -> None: ...


def open_game(settings: EnvironmentSettings) -> Game:
    """A single game.

    Raises RequestError where there is no such game, its package is missing, or it shows no image.
    """
    if settings.repeat < 1 or settings.stack < 1 or settings.max_frames < 1 or settings.noops < 0:
        raise RequestError("an environment's repeat, stack and max-frames must be at least 1, noops at least 0")
    if not 0 <= settings.sticky < 1:
        raise RequestError(f"sticky is {settings.sticky}; it is a probability below 1")
    # Both are made of what is in this file.
    from foveate.agents.atari import AtariGame
    from foveate.agents.gym_game import GymGame

    name = atari_name(settings.env)
    return GymGame(settings) if name is None else AtariGame(settings, name)


def atari_name(env: str) -> str | None:
    """The ROM's name (`ms_pacman`) of an Atari id, or None where the id is of something else.

    Raises RequestError where it is of the form of an Atari id and there is no such game.
    """
    plain = "/" not in env and "-" not in env
    if not plain and not env.startswith("ALE/") and "NoFrameskip-" not in env:
        return None
    word = env.removeprefix("ALE/").split("-")[0].removesuffix("NoFrameskip").removesuffix("Deterministic")
    name = _snake(word)
    need("ale_py", "ale-py", "Atari")
    known = _roms()
    if name not in known:
        near = [n for n in known if n.replace("_", "") == name.replace("_", "")]
        if not near:
            raise RequestError(
                f"there is no Atari game {env!r}; games are named as in ALE/Breakout-v5, and ale-py knows "
                f"{', '.join(known)}"
            )
        name = near[0]
    return name


def need(module: str, package: str, purpose: str) -> None:
    """Raises RequestError where a package of the extra `agents` is missing."""
    if find_spec(module) is None:
        raise RequestError(f"{purpose} needs the package {package}: pip install 'foveate[agents]'")


@cache
def _roms() -> tuple[str, ...]:
    from ale_py import roms

    return tuple(sorted(roms.get_all_rom_ids()))


def _snake(word: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(word))


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs, the value in JSON. Raises RequestError for any other word."""
    options = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError as error:
            raise RequestError(f"{word!r} is not NAME=VALUE with a value in JSON, as in continuous=false") from error
    return options


def first_line(error: Exception) -> str:
    """What it says, as far as a message of one line has room for it."""
    return (str(error) or type(error).__name__).splitlines()[0]
