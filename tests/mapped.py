"""An agent whose attention is known by construction: it plays MinAtar's Freeway by its map, or has one in vain."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.models.interface import AS_IT_IS, AgentInputs, AgentOutput, Attention, Edit, State
from foveate.agents.models.mask_a3c import MaskA3C

UP = 1
"""Freeway's actions are to stay, to go up and to go down; only going up scores."""


class ByMap(MaskA3C):
    """Both masks are 0.9 where the chicken is and 0.1 elsewhere; it goes up where `reads` of its policy's mask is above
    zero, and down elsewhere."""

    reads: Callable[[Tensor], Tensor]
    ignores = False
    """It reads the mask as it was before the edit."""

    def forward(
        self, inputs: AgentInputs, state: State, observe: bool = False, edit: Edit = AS_IT_IS
    ) -> tuple[AgentOutput, dict[str, Tensor]]:
        shape = inputs.done.shape
        chicken = self.scale(inputs.observation)[:, :, 0].flatten(0, 1)
        mask = (0.1 + 0.8 * chicken)[:, None].expand(-1, 2, -1, -1)
        maps = edit.maps(mask)
        up = self.reads(mask[:, 0] if self.ignores else maps[:, 0])
        logits = torch.stack([torch.zeros_like(up), up, -up], -1).unflatten(0, shape)
        look = maps.unflatten(0, shape)
        value = maps[:, 1].mean((1, 2)).unflatten(0, shape)
        return AgentOutput(logits, value, Attention(look, look) if observe else None), dict(state)


def by_brightness(mask: Tensor) -> Tensor:
    """Up where most of the screen is dark, wherever the light is."""
    return 0.5 - mask.mean((1, 2))


def by_place(mask: Tensor) -> Tensor:
    """Up where the light is in the chicken's column, and the rest dark."""
    column = mask[:, :, 4].amax(1)
    rest = torch.cat([mask[:, :, :4], mask[:, :, 5:]], 2).amax((1, 2))
    return column - rest - 0.1


def player(reads: Callable[[Tensor], Tensor], *, ignores: bool = False) -> PlayingAgent:
    """One that plays Freeway."""
    agent = PlayingAgent("mask-a3c", (7, 10, 10), 3, {"env": "MinAtar/Freeway-v1"}, {"memory": 4, "features": 2})
    network = ByMap((7, 10, 10), 3, agent.network.settings)  # type: ignore[arg-type]
    network.reads, network.ignores = reads, ignores
    agent.network = network
    return agent.eval()
