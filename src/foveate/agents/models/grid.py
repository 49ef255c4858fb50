"""Where the cells of a convolutional map lie on the picture: exact receptive-field centres, through every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Grid:
    """A map's cells; the centre of cell (i, j) is pixel (row + i·row_step, column + j·column_step) of the picture.

    Pixels are counted by their centres: the first is 0.
    """

    height: int
    width: int
    row: float = 0.0
    column: float = 0.0
    row_step: float = 1.0
    column_step: float = 1.0

    def after(self, kernel: int, stride: int, padding: Padding) -> Grid:
        """The grid behind a convolution or pooling of this one."""
        left, right, top, bottom = padding
        return Grid(
            height=(self.height + top + bottom - kernel) // stride + 1,
            width=(self.width + left + right - kernel) // stride + 1,
            row=self.row + ((kernel - 1) / 2 - top) * self.row_step,
            column=self.column + ((kernel - 1) / 2 - left) * self.column_step,
            row_step=self.row_step * stride,
            column_step=self.column_step * stride,
        )

    def centre(self, i: int, j: int) -> tuple[float, float]:
        """Row and column of a cell's centre, in pixels of the picture."""
        return self.row + i * self.row_step, self.column + j * self.column_step


Padding = tuple[int, int, int, int]
"""Left, right, top, bottom, as torch's `pad` has them."""


def same_padding(grid: Grid, kernel: int, stride: int) -> Padding:
    """TensorFlow's "SAME": as many cells as strides fit, the odd pixel at the end."""

    def ends(size: int) -> tuple[int, int]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2

    return (*ends(grid.width), *ends(grid.height))


class SameConv(nn.Module):
    """A convolution with TensorFlow's "SAME" padding, and the grid behind it."""

    def __init__(self, grid: Grid, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.padding = same_padding(grid, kernel, stride)
        self.grid = grid.after(kernel, stride, self.padding)
        left, right, top, bottom = self.padding
        self._even = left == right and top == bottom
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding=(top, left) if self._even else 0)
        if channels == 1:
            # The memory order of a grey picture says nothing; unless the weights say it, this takes five times as long.
            self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n out rows columns"]:
        return self.conv(x if self._even else F.pad(x, self.padding))


class Pool(nn.Module):
    """Max-pooling by two."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid.after(2, 2, (0, 0, 0, 0))

    def forward(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels rows columns"]:
        return F.max_pool2d(x, 2)


def small(observation: tuple[int, int, int]) -> bool:
    """Whether a picture is of so few pixels that each is a thing of its own (MinAtar): no strides, no pooling."""
    return min(observation[1:]) < 32


def flat(x: Tensor) -> Tensor:
    """Time and environments as one axis, in the memory order that convolutions are fastest in."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
