"""What is done to maps: inverted, moved, levelled, cut. Masks are in [0, 1], weights sum to one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.models.mask_a3c import MaskA3C

Maps = Float[Tensor, "frames heads rows columns"]
Change = Callable[[Maps], Maps]


def are_masks(agent: PlayingAgent) -> bool:
    """Whether the agent's maps are masks in [0, 1]; others are weights that sum to one."""
    return isinstance(agent.network, MaskA3C)


def inverted(masks: Maps) -> Maps:
    """1 - M (equation 2)."""
    return 1 - masks


def inverted_weights(weights: Maps) -> Maps:
    """The weights of a softmax, upside down: (max A - A), divided by its sum. Uniform where they were.

    1 - A would be nearly uniform whatever A is: the weights of so many cells are small.
    """
    upside_down = weights.amax((2, 3), keepdim=True) - weights
    total = upside_down.sum((2, 3), keepdim=True)
    return torch.where(total > 0, upside_down / total.clamp(min=1e-12), level(weights))


def as_bright(maps: Maps, other: Maps) -> Maps:
    """Multiplied so that the mean of each is that of the other."""
    return maps * (level(other) / level(maps).clamp(min=1e-6))


def level(maps: Maps) -> Maps:
    """Everywhere the mean; for the weights of a softmax that is the uniform map."""
    return maps.mean((2, 3), keepdim=True).expand_as(maps)


def opened(masks: Maps) -> Maps:
    """Everywhere one: nothing is held back."""
    return torch.ones_like(masks)


def moved(maps: Maps, places: Int64[Tensor, "frames heads cells"]) -> Maps:
    """Cell i shows what was at places[i]."""
    return maps.flatten(2).gather(2, places.expand(*maps.shape[:2], -1)).view_as(maps)


def shuffled(rng: torch.Generator) -> Change:
    """The cells change places, otherwise in every frame and head."""

    def change(maps: Maps) -> Maps:
        return moved(maps, torch.rand(maps.flatten(2).shape, generator=rng).argsort(2))

    return change


def shuffled_once(rng: torch.Generator) -> Change:
    """The cells change places, always the same ones."""
    places: list[Tensor] = []

    def change(maps: Maps) -> Maps:
        if not places:
            places.append(torch.rand(1, maps.shape[1], maps[0, 0].numel(), generator=rng).argsort(2))
        return moved(maps, places[0].expand(len(maps), -1, -1))

    return change


def of_head(head: int, change: Change) -> Change:
    """The change of one head's maps, the others as they are."""

    def alone(maps: Maps) -> Maps:
        rest = maps.clone()
        rest[:, head : head + 1] = change(maps[:, head : head + 1])
        return rest

    return alone


def hard(maps: Maps, threshold: float) -> Maps:
    """Nothing where a map is below so much of its maximum (equation 12 of S3TA)."""
    return maps.where(maps >= threshold * maps.amax((2, 3), keepdim=True), torch.zeros(()))


def cut_at_random(maps: Maps, threshold: float, rng: torch.Generator) -> Maps:
    """Nothing in as many cells as `hard` cuts, whichever they are."""
    cut = (hard(maps, threshold) != maps).flatten(2).sum(2, keepdim=True)
    rank = torch.rand(maps.flatten(2).shape, generator=rng).argsort(2).view_as(maps)
    return maps.where(rank >= cut[..., None], torch.zeros(()))


def renormalised(weights: Maps) -> Maps:
    """Divided by their sum (equation 13)."""
    return weights / weights.sum((2, 3), keepdim=True).clamp(min=1e-12)
