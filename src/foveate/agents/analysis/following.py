"""How much of a head's attention is on a thing of the game, beside what there would be if it did not follow it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.agents.objects import Track

CONTROL = (
    "the same places under the maps of all other times (the mean over all orders of them), which keeps where a head "
    "looks on average"
)


def as_mass(maps: Float[Tensor, "time heads rows columns"]) -> Float[Tensor, "time heads rows columns"]:
    """Each map by its sum: a softmax stays what it is, a mask of [0, 1] becomes the share that each cell has of it."""
    return maps / maps.sum((2, 3), keepdim=True).clamp_min(1e-12)


def near(
    track: Track, row_centres: Float[Tensor, " rows"], column_centres: Float[Tensor, " columns"], radius: float
) -> Bool[Tensor, "time rows columns"]:
    """The cells whose middle is within `radius` cells of a thing of that name.

    The centres are in pixels of the screen; a cell is as far from the next as the two centres are.
    """
    found = []
    # A part of the time at once: bricks are a hundred places.
    for rows, columns, seen in zip(*(x.split(256) for x in (track.rows, track.columns, track.seen)), strict=True):
        down = (rows[:, :, None] - row_centres) / _pitch(row_centres)
        across = (columns[:, :, None] - column_centres) / _pitch(column_centres)
        close = (down[:, :, :, None] ** 2 + across[:, :, None, :] ** 2) <= radius**2
        found.append((close & seen[:, :, None, None]).any(1))
    return torch.cat(found)


def _pitch(centres: Float[Tensor, " cells"]) -> float:
    return float(centres[1] - centres[0]) if len(centres) > 1 else 1.0


def mass_on(
    mass: Float[Tensor, "time heads rows columns"], place: Bool[Tensor, "time rows columns"]
) -> tuple[Float[Tensor, "time heads"], Float[Tensor, "time heads"]]:
    """A head's mass at a place that moves, and the control: the mean of what all times' maps have at that place.

    The control is the exact mean over all orders of the maps; so the mean difference is the covariance in time of
    attention and place, summed over the cells. It is zero for a thing that does not move, however much it is looked at.
    """
    there = place.to(mass.dtype)
    return torch.einsum("thij,tij->th", mass, there), torch.einsum("hij,tij->th", mass.mean(0), there)
