"""Classifiers that show other attention than their own: does the agent need what it reads there?"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.masking.probe import Prediction
from foveate.text.classifier import Observation, TextClassifier
from foveate.text.encoded import Encoded

Sight = Literal["real", "random", "shuffled", "untrained"]
"""What stands for the attention of a classifier: `real`, its own; `random`, matrices drawn anew in every state (a row
of non-negative numbers that sum to 1, every such row as likely as any other), as in AttExplainer's figure 4;
`shuffled`, its own with the words' rows and columns in another order, drawn anew in every state, so that all its
statistics stay but which word they belong to; `untrained`, that of a classifier of the same architecture whose weights
were never trained, so that the words and their places stay but nothing that was learned."""


class BlindClassifier(TextClassifier):
    """A classifier with the labels and probabilities of another, and in what is observed of it other attention.

    `attention`, `received` and `pooled` are replaced, all of them of the same layers' matrices. With `random` and
    `shuffled`, hidden states stay the classifier's own, as they are no attention; with `untrained` all that is
    observed is the untrained classifier's, since its hidden states go with its attention. So features that carry
    hidden states hide what attention is worth.

    A text with the same tokens masked always shows the same, whatever it is batched with: draws are seeded by `seed`,
    the text's tokens, and which of them are hidden.
    """

    def __init__(self, classifier: TextClassifier, sight: Sight, seed: int = 0) -> None:
        vars(self).update(vars(classifier))
        self.sight = sight
        self.seed = seed
        self._untrained = _untrained(classifier, seed) if sight == "untrained" else None

    def predict(
        self,
        encoded: Encoded,
        rows: Int[Tensor, " rows"] | None = None,
        visible: Bool[Tensor, "rows tokens"] | None = None,
        observe: bool = False,
    ) -> Prediction:
        """As the classifier's own, but for what is observed."""
        if self._untrained is not None and observe:
            seen = self._untrained.predict(encoded, rows, visible, observe=True).observation
            return replace(super().predict(encoded, rows, visible), observation=seen)
        prediction = super().predict(encoded, rows, visible, observe)
        if prediction.observation is None or self.sight == "real":
            return prediction
        rows = torch.arange(len(encoded)) if rows is None else rows
        maskable = encoded.maskable[rows]
        hidden = torch.zeros_like(maskable) if visible is None else maskable & ~visible
        draws = _generators(2 * encoded.input_ids[rows] + hidden, encoded.lengths[rows], self.seed)
        if self.sight == "random":
            return replace(prediction, observation=_randomised(prediction.observation, draws, self.reads))
        return replace(prediction, observation=_shuffled(prediction.observation, maskable, draws))


def blind(classifier: TextClassifier, sight: Sight, seed: int = 0) -> TextClassifier:
    """The classifier as an agent sees it that is shown such attention."""
    return classifier if sight == "real" else BlindClassifier(classifier, sight, seed)


def _untrained(classifier: TextClassifier, seed: int) -> TextClassifier:
    """A classifier of the same architecture, with the weights that training would have started from."""
    model = classifier.model
    build: Callable[..., torch.nn.Module] = type(model)
    with torch.random.fork_rng(devices=[]):
        # Not the seed itself, which the classifier may have been made with.
        torch.manual_seed(zlib.crc32(b"untrained", seed & 0xFFFFFFFF))
        fresh = build(copy.deepcopy(model.config))
    weight = next(model.parameters())
    fresh = fresh.to(weight.device, weight.dtype).requires_grad_(False).eval()
    return TextClassifier(
        fresh, classifier.tokenizer, replacement=classifier.replacement, batch_size=classifier.batch_size
    )


def _generators(
    states: Int[Tensor, "rows tokens"], lengths: Int[Tensor, " rows"], seed: int
) -> Iterator[torch.Generator]:
    """A generator for each row's state; padding is no part of it."""
    for state, length in zip(states, lengths.tolist(), strict=True):
        yield torch.Generator().manual_seed(zlib.crc32(state[:length].numpy().tobytes(), seed & 0xFFFFFFFF))


def _randomised(seen: Observation, draws: Iterator[torch.Generator], reads: str) -> Observation:
    """Random matrices for each layer's, in the place of what is summed over them."""
    attention = torch.zeros_like(seen.attention)
    received, pooled = torch.zeros_like(seen.received), torch.zeros_like(seen.pooled)
    for row, draw in enumerate(draws):
        # A token that is neither padding nor deleted gives attention, and so its row has a sum.
        there = seen.attention[row].sum(1).nonzero().squeeze(1)
        weights = _matrices(seen.received.shape[1], len(there), draw)
        attention[row, there[:, None], there] = weights.mean(0)
        received[row, :, there] = weights.mean(1)
        if len(there):
            read = {"first": 0, "last": -1}.get(reads)
            pooled[row, :, there] = weights.mean(1) if read is None else weights[:, read]
    return replace(seen, attention=attention, received=received, pooled=pooled)


def _matrices(layers: int, tokens: int, draw: torch.Generator) -> Float[Tensor, "{layers} {tokens} {tokens}"]:
    """Rows from the flat Dirichlet distribution: exponentials over their sum."""
    drawn = -torch.rand(layers, tokens, tokens, generator=draw).clamp(min=1e-12).log()
    return drawn / drawn.sum(2, keepdim=True)


def _shuffled(
    seen: Observation, maskable: Bool[Tensor, "rows tokens"], draws: Iterator[torch.Generator]
) -> Observation:
    """Each row's attention with its words in another order; special tokens, and deleted ones, stay where they are."""
    rows, tokens = maskable.shape
    order = torch.arange(tokens).repeat(rows, 1)
    for row, draw in enumerate(draws):
        words = (maskable[row] & (seen.attention[row].sum(1) > 0)).nonzero().squeeze(1)
        order[row, words] = words[torch.randperm(len(words), generator=draw)]
    each = torch.arange(rows)[:, None, None]
    layers = torch.arange(seen.received.shape[1])[None, :, None]
    return replace(
        seen,
        attention=seen.attention[each, order[:, :, None], order[:, None, :]],
        received=seen.received[each, layers, order[:, None]],
        pooled=seen.pooled[each, layers, order[:, None]],
    )
