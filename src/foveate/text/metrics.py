"""Metrics: what the explanations of some texts are worth, text by text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Encoded
from foveate.text.explanation import Explanation

BINS = (1, 5, 10, 20, 50)
"""Per cent of a text's tokens that ERASER takes as its rationale (DeYoung 2020, section 4.2)."""


def outcomes(explanations: Sequence[Explanation]) -> dict[str, Float[Tensor, " texts"]]:
    """The paper's four measures of each text (AttExplainer, section 4), and whether it is solved.

    An unsolved text counts with the mask that the explanation kept, the best on its path; the `end_` measures read
    it the other way, with all that was masked when the method gave up.
    """
    names = ("fidelity", "queries", "delta_p", "mask_rate", "solved", "end_fidelity", "end_delta_p", "end_mask_rate")
    rows = []
    for e in explanations:
        kept = (e.flipped, e.delta_p, e.mask_rate)
        end = kept
        if e.path and not e.solved:
            last = e.path[-1]
            maskable = sum(not token.special for token in e.tokens)
            end = (last.label != e.label, last.delta_p, len(last.masked) / max(1, maskable))
        rows.append((kept[0], e.queries, *kept[1:], e.solved, *end))
    return dict(zip(names, torch.tensor(rows, dtype=torch.float64).reshape(-1, len(names)).unbind(1), strict=True))


def scores_of(explanations: Sequence[Explanation], width: int) -> Float[Tensor, "texts {width}"]:
    """The scores of all tokens, padded with zeros to `width`."""
    scores = torch.zeros(len(explanations), width)
    for row, e in enumerate(explanations):
        scores[row, : len(e.scores)] = torch.tensor(e.scores)
    return scores


def faithfulness(
    classifier: TextClassifier, encoded: Encoded, target: Int[Tensor, " texts"], scores: Float[Tensor, "texts tokens"]
) -> dict[str, Float[Tensor, " texts"]]:
    """Comprehensiveness and sufficiency of each text's scores, averaged over `BINS` (DeYoung 2020, equations 1 to 3).

    p(target | X) less p(target | the top tokens hidden), and less p(target | only they shown); at least one token is
    on top. Tokens are hidden the way the classifier hides them. Costs at most eleven rows a text, no method's queries.
    """
    texts, width = scores.shape
    ranked = scores.masked_fill(~encoded.maskable, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(ranked).scatter_(1, ranked, torch.arange(width).expand(texts, width))
    count = encoded.maskable.sum(1)
    sizes = (count[:, None] * torch.tensor(BINS) + 99) // 100
    # Short texts have the same top tokens in several bins: each is asked once.
    asked, back = torch.unique(
        torch.stack([torch.arange(texts).repeat_interleave(len(BINS)), sizes.flatten()], 1), dim=0, return_inverse=True
    )
    rows, size = asked.unbind(1)
    top = (rank[rows] < size[:, None]) & encoded.maskable[rows]
    everything = torch.ones_like(encoded.maskable)
    hidden = _probability(classifier, encoded, rows, ~top, target)
    shown = _probability(classifier, encoded, rows, top | ~encoded.maskable[rows], target)
    whole = _probability(classifier, encoded, torch.arange(texts), everything, target)
    return {
        "comprehensiveness": whole - hidden[back].reshape(texts, len(BINS)).mean(1),
        "sufficiency": whole - shown[back].reshape(texts, len(BINS)).mean(1),
    }


def _probability(
    classifier: TextClassifier, encoded: Encoded, rows: Tensor, visible: Tensor, target: Tensor
) -> Float[Tensor, " rows"]:
    probabilities = classifier.predict(encoded, rows, visible).probabilities
    return probabilities.gather(1, target[rows, None]).squeeze(1).double()
