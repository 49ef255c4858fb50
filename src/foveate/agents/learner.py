"""An update: look at an unroll again, add up what was lost, follow the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from foveate.agents.a3c import A3CSettings, a3c_loss, a3c_optimiser
from foveate.agents.impala import ImpalaSettings, impala_loss, impala_optimiser
from foveate.agents.losses import Loss, Transitions, look_again
from foveate.agents.models.interface import AgentNetwork
from foveate.agents.player import NotANumber
from foveate.agents.rollout import Autocast, Unroll

Algorithm = Literal["impala", "a3c"]

AlgorithmSettings = ImpalaSettings | A3CSettings


def loss_of(settings: AlgorithmSettings) -> Callable[[Transitions], Loss]:
    """What an algorithm minimises."""
    if isinstance(settings, ImpalaSettings):
        return lambda transitions: impala_loss(transitions, settings)
    return lambda transitions: a3c_loss(transitions, settings)


def optimiser_of(network: nn.Module, settings: AlgorithmSettings) -> torch.optim.Optimizer:
    """How it does."""
    if isinstance(settings, ImpalaSettings):
        return impala_optimiser(network.parameters(), settings)
    return a3c_optimiser(network.parameters(), settings)


def learning_rate(settings: AlgorithmSettings, share: float) -> float:
    """After a share of the run, in [0, 1]."""
    return settings.learning_rate * (1 - share if settings.anneal else 1)


def backward(
    network: AgentNetwork, unroll: Unroll, settings: AlgorithmSettings, autocast: Autocast
) -> dict[str, float]:
    """Leaves the gradient, clipped, in `network`; returns what there is to be told of the update.

    Raises NotANumber where a loss or a gradient is not finite.
    """
    transitions = look_again(network, unroll, autocast)
    loss = loss_of(settings)(transitions)
    parts = {name: part for name, part in loss._asdict().items() if name != "teacher" or unroll.advice is not None}
    told = {f"{name}_loss": float(part.detach()) for name, part in parts.items()}
    for name, value in told.items():
        if not abs(value) < float("inf"):
            raise NotANumber(f"the {name.replace('_', ' ')} is {value}")
    network.zero_grad(set_to_none=True)
    loss.total.backward()
    limit = float("inf") if settings.clip_norm is None else settings.clip_norm
    norm = float(nn.utils.clip_grad_norm_(network.parameters(), limit))
    if not norm < float("inf"):
        raise NotANumber(f"the gradient of {_broken(network)} is not finite")
    learn = transitions.learn_t
    return told | {
        "entropy": float(transitions.entropy_tm1.detach()[learn].mean()) if learn.any() else 0.0,
        "value": float(transitions.value_tm1.detach().mean()),
        "gradient_norm": norm,
    }


def update(
    network: AgentNetwork,
    optimiser: torch.optim.Optimizer,
    unroll: Unroll,
    settings: AlgorithmSettings,
    *,
    rate: float,
    autocast: Autocast,
) -> dict[str, float]:
    """One update of the weights. Raises NotANumber, before anything is changed."""
    told = backward(network, unroll, settings, autocast)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return told


def _broken(network: nn.Module) -> str:
    names = (n for n, p in network.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all()))
    return next(names, "the network (its norm overflows)")
