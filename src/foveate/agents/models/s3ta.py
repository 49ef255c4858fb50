"""S3TA: soft, spatial, sequential, top-down attention (Mott et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.agents.models.conv_lstm import ConvLSTM
from foveate.agents.models.grid import Grid, SameConv, flat, small
from foveate.agents.models.interface import (
    AS_IT_IS,
    AgentInputs,
    AgentNetwork,
    AgentOutput,
    Attention,
    Edit,
    State,
    recall,
    reset,
    scale,
)
from foveate.agents.models.spatial_basis import spatial_basis


@dataclass(frozen=True)
class S3TASettings:
    """The paper's Table 2, and a named switch for whatever it leaves open or what the letter of it does not learn.

    As it is written the model starts with uniform maps: an answer is then the mean over the screen, in which a sprite
    weighs 1/(rows · columns), less than the basis channels beside it; the policy has nothing to learn from, and so the
    queries get no gradient. `query_scale`, `content_scale` and `normalise_answers` are against that.
    """

    queries: Literal["top-down", "fixed", "l2-keys"] = "top-down"
    """`fixed`: learned, the same at every step. `l2-keys`: none; the softmax of the keys' norms (section 4.4)."""
    query_scale: float = 3.0
    """The queries are multiplied by it; the paper has no such thing, which is 1."""
    content_scale: float = 5.0
    """So are keys and values, but for their spatial channels; the paper: 1."""
    normalise_answers: bool = True
    """LayerNorm on each answer; the paper has none."""
    forget_bias: float = 1.0
    """Of both LSTMs' forget gates; the paper does not say, DeepMind's library of the time has 1."""
    convolutions: tuple[tuple[int, int, int], ...] = ()
    """Kernel, stride and channels of each; none: the paper's ((8, 4, 32), (4, 2, 64)), and on a small screen (MinAtar's
    10 × 10) two of 3 × 3 without strides."""
    memory: int = 128
    """Channels of the ConvLSTM: keys and values together."""
    keys: int = 8
    """Of those, the ones that are keys."""
    heads: int = 4
    frequencies: int = 4
    """Even and odd each, along each axis: 64 spatial channels."""
    query_units: tuple[int, ...] = (256, 128)
    """Hidden layers of the query network."""
    answer_units: tuple[int, ...] = (512, 256)
    """Layers of the answer processor."""
    core: int = 256
    """Units of the policy LSTM."""
    output: int = 128
    """Units of the layer below policy and value."""


TO_THE_LETTER = {"query_scale": 1.0, "content_scale": 1.0, "normalise_answers": False}
"""The settings with which S3TA is the paper's."""


