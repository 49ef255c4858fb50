"""Probe: some texts put to a classifier, and the one place where queries are counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.masking.probe import Prediction
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Encoded, Text


class Probe:
    """Texts under examination: what the classifier says of them, and what each further question cost.

    The first prediction of a text is free; every row after it, whichever method asks, goes through `query` and is
    counted to its text.
    """

    def __init__(
        self,
        classifier: TextClassifier,
        texts: Sequence[Text] | Encoded,
        *,
        target: Int[Tensor, " texts"] | None = None,
        truths: Sequence[int | None] | None = None,
        opened: bool = True,
    ) -> None:
        """`opened=False` leaves the first predictions to later calls of `open`: of corpora that are not read whole, and
        of methods that look at more than the prediction (`foveate.text.methods.opens`). Where `truths` names a text's
        label and the first prediction is another, the text is `skipped`."""
        self.classifier = classifier
        self.encoded = texts if isinstance(texts, Encoded) else classifier.encode(texts)
        size = len(self.encoded)
        self._asked = target
        self._truths: Int[Tensor, " texts"] | None = None
        if truths is not None:
            self._truths = torch.tensor([-1 if truth is None else truth for truth in truths], dtype=torch.long)
        self.label: Int[Tensor, " texts"] = torch.full((size,), -1)
        """The label that the classifier gives to the whole text; -1 where not yet opened."""
        self.target: Int[Tensor, " texts"] = self.label.clone() if target is None else target
        """The label whose probability is explained; the predicted one unless another was asked for."""
        self.probability: Float[Tensor, " texts"] = torch.zeros(size)
        """p(target | X), nothing masked."""
        self.queries: Int[Tensor, " texts"] = torch.zeros(size, dtype=torch.long)
        self.skipped: Bool[Tensor, " texts"] = torch.zeros(size, dtype=torch.bool)
        """Found to be wrong when it was opened: nothing of it may be masked."""
        if opened:
            self.first = self.open(torch.arange(size))

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def real(self) -> Bool[Tensor, "texts tokens"]:
        return self.encoded.real

    @property
    def segments(self) -> Int[Tensor, "texts tokens"]:
        return self.encoded.segments

    @property
    def maskable(self) -> Bool[Tensor, "texts tokens"]:
        # Asked at every step: where no text is ever skipped, a corpus' worth of flags is not to be gone through.
        return self.encoded.maskable if self._truths is None else self.encoded.maskable & ~self.skipped[:, None]

    def open(self, rows: Int[Tensor, " rows"], observe: bool = False) -> Prediction:
        """The first prediction of the texts of `rows`, which is not a query."""
        prediction = self.classifier.predict(self.encoded.select(rows), observe=observe)
        self.label[rows] = prediction.logits.argmax(1)
        if self._truths is not None:
            self.skipped[rows] = (self._truths[rows] >= 0) & (self._truths[rows] != self.label[rows])
        if self._asked is None:
            self.target[rows] = self.label[rows]
        self.probability[rows] = self.target_probability(rows, prediction)
        return prediction

    def query(
        self, rows: Int[Tensor, " rows"], visible: Bool[Tensor, "rows tokens"], observe: bool = False
    ) -> Prediction:
        """Classify text `rows[i]` with the tokens of `visible[i]` shown, and count one query to it.

        What is observed is as wide as the longest of the rows.
        """
        self.count(rows)
        asked = self.encoded.select(rows)
        return self.classifier.predict(asked, None, visible[:, : asked.input_ids.shape[1]], observe)

    def query_embeddings(
        self, rows: Int[Tensor, " rows"], embeddings: Float[Tensor, "rows tokens width"]
    ) -> Prediction:
        """Classify text `rows[i]` with embeddings in place of its tokens, and count one query to it.

        Gradients flow through; a backward pass is not counted.
        """
        self.count(rows)
        return Prediction(self.classifier.from_embeddings(embeddings, self.encoded.select(rows)))

    def count(self, rows: Int[Tensor, " rows"]) -> None:
        """One query more for each of `rows`: for whoever classifies what is no masking of the text."""
        self.queries.index_add_(0, rows, torch.ones_like(rows))

    def target_probability(self, rows: Int[Tensor, " rows"], prediction: Prediction) -> Float[Tensor, " rows"]:
        """p(target | X') of each row's text."""
        return prediction.probabilities.gather(1, self.target[rows, None]).squeeze(1)
