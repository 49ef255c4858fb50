"""The DQN learner: targets, loss, and the target network."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.masking.replay import Batch


@dataclass(frozen=True)
class LearnerSettings:
    """How the value network learns from replayed transitions."""

    learning_rate: float = 5e-4
    """Adam's step size."""
    anneal: bool = True
    """Lower the step size to a twentieth over the run, in a straight line."""
    batch_size: int = 256
    """Transitions an update."""
    discount: float = 0.95
    """γ."""
    n_step: int = 1
    """Steps of reward before the target's bootstrap."""
    target: Literal["taken", "max", "double"] = "double"
    """Which action of s' the target values: the one taken in s (equation 5, as printed), the target network's best,
    or the online network's best (double DQN)."""
    loss: Literal["square", "huber"] = "huber"
    """Of the TD error."""
    replace_every: int = 100
    """Updates between copies of the online network to the target network."""
    clip_norm: float | None = 10.0
    """Largest norm of the gradient; null for none."""
    capacity: int = 50_000
    """Transitions kept for replay."""
    priority_exponent: float = 0.6
    """How strongly replay prefers large TD errors; 0 is uniform."""
    importance_exponent: float = 0.4
    """How far importance weights undo that preference."""


class Learner:
    """An online and a target network, and the optimiser of the first."""

    def __init__(self, network: nn.Module, settings: LearnerSettings) -> None:
        self.network = network
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.settings = settings
        self.optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        self.updates = 0

    def learn(self, batch: Batch) -> tuple[float, Float[Tensor, " batch"]]:
        """One update; returns the loss and each transition's TD error."""
        s = self.settings
        values = self.network(batch.features, batch.visible, batch.real)
        value = values.gather(1, batch.action[:, None]).squeeze(1)
        error = self.wanted(batch) - value
        each = (
            error.square() / 2
            if s.loss == "square"
            else nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none")
        )
        loss = (batch.weight * each).mean()
        self.optimiser.zero_grad()
        loss.backward()
        if s.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), s.clip_norm)
        self.optimiser.step()
        self.updates += 1
        if self.updates % s.replace_every == 0:
            self.target.load_state_dict(self.network.state_dict())
        return loss.item(), error.detach()

    def anneal(self, done: float) -> None:
        """Set the step size for a run of which the share `done` is over."""
        if self.settings.anneal:
            for group in self.optimiser.param_groups:
                group["lr"] = self.settings.learning_rate * max(1 - done, 0.05)

    @torch.no_grad()
    def wanted(self, batch: Batch) -> Float[Tensor, " batch"]:
        """r + γ Q'(s', a'), with a' as `settings.target` says."""
        later = self.target(batch.next_features, batch.next_visible, batch.next_real)
        if self.settings.target == "taken":
            # A game that ended may be followed by a shorter case; its discount is 0, so any column serves.
            chosen = batch.action.clamp(max=later.shape[1] - 1)
        else:
            judge = later
            if self.settings.target == "double":
                judge = self.network(batch.next_features, batch.next_visible, batch.next_real)
            chosen = judge.masked_fill(~batch.next_legal, -torch.inf).argmax(1)
        return batch.reward + batch.discount * later.gather(1, chosen[:, None]).squeeze(1)
