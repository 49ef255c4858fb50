"""How much of a head's attention is on a thing of the game, beside what there would be if it did not follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from foveate.agents.objects import Track
from foveate.bootstrap import Interval

LEVEL = 0.95
"""At which all comparisons hold together."""

ROUNDING = 1e-6
"""Of a share of the attention: what moves by less does not move."""

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


# --- what is beyond chance, where much is compared


def spectrum(mass: Float[Tensor, "time heads rows columns"]) -> Complex[Tensor, "frequencies heads cells"]:
    """The maps as `delayed` takes them."""
    return torch.fft.rfft(mass.flatten(2), dim=0)


def delayed(
    maps: Complex[Tensor, "frequencies heads cells"], place: Bool[Tensor, "time rows columns"]
) -> Float[Tensor, "time heads"]:
    """A head's mean mass on a thing under the maps of so many steps later: row k is Σ_t mass(t + k) on place(t), by the
    number of steps at which there is such a place; the trace's end is followed by its beginning.

    The first row is what is so, and the mean of all rows is the control of `mass_on`.
    """
    steps = int(place.flatten(1).any(1).sum())
    there = torch.fft.rfft(place.flatten(1).to(maps.real.dtype), dim=0)
    return torch.fft.irfft(torch.einsum("fhc,fc->fh", maps, there.conj()), n=len(place), dim=0) / max(steps, 1)


@dataclass(frozen=True)
class Family:
    """Comparisons that are made together."""

    excess: Sequence[Interval]
    """Of each: how far it is above the control. All of them hold together at LEVEL; 0 is outside where it is beyond
    chance."""
    alone: float
    """The level that each has by itself."""

    def in_words(self) -> str:
        """For a page."""
        return (
            f"{LEVEL:.0%} for all {len(self.excess)} comparisons together, which is {self.alone:.2%} for each alone: "
            "as far as any of them goes, by its own deviation, when the maps are delayed against the things by any "
            "number of steps (time-shifted surrogates, Lancaster et al. 2018; maximum of all, Westfall and Young 1993)"
        )


def family(delays: Float[Tensor, "time comparisons"]) -> Family:
    """What is beyond chance, of masses by their delay.

    A head that follows nothing has without a delay what it would as well have at any other, however slowly both
    change. So a comparison is beyond chance where, by its deviation over all delays, it is further from its mean than
    the furthest comparison of all is at 95 of 100 delays. Short delays are among them, though what is followed is still
    near then: without them chance would be held for too small where traces are short.
    """
    excess = delays.double() - delays.double().mean(0)
    deviation = excess.std(0, correction=0)
    excess = excess.masked_fill(deviation <= ROUNDING, 0)
    far = excess.abs() / deviation.clamp_min(ROUNDING)
    limit = far.amax(1).quantile(LEVEL, interpolation="higher")
    bounds = (excess[0], excess[0] - limit * deviation, excess[0] + limit * deviation)
    intervals = [Interval(*row) for row in zip(*(bound.tolist() for bound in bounds), strict=True)]
    return Family(intervals, float((far <= limit).double().mean()))
