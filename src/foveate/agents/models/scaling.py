"""What a network makes of a screen's numbers before its first convolution."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class Scaled(nn.Module):
    """Bytes to [0, 1]; floating point as it is."""

    def forward(
        self, screen: Shaped[Tensor, "*many channels high wide"], top: int = 0, left: int = 0
    ) -> Float[Tensor, "*many channels high wide"]:
        """`screen` may be a part of one, from row `top` and column `left` on."""
        return screen.float() / 255 if screen.dtype == torch.uint8 else screen


FLOOR = 0.05
"""Added to deviations, so that what never changed does not explode when it does."""

LIMIT = 5.0
"""Of a whitened pixel, either way (Burda et al. 2018)."""


class Whitened(Scaled):
    """Each pixel as its distance from what it usually is, in deviations (Burda et al. 2018, section 2.4).

    On an Atari screen nearly everything stands still. A ball of two dim pixels is lost in it, and attention, which adds
    up what lies over the screen, does not find it; in a whitened screen it is the brightest thing there is.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        """`shape` is (channels, height, width)."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def measure(self, mean: Float[Tensor, "channels height width"], deviation: Tensor) -> None:
        """What is usual, of screens in [0, 1]."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(
        self, screen: Shaped[Tensor, "*many channels high wide"], top: int = 0, left: int = 0
    ) -> Float[Tensor, "*many channels high wide"]:
        high, wide = screen.shape[-2:]
        place = (..., slice(top, top + high), slice(left, left + wide))
        distance = super().forward(screen) - self.mean[place]
        return (distance / (self.deviation[place] + FLOOR)).clamp(-LIMIT, LIMIT)
