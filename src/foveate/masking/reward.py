"""What a step of the game pays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from foveate.masking.game import Turn


@dataclass(frozen=True)
class RewardSettings:
    """The reward of one step."""

    kind: Literal["paper", "distance"] = "distance"
    """`paper`: gain + α·d·(1−m) − β (equations 2 and 3). `distance`: −1 for the query, plus what the step took off
    the goal's distance in log-odds, a potential that tells a step's worth even where p itself has not moved yet."""
    completion: float = 10.0
    """α of `paper`."""
    time: float = 0.2
    """β of `paper`."""
    shaping: float = 0.3
    """Reward a nat of `distance`."""


def reward(
    settings: RewardSettings, turn: Turn, length: Int[Tensor, " games"], masked: Int[Tensor, " games"]
) -> Float[Tensor, " games"]:
    """The reward of `turn`, where `masked` of the `length` items of each case are hidden now."""
    if settings.kind == "paper":
        kept = 1 - masked / length
        return turn.gain + settings.completion * turn.reached * kept - settings.time
    return settings.shaping * turn.closer - 1
