"""S3TA: soft, spatial, sequential, top-down attention (Mott et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.agents.models.conv_lstm import ConvLSTM
from foveate.agents.models.grid import Grid, SameConv, flat
from foveate.agents.models.interface import (
    AS_IT_IS,
    AgentInputs,
    AgentNetwork,
    AgentOutput,
    Attention,
    Edit,
    State,
    WhatIf,
    recall,
    reset,
)
from foveate.agents.models.local import Layer, Local
from foveate.agents.models.spatial_basis import spatial_basis


@dataclass(frozen=True)
class S3TASettings:
    """The paper's Table 2, and a named switch for whatever it leaves open or what the letter of it does not learn.

    As it is written the model starts with uniform maps: an answer is then the mean over the screen, in which a sprite
    weighs 1/(rows · columns), less than the basis channels beside it; the policy has nothing to learn from, and so the
    queries get little gradient. `normalise_content` and `initial_query` are against that; docs/agents/s3ta.md has what
    each was found to be worth.
    """

    queries: Literal["top-down", "fixed", "l2-keys"] = "top-down"
    """`fixed`: learned, the same at every step. `l2-keys`: none; the softmax of the keys' norms (section 4.4)."""
    normalise_content: bool = True
    """Each channel of keys and values has mean 0 and deviation 1 over the screen's cells: what is rare on it stands
    out, before any query has learned. The paper has no such thing."""
    initial_query: float = 1.0
    """Deviation of the content channels of the queries that the heads begin with; the paper: 0, no query at all."""
    normalise_answers: bool = False
    """LayerNorm on each answer; the paper has none, and nothing that was measured speaks for it."""
    forget_bias: float = 1.0
    """Of both LSTMs' forget gates; the paper does not say, DeepMind's library of the time has 1."""
    convolutions: tuple[tuple[int, int, int], ...] = ((8, 4, 32), (4, 2, 64))
    """Kernel, stride and channels of each."""
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


EPSILON = 1e-5
"""Added to the variance of content that is normalised."""

SMALL_SCREEN: dict[str, Any] = {
    "convolutions": ((3, 1, 16),),
    "memory": 24,
    "query_units": (128,),
    "answer_units": (256, 128),
    "core": 128,
    "output": 64,
}
"""Sizes for a screen of so few pixels that each is a thing of its own (MinAtar's 10 × 10), which a core learns from in
minutes; the paper's are for Atari."""

TO_THE_LETTER = {"normalise_content": False, "initial_query": 0.0, "normalise_answers": False}
"""The settings with which S3TA is the paper's."""


