"""Intervals of what is measured at every step, where one step is much like the next: whole stretches are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from foveate.bootstrap import Interval

BLOCKS = 20
"""Stretches of equal length that a trace is cut into; of a short one, as many as it has steps."""

FEW = 5
"""What is measured in fewer stretches than these has no interval."""

IN_WORDS = f"95%, bootstrap over {BLOCKS} stretches of the trace (neighbouring steps are not independent)"


@dataclass(frozen=True)
class Means:
    """Means over steps, and those of resamples."""

    mean: Float[Tensor, " measures"]
    """NaN where nothing was measured."""
    draws: Float[Tensor, "resamples measures"]
    blocks: Float[Tensor, " measures"]
    """In how many of the stretches each was measured."""

    def interval(self, measure: int = 0, level: float = 0.95) -> Interval | None:
        """The percentile interval; None where there is too little for one."""
        return between(self.mean[measure], self.draws[:, measure], level) if self.blocks[measure] >= FEW else None


def between(mean: Float[Tensor, ""], draws: Float[Tensor, " resamples"], level: float = 0.95) -> Interval:
    """A number and where the middle of its resamples lies."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = draws.double().nanquantile(tails).tolist()
    return Interval(float(mean), low, high)


def stretches(counted: Bool[Tensor, "time measures"]) -> Int64[Tensor, " measures"]:
    """In how many of the stretches each was measured."""
    block = torch.arange(len(counted)) * min(BLOCKS, len(counted)) // len(counted)
    found = torch.zeros(BLOCKS, counted.shape[1], dtype=torch.long).index_add_(0, block, counted.long())
    return (found > 0).sum(0)


def over_blocks(
    values: Float[Tensor, "time measures"],
    counted: Bool[Tensor, "time measures"] | None,
    rng: torch.Generator,
    *,
    resamples: int = 2000,
) -> Means:
    """The mean of each column over the steps that are counted (all, without `counted`), with resamples of it.

    The trace is cut into stretches of equal length, drawn with replacement; a mean is the sum over those drawn by the
    number of steps counted in them (moving blocks without overlap: Künsch 1989).
    """
    steps = len(values)
    times = torch.ones_like(values) if counted is None else counted.to(values.dtype)
    blocks = min(BLOCKS, steps)
    block = torch.arange(steps) * blocks // steps
    # Not a product: what is not counted may be NaN.
    known = values if counted is None else values.masked_fill(~counted, 0)
    sums, counts = (values.new_zeros(blocks, values.shape[1]).double() for _ in range(2))
    sums.index_add_(0, block, known.double())
    counts.index_add_(0, block, times.double())
    drawn = torch.randint(blocks, (resamples, blocks), generator=rng)
    often = torch.zeros(resamples, blocks, dtype=torch.float64)
    often.scatter_add_(1, drawn, torch.ones_like(often))
    return Means(sums.sum(0) / counts.sum(0), (often @ sums) / (often @ counts), (counts > 0).double().sum(0))
