"""ConvLSTM over unrolls (Shi et al. 2015, without peepholes)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveate.agents.models.grid import flat
from foveate.agents.models.interface import reset


class ConvLSTM(nn.Module):
    """An LSTM whose every product is a convolution, so that its memory is a picture.

    Gates are i, f, o, g, in that order. The inputs of a whole unroll go through one convolution; only the hidden
    state's has to wait for its turn.
    """

    def __init__(self, channels: int, hidden: int, kernel: int = 3, forget_bias: float = 0.0) -> None:
        """`forget_bias` is added to the forget gate (Sonnet and TensorFlow: 1)."""
        super().__init__()
        self.hidden = hidden
        self.forget_bias = forget_bias
        self.input = nn.Conv2d(channels, 4 * hidden, kernel, padding=kernel // 2)
        self.recurrent = nn.Conv2d(hidden, 4 * hidden, kernel, padding=kernel // 2, bias=False)

    def initial_state(self, envs: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Hidden state and cell of nothing seen."""
        zeros = self.recurrent.weight.new_zeros(envs, self.hidden, height, width)
        return zeros, zeros.clone()

    def forward(
        self,
        x: Float[Tensor, "time envs channels height width"],
        done: Bool[Tensor, "time envs"],
        hidden: Float[Tensor, "envs hidden height width"],
        cell: Float[Tensor, "envs hidden height width"],
    ) -> tuple[
        Float[Tensor, "time envs hidden height width"],
        Float[Tensor, "envs hidden height width"],
        Float[Tensor, "envs hidden height width"],
    ]:
        """Every step's hidden state, and the hidden state and cell after the last; `done` clears both beforehand."""
        fed = self.input(flat(x)).unflatten(0, done.shape)
        outputs = []
        for now, first in zip(fed, done, strict=True):
            hidden, cell = reset(first, hidden, cell)
            hidden, cell = self.advance(now + self.recurrent(hidden), cell)
            outputs.append(hidden)
        return torch.stack(outputs), hidden, cell

    def advance(
        self, gates: Float[Tensor, "n gates height width"], cell: Float[Tensor, "#n hidden height width"]
    ) -> tuple[Float[Tensor, "n hidden height width"], Float[Tensor, "n hidden height width"]]:
        """Hidden state and cell after a step, place by place, from the sum of both convolutions and the cell before."""
        # The cell stays in full precision: a sum over hundreds of steps.
        i, f, o, g = gates.float().chunk(4, 1)
        cell = torch.sigmoid(f + self.forget_bias) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell
