"""IMPALA's deep residual network, feed-forward and with an LSTM (Espeholt et al. 2018, Figure 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.agents.models.grid import Grid, flat
from foveate.agents.models.interface import (
    AS_IT_IS,
    AgentInputs,
    AgentNetwork,
    AgentOutput,
    Edit,
    State,
    recall,
    reset,
)


@dataclass(frozen=True)
class ResidualSettings:
    """The baselines of S3TA's section 4."""

    lstm: bool = False
    """An LSTM on top, which is told the previous action and reward."""
    channels: tuple[int, ...] = (16, 32, 32)
    """Of the sections."""
    units: int = 256
    """Of the layer on top of them, and of the LSTM."""


class Residual(AgentNetwork):
    """Sections of a convolution, pooling and two residual blocks each."""

    def __init__(
        self, observation: tuple[int, int, int], actions: int, settings: ResidualSettings | None = None
    ) -> None:
        super().__init__()
        s = self.settings = settings or ResidualSettings()
        self.actions = actions
        channels, grid = observation[0], Grid(*observation[1:])
        self.sections = nn.ModuleList()
        for out in s.channels:
            self.sections.append(Section(channels, out))
            channels, grid = out, grid.after(3, 2, (1, 1, 1, 1))
        self.grid = grid
        self.top = nn.Linear(channels * grid.height * grid.width, s.units)
        self.core = nn.LSTMCell(s.units + 1 + actions, s.units) if s.lstm else None
        self.policy = nn.Linear(s.units, actions)
        self.value = nn.Linear(s.units, 1)

    def initial_state(self, envs: int) -> dict[str, Tensor]:
        if self.core is None:
            return {}
        zeros = self.policy.weight.new_zeros(envs, self.settings.units)
        return {"core": zeros, "core_cell": zeros.clone()}

    def forward(
        self, inputs: AgentInputs, state: State, observe: bool = False, edit: Edit = AS_IT_IS
    ) -> tuple[AgentOutput, dict[str, Tensor]]:
        x = flat(self.scale(inputs.observation))
        for section in self.sections:
            x = section(x)
        out = torch.relu(self.top(torch.relu(x).flatten(1))).unflatten(0, inputs.done.shape)
        after: dict[str, Tensor] = {}
        if self.core is not None:
            out, after = self._remember(self.core, out, inputs, state)
        return AgentOutput(self.policy(out).float(), self.value(out).squeeze(-1).float()), after

    def _remember(
        self, core: nn.LSTMCell, x: Float[Tensor, "time envs units"], inputs: AgentInputs, state: State
    ) -> tuple[Float[Tensor, "time envs units"], dict[str, Tensor]]:
        fed = torch.cat([x, recall(inputs, self.actions)], -1)
        hidden, cell = state["core"], state["core_cell"]
        outputs = []
        for now, first in zip(fed, inputs.done, strict=True):
            hidden, cell = (m.float() for m in core(now, reset(first, hidden, cell)))
            outputs.append(hidden)
        return torch.stack(outputs), {"core": hidden, "core_cell": cell}


class Section(nn.Module):
    """Convolution, max-pooling 3 × 3 by two, two residual blocks."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, out, 3, padding=1)
        self.blocks = nn.ModuleList([Block(out), Block(out)])

    def forward(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n out rows columns"]:
        x = F.max_pool2d(self.enter(x), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    """Two convolutions, added to what they were given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "n channels rows columns"]) -> Float[Tensor, "n channels rows columns"]:
        return x + self.second(torch.relu(self.first(torch.relu(x))))