class S3TA(AgentNetwork):
    """Looks at a screen through a few queries that its memory asks (section 2, Figure 1)."""

    basis: Tensor

    def __init__(self, observation: tuple[int, int, int], actions: int, settings: S3TASettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or S3TASettings()
        self.actions = actions
        channels, grid = observation[0], Grid(*observation[1:])
        self.convolutions = nn.ModuleList()
        for kernel, stride, out in s.convolutions:
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
        self.output = nn.Sequential(nn.Linear(s.core, s.output), nn.ReLU())
        self.policy = nn.Linear(s.output, actions)
        self.value = nn.Linear(s.output, 1)
        self._initialise()

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
            look = self._attend(self._ask(core, edit), keys[t], edit)
            found = look.maps @ values[t].transpose(1, 2)
            core, core_cell = self._think(look, found, past[t], core, core_cell)
            cores.append(core)
            if observe:
                looks.append(look)
        output = self._say(torch.stack(cores))
        if observe:
            output = replace(output, attention=self._attention(looks, keys))
        return output, {"vision": vision, "vision_cell": vision_cell, "core": core, "core_cell": core_cell}

    def what_if(self, inputs: AgentInputs, state: State) -> WhatIf:
        """Only where a patch reaches is anything computed; what the patches have in common, once for all."""
        near = Local(self._layers(), self.scale(inputs.observation[0]))
        hidden, cell, core, core_cell = reset(
            inputs.done[0], *(state[name] for name in ("vision", "vision_cell", "core", "core_cell"))
        )
        past = recall(inputs, self.actions)[0]
        before, cell = flat(self.memory.recurrent(hidden)[None]), flat(cell[None])
        usual, _ = self.memory.advance(near.usual + before, cell)
        queries = self._ask(core, AS_IT_IS)

        def told(patches: Tensor, top: int, left: int) -> AgentOutput:
            count = len(patches)
            gates, (down, across) = near(self.scale(patches, top, left), top, left)
            seen, _ = self.memory.advance(gates.add_(before[:, :, down, across]), cell[:, :, down, across])
            keys = usual[:, : self.settings.keys].expand(count, -1, -1, -1).clone(memory_format=torch.contiguous_format)
            keys[:, :, down, across] = seen[:, : self.settings.keys]
            look = self._attend(queries, self._normal(keys.flatten(2)), AS_IT_IS)
            values = usual[0, self.settings.keys :], seen[:, self.settings.keys :]
            found = self._found(look.maps, *values, (down, across))
            then = (x.expand(count, -1) for x in (past, core, core_cell))
            return self._say(self._think(look, found, *then)[0][None])

        return told

    def _found(
        self,
        maps: Float[Tensor, "n heads cells"],
        usual: Float[Tensor, "value_channels rows columns"],
        seen: Float[Tensor, "n value_channels high wide"],
        place: tuple[slice, slice],
    ) -> Float[Tensor, "n heads value_channels"]:
        """The answers' content: `usual` under maps, but for what was `seen` at a place of it.

        The values of all cells are never held for all n, and the usual ones are multiplied by all maps at once.
        """
        normal = self.settings.normalise_content
        # Nothing but its precision depends on where content is counted from if its mean is taken away.
        zero = usual.mean((1, 2), keepdim=True) if normal else 0
        rest, seen = usual - zero, seen - zero
        rest[:, *place] = 0
        near = maps.unflatten(2, rest.shape[1:])[:, :, *place]
        found = maps @ rest.flatten(1).T + near.flatten(2) @ seen.flatten(2).transpose(1, 2)
        if not normal:
            return found
        cells = rest[0].numel()
        mean = (rest.sum((1, 2)) + seen.sum((2, 3))) / cells
        variance = (rest.square().sum((1, 2)) + seen.square().sum((2, 3))) / cells - mean.square()
        return (found - mean[:, None]) * (variance.clamp(min=0) + EPSILON).rsqrt()[:, None]

    def _think(
        self,
        look: _Look,
        found: Float[Tensor, "envs heads value_channels"],
        past: Float[Tensor, "envs recalled"],
        core: Float[Tensor, "envs core"],
        core_cell: Float[Tensor, "envs core"],
    ) -> tuple[Tensor, Tensor]:
        """Answers (equation 5; the basis is the same for all, so it is never joined to the content), and what the
        policy LSTM makes of them: its state and cell."""
        said = [self.answer_norm(torch.cat([found, look.maps @ self.basis.T], -1)).flatten(1), past]
        if look.queries is not None:
            said.append(look.queries.expand(len(past), -1, -1).flatten(1))
        core, core_cell = self.core(self.answer_processor(torch.cat(said, 1)), (core, core_cell))
        return core.float(), core_cell.float()

    def _say(self, cores: Float[Tensor, "time envs core"]) -> AgentOutput:
        """Policy and value."""
        out = self.output(cores)
        return AgentOutput(self.policy(out).float(), self.value(out).squeeze(-1).float())

    def _see(self, inputs: AgentInputs, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The vision core over the whole unroll: keys, values (equation 1, cells in one axis), and its state."""
        x = flat(self.scale(inputs.observation))
        for conv in self.convolutions:
            x = torch.relu(conv(x))
        x = x.unflatten(0, inputs.done.shape)
        seen, hidden, cell = self.memory(x, inputs.done, state["vision"], state["vision_cell"])
        return *self._content(seen), hidden, cell

    def _content(self, seen: Float[Tensor, "time envs memory rows columns"]) -> tuple[Tensor, Tensor]:
        """Keys and values, cells in one axis."""
        content = self._normal(seen.flatten(3))
        return content[:, :, : self.settings.keys], content[:, :, self.settings.keys :]

    def _normal(self, content: Float[Tensor, "*n cells"]) -> Float[Tensor, "*n cells"]:
        return F.layer_norm(content, content.shape[-1:], eps=EPSILON) if self.settings.normalise_content else content

    def _layers(self) -> list[Layer]:
        """From the screen to what it adds to the ConvLSTM's gates."""
        layers = [Layer(c.conv, c.padding, c.grid) for c in self.convolutions if isinstance(c, SameConv)]
        margin = self.memory.input.kernel_size[0] // 2
        return [*layers, Layer(self.memory.input, (margin, margin, margin, margin), self.grid)]

    def _ask(self, core: Float[Tensor, "envs core"], edit: Edit) -> Float[Tensor, "envs heads query"] | None:
        """The queries (equation 2); they know what was seen before, and nothing of what is on the screen now."""
        if self.settings.queries == "l2-keys":
            return None
        if self.settings.queries == "fixed":
            query = self.query.expand(len(core), -1, -1)
        else:
            query = self.query_network(core).unflatten(1, (-1, self.query_size))
        return edit.queries(query.float())

    def _attend(
        self,
        queries: Float[Tensor, "#envs heads query"] | None,
        keys: Float[Tensor, "envs key_channels cells"],
        edit: Edit,
    ) -> _Look:
        """Maps (equations 3 and 4)."""
        if queries is None:
            what = torch.linalg.vector_norm(keys, dim=1, keepdim=True)
            where = torch.zeros_like(what)
        else:
            what = queries[:, :, : self.settings.keys] @ keys
            where = queries[:, :, self.settings.keys :] @ self.basis
        cells = (self.grid.height, self.grid.width)
        maps = edit.maps((what + where).softmax(-1).unflatten(-1, cells)).flatten(2)
        return _Look(queries, what, where, maps)

    @torch.no_grad()
    def _initialise(self) -> None:
        """As Sonnet, the library of the paper's authors: every product keeps the variance of what it is given.

        torch's own initial weights shrink a signal by √3 a layer.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _truncated_normal(module.weight, module.weight[0].numel())
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        core = self.core
        for weight in (core.weight_ih, core.weight_hh):
            _truncated_normal(weight, core.input_size + core.hidden_size)
        if self.settings.queries == "top-down":
            begin = self.query_network[-1].get_parameter("bias").view(-1, self.query_size)
            begin[:, : self.settings.keys].normal_(std=self.settings.initial_query)
        elif self.settings.queries == "fixed":
            self.query[:, : self.settings.keys].normal_(std=self.settings.initial_query)
        nn.init.zeros_(core.bias_ih)
        nn.init.zeros_(core.bias_hh)
        core.bias_ih[core.hidden_size : 2 * core.hidden_size] = self.settings.forget_bias

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


def _truncated_normal(weight: Tensor, inputs: int) -> None:
    deviation = inputs**-0.5
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)


def _mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
