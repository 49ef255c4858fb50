"""What a masking game is played for: its end condition, and the gain that its reward pays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.errors import RequestError
from foveate.masking.probe import Prediction, Probe

Task = Literal["explain", "attack"]


@dataclass(frozen=True)
class Explain:
    """Lower p(target | X) by `threshold` (AttExplainer, section 3.2 and equation 2)."""

    threshold: float = 0.8
    """ε: the drop in probability that counts as explained."""

    def gain(self, probe: Probe, rows: Int[Tensor, " rows"], prediction: Prediction) -> Float[Tensor, " rows"]:
        """Δp = p(target | X) − p(target | X')."""
        return probe.probability[rows] - probe.target_probability(rows, prediction)

    def reached(self, probe: Probe, rows: Int[Tensor, " rows"], prediction: Prediction) -> Bool[Tensor, " rows"]:
        return self.gain(probe, rows, prediction) >= self.threshold

    def wanted(self, probe: Probe, rows: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """What p(target | X') is to fall to."""
        return probe.probability[rows] - self.threshold

    def distance(self, probe: Probe, rows: Int[Tensor, " rows"], prediction: Prediction) -> Float[Tensor, " rows"]:
        """What is still missing, in log-odds: logit p(target | X') − logit (p(target | X) − ε), at least 0."""
        now = probe.target_probability(rows, prediction).clamp(1e-4, 1 - 1e-4)
        wanted = self.wanted(probe, rows).clamp(1e-2, 1 - 1e-4)
        return (now.logit() - wanted.logit()).clamp(min=0)

    def reachable(self, probe: Probe, rows: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        """False where p(target | X) < ε: no mask can lower it by ε."""
        return probe.probability[rows] >= self.threshold


@dataclass(frozen=True)
class Attack:
    """Make the classifier predict another label than the target (AttExplainer, section 3.2 and equation 3)."""

    threshold: None = None
    """There is none: any change of the label will do."""

    def gain(self, probe: Probe, rows: Int[Tensor, " rows"], prediction: Prediction) -> Float[Tensor, " rows"]:
        """L_t − L_0, in nats, where L is the classifier's loss −log p(target)."""
        now = prediction.logits.float().log_softmax(1).gather(1, probe.target[rows, None]).squeeze(1)
        return probe.probability[rows].clamp(min=1e-12).log() - now

    def reached(self, probe: Probe, rows: Int[Tensor, " rows"], prediction: Prediction) -> Bool[Tensor, " rows"]:
        return prediction.logits.argmax(1) != probe.target[rows]

    def wanted(self, probe: Probe, rows: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Where the label of a classifier of two changes; a classifier of more may change earlier."""
        return probe.probability[rows].clone().fill_(0.5)

    def distance(self, probe: Probe, rows: Int[Tensor, " rows"], prediction: Prediction) -> Float[Tensor, " rows"]:
        """By how many nats log p(target | X') is above that of the next best label, at least 0."""
        target = probe.target[rows, None]
        logits = prediction.logits.float()
        rival = logits.scatter(1, target, -float("inf")).amax(1, keepdim=True)
        return (logits.gather(1, target) - rival).clamp(min=0).squeeze(1)

    def reachable(self, probe: Probe, rows: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        """Nothing rules a change of the label out beforehand."""
        return probe.label[rows] == probe.target[rows]


Goal = Explain | Attack


def check_threshold(threshold: float) -> None:
    """Raises RequestError where it is no ε."""
    if not 0 < threshold <= 1:
        raise RequestError(f"the threshold is a drop in probability, above 0 and at most 1, not {threshold:g}")


def goal_of(task: Task, threshold: float) -> Goal:
    """The goal of a task; `threshold` is ε, for `explain` alone."""
    return Explain(threshold) if task == "explain" else Attack()
