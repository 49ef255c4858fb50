"""Where the things of a game are on its screen: from the console's memory (Atari) or the observation (MinAtar)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from foveate.agents.games import EnvironmentSettings, atari_name, open_game
from foveate.agents.gym_game import GymGame
from foveate.agents.trace import Trace
from foveate.errors import RequestError


@dataclass(frozen=True)
class Track:
    """Where the things of one name are, step by step, in pixels of the screen (the first one's centre is 0)."""

    rows: Float[Tensor, "time things"]
    columns: Float[Tensor, "time things"]
    seen: Bool[Tensor, "time things"]
    """Whether there is such a thing; elsewhere its place says nothing. Of sprites that flicker: as if they did not."""


Tracks = Mapping[str, Track]
"""By name."""


def tracks(trace: Trace) -> Tracks:
    """The things of a recorded game. Raises RequestError where it is of a game whose things are not known."""
    name = atari_name(trace.environment.env)
    if name is not None and name in ATARI:
        return ATARI[name](trace.column("ram").long())
    if trace.environment.env.startswith("MinAtar/"):
        return minatar(trace.column("observation"), channel_names(trace.environment))
    known = ", ".join((*ATARI, "all of MinAtar"))
    raise RequestError(f"where the objects of {trace.environment.env} are is not known; it is for {known}")


def minatar(observation: UInt8[Tensor, "time channels height width"], names: tuple[str, ...]) -> Tracks:
    """Each channel is a kind of thing, each pixel a place that it may be in."""
    time, _, height, width = observation.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    down, across = (x.flatten().float().expand(time, -1) for x in (rows, columns))
    return {name: Track(down, across, observation[:, n].flatten(1) > 0) for n, name in enumerate(names)}


def channel_names(settings: EnvironmentSettings) -> tuple[str, ...]:
    """What MinAtar calls the channels of a game, as words."""
    game = open_game(settings)
    assert isinstance(game, GymGame)
    numbers: dict[str, int] = game.env.unwrapped.game.env.channels
    return tuple(sorted((name.replace("_", " ") for name in numbers), key=lambda n: numbers[n.replace(" ", "_")]))


Memory = Int64[Tensor, "time bytes"]


def _one(rows: Tensor | float, columns: Tensor | float, seen: Tensor | None = None) -> Track:
    """A single thing; a number is a coordinate that does not change."""
    time = next(len(x) for x in (rows, columns) if isinstance(x, Tensor))
    row, column = (torch.as_tensor(x, dtype=torch.float32).expand(time)[:, None] for x in (rows, columns))
    there = torch.ones(time, 1, dtype=torch.bool) if seen is None else seen[:, None]
    return Track(row, column, there & (row >= 0) & (column >= 0) & (column < 160))


def _many(rows: Tensor, columns: Tensor, seen: Tensor) -> Track:
    rows, columns, seen = (x.broadcast_to(seen.shape) for x in (rows.float(), columns.float(), seen))
    return Track(rows, columns, seen & (rows >= 0) & (columns >= 0) & (columns < 160))


# The bytes are those of AtariARI (Anand et al. 2019) and OCAtari (Delfosse et al. 2023); what is added to them puts the
# place at the middle of the sprite, and was read off real screens, as the tests do.


def _breakout(ram: Memory) -> Tracks:
    return {
        "paddle": _one(190.5, ram[:, 72] - 39.5),
        # Below the paddle it is counted on, where nothing is drawn.
        "ball": _one(ram[:, 101] + 10.5, ram[:, 99] - 48.5, (ram[:, 101] > 0) & (ram[:, 101] < 186)),
    }


def _pong(ram: Memory) -> Tracks:
    # At the field's edges a bat is cut off, and its middle is that of what is left.
    def bat(low: Tensor) -> Tensor:
        return ((low - 15).clamp(34, 193) + low.clamp(34, 193)) / 2

    return {
        "bat": _one(bat(ram[:, 51] + 2), 141.5, ram[:, 51] > 0),
        "opponent": _one(bat(ram[:, 50]), 17.5, ram[:, 50] > 18),
        "ball": _one(ram[:, 54] - 12.5, ram[:, 49] - 48.5, ram[:, 54] > 0),
    }


def _ms_pacman(ram: Memory) -> Tracks:
    places = {"ms pacman": (16, 10), "blinky": (15, 9), "pinky": (14, 8), "inky": (13, 7), "sue": (12, 6)}
    found = {name: _one(ram[:, row] + 5.5, ram[:, column] - 8.5) for name, (row, column) in places.items()}
    return found | {"fruit": _one(ram[:, 17] + 5.5, ram[:, 11] - 8.5, ram[:, 11] > 0)}


def _space_invaders(ram: Memory) -> Tracks:
    across, down = 16 * torch.arange(6), 18 * torch.arange(6)
    # A byte a row, the lowest first; a bit a column, the left one first.
    alive = (ram[:, 18:24].flip(1)[:, :, None] >> torch.arange(6)) & 1 == 1
    columns = (ram[:, 26, None, None] + 2.5 + across).expand(-1, 6, -1)
    rows = (35.5 + 2 * ram[:, 16, None, None] + down[:, None]).expand(-1, -1, 6)
    bombs = ram[:, 81:83]
    return {
        "cannon": _one(189.5, ram[:, 28] + 2.0),
        "invaders": _many(rows.flatten(1), columns.flatten(1), alive.flatten(1)),
        "shot": _one(2 * ram[:, 85] + 7.5, ram[:, 87] - 2, ram[:, 85] < 100),
        "bombs": _many(2 * bombs + 7.5, ram[:, 83:85] - 2, bombs < 94),
    }


def _seaquest(ram: Memory) -> Tracks:
    lanes = torch.arange(4)
    # Three abreast, 16 pixels apart: a bit each, the left one's the highest; bytes wrap round.
    there = (ram[:, 36:40, None] >> torch.tensor([2, 1, 0])) & 1 == 1
    fish = (ram[:, 30:34, None] + torch.tensor([0, 16, 32])) % 256
    lane = 144.5 - 24 * lanes
    submarine = (ram[:, 89:93] % 8 > 3) & (ram[:, 89:93] % 8 < 7)
    lone = ram[:, 71:75]  # of divers; in a lane of submarines, of what they shoot
    return {
        "submarine": _one(ram[:, 97] + 38.0, ram[:, 70] + 7.5),
        "enemies": _many(lane[:, None].expand(len(ram), -1, 3).flatten(1), fish.flatten(1) + 3.5, there.flatten(1)),
        "divers": _many(lane + 2, lone + 3.5, (lone > 0) & ~submarine),
        "missile": _one(ram[:, 97] + 40.0, ram[:, 103] + 3.5, ram[:, 103] > 0),
    }


ATARI: Mapping[str, Callable[[Memory], Tracks]] = {
    "breakout": _breakout,
    "pong": _pong,
    "ms_pacman": _ms_pacman,
    "space_invaders": _space_invaders,
    "seaquest": _seaquest,
}
