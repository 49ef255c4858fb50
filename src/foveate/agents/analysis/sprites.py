"""Sprites: small pictures, from a file, from a recorded screen, or drawn by code; and pasting them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from foveate.agents.games import EnvironmentSettings
from foveate.agents.gym_game import GymGame
from foveate.agents.screens import Box
from foveate.errors import RequestError
from foveate.viz.video import MARK

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
"""Of red, green and blue: how the emulator makes its grey screens."""


@dataclass(frozen=True)
class Sprite:
    """A small picture."""

    pixels: Float32[np.ndarray, "height width channels"]
    """0 to 255. Red, green and blue; in MinAtar the game's own channels."""
    opacity: Float32[np.ndarray, "height width"]
    """0 to 1; where it is 0 the picture below shows."""
    name: str

    @property
    def height(self) -> int:
        return len(self.opacity)

    @property
    def width(self) -> int:
        return self.opacity.shape[1]


@dataclass(frozen=True)
class Shape:
    """A sprite as a drawing of # in one colour."""

    lines: tuple[str, ...]
    colour: tuple[int, int, int]


SHAPES: Mapping[str, Shape] = {
    "fish": Shape(
        (
            "##.....####...",
            "###..########.",
            "#############.",
            ".#########.###",
            "#############.",
            "###..########.",
            "##.....####...",
        ),
        (236, 200, 96),
    ),
    "oxygen": Shape(("#" * 63,) * 5, (214, 214, 214)),
    "block": Shape(("#" * 8,) * 8, (236, 236, 236)),
}
"""A fish; a gauge as full as Seaquest's of oxygen ever is; a plain square. Shapes of their own: nothing of a ROM."""

COMING = {"Asterix": "enemy", "Breakout": "ball", "Freeway": "car", "Seaquest": "enemy_fish", "SpaceInvaders": "alien"}
"""MinAtar's channel of what comes towards the player."""


def named(name: str | None, env: str) -> Sprite:
    """A sprite by name or file; None for the usual one of the game.

    Raises RequestError where there is none of that name, or the file is no picture.
    """
    if env.startswith("MinAtar/"):
        return _channel(name or COMING.get(env.removeprefix("MinAtar/").split("-")[0]), env)
    name = name or "fish"
    if shape := SHAPES.get(name):
        opacity = np.array([[c == "#" for c in line] for line in shape.lines], np.float32)
        return Sprite(np.broadcast_to(np.array(shape.colour, np.float32), (*opacity.shape, 3)).copy(), opacity, name)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(name) as image:
            picture = np.asarray(image.convert("RGBA"), np.float32)
    except FileNotFoundError as error:
        raise RequestError(f"no sprite is called {name!r}, nor is it a file; there is {', '.join(SHAPES)}") from error
    except (OSError, UnidentifiedImageError) as error:
        raise RequestError(f"{name} cannot be read as a picture; give a PNG") from error
    return Sprite(picture[:, :, :3], picture[:, :, 3] / 255, Path(name).stem)


def _channel(name: str | None, env: str) -> Sprite:
    """One cell of a MinAtar game, with one thing in it."""
    game = GymGame(EnvironmentSettings(env=env))
    channels: Mapping[str, int] = game.env.unwrapped.game.env.channels
    count = game.observation_shape[0]
    game.close()
    if name is None or name not in channels:
        raise RequestError(f"{env} has no channel {name!r}; there is {', '.join(channels)}")
    pixels = np.zeros((1, 1, count), np.float32)
    pixels[0, 0, channels[name]] = 255
    return Sprite(pixels, np.ones((1, 1), np.float32), name)


def cut(picture: UInt8[np.ndarray, "height width channels"], box: Box, name: str) -> Sprite:
    """A part of a picture. Raises RequestError where that is none."""
    piece = picture[max(box.top, 0) : box.top + box.height, max(box.left, 0) : box.left + box.width]
    if min(box.top, box.left) < 0 or piece.shape[:2] != (box.height, box.width) or not piece.size:
        high, wide = picture.shape[:2]
        raise RequestError(
            f"--box {box.top} {box.left} {box.height} {box.width} is not a part of the screen of {high} × {wide}"
        )
    return Sprite(piece.astype(np.float32), np.ones(piece.shape[:2], np.float32), name)


def paste(
    picture: UInt8[np.ndarray, "height width *channels"], sprite: Sprite, top: int, left: int
) -> UInt8[np.ndarray, "height width *channels"]:
    """A picture with a sprite's top left corner at a place; what lies outside is cut off. A grey picture takes the
    sprite's luminance."""
    rows = slice(max(top, 0), max(min(top + sprite.height, picture.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + sprite.width, picture.shape[1]), 0))
    part = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return picture.copy()
    pixels, opacity = sprite.pixels[part], sprite.opacity[part]
    if picture.ndim == 2:
        pixels = pixels @ LUMINANCE
    else:
        opacity = opacity[:, :, None]
    painted = picture.copy()
    under = painted[rows, columns]
    painted[rows, columns] = np.rint(under * (1 - opacity) + pixels * opacity).astype(np.uint8)
    return painted


def on_screen(sprite: Sprite) -> Sprite:
    """As a person is shown it: MinAtar's channels have no colours of their own, and get one that marks them."""
    if sprite.pixels.shape[2] == 3:
        return sprite
    some = np.any(sprite.pixels, axis=2, keepdims=True)
    return Sprite(some * np.array(MARK, np.float32), sprite.opacity, sprite.name)
