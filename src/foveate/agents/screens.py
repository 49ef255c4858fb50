"""From an emulator's screen to what an agent sees, and back: which part of the screen lies under an observation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64, UInt8

ScreenName = Literal["rgb", "grey", "mask-a3c"]
"""`rgb`: the whole screen in colour, untouched (S3TA, section A.1). `grey`: the luminance, area-averaged to a size
(DQN and its followers). `mask-a3c`: what the published Mask-A3C weights were trained on."""

HEIGHT, WIDTH = 210, 160
"""Of almost every Atari screen, in pixels."""


@dataclass(frozen=True)
class Box:
    """A part of the screen, in pixels; what an observation shows of it."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Shrink:
    """A grey observation is `rows @ grey @ columns.T`: every resizing in use is linear and separable."""

    rows: Float32[np.ndarray, "high screen_rows"]
    columns: Float32[np.ndarray, "wide screen_columns"]
    box: Box

    def __call__(self, grey: Float32[np.ndarray, "screen_rows screen_columns"]) -> UInt8[np.ndarray, "high wide"]:
        # Not by `@`: BLAS has threads of its own, which wait for a core that the network's threads are on.
        high = _summed(self._bands[0], grey)
        return np.rint(_summed(self._bands[1], high.T).T).clip(0, 255).astype(np.uint8)

    @cached_property
    def _bands(self) -> tuple[Bands, Bands]:
        return _bands(self.rows), _bands(self.columns)


Bands = list[tuple[Int64[np.ndarray, " out"], Float32[np.ndarray, "out 1"]]]
"""A matrix whose every row has few entries, side by side: the places and the values of each row's first, second ..."""


def _bands(weights: Float32[np.ndarray, "out source"]) -> Bands:
    first = (weights != 0).argmax(1)
    last = weights.shape[1] - 1 - (weights != 0)[:, ::-1].argmax(1)
    rows = np.arange(len(weights))
    places = [np.minimum(first + n, last) for n in range(int((last - first).max()) + 1)]
    # Past its last entry a row counts nothing.
    return [
        (place, np.where(first + n <= last, weights[rows, place], 0).astype(np.float32)[:, None])
        for n, place in enumerate(places)
    ]


def _summed(bands: Bands, picture: Float32[np.ndarray, "source across"]) -> Float32[np.ndarray, "out across"]:
    """The product of the matrix and a picture."""
    (place, weight), *others = bands
    total = picture[place] * weight
    for place, weight in others:
        total += picture[place] * weight
    return total


@dataclass(frozen=True)
class Cut:
    """How Mask-A3C cuts a game's screen: rows from `top`, `160 - top + bottom` of them, first resized to `high`."""

    top: int
    bottom: int
    high: int


CUTS: Mapping[str, Cut] = {
    "asteroids": Cut(16, 34, 94),
    "beam_rider": Cut(20, 20, 80),
    "boxing": Cut(30, 30, 80),
    "centipede": Cut(36, 56, 90),
    "ms_pacman": Cut(2, 10, 84),
    "qbert": Cut(12, 40, 94),
    "seaquest": Cut(30, 30, 80),
    "space_invaders": Cut(8, 36, 94),
    "video_pinball": Cut(42, 60, 89),
}
"""Where Mask-A3C's published configuration differs from its default."""

DEFAULT_CUT = Cut(34, 34, 80)


def area(height: int, width: int, screen: tuple[int, int] = (HEIGHT, WIDTH)) -> Shrink:
    """The whole screen averaged over areas, as OpenCV's INTER_AREA shrinks."""
    return Shrink(_area(height, screen[0]), _area(width, screen[1]), Box(0, 0, *screen))


def mask_a3c(game: str, screen: tuple[int, int] = (HEIGHT, WIDTH)) -> Shrink:
    """Mask-A3C's screen: rows cut, bilinear to 80 × `high`, bilinear to 80 × 80 (its published `process_frame`)."""
    cut = CUTS.get(game, DEFAULT_CUT)
    kept = min(cut.bottom + 160, screen[0]) - cut.top
    rows = np.zeros((80, screen[0]), np.float32)
    rows[:, cut.top : cut.top + kept] = _bilinear(80, cut.high) @ _bilinear(cut.high, kept)
    return Shrink(rows, _bilinear(80, 80) @ _bilinear(80, screen[1]), Box(cut.top, 0, kept, screen[1]))


def _area(size: int, source: int) -> Float32[np.ndarray, "size source"]:
    """Each output is the mean over the stretch of the source that it covers, ends counted in part."""
    edges = np.arange(size + 1) * source / size
    pixels = np.arange(source)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (covered.clip(0) * size / source).astype(np.float32)


def _bilinear(size: int, source: int) -> Float32[np.ndarray, "size source"]:
    """Linear interpolation between pixel centres, without smoothing, ends repeated (OpenCV's INTER_LINEAR)."""
    place = ((np.arange(size) + 0.5) * source / size - 0.5).clip(0, source - 1)
    near = np.floor(place).astype(int)
    far = np.minimum(near + 1, source - 1)
    weights = np.zeros((size, source))
    np.add.at(weights, (np.arange(size), near), 1 - (place - near))
    np.add.at(weights, (np.arange(size), far), place - near)
    return weights.astype(np.float32)
