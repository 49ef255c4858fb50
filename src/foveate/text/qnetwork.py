"""Value networks: the worth of toggling each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class NetworkSettings:
    """The shape of a value network."""

    kind: Literal["paper", "context"] = "context"
    """`paper` sees each token alone (equation 4); `context` lets tokens compare themselves with the others."""
    width: int = 96
    """Width of `context`."""
    layers: int = 2
    """Self-attention layers of `context`."""
    heads: int = 4
    """Attention heads of `context`."""


class PaperNetwork(nn.Module):
    """Q = OutputLayer([HiddenLayer(F), e]), token by token (AttExplainer, equation 4; sizes from the published weights)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, 63)
        self.output = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(
        self,
        features: Float[Tensor, "games tokens features"],
        visible: Bool[Tensor, "games tokens"],
        real: Bool[Tensor, "games tokens"],
    ) -> Float[Tensor, "games tokens"]:
        hidden = self.hidden(features).relu()
        return self.output(torch.cat([hidden, visible[:, :, None].to(hidden.dtype)], -1)).squeeze(-1)


class ContextNetwork(nn.Module):
    """A small Transformer over the tokens' features, so that a token's worth depends on its rivals."""

    def __init__(self, features: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.features = nn.Linear(features, width)
        self.visibility = nn.Embedding(2, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(
        self,
        features: Float[Tensor, "games tokens features"],
        visible: Bool[Tensor, "games tokens"],
        real: Bool[Tensor, "games tokens"],
    ) -> Float[Tensor, "games tokens"]:
        x = self.features(features) + self.visibility(visible.long())
        return self.output(self.layers(x, src_key_padding_mask=~real)).squeeze(-1)


def build_network(settings: NetworkSettings, features: int) -> nn.Module:
    if settings.kind == "paper":
        return PaperNetwork(features)
    return ContextNetwork(features, settings.width, settings.layers, settings.heads)
