"""Gradients of p(target) with respect to the token embeddings, from the masked text to the text."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.masking.goal import Goal
from foveate.text.probe import Probe

STEPS = 20


def gradient_x_input(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """Gradient × (embedding − embedding of the masked token): the first-order estimate of what masking it costs.

    One query a text, for the forward pass; backward passes are not counted.
    """
    return _along_path(probe, torch.ones(1))


def integrated_gradients(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """The same, the gradient averaged over 20 points between all tokens masked and none (Sundararajan et al. 2017).

    The scores of a text add up to Δp of masking everything, as far as 20 points (midpoints of equal parts) tell.
    20 queries a text, for the forward passes; backward passes are not counted.
    """
    return _along_path(probe, (torch.arange(STEPS) + 0.5) / STEPS)


def _along_path(probe: Probe, points: Float[Tensor, " points"]) -> Float[Tensor, "texts tokens"]:
    """(x − x masked) · mean gradient of p(target) at x masked + point · (x − x masked), for each token."""
    encoded = probe.encoded
    scores = torch.zeros(encoded.maskable.shape)
    at_once = max(1, probe.classifier.batch_size // len(points))
    # Texts of one length at a time: without padding there is nothing that a model could do with it.
    playable = probe.maskable.any(1)
    for length in encoded.lengths[playable].unique().tolist():
        for rows in ((encoded.lengths == length) & playable).nonzero().squeeze(1).split(at_once):
            texts = encoded.select(rows)
            masked = probe.classifier.embed(texts, None, ~texts.maskable)
            way = probe.classifier.embed(texts) - masked
            start = masked.repeat_interleave(len(points), 0)
            point = points.repeat(len(rows))[:, None, None]
            given = (start + point * way.repeat_interleave(len(points), 0)).requires_grad_()
            asked = rows.repeat_interleave(len(points))
            with torch.enable_grad():
                total = probe.target_probability(asked, probe.query_embeddings(asked, given)).sum()
                (gradient,) = torch.autograd.grad(total, given)
            mean = gradient.unflatten(0, (len(rows), len(points))).mean(1)
            scores[rows, :length] = (mean * way).sum(-1) * texts.maskable
    return scores
