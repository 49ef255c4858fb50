"""What a masking game is played for: its end condition, and the gain that its reward pays."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.text.classifier import Prediction
from foveate.text.probe import Probe


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

    def distance(self, probe: Probe, rows: Int[Tensor, " rows"], prediction: Prediction) -> Float[Tensor, " rows"]:
        """What is still missing, in log-odds: logit p(target | X') − logit (p(target | X) − ε), at least 0."""
        now = probe.target_probability(rows, prediction).clamp(1e-4, 1 - 1e-4)
        wanted = (probe.probability[rows] - self.threshold).clamp(1e-2, 1 - 1e-4)
        return (now.logit() - wanted.logit()).clamp(min=0)

    def reachable(self, probe: Probe, rows: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        """False where p(target | X) < ε: no mask can lower it by ε."""
        return probe.probability[rows] >= self.threshold


Goal = Explain
