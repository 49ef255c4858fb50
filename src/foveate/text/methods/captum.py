"""Perturbation attributions through captum: what AttExplainer's table 2 compares with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.errors import RequestError
from foveate.masking.goal import Goal
from foveate.text.probe import Probe

ROWS_AT_ONCE = 256
"""The most rows that captum is let ask in one call; the classifier makes its own batches of them."""

Attribute = Callable[[Any, Callable[[Tensor], Tensor], Float[Tensor, "1 features"]], Float[Tensor, "1 features"]]


def feature_ablation(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """By how much p(target) falls when a token alone is masked: a query a token."""

    def attribute(attr: Any, forward: Any, shown: Tensor) -> Tensor:
        return attr.FeatureAblation(forward).attribute(shown, perturbations_per_eval=ROWS_AT_ONCE)

    return _text_by_text(probe, rng, attribute)


def occlusion(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """By how much p(target) falls when three tokens in a row are masked; the mean of the windows that cover it."""

    def attribute(attr: Any, forward: Any, shown: Tensor) -> Tensor:
        window = (min(3, shown.shape[1]),)
        return attr.Occlusion(forward).attribute(shown, window, perturbations_per_eval=ROWS_AT_ONCE)

    return _text_by_text(probe, rng, attribute)


def kernel_shap(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """Shapley values from a weighted linear fit to 100 random masks (Lundberg and Lee 2017)."""

    def attribute(attr: Any, forward: Any, shown: Tensor) -> Tensor:
        if shown.shape[1] == 1:
            # There is nothing to draw: the Shapley value of an only token is what ablation says.
            return attr.FeatureAblation(forward).attribute(shown)
        return attr.KernelShap(forward).attribute(shown, n_samples=100, perturbations_per_eval=100)

    return _text_by_text(probe, rng, attribute)


def shapley(samples: int) -> Callable[[Probe, Goal, torch.Generator], Float[Tensor, "texts tokens"]]:
    """Shapley values from `samples` random orders (Castro et al. 2009): about `samples` queries a token."""

    def attribution(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
        def attribute(attr: Any, forward: Any, shown: Tensor) -> Tensor:
            return attr.ShapleyValueSampling(forward).attribute(
                shown, n_samples=samples, perturbations_per_eval=ROWS_AT_ONCE
            )

        return _text_by_text(probe, rng, attribute)

    return attribution


def _text_by_text(probe: Probe, rng: torch.Generator, attribute: Attribute) -> Float[Tensor, "texts tokens"]:
    """Attributions of the maskable tokens, to p(target), from 0 where all are masked."""
    try:
        import captum.attr as attr
    except ImportError as error:
        raise RequestError("this method needs captum: pip install 'foveate[captum]'") from error
    scores = torch.zeros(probe.maskable.shape)
    # captum draws from the global generator: seed it from ours, and leave it as it was.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in range(len(probe)):
            tokens = probe.maskable[row].nonzero().squeeze(1)
            if len(tokens):
                torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
                scores[row, tokens] = attribute(attr, visibility(probe, row), torch.ones(1, len(tokens)))[0].float()
    return scores


def visibility(probe: Probe, row: int) -> Callable[[Float[Tensor, "masks features"]], Float[Tensor, " masks"]]:
    """p(target) of a text as a function of which of its maskable tokens are shown (1) and masked (0).

    The whole text is answered from the first prediction, every other mask by a query.
    """
    tokens = probe.maskable[row].nonzero().squeeze(1)

    def forward(shown: Float[Tensor, "masks features"]) -> Float[Tensor, " masks"]:
        probability = probe.probability[row].repeat(len(shown))
        masks = (shown < 0.5).any(1).nonzero().squeeze(1)
        if len(masks):
            rows: Int[Tensor, " masks"] = torch.full_like(masks, row)
            visible = probe.encoded.real[rows].clone()
            visible[:, tokens] = shown[masks] > 0.5
            probability[masks] = probe.target_probability(rows, probe.query(rows, visible))
        return probability

    return forward