class S3TA(AgentNetwork):
    """Looks at a screen through a few queries that its memory asks (section 2, Figure 1)."""

    basis: Tensor

    def __init__(self, observation: tuple[int, int, int], actions: int, settings: S3TASettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or S3TASettings()
        self.actions = actions
        channels, grid = observation[0], Grid(*observation[1:])
        wanted = s.convolutions or (((3, 1, 32), (3, 1, 64)) if small(observation) else ((8, 4, 32), (4, 2, 64)))
        self.convolutions = nn.ModuleList()
        for kernel, stride, out in wanted:
            conv = SameConv(grid, channels, out, kernel, stride)
            self.convolutions.append(conv)
            channels, grid = out, conv.grid
        self.grid = grid
        self.memory = ConvLSTM(channels, s.memory, forget_bias=s.forget_bias)
        basis = spatial_basis(grid.height, grid.width, s.frequencies).flatten(1)
        self.register_buffer("basis", basis, persistent=False)
        # Norms of keys make one map; copies of it would tell the heads nothing.
        count = 1 if s.queries == "l2-keys" else s.heads
        self.heads = tuple(f"head {n + 1}" for n in range(count))
        self.query_size = s.keys + len(basis)
        answer_size = s.memory - s.keys + len(basis)
        if s.queries == "top-down":
            self.query_network = _mlp(s.core, *s.query_units, count * self.query_size)
        elif s.queries == "fixed":
            self.query = nn.Parameter(torch.randn(count, self.query_size) / self.query_size**0.5)
        self.answer_norm = nn.LayerNorm(answer_size) if s.normalise_answers else nn.Identity()
        asked = 0 if s.queries == "l2-keys" else count * self.query_size
        self.answer_processor = _mlp(count * answer_size + asked + 1 + actions, *s.answer_units)
        self.core = nn.LSTMCell(s.answer_units[-1], s.core)
        with torch.no_grad():
            self.core.bias_ih[s.core : 2 * s.core] += s.forget_bias
        self.output = nn.Sequential(nn.Linear(s.core, s.output), nn.ReLU())
        self.policy = nn.Linear(s.output, actions)
        self.value = nn.Linear(s.output, 1)

    def initial_state(self, envs: int) -> dict[str, Tensor]:
        seen, cell = self.memory.initial_state(envs, self.grid.height, self.grid.width)
        zeros = self.policy.weight.new_zeros(envs, self.settings.core)
        return {"vision": seen, "vision_cell": cell, "core": zeros, "core_cell": zeros.clone()}

    def forward(
        self, inputs: AgentInputs, state: State, observe: bool = False, edit: Edit = AS_IT_IS
    ) -> tuple[AgentOutput, dict[str, Tensor]]:
        keys, values, vision, vision_cell = self._see(inputs, state)
        past = recall(inputs, self.actions)
        core, core_cell = state["core"], state["core_cell"]
        cores, looks = [], []
        for t, first in enumerate(inputs.done):
            core, core_cell = reset(first, core, core_cell)
            look = self._attend(self._ask(core, edit), keys[t], values[t], edit)
            said = [look.answers.flatten(1), past[t]]
            if look.queries is not None:
                said.append(look.queries.flatten(1))
            core, core_cell = (
                x.float() for x in self.core(self.answer_processor(torch.cat(said, 1)), (core, core_cell))
            )
            cores.append(core)
            if observe:
                looks.append(look)
        out = self.output(torch.stack(cores))
        return (
            AgentOutput(
                logits=self.policy(out).float(),
                value=self.value(out).squeeze(-1).float(),
                attention=self._attention(looks, keys) if observe else None,
            ),
            {"vision": vision, "vision_cell": vision_cell, "core": core, "core_cell": core_cell},
        )

    def _see(self, inputs: AgentInputs, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The vision core over the whole unroll: keys, values (equation 1, cells in one axis), and its state."""
        x = flat(scale(inputs.observation))
        for conv in self.convolutions:
            x = torch.relu(conv(x))
        x = x.unflatten(0, inputs.done.shape)
        seen, hidden, cell = self.memory(x, inputs.done, state["vision"], state["vision_cell"])
        content = seen.flatten(3) * self.settings.content_scale
        return content[:, :, : self.settings.keys], content[:, :, self.settings.keys :], hidden, cell

    def _ask(self, core: Float[Tensor, "envs core"], edit: Edit) -> Float[Tensor, "envs heads query"] | None:
        """The queries (equation 2); they know what was seen before, and nothing of what is on the screen now."""
        if self.settings.queries == "l2-keys":
            return None
        if self.settings.queries == "fixed":
            query = self.query.expand(len(core), -1, -1)
        else:
            query = self.query_network(core).unflatten(1, (-1, self.query_size))
        return edit.queries(query.float() * self.settings.query_scale)

    def _attend(
        self,
        queries: Float[Tensor, "envs heads query"] | None,
        keys: Float[Tensor, "envs key_channels cells"],
        values: Float[Tensor, "envs value_channels cells"],
        edit: Edit,
    ) -> _Look:
        """Maps and answers (equations 3 to 5). The basis is the same for all, so it is never joined to the content."""
        if queries is None:
            what = torch.linalg.vector_norm(keys, dim=1, keepdim=True)
            where = torch.zeros_like(what)
        else:
            what = queries[:, :, : self.settings.keys] @ keys
            where = queries[:, :, self.settings.keys :] @ self.basis
        cells = (self.grid.height, self.grid.width)
        maps = edit.maps((what + where).softmax(-1).unflatten(-1, cells)).flatten(2)
        answers = torch.cat([maps @ values.transpose(1, 2), maps @ self.basis.T], -1)
        return _Look(queries, what, where, maps, self.answer_norm(answers))

    def _attention(self, looks: list[_Look], keys: Tensor) -> Attention:
        shape = (self.grid.height, self.grid.width)

        def over_time(name: str) -> Tensor:
            return torch.stack([getattr(look, name) for look in looks]).unflatten(-1, shape)

        what, where = over_time("what"), over_time("where")
        asked = [look.queries for look in looks if look.queries is not None]
        return Attention(
            maps=over_time("maps"),
            logits=what + where,
            what=what,
            where=where,
            queries=torch.stack(asked) if asked else None,
            keys=keys.unflatten(-1, shape),
        )


@dataclass(frozen=True)
class _Look:
    """One step's attention, cells in one axis."""

    queries: Tensor | None
    what: Tensor
    where: Tensor
    maps: Tensor
    answers: Tensor


def _mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
