"""Attention as an explanation: what the first forward pass shows, at no query."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.masking.goal import Goal
from foveate.text.classifier import Observation
from foveate.text.probe import Probe


def received(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """How much attention a token receives: its column's sum in the mean over all layers and heads."""
    return _first_pass(probe, lambda seen: seen.attention.sum(1))


def from_pooled(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """The last layer's attention from the position that the classifier reads ([CLS]), mean over heads."""
    return _first_pass(probe, lambda seen: seen.pooled[:, -1])


def rollout(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """How much of a token reaches the position that the classifier reads, through all layers (Abnar and Zuidema 2020).

    A fact of the first forward pass too; the pass that is made here to see it layer by layer is not a query.
    """
    scores = torch.zeros(probe.maskable.shape)
    for rows in torch.arange(len(probe)).split(64):
        texts = probe.encoded.select(rows)
        reached = probe.classifier.rollout(texts)
        read_off = {
            "first": reached[:, 0],
            "last": reached[torch.arange(len(rows)), texts.lengths - 1],
            "mean": reached.sum(1) / texts.lengths[:, None],
        }[probe.classifier.reads]
        scores[rows, : read_off.shape[1]] = read_off
    return scores


def _first_pass(
    probe: Probe, read: Callable[[Observation], Float[Tensor, "rows tokens"]]
) -> Float[Tensor, "texts tokens"]:
    """What `read` makes of each text's first forward pass, which is free: it is looked at, not repeated."""
    scores = torch.zeros(probe.maskable.shape)
    # In chunks, since an attention matrix a text is held.
    for rows in torch.arange(len(probe)).split(64):
        observation = probe.open(rows, observe=True).observation
        assert observation is not None
        read_off = read(observation)
        scores[rows, : read_off.shape[1]] = read_off.float()
    return scores
