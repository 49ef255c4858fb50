"""Mask-Attention A3C: a mask over what the policy sees, and one over what the value sees (Itaya et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.agents.models.conv_lstm import ConvLSTM
from foveate.agents.models.grid import Grid, Pool, SameConv, flat, small
from foveate.agents.models.interface import (
    AS_IT_IS,
    AgentInputs,
    AgentNetwork,
    AgentOutput,
    Attention,
    Edit,
    State,
)

DECAY = 0.9999
"""Of the running mean and deviation that frames are normalised by."""


@dataclass(frozen=True)
class MaskA3CSettings:
    """The paper's section 4.1; the published code says the rest."""

    masks: Literal["both", "policy", "value", "none"] = "both"
    """Which branches have one; none is A3C with a ConvLSTM."""
    normalise: bool = True
    """Frames by a running mean and deviation, kept across an environment's episodes."""
    convolutions: tuple[int, int, int] = (32, 32, 64)
    """Channels of the convolutions."""
    memory: int = 64
    """Channels of the ConvLSTM."""
    features: int = 32
    """Channels of each branch."""


SMALL_SCREEN: dict[str, Any] = {"convolutions": (16, 16, 16), "memory": 24}
"""Sizes for a small screen (MinAtar's 10 × 10), which a core learns from in minutes; the paper's are for Atari."""


class MaskA3C(AgentNetwork):
    """Three convolutions, a ConvLSTM, and a masked branch each for policy and value (Figure 1).

    Each convolution is followed by pooling, which a small screen (MinAtar's 10 × 10) goes without.
    """

    def __init__(
        self, observation: tuple[int, int, int], actions: int, settings: MaskA3CSettings | None = None
    ) -> None:
        super().__init__()
        s = self.settings = settings or MaskA3CSettings()
        channels, grid = observation[0], Grid(*observation[1:])
        self.convolutions, self.pools = nn.ModuleList(), nn.ModuleList()
        for kernel, out in zip((3 if small(observation) else 5, 3, 3), s.convolutions, strict=True):
            conv = SameConv(grid, channels, out, kernel, 1)
            self.convolutions.append(conv)
            if not small(observation):
                pool = Pool(conv.grid)
                self.pools.append(pool)
                grid = pool.grid
            channels = out
        self.grid = grid
        self.memory = ConvLSTM(channels, s.memory)
        cells = grid.height * grid.width
        self.policy = Branch(s.memory, s.features, cells, actions, mask=s.masks in ("both", "policy"))
        self.value = Branch(s.memory, s.features, cells, 1, mask=s.masks in ("both", "value"))
        self.heads = {"both": ("policy", "value"), "policy": ("policy",), "value": ("value",), "none": ()}[s.masks]
        self._initialise()

    def initial_state(self, envs: int) -> dict[str, Tensor]:
        seen, cell = self.memory.initial_state(envs, self.grid.height, self.grid.width)
        state = {"vision": seen, "vision_cell": cell}
        if self.settings.normalise:
            zeros = seen.new_zeros(envs)
            state |= {"frame_mean": zeros, "frame_deviation": zeros.clone(), "frames": zeros.clone()}
        return state

    def forward(
        self, inputs: AgentInputs, state: State, observe: bool = False, edit: Edit = AS_IT_IS
    ) -> tuple[AgentOutput, dict[str, Tensor]]:
        frames = self.scale(inputs.observation)
        statistics: dict[str, Tensor] = {}
        if self.settings.normalise:
            known = {name: state[name] for name in ("frame_mean", "frame_deviation", "frames")}
            # What is floating point already was normalised by whoever gave it.
            given = inputs.observation.is_floating_point()
            frames, statistics = (frames, known) if given else normalise(frames, known)
        x = flat(frames)
        for number, conv in enumerate(self.convolutions):
            x = conv(x)
            x = torch.relu(self.pools[number](x) if len(self.pools) else x)
        x = x.unflatten(0, inputs.done.shape)
        seen, hidden, cell = self.memory(x, inputs.done, state["vision"], state["vision_cell"])
        seen = flat(seen)
        shape, attention = inputs.done.shape, None
        masks: dict[str, Tensor] = {}
        if self.heads:
            gates = torch.cat([self.get_submodule(f"{head}.mask")(seen) for head in self.heads], 1)
            maps = edit.maps(gates.sigmoid())
            masks = dict(zip(self.heads, maps.split(1, 1), strict=True))
            if observe:
                attention = Attention(maps.float().unflatten(0, shape), gates.float().unflatten(0, shape))
        logits = self.policy(seen, masks.get("policy"))
        value = self.value(seen, masks.get("value"))
        output = AgentOutput(
            logits.float().unflatten(0, shape), value.float().squeeze(1).unflatten(0, shape), attention
        )
        return output, {"vision": hidden, "vision_cell": cell, **statistics}

    @torch.no_grad()
    def _initialise(self) -> None:
        """As the published code: Glorot's uniform bounds, times √2 where a ReLU or a gate follows; a small policy."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight, gain=2**0.5)
        for branch, size in ((self.policy, 0.01), (self.value, 1.0)):
            rows = torch.randn_like(branch.output.weight)
            branch.output.weight.copy_(rows * size / rows.norm(dim=1, keepdim=True))
            branch.output.bias.zero_()


class Branch(nn.Module):
    """Features, multiplied by a mask of [0, 1] where there is one, and a linear layer (equation 1)."""

    def __init__(self, channels: int, features: int, cells: int, outputs: int, *, mask: bool) -> None:
        super().__init__()
        self.features = nn.Conv2d(channels, features, 1)
        self.mask = nn.Conv2d(channels, 1, 1) if mask else None
        self.output = nn.Linear(features * cells, outputs)

    def forward(
        self, x: Float[Tensor, "n channels rows columns"], mask: Float[Tensor, "n 1 rows columns"] | None
    ) -> Float[Tensor, "n outputs"]:
        features = torch.relu(self.features(x))
        return self.output((features if mask is None else features * mask).flatten(1))


def normalise(
    frames: Float[Tensor, "time envs channels height width"], statistics: dict[str, Tensor]
) -> tuple[Float[Tensor, "time envs channels height width"], dict[str, Tensor]]:
    """Frames less the running mean of frames' means, divided by that of their deviations; each without its bias.

    `statistics` are those before the first frame; those after the last come back.
    """
    mean, deviation, count = (statistics[name] for name in ("frame_mean", "frame_deviation", "frames"))
    flattened = frames.flatten(2)
    means, deviations = flattened.mean(2), flattened.std(2, correction=0)
    centres, widths = [], []
    for m, d in zip(means, deviations, strict=True):
        mean, deviation, count = DECAY * mean + (1 - DECAY) * m, DECAY * deviation + (1 - DECAY) * d, count + 1
        share = -torch.expm1(count * torch.log(torch.tensor(DECAY, dtype=torch.float64)).to(count))
        centres.append(mean / share)
        widths.append(deviation / share + 1e-8)
    shape = (*means.shape, 1, 1, 1)
    normal = (frames - torch.stack(centres).view(shape)) / torch.stack(widths).view(shape)
    return normal, {"frame_mean": mean, "frame_deviation": deviation, "frames": count}
