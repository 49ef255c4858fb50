"""An agent at play: what it remembers, and how an action is chosen."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import VectorStep
from foveate.agents.models.interface import AS_IT_IS, AgentInputs, AgentOutput, Edit


class NotANumber(ArithmeticError):
    """A policy, a loss or a gradient is not finite."""


class Player:
    """Shows an agent one step after another of some environments, and keeps its memory of each."""

    def __init__(self, agent: PlayingAgent, envs: int, *, sample: bool, seed: int, edit: Edit = AS_IT_IS) -> None:
        """`sample` draws actions from the policy; without it the likeliest is taken. `edit` changes where it looks."""
        self.agent = agent
        self.edit = edit
        self.sample = sample
        self.state = agent.initial_state(envs)
        self.action: Int64[Tensor, " envs"] = torch.zeros(envs, dtype=torch.long)
        self._generator = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def act(self, step: VectorStep, *, observe: bool = False) -> tuple[Int64[Tensor, " envs"], AgentOutput]:
        """The actions, and what the agent said: one step of T = 1."""
        inputs = AgentInputs(step.observation[None], step.clipped[None], self.action[None], step.done[None])
        output, self.state = self.agent(inputs, self.state, observe, self.edit)
        self.action = choose(output.logits[0], self._generator if self.sample else None)
        return self.action, output

    def keep(self, stay: Bool[Tensor, " envs"]) -> None:
        """Forget the environments that left."""
        self.state = {name: part[stay] for name, part in self.state.items()}
        self.action = self.action[stay]


def choose(logits: Float[Tensor, "envs actions"], generator: torch.Generator | None) -> Int64[Tensor, " envs"]:
    """Actions drawn from the policy, or the likeliest ones without a generator.

    Raises NotANumber where a logit is not finite.
    """
    if not bool(logits.isfinite().all()):
        raise NotANumber("the policy is not finite")
    if generator is None:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
