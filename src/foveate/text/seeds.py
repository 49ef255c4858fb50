"""Seeds: how far a mean over several trainings of one agent, tested on the same texts, can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.bootstrap import Interval

# Student's t at 97.5%, for one degree of freedom and more; beyond them the normal distribution's, spread a little.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

HOW = (
    "Brackets: 95% bootstrap intervals over seeds and texts: in each of 2,000 resamples seeds are drawn with "
    "replacement, and texts, the same ones for all seeds drawn, as all seeds were tested on the same texts. With one "
    "seed the intervals are over texts alone; with a few, they tell little of how seeds spread."
)
"""For beneath a table."""


def crossed_means(
    values: Float[Tensor, "seeds texts measures"],
    rng: torch.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> list[Interval]:
    """The mean of each measure with its percentile interval, seeds and texts drawn with replacement (Owen 2007).

    Texts are drawn once for all seeds: they are crossed with seeds, not nested in them. Raises ValueError where there
    are no seeds or no texts.
    """
    seeds, texts, measures = values.shape
    if not seeds or not texts:
        raise ValueError("a mean of no seeds or no texts has no interval")
    values = values.double()
    flat = values.transpose(0, 1).reshape(texts, seeds * measures)
    means = []
    for block in torch.arange(resamples).split(500):
        text_share, seed_share = (_shares(len(block), size, rng) for size in (texts, seeds))
        by_seed = (text_share @ flat).reshape(len(block), seeds, measures)
        means.append((by_seed * seed_share[:, :, None]).sum(1))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(tails, dim=0)
    rows = zip(values.mean((0, 1)).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*row) for row in rows]


def _shares(resamples: int, size: int, rng: torch.Generator) -> Float[Tensor, "{resamples} {size}"]:
    """How often each of `size` things is drawn in as many draws, as a share."""
    drawn = torch.randint(size, (resamples, size), generator=rng)
    return torch.zeros(resamples, size, dtype=torch.float64).scatter_add_(
        1, drawn, torch.full((resamples, size), 1 / size, dtype=torch.float64)
    )


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean over seeds with Student's 95% interval; of one seed, no more than its value."""
    mean = sum(values) / len(values)
    freedom = len(values) - 1
    if not freedom:
        return Interval(mean, mean, mean)
    deviation = (sum((v - mean) ** 2 for v in values) / freedom) ** 0.5
    t = _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.4 / freedom
    half = t * deviation / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)
