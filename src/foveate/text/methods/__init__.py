"""The methods by name; one file a method (or family).

An attribution scores tokens, and a protocol makes a mask of the scores: early stopping, or with `:positive` behind the
name the paper's. A search returns its mask itself, and so does the agent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.errors import RequestError
from foveate.masking import exact, search
from foveate.masking.goal import Goal
from foveate.masking.protocols import fork
from foveate.masking.record import Found
from foveate.text.explained import explained
from foveate.text.explanation import Explanation
from foveate.text.methods import attention, captum, gradient, lime, random
from foveate.text.methods.protocols import mask_in_order, mask_positive
from foveate.text.probe import Probe

__all__ = ["ATTRIBUTIONS", "METHODS", "SEARCHES", "attribute", "fork", "mask_in_order", "mask_positive", "opens", "run"]

Attribution = Callable[[Probe, Goal, torch.Generator], Float[Tensor, "texts tokens"]]
Search = Callable[[Probe, Goal, int], list[Found]]

ATTRIBUTIONS: dict[str, Attribution] = {
    "random": random.random,
    "attention": attention.received,
    "attention-cls": attention.from_pooled,
    "attention-rollout": attention.rollout,
    "gradient-x-input": gradient.gradient_x_input,
    "integrated-gradients": gradient.integrated_gradients,
    "feature-ablation": captum.feature_ablation,
    "occlusion": captum.occlusion,
    "kernel-shap": captum.kernel_shap,
    "shapley-5": captum.shapley(5),
    "shapley-25": captum.shapley(25),
    "lime": lime.lime,
}

SEARCHES: dict[str, Search] = {
    "greedy": search.greedy,
    "beam": search.beam,
    "exact": exact.exact,
}

METHODS: tuple[str, ...] = (
    "agent",
    *(name + protocol for name in ATTRIBUTIONS for protocol in ("", ":positive")),
    *SEARCHES,
)
"""All names that `run` takes."""


def opens(name: str) -> bool:
    """Whether the method makes the first forward pass of every text itself, since it looks at the attention there: its
    probe need not be opened."""
    return name.removesuffix(":positive") in ("agent", "attention", "attention-cls")


def attribute(name: str, probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """The scores that an attribution method gives to each token, its queries counted by the probe."""
    _known(name, tuple(ATTRIBUTIONS))
    return ATTRIBUTIONS[name](probe, goal, rng)


def run(
    name: str, probe: Probe, goal: Goal, rng: torch.Generator, agent: Any = None, max_steps: int = 100
) -> list[Explanation]:
    """Explain the probe's texts with the method of that name.

    `agent` is for the method "agent". Raises RequestError where the name is unknown or what it needs is not installed.
    """
    _known(name, METHODS)
    if name == "agent":
        from foveate.text.methods.agent import play

        if agent is None:
            raise RequestError("the method 'agent' needs an agent; name one, or choose another method")
        return play(probe, goal, agent, max_steps=max_steps)
    if name in SEARCHES:
        return explained(probe, goal, name, SEARCHES[name](probe, goal, max_steps))
    base, _, protocol = name.partition(":")
    scores = attribute(base, probe, goal, rng)
    if protocol == "positive":
        return mask_positive(probe, goal, scores, name)
    return mask_in_order(probe, goal, scores, name, max_steps)


def _known(name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise RequestError(f"unknown method {name!r}; choose one of {', '.join(names)}")
