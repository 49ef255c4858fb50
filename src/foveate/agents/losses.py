"""What a learner computes with: an unroll as the network that learns sees it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.agents.models.interface import AgentNetwork
from foveate.agents.rollout import Autocast, Unroll


class Transitions(NamedTuple):
    """An unroll's transitions. `x_tm1` was known before a transition, `x_t` is what it brought."""

    log_policy_tm1: Float[Tensor, "time envs"]
    """Of the action that was taken, under the policy that learns."""
    log_behaviour_tm1: Float[Tensor, "time envs"]
    """Under the policy that took it."""
    entropy_tm1: Float[Tensor, "time envs"]
    """Of the policy, in nats."""
    advice_tm1: Float[Tensor, "time envs"]
    """Cross-entropy of the policy to a teacher's, in nats, times what the teacher's word weighs; 0 without one."""
    value_tm1: Float[Tensor, "time envs"]
    value_t: Float[Tensor, "time envs"]
    reward_t: Float[Tensor, "time envs"]
    """Clipped."""
    done_t: Bool[Tensor, "time envs"]
    learn_t: Bool[Tensor, "time envs"]


class Loss(NamedTuple):
    """Its parts, weighted and ready to be added."""

    policy: Float[Tensor, ""]
    value: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    teacher: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.policy + self.value + self.entropy + self.teacher


def look_again(network: AgentNetwork, unroll: Unroll, autocast: Autocast) -> Transitions:
    """Show the network a whole unroll, from what was remembered when it began, with gradients; it need not look where
    these were kept when it played."""
    output = unroll.said
    if output is None:
        with autocast():
            output, _ = network(unroll.inputs, unroll.state)
    log_policy = output.logits[:-1].log_softmax(-1)
    action = unroll.inputs.action[1:, :, None]
    advice = torch.zeros_like(log_policy) if unroll.advice is None else unroll.advice
    return Transitions(
        log_policy_tm1=log_policy.gather(-1, action).squeeze(-1),
        log_behaviour_tm1=unroll.behaviour.log_softmax(-1).gather(-1, action).squeeze(-1),
        entropy_tm1=-(log_policy.exp() * log_policy).sum(-1),
        advice_tm1=-(advice * log_policy).sum(-1),
        value_tm1=output.value[:-1],
        value_t=output.value[1:],
        reward_t=unroll.inputs.reward[1:],
        done_t=unroll.inputs.done[1:],
        learn_t=unroll.learn,
    )
