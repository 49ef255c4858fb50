"""Agents whose attention is known by construction; they play MinAtar's Breakout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from test_agents_trace import agent_of
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.models.grid import Grid
from foveate.agents.models.interface import (
    AS_IT_IS,
    AgentInputs,
    AgentNetwork,
    AgentOutput,
    Attention,
    Edit,
    State,
)

BALL = 1
"""The channel of the sprite."""


@dataclass(frozen=True)
class Settings:
    used: bool


class LooksAtOneSprite(AgentNetwork):
    """Looks at the ball, fading with the distance from it, and at nothing else.

    With `used` it acts by what is under its map and by nothing else. Without, its map is a decoration: it acts by the
    wall's bricks.
    """

    heads = ("sprite",)
    grid = Grid(10, 10)

    def __init__(self, used: bool = True) -> None:
        super().__init__()
        self.settings = Settings(used)
        rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
        self.where = torch.stack([torch.ones(10, 10), rows / 10, columns / 10])
        distance = (torch.arange(10.0)[:, None] - torch.arange(10.0)).abs()
        self.near = torch.exp(-distance / 5)

    def initial_state(self, envs: int) -> dict[str, Tensor]:
        return {}

    def forward(
        self, inputs: AgentInputs, state: State, observe: bool = False, edit: Edit = AS_IT_IS
    ) -> tuple[AgentOutput, dict[str, Tensor]]:
        seen = self.scale(inputs.observation)
        ball = seen[:, :, BALL]
        near = self.near @ (ball > 0.5).float() @ self.near.T + 1e-6
        maps = edit.maps((near / near.sum((2, 3), keepdim=True)).flatten(0, 1)[:, None]).unflatten(0, ball.shape[:2])
        looked = maps[:, :, 0] * ball if self.settings.used else seen[:, :, 3] / 300
        total, row, column = torch.einsum("tbhw,khw->ktb", looked, self.where)
        # Steep, so that every change is far above what float32 can tell from nothing.
        logits = torch.stack([20 * total, 2 * column, 2 * row], -1)
        attention = Attention(maps, maps.log())
        return AgentOutput(logits, 20 * total + 2 * row, attention if observe else None), {}


def agent_that(network: AgentNetwork) -> PlayingAgent:
    """A playing agent with that network."""
    agent = agent_of("MinAtar/Breakout-v1")
    agent.network = network
    return agent
