"""What every agent's network takes and gives, whether it acts (one step) or learns (an unroll)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.agents.models.grid import Grid
from foveate.agents.models.scaling import Scaled

State = Mapping[str, Tensor]
"""What a network carries from step to step, by name; the first axis of every tensor is the environment."""


@dataclass(frozen=True)
class AgentInputs:
    """What an agent is shown: T steps of B environments."""

    observation: Shaped[Tensor, "time envs channels height width"]
    """uint8 is scaled to [0, 1], and normalised where the network does that; floating point is taken as it is, but
    whitened where that was asked for."""
    reward: Float[Tensor, "time envs"]
    """The clipped reward that led to the observation."""
    action: Int64[Tensor, "time envs"]
    """The action that did."""
    done: Bool[Tensor, "time envs"]
    """The observation is the first of an episode: nothing of before it may be remembered."""

    def until(self, time: int) -> AgentInputs:
        """The steps before one."""
        return AgentInputs(self.observation[:time], self.reward[:time], self.action[:time], self.done[:time])


@dataclass(frozen=True)
class Attention:
    """Where an agent looked. A map has `heads` of them; row and column are those of the network's grid."""

    maps: Float[Tensor, "time envs heads rows columns"]
    """What multiplied the features: weights that sum to one (S3TA), or a mask in [0, 1] (Mask-A3C)."""
    logits: Float[Tensor, "time envs heads rows columns"]
    """Before the softmax or the sigmoid."""
    what: Float[Tensor, "time envs heads rows columns"] | None = None
    """The content's part of S3TA's logits (equation 8)."""
    where: Float[Tensor, "time envs heads rows columns"] | None = None
    """The position's part (equation 9)."""
    queries: Float[Tensor, "time envs heads channels"] | None = None
    """Content channels first, then those of the spatial basis."""
    keys: Float[Tensor, "time envs key_channels rows columns"] | None = None
    """The content's; those of the basis do not change."""


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Edit:
    """What an experiment changes in an agent's attention, as it plays: the network goes on with what comes back.

    Both are given some frames at once (the first axis), and give back the same shape.
    """

    maps: Callable[[Float[Tensor, "frames heads rows columns"]], Float[Tensor, "frames heads rows columns"]] = _same
    queries: Callable[[Float[Tensor, "envs heads channels"]], Float[Tensor, "envs heads channels"]] = _same
    """Of S3TA, as its maps come from them; a network without queries never calls it."""


AS_IT_IS = Edit()


@dataclass(frozen=True)
class AgentOutput:
    """What an agent says of each step."""

    logits: Float[Tensor, "time envs actions"]
    """Of the policy."""
    value: Float[Tensor, "time envs"]
    """Discounted sum of clipped rewards to come."""
    attention: Attention | None = None
    """Only where it was asked for, and the network has any."""


WhatIf = Callable[[Shaped[Tensor, "n channels high wide"], int, int], AgentOutput]
"""What an agent would say of a step if its screen were another from row and column on: each of n patches in turn, as n
environments."""


class AgentNetwork(nn.Module, ABC):
    """A network with a memory. `forward` gives the same numbers for T steps at once as for T calls of one step."""

    heads: tuple[str, ...] = ()
    """The names of its maps."""
    grid: Grid
    """Where the cells of its maps lie on the observation."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = Scaled()
        """What it makes of an observation first."""

    @abstractmethod
    def initial_state(self, envs: int) -> dict[str, Tensor]:
        """Nothing remembered."""

    @abstractmethod
    def forward(
        self, inputs: AgentInputs, state: State, observe: bool = False, edit: Edit = AS_IT_IS
    ) -> tuple[AgentOutput, dict[str, Tensor]]:
        """Policy and value of every step, and the state after the last.

        `observe` asks for the attention too; its maps are those that were used, after the `edit`.
        """

    def what_if(self, inputs: AgentInputs, state: State) -> WhatIf:
        """Other screens in the place of one step's (T = 1, B = 1), after the same past.

        A network that knows how far a pixel reaches may do it with less work, and must give the same numbers.
        """

        def told(patches: Tensor, top: int, left: int) -> AgentOutput:
            count, _, high, wide = patches.shape
            screens = inputs.observation.repeat(1, count, 1, 1, 1)
            screens[0, :, :, top : top + high, left : left + wide] = patches
            return self(repeated(inputs, screens), {name: s.expand(count, *s.shape[1:]) for name, s in state.items()})[
                0
            ]

        return told


def repeated(inputs: AgentInputs, observation: Shaped[Tensor, "time n channels height width"]) -> AgentInputs:
    """Inputs of one environment for n that differ in nothing but what they observe."""
    shape = observation.shape[:2]
    return AgentInputs(observation, inputs.reward.expand(shape), inputs.action.expand(shape), inputs.done.expand(shape))


def reset(done: Bool[Tensor, " envs"], *memory: Tensor) -> tuple[Tensor, ...]:
    """Forget, where an episode begins. THE reset: every network calls it before it uses what it remembers."""
    return tuple(m.masked_fill(done.view(-1, *[1] * (m.dim() - 1)), 0) for m in memory)


def recall(inputs: AgentInputs, actions: int) -> Float[Tensor, "time envs recalled"]:
    """Previous reward and one-hot previous action; zeros at an episode's first step, which has no before."""
    past = torch.cat([inputs.reward[..., None], F.one_hot(inputs.action, actions).to(inputs.reward.dtype)], -1)
    return past.masked_fill(inputs.done[..., None], 0)


def parameters(network: nn.Module) -> int:
    """How many numbers it learns."""
    return sum(p.numel() for p in network.parameters())
