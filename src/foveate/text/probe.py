"""Probe: some texts put to a classifier, and the one place where queries are counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.text.classifier import Encoded, Prediction, Text, TextClassifier


class Probe:
    """A batch of texts under examination: what the classifier says of them, and what each further question cost.

    The first prediction is free; every row after it, whichever method asks, goes through `query` and is counted
    to its text.
    """

    def __init__(
        self, classifier: TextClassifier, texts: Sequence[Text] | Encoded, *, target: Int[Tensor, " texts"] | None = None
    ) -> None:
        self.classifier = classifier
        self.encoded = texts if isinstance(texts, Encoded) else classifier.encode(texts)
        self.first: Prediction = classifier.predict(self.encoded)
        self.label: Int[Tensor, " texts"] = self.first.probabilities.argmax(1)
        self.target: Int[Tensor, " texts"] = self.label if target is None else target
        """The label whose probability is explained; the predicted one unless another was asked for."""
        self.queries: Int[Tensor, " texts"] = torch.zeros(len(self.encoded), dtype=torch.long)

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def maskable(self) -> Bool[Tensor, "texts tokens"]:
        return self.encoded.maskable

    @property
    def probability(self) -> Float[Tensor, " texts"]:
        """p(target | X), nothing masked."""
        return self.first.probabilities.gather(1, self.target[:, None]).squeeze(1)

    def query(
        self, rows: Int[Tensor, " rows"], visible: Bool[Tensor, "rows tokens"], observe: bool = False
    ) -> Prediction:
        """Classify text `rows[i]` with the tokens of `visible[i]` shown, and count one query to it."""
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        return self.classifier.predict(self.encoded, rows, visible, observe)

    def target_probability(self, rows: Int[Tensor, " rows"], prediction: Prediction) -> Float[Tensor, " rows"]:
        """p(target | X') of each row's text."""
        return prediction.probabilities.gather(1, self.target[rows, None]).squeeze(1)
