"""Moments of play put to an agent with cells of its screen blurred: what masking games on agents are played on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.blur import Blur, blurred, bump
from foveate.agents.models.grid import Grid
from foveate.agents.models.interface import AgentInputs, AgentNetwork, State
from foveate.agents.trace import Trace
from foveate.masking.probe import Prediction

PIXELS_AT_ONCE = 2**19
"""Of the screens that go through the network together."""

ALL = 1e-6
"""What is left of a pixel that is wholly blurred; a byte does not show it, and its logarithm is finite."""


@dataclass(frozen=True)
class Look:
    """Where the agent looked."""

    maps: Float[Tensor, "rows heads cells"]

    item_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {"maps": (2,)}


class Moments:
    """Moments under examination: a case is a moment, its items are the cells of the agent's maps, and its label is the
    likeliest action.

    The first prediction of a moment is free; every row after it goes through `query` and is counted to its moment.
    """

    def __init__(self, network: AgentNetwork, inputs: AgentInputs, state: State, blur: Blur) -> None:
        """`inputs` are of one step (T = 1) of as many environments as there are moments, `state` what is remembered
        then. A cell whose blur changes nothing on the screen (plain ground) is not maskable."""
        self.network = network
        self.inputs = inputs
        self.state = state
        frames = inputs.observation[0]
        plain = frames.float()
        self._other = torch.stack([blurred(frame, blur.width) for frame in plain]) - plain
        self._kept = kept(network.grid, (frames.shape[2], frames.shape[3]), blur)
        count, cells = len(frames), len(self._kept)
        self.real: Bool[Tensor, "moments cells"] = torch.ones(count, cells, dtype=torch.bool)
        self.segments: Int[Tensor, "moments cells"] = torch.zeros(count, cells, dtype=torch.long)
        each = torch.arange(cells)
        alone = ~torch.eye(cells, dtype=torch.bool)
        self.maskable: Bool[Tensor, "moments cells"] = torch.stack(
            [(self.shown(torch.full_like(each, row), alone) != frames[row]).flatten(1).any(1) for row in range(count)]
        )
        self.queries: Int[Tensor, " moments"] = torch.zeros(count, dtype=torch.long)
        first = self.open(torch.arange(count), observe=True)
        self.maps: Float[Tensor, "moments heads cells"] = first.observation.maps
        self.label: Int[Tensor, " moments"] = first.logits.argmax(1)
        """The action that the agent likes best."""
        self.target = self.label
        self.probability: Float[Tensor, " moments"] = self.target_probability(torch.arange(count), first)

    def __len__(self) -> int:
        return len(self.queries)

    def shown(
        self, rows: Int[Tensor, " rows"], visible: Bool[Tensor, "rows cells"]
    ) -> UInt8[Tensor, "rows channels height width"]:
        """The screens of moments `rows`, blurred around all cells that are not visible.

        X' = X + (blur(X) - X) (1 - Π (1 - M)), over the bumps M of those cells: as if they were blurred one after
        another, in any order.
        """
        frames = self.inputs.observation[0, rows]
        left = torch.exp((~visible).float() @ self._kept.flatten(1)).view(len(rows), 1, *frames.shape[2:])
        return (frames + self._other[rows] * (1 - left)).round_().clamp_(0, 255).to(torch.uint8)

    def open(self, rows: Int[Tensor, " rows"], observe: bool = False) -> Prediction:
        """What the agent says of the whole screens; no query."""
        return self._ask(rows, self.inputs.observation[0, rows], observe)

    def query(
        self, rows: Int[Tensor, " rows"], visible: Bool[Tensor, "rows cells"], observe: bool = False
    ) -> Prediction:
        """Show the agent moment `rows[i]` with the cells of `visible[i]` alone, and count one query to it."""
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        size = max(1, PIXELS_AT_ONCE // self.inputs.observation[0, 0].numel())
        parts = [
            self._ask(some, self.shown(some, sight), observe)
            for some, sight in zip(rows.split(size), visible.split(size), strict=True)
        ]
        look = Look(torch.cat([p.observation.maps for p in parts])) if observe else None
        return Prediction(torch.cat([p.logits for p in parts]), look)

    def target_probability(self, rows: Int[Tensor, " rows"], prediction: Prediction) -> Float[Tensor, " rows"]:
        """Of the action that was the likeliest."""
        return prediction.probabilities.gather(1, self.target[rows, None]).squeeze(1)

    @torch.no_grad()
    def _ask(self, rows: Tensor, screens: Tensor, observe: bool) -> Prediction:
        told = AgentInputs(
            screens[None], self.inputs.reward[:, rows], self.inputs.action[:, rows], self.inputs.done[:, rows]
        )
        output, _ = self.network(told, {name: part[rows] for name, part in self.state.items()}, observe)
        if output.attention is None:
            return Prediction(output.logits[0])
        return Prediction(output.logits[0], Look(output.attention.maps[0].flatten(2)))


def kept(grid: Grid, size: tuple[int, int], blur: Blur) -> Float[Tensor, "cells height width"]:
    """The logarithm of the share of each pixel that is left where a cell is blurred: log(1 - M), with M the bump around
    the middle of the cell's receptive field."""
    rows = grid.row + grid.row_step * torch.arange(grid.height)
    columns = grid.column + grid.column_step * torch.arange(grid.width)
    down, across = (bump(at, torch.arange(n), blur.bump) for at, n in zip((rows, columns), size, strict=True))
    bumps = down[:, None, :, None] * across[None, :, None, :]
    return (1 - bumps).clamp(min=ALL).log().flatten(0, 1)


def moments_of(trace: Trace, steps: Sequence[int], agent: PlayingAgent, blur: Blur) -> Moments:
    """Steps of a trace, in order, each with what the agent remembered then."""
    inputs, states = [], []
    for piece in trace.pieces():
        state, done = piece.state, 0
        for step in steps:
            row = step - piece.start
            if not 0 <= row < piece.steps:
                continue
            if row > done:
                passed = AgentInputs(*(x[done:row] for x in vars(piece.inputs).values()))
                with torch.no_grad():
                    state, done = agent(passed, state)[1], row
            inputs.append(AgentInputs(*(x[row : row + 1] for x in vars(piece.inputs).values())))
            states.append(state)
    together = AgentInputs(*(torch.cat([getattr(i, n) for i in inputs], 1) for n in vars(inputs[0])))
    state = {name: torch.cat([s[name] for s in states]) for name in states[0]}
    return Moments(agent.network, together, state, blur)
