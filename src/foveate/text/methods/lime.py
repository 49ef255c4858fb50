"""LIME through the lime package (Ribeiro et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.errors import RequestError
from foveate.masking.goal import Goal
from foveate.text.methods.captum import visibility
from foveate.text.probe import Probe

HIDDEN = "_"


def lime(probe: Probe, goal: Goal, rng: torch.Generator) -> Float[Tensor, "texts tokens"]:
    """Weights of a local linear fit to p(target) at 100 random masks, the first of which masks nothing: 99 queries."""
    try:
        from lime.lime_text import LimeTextExplainer
    except ImportError as error:
        raise RequestError("the method 'lime' needs lime: pip install 'foveate[lime]'") from error
    scores = torch.zeros(probe.maskable.shape)
    for row in range(len(probe)):
        tokens = probe.maskable[row].nonzero().squeeze(1)
        if not len(tokens):
            continue
        seed = int(torch.randint(2**31, (1,), generator=rng))
        forward = visibility(probe, row)

        def classify(texts: Sequence[str], forward: Any = forward) -> Any:
            shown = torch.tensor([[word != HIDDEN for word in text.split()] for text in texts]).float()
            return forward(shown)[:, None].double().numpy()

        # lime is shown the positions in place of the words, so that a word that occurs twice stays two features.
        explainer = LimeTextExplainer(bow=False, mask_string=HIDDEN, random_state=seed)
        positions = " ".join(str(k) for k in range(len(tokens)))
        found = explainer.explain_instance(
            positions, classify, labels=(0,), num_features=len(tokens), num_samples=100
        ).local_exp[0]
        for position, weight in found:
            scores[row, tokens[position]] = float(weight)
    return scores
