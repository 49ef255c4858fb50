"""Maps over a game's screen, the panels of a watched game, films and contact sheets. Plain arrays in and out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from foveate.errors import RequestError

Blend = Literal["light", "reproduction"]
"""`light`: the screen is as bright as it is attended to. `reproduction`: the average of the screen and the map, as in
the reproduction of S3TA (section 4.3)."""

DARK, DIM, BRIGHT = (17, 20, 26), (58, 66, 80), (232, 236, 242)
MARK = (255, 186, 73)
"""Colours of the ground, of lines, of words, and of what is meant."""

GAP = 12
"""Pixels between things."""

SIDE = 300
"""Pixels across beside the screens."""

Picture = UInt8[np.ndarray, "_ _ 3"]


def overlay(
    screen: UInt8[np.ndarray, "height width 3"],
    weights: Float[np.ndarray, "rows columns"],
    row_centres: Float[np.ndarray, " rows"],
    column_centres: Float[np.ndarray, " columns"],
    zoom: int,
    blend: Blend = "light",
) -> UInt8[np.ndarray, "high wide 3"]:
    """A map over a screen, enlarged. `weights` are in [0, 1].

    `row_centres` and `column_centres` say which row and column of the screen, in pixels, each cell looks at the middle
    of. There the picture shows the cell's weight exactly; between, it goes straight from one to the next.
    """
    down, across = (
        _between(tuple(centres.tolist()), size, zoom)
        for centres, size in zip((row_centres, column_centres), screen.shape[:2], strict=True)
    )
    light = down @ weights.astype(np.float32) @ across.T
    picture = np.empty((*light.shape, 3), np.uint8)
    # Colour by colour: an innermost axis of three is slow.
    for colour, mark in enumerate(MARK):
        large = screen[:, :, colour].astype(np.float32).repeat(zoom, 0).repeat(zoom, 1)
        if blend == "reproduction":
            picture[:, :, colour] = (large + 255 * light) / 2
        else:
            # The glow shows attention to what is black.
            picture[:, :, colour] = np.minimum(large * (0.4 + 0.6 * light) + 0.5 * mark * light, 255)
    return picture


def between(centres: Shaped[np.ndarray, " cells"], size: int, zoom: int = 1) -> Float[np.ndarray, "pixels cells"]:
    """How much of each cell every pixel of an axis of `size`, enlarged, shows: straight from one centre to the next."""
    places = (np.arange(size * zoom) + 0.5) / zoom - 0.5
    cells = np.eye(len(centres))
    return np.stack([np.interp(places, centres, cell) for cell in cells], axis=1).astype(np.float32)


@cache
def _between(centres: tuple[float, ...], size: int, zoom: int) -> Float[np.ndarray, "pixels cells"]:
    """The same, once a film."""
    return between(np.array(centres), size, zoom)


def panels(pictures: Sequence[Picture], names: Sequence[str]) -> Picture:
    """Pictures of one size in a grid, a name above each."""
    columns = -(-len(pictures) // (1 if len(pictures) < 3 else 2))
    rows = -(-len(pictures) // columns)
    high, wide = pictures[0].shape[:2]
    whole = canvas(rows * (high + 30) + GAP, columns * (wide + GAP) + GAP)
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        top, left = (number // columns) * (high + 30), GAP + (number % columns) * (wide + GAP)
        write(whole, [(left, top + 7, name, BRIGHT, 15)])
        whole[top + 30 : top + 30 + high, left : left + wide] = picture
    return whole


def side(
    high: int,
    title: str,
    actions: Sequence[str],
    probabilities: Sequence[float],
    taken: int,
    values: Sequence[float],
    score: float,
    step: int,
) -> Picture:
    """Beside the screens: score, the policy's probabilities, and the value of the last steps."""
    whole = canvas(high, SIDE)
    words: list[Word] = [
        (0, 7, title, BRIGHT, 15),
        (0, 34, f"score {score:g}", MARK, 24),
        (0, 66, f"step {step}", BRIGHT, 13),
    ]
    top, pitch = 98, min(22, max(12, (high - 98 - 120) // max(len(actions), 1)))
    for number, (name, probability) in enumerate(zip(actions, probabilities, strict=True)):
        row = top + number * pitch
        colour = MARK if number == taken else DIM
        whole[row + 3 : row + pitch - 3, 104 : 104 + max(1, int(probability * 140))] = colour
        words.append((0, row + pitch // 2 - 8, name, BRIGHT, 12))
        words.append((252, row + pitch // 2 - 8, f"{probability:.2f}", BRIGHT, 12))
    top += len(actions) * pitch + GAP
    words.append((0, top, f"value {values[-1]:.2f}", BRIGHT, 13))
    plot(whole[top + 24 : min(high - GAP, top + 184), : SIDE - GAP], values)
    write(whole, words)
    return whole


def plot(area: Picture, values: Sequence[float]) -> None:
    """Draw a line of values into a part of a picture, the newest at its right end."""
    high, wide = area.shape[:2]
    if high < 20:
        return
    area[:] = [min(c + 8, 255) for c in DARK]
    shown = np.asarray(values[-wide:], np.float64)
    low, span = min(shown.min(), 0.0), max(np.ptp(np.append(shown, 0.0)), 1e-6)
    rows = (high - 5 - (shown - low) / span * (high - 10)).astype(int)
    area[int(high - 5 + low / span * (high - 10))] = DIM
    for place, (before, now) in enumerate(zip(np.r_[rows[:1], rows[:-1]], rows, strict=True)):
        column = wide - len(rows) + place
        area[min(before, now) : max(before, now) + 2, column] = MARK


def canvas(high: int, wide: int) -> Picture:
    """A dark ground."""
    # Bytes that are repeated, as numpy fills an innermost axis of three ten times as slowly.
    return np.frombuffer(bytearray(bytes(DARK) * (high * wide)), np.uint8).reshape(high, wide, 3)


def beside(left: Picture, right: Picture) -> Picture:
    """Two pictures of one height, of a size that every codec takes."""
    whole = np.concatenate([left, right], axis=1)
    high, wide = (n + n % 2 for n in whole.shape[:2])
    even = canvas(high, wide)
    even[: whole.shape[0], : whole.shape[1]] = whole
    return even


def contact_sheet(pictures: Sequence[Picture], columns: int = 3) -> Picture:
    """Pictures in rows."""
    high, wide = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    whole = canvas(rows * (high + GAP) + GAP, min(columns, len(pictures)) * (wide + GAP) + GAP)
    for number, picture in enumerate(pictures):
        top, left = GAP + (number // columns) * (high + GAP), GAP + (number % columns) * (wide + GAP)
        whole[top : top + high, left : left + wide] = picture
    return whole


Word = tuple[int, int, str, tuple[int, int, int], int]
"""Left, top, text, colour, size."""


def write(picture: Picture, words: Sequence[Word]) -> None:
    """Write words into a picture; what does not fit on it is cut off."""
    for left, top, text, colour, size in words:
        ink = _ink(text, size)
        place = picture[top : top + ink.shape[0], left : left + ink.shape[1]]
        ink = ink[: place.shape[0], : place.shape[1]]
        # Bytes wrap around, so that adding a difference below 0 takes away.
        place += np.rint((np.array(colour, np.float32) - place) * ink).astype(np.int16).astype(np.uint8)


@lru_cache(maxsize=4096)
def _ink(text: str, size: int) -> Float[np.ndarray, "high wide 1"]:
    """How much of each pixel a word covers. A film says the same words in every picture."""
    from PIL import Image, ImageDraw

    font = _font(size)
    _, _, wide, high = font.getbbox(text)
    image = Image.new("L", (math.ceil(wide), math.ceil(high)))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    return np.asarray(image, np.float32)[:, :, None] / 255


@cache
def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def save_picture(picture: Picture, path: Path) -> None:
    """Write a PNG, atomically."""
    from PIL import Image

    temporary = path.with_name(path.name + ".tmp")
    try:
        Image.fromarray(picture).save(temporary, format="PNG")
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}") from error
    os.replace(temporary, path)


class Film:
    """Takes pictures, one after another."""

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self._path = path
        self._rate = frames_per_second
        self._writer: Any = None

    def add(self, picture: Picture) -> None:
        if self._writer is None:
            import imageio_ffmpeg

            high, wide = picture.shape[:2]
            # yuv420p is what every player shows; the size is even already, so nothing is resized.
            self._writer = imageio_ffmpeg.write_frames(
                str(self._path),
                (wide, high),
                fps=self._rate,
                codec="libx264",
                quality=7,
                macro_block_size=2,
                ffmpeg_log_level="error",
                output_params=["-preset", "veryfast"],
            )
            self._send(None)
        self._send(np.ascontiguousarray(picture))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _send(self, picture: Picture | None) -> None:
        try:
            self._writer.send(picture)
        except OSError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise RequestError(f"ffmpeg cannot make the film ({lines[-1] if lines else error})") from error


@contextmanager
def film(path: Path, frames_per_second: float) -> Iterator[Film]:
    """A film at `path`, which appears there when it is whole.

    Raises RequestError where the package or its codec is missing, or the directory cannot be written to.
    """
    if find_spec("imageio_ffmpeg") is None:
        raise RequestError("films need the package imageio-ffmpeg: pip install 'foveate[agents]'")
    import imageio_ffmpeg

    if path.suffix.lower() != ".mp4":
        raise RequestError(f"{path.name} is not the name of an MP4; films end in .mp4")
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise RequestError(
            "no ffmpeg was found; reinstall imageio-ffmpeg, or name one in the variable IMAGEIO_FFMPEG_EXE"
        ) from error
    temporary = path.with_name(path.stem + ".tmp.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise RequestError(f"cannot write to {path.parent}: {error.strerror}") from error
    made = Film(temporary, frames_per_second)
    try:
        yield made
        made.close()
        os.replace(temporary, path)
    finally:
        made.close()
        temporary.unlink(missing_ok=True)
