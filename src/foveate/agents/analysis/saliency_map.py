"""Saliency maps: how much a blur at each pixel changes the policy and the value.

S3TA, section 4.7, after Greydanus et al. 2018 ("Visualizing and understanding Atari agents", section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.blur import CUT, Blur, blurred, bump
from foveate.agents.models.grid import Grid
from foveate.agents.models.interface import AgentInputs, AgentNetwork, AgentOutput, State
from foveate.agents.trace import Trace
from foveate.threads import side_by_side
from foveate.viz.video import between

TILE = 8
"""Pixels along each side of the tiles that the points are blurred in: those of a tile share the screen around it."""


@dataclass(frozen=True)
class Seen:
    """A step, where the agent looked, and what would have changed its mind."""

    step: int
    screen: UInt8[np.ndarray, "height width 3"]
    maps: Float[Tensor, "heads rows columns"]
    saliency: dict[str, Float[Tensor, "high wide"]]
    """Of the policy and of the value, at every pixel of the observation."""


def examine(trace: Trace, step: int, agent: PlayingAgent, blur: Blur, stride: int) -> Seen:
    """Saliency of one step of a trace, from what the agent remembered then."""
    piece = trace.piece(step)
    row = step - piece.start
    inputs = AgentInputs(*(x[row : row + 1] for x in vars(piece.inputs).values()))
    policy, value = saliency(agent.network, inputs, trace.remembered(step, agent), blur, stride)
    return Seen(step, piece.screen[row].numpy(), piece.maps[row], {"policy": policy, "value": value})


@torch.inference_mode()
def saliency(
    network: AgentNetwork, inputs: AgentInputs, state: State, blur: Blur, stride: int = 1
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    """How much a blur at each pixel changes the policy and the value: S = ||out(X') - out(X)||² / 2.

    The policy is the softmax of the logits, as in S3TA's section 4.7. One step of one environment (T = B = 1). With a
    stride, the pixels between the blurred ones are interpolated.
    """
    frame = inputs.observation[0, 0]
    size = (frame.shape[1], frame.shape[2])
    points = [torch.arange(0, n, stride) for n in size]
    before = network(inputs, state)[0]
    what_if = network.what_if(inputs, state)

    @torch.inference_mode()
    def of(down: Tensor) -> Tensor:
        changes = torch.zeros(2, len(down), len(points[1]))
        for rows, columns, patches, top, left in patches_of(frame, [down, points[1]], blur):
            changes[:, rows, columns] = torch.stack(change(what_if(patches, top, left), before))
        return changes

    maps = torch.cat(side_by_side(of, [points[0][place] for place in _tiles(points[0])]), 1)
    if stride > 1:
        down, across = (torch.from_numpy(between(p.numpy(), n)) for p, n in zip(points, size, strict=True))
        maps = down @ maps @ across.T
    return maps[0], maps[1]


def patches_of(
    frame: UInt8[Tensor, "channels height width"], points: Sequence[Shaped[Tensor, " _"]], blur: Blur
) -> Iterator[tuple[Tensor, Tensor, UInt8[Tensor, "n channels high wide"], int, int]]:
    """The frame blurred at each point: places of the points in `points` (rows and columns), the part of the frame that
    is not the same any more, and where that begins.

    Patches are bytes, as agents are shown; so the bumps end where they change no byte, and points whose blur changes
    nothing at all (on plain ground) are left out.
    """
    _, height, width = frame.shape
    plain = frame.float()
    other = blurred(plain, blur.width) - plain
    reach = math.ceil(CUT * blur.bump)
    rows_of, columns_of = (_tiles(p) for p in points)
    for rows in rows_of:
        for columns in columns_of:
            at, beside = points[0][rows], points[1][columns]
            down = slice(max(int(at[0]) - reach, 0), min(int(at[-1]) + reach + 1, height))
            across = slice(max(int(beside[0]) - reach, 0), min(int(beside[-1]) + reach + 1, width))
            bumps = (
                bump(at, torch.arange(height)[down], blur.bump)[:, None, :, None]
                * bump(beside, torch.arange(width)[across], blur.bump)[None, :, None, :]
            ).flatten(0, 1)
            part = plain[:, down, across]
            patches = (part + bumps[:, None] * other[:, down, across]).round_().clamp_(0, 255).to(torch.uint8)
            differ = (patches != frame[:, down, across]).any(1)
            some = differ.any(2).any(1).nonzero().squeeze(1)
            if len(some):
                high, wide = (_extent(differ.any(0).any(1 - axis)) for axis in (0, 1))
                patches = patches[some, :, high, wide]
                yield (
                    rows[some // len(columns)],
                    columns[some % len(columns)],
                    patches,
                    down.start + high.start,
                    across.start + wide.start,
                )


def _tiles(points: Shaped[Tensor, " n"]) -> list[Tensor]:
    """Places of the points that share a tile, along one axis."""
    return [(points // TILE == tile).nonzero().squeeze(1) for tile in (points // TILE).unique()]


def _extent(some: Bool[Tensor, " pixels"]) -> slice:
    """From the first to the last that is so."""
    places = some.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1)


def change(after: AgentOutput, before: AgentOutput) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """S of the policy and of the value. What float32 cannot tell from nothing is nothing."""

    def half_square(new: Tensor, old: Tensor) -> Tensor:
        differ = (new - old).double()
        differ = differ * (differ.abs() > 4e-6 * (1 + old.abs()))
        return (differ**2).sum(-1).float() / 2

    return (
        half_square(after.logits[0].softmax(-1), before.logits[0].softmax(-1)),
        half_square(after.value[0, :, None], before.value[0, :, None]),
    )


def to_cells(saliency: Float[Tensor, "height width"], grid: Grid) -> Float[Tensor, "rows columns"]:
    """The mean over the pixels that lie nearest to each cell's centre."""

    def nearest(size: int, cells: int, first: float, step: float) -> Tensor:
        centres = first + step * torch.arange(cells)
        mine = (torch.arange(size)[:, None] - centres).abs().argmin(1)
        pixels = F.one_hot(mine, cells).float()
        return pixels / pixels.sum(0).clamp(min=1)

    height, width = saliency.shape
    down = nearest(height, grid.height, grid.row, grid.row_step)
    across = nearest(width, grid.width, grid.column, grid.column_step)
    return down.T @ saliency @ across
