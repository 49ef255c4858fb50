"""The two protocols that make a mask of an attribution's scores, with explanations for their end."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from foveate.masking import protocols
from foveate.masking.goal import Goal
from foveate.text.explained import explained
from foveate.text.explanation import Explanation
from foveate.text.probe import Probe


def mask_positive(probe: Probe, goal: Goal, scores: Float[Tensor, "texts tokens"], method: str) -> list[Explanation]:
    """Mask every token with a positive score at once; see `foveate.masking.protocols`."""
    return explained(probe, goal, method, protocols.mask_positive(probe, goal, scores))


def mask_in_order(
    probe: Probe, goal: Goal, scores: Float[Tensor, "texts tokens"], method: str, max_steps: int = 100
) -> list[Explanation]:
    """Mask one token after another, the highest score first; see `foveate.masking.protocols`."""
    return explained(probe, goal, method, protocols.mask_in_order(probe, goal, scores, max_steps))
