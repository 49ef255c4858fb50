"""How a place of an observation is blurred (Greydanus et al. 2018, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Blur:
    """How a point is blurred: X' = X (1 - M) + blur(X) M, with M a Gaussian bump around the point, 1 at its top."""

    bump: float
    """Standard deviation of M, in the observation's pixels."""
    width: float | None
    """Standard deviation of the Gaussian that blurs X; None for an infinite one: each channel's mean."""


ATARI = Blur(5.0, 3.0)
"""Greydanus et al.'s."""

MINATAR = Blur(0.5, None)
"""Where every pixel is an object of its own, a narrow blur would only make it larger. So what is at the point gives
way to what is usual in its channel, and its neighbours are all but left alone."""

CUT = 4.0
"""Standard deviations after which a Gaussian ends, as scipy's, which Greydanus et al. used."""


def in_words(blur: Blur) -> str:
    if blur.width is None:
        return f"a Gaussian bump of {blur.bump:g} pixel, towards the channel's mean over the screen"
    return f"a Gaussian bump of {blur.bump:g} pixels, towards the screen under a Gaussian of {blur.width:g}"


def bump(
    points: Shaped[Tensor, " points"], pixels: Shaped[Tensor, " pixels"], width: float
) -> Float[Tensor, "points pixels"]:
    """M along one axis: a Gaussian around each point, 1 at its top."""
    away = (points[:, None] - pixels) / width
    return torch.exp(-(away**2) / 2) * (away.abs() <= CUT)


def blurred(
    frame: Float[Tensor, "channels height width"], width: float | None
) -> Float[Tensor, "channels height width"]:
    """Each channel under a Gaussian; the frame is mirrored at its edges (half-sample, as scipy's default)."""
    if width is None:
        return frame.mean((1, 2), keepdim=True).expand_as(frame)
    down, across = (_gaussian(size, width) for size in frame.shape[1:])
    return down @ frame @ across.T


def _gaussian(size: int, width: float) -> Float[Tensor, "size size"]:
    reach = int(CUT * width + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-((offsets / width) ** 2) / 2)
    places = (torch.arange(size)[:, None] + offsets) % (2 * size)
    places = torch.minimum(places, 2 * size - 1 - places)
    return torch.zeros(size, size).scatter_add_(1, places, (weights / weights.sum()).expand(size, -1))
