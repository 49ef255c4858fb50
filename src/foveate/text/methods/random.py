"""Random scores: the order that every other one has to beat."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.masking.goal import Goal
from foveate.text.probe import Probe


def random(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """Scores drawn uniformly from [-½, ½), so that half of the tokens are positive. Costs no query."""
    scores = torch.zeros(probe.maskable.shape)
    # Drawn for the maskable tokens alone, so that padding changes nothing.
    scores[probe.maskable] = torch.rand(int(probe.maskable.sum()), generator=rng) - 0.5
    return scores
