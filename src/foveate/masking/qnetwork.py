"""Value networks: the worth of toggling each item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class NetworkSettings:
    """The shape of a value network."""

    kind: Literal["paper", "pooled", "attention"] = "pooled"
    """`paper` sees each item alone (equation 4); the others let an item compare itself with its rivals: `pooled`
    through the mean and the maximum over the sequence, `attention` through self-attention, at three times the cost."""
    width: int = 96
    """Width of `pooled` and `attention`."""
    layers: int = 2
    """Their layers."""


class PaperNetwork(nn.Module):
    """Q = OutputLayer([HiddenLayer(F), e]), item by item (AttExplainer, equation 4; sizes as published)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, 63)
        self.output = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(
        self,
        features: Float[Tensor, "games items features"],
        visible: Bool[Tensor, "games items"],
        real: Bool[Tensor, "games items"],
    ) -> Float[Tensor, "games items"]:
        hidden = self.hidden(features).relu()
        return self.output(torch.cat([hidden, visible[:, :, None].to(hidden.dtype)], -1)).squeeze(-1)


class PooledLayer(nn.Module):
    """A residual layer in which every item sees itself, and the mean and maximum over its sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, 2 * width)
        self.others = nn.Linear(2 * width, 2 * width)
        self.output = nn.Linear(2 * width, width)

    def forward(
        self, x: Float[Tensor, "games items width"], real: Bool[Tensor, "games items"]
    ) -> Float[Tensor, "games items width"]:
        seen, there = self.norm(x), real[:, :, None]
        mean = (seen * there).sum(1) / there.sum(1)
        highest = seen.masked_fill(~there, torch.finfo(seen.dtype).min).amax(1)
        context = self.others(torch.cat([mean, highest], -1))[:, None]
        return x + self.output(F.gelu(self.own(seen) + context))


class AttentionLayer(nn.TransformerEncoderLayer):
    """A Transformer layer over the items of a sequence."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "games items width"], real: Bool[Tensor, "games items"]
    ) -> Float[Tensor, "games items width"]:
        return super().forward(x, src_key_padding_mask=~real)


class ContextNetwork(nn.Module):
    """Layers over a sequence's features in which an item's worth depends on its rivals."""

    def __init__(self, features: int, width: int, layers: list[nn.Module]) -> None:
        super().__init__()
        self.features = nn.Linear(features, width)
        self.visibility = nn.Embedding(2, width)
        self.layers = nn.ModuleList(layers)
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(
        self,
        features: Float[Tensor, "games items features"],
        visible: Bool[Tensor, "games items"],
        real: Bool[Tensor, "games items"],
    ) -> Float[Tensor, "games items"]:
        x = self.features(features) + self.visibility(visible.long())
        for layer in self.layers:
            x = layer(x, real)
        return self.output(x).squeeze(-1)


def build_network(settings: NetworkSettings, features: int) -> nn.Module:
    """An untrained network for that many features an item."""
    if settings.kind == "paper":
        return PaperNetwork(features)
    layer = {"pooled": PooledLayer, "attention": AttentionLayer}[settings.kind]
    return ContextNetwork(features, settings.width, [layer(settings.width) for _ in range(settings.layers)])
