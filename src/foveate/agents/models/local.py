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


@dataclass(frozen=True)
class Axis:
    """What a change of some pixels asks of the layers, along one axis."""

    needed: range
    """Pixels of the picture that the changed cells depend on."""
    padding: tuple[tuple[int, int], ...]
    """Zeros before and after what each layer is given: more than none only at the picture's own edges."""
    changed: range
    """Cells of the last layer that the change reaches."""


@dataclass(frozen=True)
class Window:
    """The layers around a change of some pixels of a picture."""

    layers: Sequence[Layer]
    rows: Axis
    columns: Axis

    @property
    def needed(self) -> tuple[slice, slice]:
        """Rows and columns of the picture."""
        return _slice(self.rows.needed), _slice(self.columns.needed)

    @property
    def changed(self) -> tuple[slice, slice]:
        """Rows and columns of the cells."""
        return _slice(self.rows.changed), _slice(self.columns.changed)

    def __call__(self, picture: Float[Tensor, "n channels high wide"]) -> Float[Tensor, "n out rows columns"]:
        """The changed cells, from the needed pixels."""
        for n, layer in enumerate(self.layers):
            around = (*self.columns.padding[n], *self.rows.padding[n])
            if any(around):
                picture = F.pad(picture, around)
            picture = F.conv2d(picture, layer.conv.weight, layer.conv.bias, layer.conv.stride)
            if n + 1 < len(self.layers):
                picture = torch.relu_(picture)
        return picture


def window(layers: Sequence[Layer], height: int, width: int, rows: range, columns: range) -> Window:
    """The layers around a change of these rows and columns of a picture of height × width."""

    def along(axis: int, size: int, changed: range) -> Axis:
        shapes = [
            Stretch(layer.conv.kernel_size[axis], layer.conv.stride[axis], layer.padding[2 - 2 * axis], cells)
            for layer in layers
            for cells in [(layer.grid.height, layer.grid.width)[axis]]
        ]
        return reach(shapes, size, changed)

    return Window(layers, along(0, height, rows), along(1, width, columns))


def _slice(places: range) -> slice:
    return slice(places.start, places.stop)


@dataclass(frozen=True)
class Stretch:
    """A convolution along one axis."""

    kernel: int
    stride: int
    before: int
    """Zeros in front of the first pixel."""
    cells: int
    """That come out."""


def reach(layers: Sequence[Stretch], size: int, changed: range) -> Axis:
    """Forward to the cells that a change reaches, and back to all that these depend on."""
    sizes = [size, *(layer.cells for layer in layers)]
    for layer in layers:
        first = -(-(changed.start + layer.before - layer.kernel + 1) // layer.stride)
        last = (changed.stop - 1 + layer.before) // layer.stride
        # At least one cell: a stride may pass over a change, and to compute what has not changed is no error.
        first = min(max(first, 0), layer.cells - 1)
        changed = range(first, min(max(last, first), layer.cells - 1) + 1)
    needed, padding = changed, []
    for layer, given in zip(reversed(layers), reversed(sizes[:-1]), strict=True):
        start = needed.start * layer.stride - layer.before
        stop = (needed.stop - 1) * layer.stride - layer.before + layer.kernel
        padding.append((max(-start, 0), max(stop - given, 0)))
        needed = range(max(start, 0), min(stop, given))
    return Axis(needed, tuple(reversed(padding)), changed)
