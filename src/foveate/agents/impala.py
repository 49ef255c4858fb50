"""IMPALA's learner: V-trace targets, three summed losses, RMSProp (Espeholt et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from foveate.agents.losses import Loss, Transitions
from foveate.agents.rms_prop import TensorFlowRMSProp
from foveate.agents.vtrace import vtrace


@dataclass(frozen=True)
class ImpalaSettings:
    """The defaults start to learn on MinAtar; `paper()` has S3TA's own."""

    unroll: int = 10
    """Steps of each environment between updates (T)."""
    discount: float = 0.99
    baseline_cost: float = 0.5
    """Weight of the values' loss, which is half the squared error."""
    entropy_cost: float = 0.01
    reduce: Literal["mean", "sum"] = "mean"
    """Losses over the unroll's transitions. With `sum`, the papers', ε and the clip depend on how many there are."""
    optimiser: Literal["rmsprop", "rmsprop-tensorflow"] = "rmsprop"
    """TensorFlow's, which the papers used, has ε inside the root and a mean square that starts from 1."""
    learning_rate: float = 1e-3
    anneal: bool = False
    """Lower the learning rate to 0 in a straight line over the run's steps."""
    epsilon: float = 1e-5
    decay: float = 0.99
    """Of the mean square."""
    clip_norm: float = 0.5
    """Greatest norm of the whole gradient."""


def paper() -> ImpalaSettings:
    """S3TA's (appendix A.1). It says nothing of the baseline's cost, IMPALA's 0.5 here, nor of a schedule."""
    return ImpalaSettings(
        unroll=50,
        discount=0.99,
        baseline_cost=0.5,
        entropy_cost=0.01,
        reduce="sum",
        optimiser="rmsprop-tensorflow",
        learning_rate=2e-4,
        epsilon=0.01,
        decay=0.99,
        clip_norm=1280.0,
    )


def impala_loss(transitions: Transitions, settings: ImpalaSettings) -> Loss:
    """Policy gradient, baseline and entropy (section 4.2), over all transitions that may be learned from."""
    x = transitions
    targets = vtrace(
        v_tm1=x.value_tm1.detach(),
        v_t=x.value_t.detach(),
        r_t=x.reward_t,
        discount_t=settings.discount * ~x.done_t,
        rho_tm1=(x.log_policy_tm1.detach() - x.log_behaviour_tm1).exp(),
        learn_t=x.learn_t,
    )
    scale = 1.0 if settings.reduce == "sum" else 1 / x.learn_t.numel()
    return Loss(
        policy=-(targets.advantage_tm1 * x.log_policy_tm1).sum() * scale,
        value=settings.baseline_cost * 0.5 * (targets.value_tm1 - x.value_tm1).square().sum() * scale,
        entropy=-settings.entropy_cost * x.entropy_tm1.where(x.learn_t, 0).sum() * scale,
        teacher=x.advice_tm1.where(x.learn_t, 0).sum() * scale,
    )


def impala_optimiser(parameters: Iterable[nn.Parameter], settings: ImpalaSettings) -> torch.optim.Optimizer:
    """RMSProp without momentum."""
    rate, decay, epsilon = settings.learning_rate, settings.decay, settings.epsilon
    if settings.optimiser == "rmsprop-tensorflow":
        return TensorFlowRMSProp(parameters, lr=rate, decay=decay, epsilon=epsilon)
    return torch.optim.RMSprop(parameters, lr=rate, alpha=decay, eps=epsilon)
