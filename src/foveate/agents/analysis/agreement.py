"""Agreement: does a head's attention lie where the saliency is?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.bootstrap import Interval, bootstrap_means

TOP = 0.1
"""Share of the cells that count as looked at: those with the most attention."""

SHUFFLES = 100
"""Random orders of a map's cells that the agreement is averaged over."""


@dataclass(frozen=True)
class Measure:
    """One number of a head: as it is, against its controls, and the paired differences."""

    actual: Interval
    shuffled: Interval
    """The map's cells in random order."""
    other_time: Interval
    """The same head's maps of the other frames: what a head shows that looks where it looks on average."""
    above_shuffled: Interval
    above_other_time: Interval


@dataclass(frozen=True)
class Agreement:
    """Of one head's attention with one saliency, over the frames that have any of that."""

    rank_correlation: Measure
    """Spearman's, over the cells of a map."""
    share_inside: Measure
    """Share of the saliency that lies in the tenth of the cells with the most attention."""
    share_near: Measure
    """The same of those cells and the ones beside them: a cell's features come from its neighbours too."""
    frames: int

    def numbers(self) -> dict[str, Any]:
        return asdict(self)


def agreement(
    maps: Float[Tensor, "frames rows columns"], saliency: Float[Tensor, "frames rows columns"], rng: torch.Generator
) -> Agreement | None:
    """How attention and saliency agree; None where fewer than two frames have any saliency."""
    some = saliency.sum((1, 2)) > 0
    shape = maps.shape[1:]
    maps, saliency = maps[some].flatten(1), saliency[some].flatten(1)
    frames = len(maps)
    if frames < 2:
        return None
    # Of each frame its own, or one unlucky order would tell of all frames alike.
    orders = torch.rand(frames, SHUFFLES, maps.shape[1], generator=rng).argsort(2)

    def beside(cells: Float[Tensor, "*n cells"]) -> Float[Tensor, "*n cells"]:
        return F.max_pool2d(cells.reshape(-1, 1, *shape), 3, 1, 1).view(cells.shape)

    def measure(looked: Tensor, salient: Tensor, widened: Callable[[Tensor], Tensor] = lambda x: x) -> Measure:
        all_pairs = salient @ widened(looked).T
        actual = all_pairs.diagonal()
        other = (all_pairs.sum(1) - actual) / (frames - 1)
        mixed = looked[:, None].expand_as(orders).gather(2, orders)
        shuffled = torch.einsum("fc,fsc->fs", salient, widened(mixed)).mean(1)
        values = torch.stack([actual, shuffled, other, actual - shuffled, actual - other], 1)
        return Measure(*bootstrap_means(values.float(), rng))

    share, tops = saliency.double() / saliency.double().sum(1, keepdim=True), top_cells(maps)
    return Agreement(
        rank_correlation=measure(standard_ranks(maps), standard_ranks(saliency)),
        share_inside=measure(tops, share),
        share_near=measure(tops, share, beside),
        frames=frames,
    )


def standard_ranks(values: Float[Tensor, "n cells"]) -> Float[Tensor, "n cells"]:
    """Ranks, ties sharing their mean, less their mean and divided by their norm: Spearman's correlation is the product
    of two. Zeros where all are the same, which ranks nothing: the correlation is 0."""
    below = (values[:, None, :] < values[:, :, None]).sum(2)
    same = (values[:, None, :] == values[:, :, None]).sum(2)
    ranks = below.double() + same / 2
    ranks = ranks - ranks.mean(1, keepdim=True)
    return ranks / ranks.norm(dim=1, keepdim=True).clamp(min=1e-9)


def top_cells(values: Float[Tensor, "n cells"]) -> Float[Tensor, "n cells"]:
    """1 for the tenth of the cells with the highest values; those that share the last places share what is left."""
    count = math.ceil(TOP * values.shape[1])
    last = values.topk(count, 1).values[:, -1:]
    above, tied = (values > last).double(), (values == last).double()
    return above + tied * (count - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)


def concentration(saliency: Float[Tensor, "frames cells"]) -> Interval | None:
    """Share of the saliency in the tenth of the cells that have the most of it; None where there is none."""
    saliency = saliency[saliency.sum(1) > 0].double()
    if not len(saliency):
        return None
    shares = (top_cells(saliency) * saliency).sum(1) / saliency.sum(1)
    return bootstrap_means(shares[:, None].float(), torch.Generator().manual_seed(0))[0]
