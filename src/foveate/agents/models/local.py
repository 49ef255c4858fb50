"""Convolutions of a picture of which a part has changed, computed only where the change reaches: the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.agents.models.grid import Grid, Padding


@dataclass(frozen=True)
class Layer:
    """A convolution; all but the last are followed by a ReLU."""

    conv: nn.Conv2d
    padding: Padding
    grid: Grid
    """Of what comes out."""


class Local:
    """Layers that have seen a picture, and are asked about others that differ from it in a part."""

    def __init__(self, layers: Sequence[Layer], picture: Float[Tensor, "1 channels height width"]) -> None:
        self._layers = layers
        self._given: list[Tensor] = []
        for layer in layers:
            padded = F.pad(picture, layer.padding).contiguous(memory_format=torch.channels_last)
            self._given.append(padded)
            picture = self._convolved(layer, padded)
        self.usual: Float[Tensor, "1 out rows columns"] = picture
        """What comes out of the picture itself."""

    def __call__(
        self, patches: Float[Tensor, "n channels high wide"], top: int, left: int
    ) -> tuple[Float[Tensor, "n out rows columns"], tuple[slice, slice]]:
        """What comes out of the picture with each of n patches in it, from a row and column on; and the rows and
        columns of those cells. All others are as usual."""
        for layer, given in zip(self._layers, self._given, strict=True):
            high, wide = patches.shape[2:]
            down = _reach(layer, 0, range(top, top + high))
            across = _reach(layer, 1, range(left, left + wide))
            around = given[:, :, down.around, across.around].expand(len(patches), -1, -1, -1)
            around = around.clone(memory_format=torch.channels_last)
            around[:, :, down.changed, across.changed] = patches
            patches = self._convolved(layer, around[:, :, down.read, across.read])
            top, left = down.cells.start, across.cells.start
        return patches, (down.cells, across.cells)

    def _convolved(self, layer: Layer, padded: Tensor) -> Tensor:
        out = F.conv2d(padded, layer.conv.weight, layer.conv.bias, layer.conv.stride)
        return out if layer is self._layers[-1] else out.relu_()


@dataclass(frozen=True)
class _Reach:
    """How far a change of some pixels reaches through a convolution, along one axis."""

    cells: slice
    """That come out otherwise."""
    around: slice
    """The padded pixels that have changed, and those that these cells depend on beside them."""
    changed: slice
    """Of these, the ones that have changed."""
    read: slice
    """Of these, the ones that the cells depend on."""


def _reach(layer: Layer, axis: int, changed: range) -> _Reach:
    kernel, stride, before = layer.conv.kernel_size[axis], layer.conv.stride[axis], layer.padding[2 - 2 * axis]
    most = (layer.grid.height, layer.grid.width)[axis] - 1
    start, stop = changed.start + before, changed.stop + before
    # At least one cell: a stride may pass over a change, and to compute what has not changed is no error.
    first = min(max(-(-(start - kernel + 1) // stride), 0), most)
    last = min(max((stop - 1) // stride, first), most)
    low, high = first * stride, last * stride + kernel
    origin = min(low, start)
    return _Reach(
        cells=slice(first, last + 1),
        around=slice(origin, max(high, stop)),
        changed=slice(start - origin, stop - origin),
        read=slice(low - origin, high - origin),
    )
