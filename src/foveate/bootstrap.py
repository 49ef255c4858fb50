"""Bootstrap: how far a mean can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies above or below zero, 0 where it does not."""
        return int(self.low > 0) - int(self.high < 0)


def bootstrap_means(
    values: Float[Tensor, "samples measures"], rng: torch.Generator, *, resamples: int = 2000, level: float = 0.95
) -> list[Interval]:
    """The mean of each column with its percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3).

    Samples (texts, games) are drawn with replacement, whole rows at a time. For a paired comparison pass differences.
    Raises ValueError where there are none.
    """
    samples = len(values)
    if not samples:
        raise ValueError("a mean of nothing has no interval")
    values = values.double()
    means = []
    # Blocks, so that the counts of 2,000 texts stay at a few MB.
    for block in torch.arange(resamples).split(500):
        drawn = torch.randint(samples, (len(block), samples), generator=rng)
        times = torch.zeros(len(block), samples, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(times))
        means.append(times @ values / samples)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(tails, dim=0)
    rows = zip(values.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*row) for row in rows]
