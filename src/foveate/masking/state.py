"""State: what can be known of each running game, for an agent to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class State:
    """What can be known of each running game without another query."""

    observation: Any
    """What the network showed, of the kind that the probe's predictions hold."""
    real: Bool[Tensor, "games items"]
    maskable: Bool[Tensor, "games items"]
    visible: Bool[Tensor, "games items"]
    legal: Bool[Tensor, "games items"]
    """What may be toggled now."""
    segments: Int[Tensor, "games items"]
    probabilities: Float[Tensor, "games labels"]
    target: Int[Tensor, " games"]
    wanted: Float[Tensor, " games"]
    """What p(target) is to fall to."""


ITEM_AXES: Mapping[str, tuple[int, ...]] = dict.fromkeys(("real", "maskable", "visible", "legal", "segments"), (1,))
"""Which axes of a state's own tensors run over items."""


def gather(old: State, new: State | None, keep: Int[Tensor, " games"], width: int) -> State:
    """The games `keep` of `old` followed by `new`, all `width` items wide."""

    def join(a: Any, b: Any, name: str, every: Mapping[str, tuple[int, ...]]) -> Tensor:
        axes = every.get(name, ())
        first = _fit(getattr(a, name), axes, width)
        return (first if b is None else torch.cat([first, _fit(getattr(b, name), axes, width)]))[keep]

    seen = (old.observation, None if new is None else new.observation)
    kind = type(old.observation)
    observation = kind(**{f.name: join(*seen, f.name, kind.item_axes) for f in fields(kind)})
    names = {f.name for f in fields(State)} - {"observation"}
    rest: dict[str, Any] = {name: join(old, new, name, ITEM_AXES) for name in names}
    return State(observation=observation, **rest)


def _fit(x: Tensor, axes: tuple[int, ...], width: int) -> Tensor:
    """Pad or cut the item axes to `width`; what is cut is padding."""
    for axis in axes:
        if x.shape[axis] > width:
            x = x.narrow(axis, 0, width)
        elif x.shape[axis] < width:
            pad = [0, 0] * (x.dim() - 1 - axis) + [0, width - x.shape[axis]]
            x = F.pad(x, pad)
    return x
