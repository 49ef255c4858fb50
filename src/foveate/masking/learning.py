"""One step of play to learn from: what every agent of the masking game does between two updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.masking.game import MaskingGame
from foveate.masking.reward import RewardSettings, reward
from foveate.masking.state import State


@runtime_checkable
class Learning(Protocol):
    """A value network, and what it looks at."""

    def look(self, state: State) -> Float[Tensor, "games items features"]: ...

    def __call__(
        self,
        features: Float[Tensor, "games items features"],
        visible: Bool[Tensor, "games items"],
        real: Bool[Tensor, "games items"],
    ) -> Float[Tensor, "games items"]: ...


@torch.no_grad()
def explore(
    game: MaskingGame, agent: Learning, greedy: float, pays: RewardSettings, generator: torch.Generator
) -> dict[str, Tensor]:
    """One step of every game, for replay: the share `greedy` of the moves are the agent's best, the others random."""
    state, legal = game.state, game.actions
    assert state is not None
    # Half precision is what replay keeps, so the agent acts on what it learns from.
    features = agent.look(state).half()
    values = agent(features.float(), state.visible, state.real).masked_fill(~legal, -torch.inf)
    random = torch.multinomial(legal.float(), 1, generator=generator).squeeze(1)
    best = torch.rand(len(game), generator=generator) < greedy
    action = torch.where(best, values.argmax(1), random)
    turn = game.step(action)
    probe = game.probe
    masked = (probe.maskable[turn.rows, : turn.visible.shape[1]] & ~turn.visible).sum(1)
    return {
        "features": features,
        "visible": state.visible,
        "real": state.real,
        "legal": legal,
        "action": action,
        "reward": reward(pays, turn, probe.real[turn.rows].sum(1), masked),
        "over": turn.over,
    }


class ShuffledRows(Iterator[int]):
    """Rows 0..n−1 in a new random order every epoch, for ever; `drawn` is all the state there is."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.drawn = 0
        self._epoch = -1
        self._order: list[int] = []

    def __next__(self) -> int:
        epoch, place = divmod(self.drawn, self.size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
            self._order, self._epoch = torch.randperm(self.size, generator=generator).tolist(), epoch
        self.drawn += 1
        return self._order[place]
