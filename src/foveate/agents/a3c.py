"""A3C's learner, as Mask-Attention A3C's published code has it: n-step returns, Adam."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from foveate.agents.losses import Loss, Transitions
from foveate.agents.vtrace import generalised_advantages


@dataclass(frozen=True)
class A3CSettings:
    """The defaults are the paper's (section 4.1) and, where it is silent, its published code's."""

    unroll: int = 20
    """Steps of each environment between updates."""
    discount: float = 0.99
    gae_lambda: float = 1.0
    value_cost: float = 0.5
    """Weight of the values' loss, which is half the squared error."""
    entropy_cost: float = 0.01
    learning_rate: float = 1e-4
    anneal: bool = False
    """Lower the learning rate to 0 in a straight line over the run's steps."""
    epsilon: float = 1e-3
    amsgrad: bool = True
    clip_norm: float | None = None
    """Greatest norm of the whole gradient; the published code does not clip."""


def a3c_loss(transitions: Transitions, settings: A3CSettings) -> Loss:
    """Policy gradient, value and entropy: summed over the steps of an environment, as a worker does, and the mean of
    the environments, so that a batch stands for that many workers whose gradients meet."""
    x = transitions
    targets = generalised_advantages(
        v_tm1=x.value_tm1.detach(),
        v_t=x.value_t.detach(),
        r_t=x.reward_t,
        discount_t=settings.discount * ~x.done_t,
        learn_t=x.learn_t,
        gae_lambda=settings.gae_lambda,
    )
    envs = x.learn_t.shape[1]
    return Loss(
        policy=-(targets.advantage_tm1 * x.log_policy_tm1).sum() / envs,
        value=settings.value_cost * 0.5 * (targets.value_tm1 - x.value_tm1).square().sum() / envs,
        entropy=-settings.entropy_cost * x.entropy_tm1.where(x.learn_t, 0).sum() / envs,
        teacher=x.advice_tm1.where(x.learn_t, 0).sum() / envs,
    )


def a3c_optimiser(parameters: Iterable[nn.Parameter], settings: A3CSettings) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=settings.learning_rate, eps=settings.epsilon, amsgrad=settings.amsgrad)
