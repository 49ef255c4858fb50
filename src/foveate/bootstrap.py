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

    def __format__(self, how: str) -> str:
        """For a person, each of the three numbers as `how` says: f"{interval:.1%}" is 50.0% (40.0% to 60.0%)."""
        if not how:
            return str(self)
        # What rounds to zero has no sign.
        how = f"+z{how[1:]}" if how.startswith("+") else f"z{how}"
        return f"{self.mean:{how}} ({self.low:{how}} to {self.high:{how}})"

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
    low, high = _resampled(values, rng, resamples).quantile(_tails(level), dim=0)
    rows = zip(values.double().mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*row) for row in rows]


def bootstrap_ratio(
    values: Float[Tensor, "samples 2"], rng: torch.Generator, *, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The first column's mean as a part of the second's, with its percentile bootstrap interval.

    Raises ValueError where there are no samples, or the second mean is zero.
    """
    means = _resampled(values, rng, resamples)
    over, under = values.double().mean(0).tolist()
    if not under:
        raise ValueError("nothing is a part of zero")
    # Resamples with nothing to divide by say nothing of the ratio.
    parts = means[:, 0][means[:, 1] != 0] / means[:, 1][means[:, 1] != 0]
    low, high = parts.quantile(_tails(level)).tolist()
    return Interval(over / under, low, high)


def _resampled(
    values: Float[Tensor, "samples measures"], rng: torch.Generator, resamples: int
) -> Float[Tensor, "resamples measures"]:
    """The means of samples drawn with replacement."""
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
    return torch.cat(means)


def _tails(level: float) -> Float[Tensor, "2"]:
    return torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
