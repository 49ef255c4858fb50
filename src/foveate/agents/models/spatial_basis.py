"""The fixed channels that tell S3TA where a cell is (S3TA, section 2.1)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def spatial_basis(height: int, width: int, frequencies: int = 4) -> Float[Tensor, "channels {height} {width}"]:
    """Outer products of Fourier functions of row and column, (2·frequencies)² of them (equation 7).

    Along an axis of n cells the functions are cos(πui/n) and then sin(πui/n) for u = 1 ... frequencies: a frequency of
    0 would make fifteen channels zero. Channel u·(2·frequencies) + v is the product of row function u and column
    function v.
    """

    def functions(size: int) -> Tensor:
        u = torch.arange(1, frequencies + 1, dtype=torch.float64)[:, None]
        angle = math.pi * u * torch.arange(size, dtype=torch.float64) / size
        return torch.cat([angle.cos(), angle.sin()])

    return torch.einsum("ui,vj->uvij", functions(height), functions(width)).flatten(0, 1).float()
