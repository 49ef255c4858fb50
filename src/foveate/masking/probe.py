"""What a masking game asks of whatever is masked, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """What a network says of some cases, each as it was shown."""

    logits: Float[Tensor, "rows labels"]
    observation: Any = None
    """What the forward pass showed beside it, where that was asked for: a dataclass of tensors, rows first, which says
    in `item_axes` what axes of theirs run over items, by name."""

    @property
    def probabilities(self) -> Float[Tensor, "rows labels"]:
        return self.logits.float().softmax(-1)


@runtime_checkable
class Probe(Protocol):
    """Cases under examination, and the one counter of queries: of every row after a case's first prediction."""

    label: Int[Tensor, " cases"]
    """What the network says of the whole case; -1 where not yet opened."""
    target: Int[Tensor, " cases"]
    """The label whose probability is examined."""
    probability: Float[Tensor, " cases"]
    """p(target | X), nothing masked."""
    queries: Int[Tensor, " cases"]

    def __len__(self) -> int: ...

    @property
    def real(self) -> Bool[Tensor, "cases items"]:
        """What is visible at first; False on padding, which is at the end."""

    @property
    def maskable(self) -> Bool[Tensor, "cases items"]: ...

    @property
    def segments(self) -> Int[Tensor, "cases items"]:
        """Which part of its case an item is of: the text of a pair, or 0 where there are no parts."""

    def open(self, rows: Int[Tensor, " rows"], observe: bool = False) -> Prediction:
        """The first prediction of the cases of `rows`, which is not a query."""

    def query(
        self, rows: Int[Tensor, " rows"], visible: Bool[Tensor, "rows items"], observe: bool = False
    ) -> Prediction:
        """What is said of case `rows[i]` with the items of `visible[i]` shown, one query counted to it."""

    def target_probability(self, rows: Int[Tensor, " rows"], prediction: Prediction) -> Float[Tensor, " rows"]:
        """p(target | X') of each row's case."""
