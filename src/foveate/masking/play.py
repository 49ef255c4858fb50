"""The trained agent plays the masking game (AttExplainer, algorithm 1, without learning)."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.masking.game import MaskingGame, Moves
from foveate.masking.goal import Goal
from foveate.masking.probe import Probe
from foveate.masking.record import Found, Record
from foveate.masking.state import State


@runtime_checkable
class Agent(Protocol):
    """A trained value network, and how it plays."""

    moves: Moves
    tolerance: float
    rounds: int

    def values(self, state: State) -> Float[Tensor, "games items"]:
        """Q of toggling each item; −∞ where that is not allowed."""


def play(probe: Probe, goal: Goal, agent: Agent, *, max_steps: int = 100, slots: int = 32) -> list[Found]:
    """Play every case of `probe` by the agent's best moves, `slots` games at a time, long cases first."""
    record = Record(probe, goal)
    scores = torch.zeros(probe.maskable.shape)
    playable = probe.maskable.any(1)
    order = probe.real.sum(1).argsort(descending=True, stable=True)
    source = iter(order[playable[order]].tolist())
    game = MaskingGame(
        probe,
        goal,
        source,
        slots=slots,
        max_steps=max_steps,
        moves=agent.moves,
        tolerance=agent.tolerance,
        rounds=agent.rounds,
    )
    # The game opens the cases that it plays.
    left = (~playable & (probe.label < 0)).nonzero().squeeze(1)
    if len(left):
        probe.open(left)
    while len(game):
        assert game.state is not None
        values = agent.values(game.state)
        action = values.argmax(1)
        new = game.steps == 0
        scores[game.rows[new], : values.shape[1]] = _shares(values[new])
        # A chosen item ranks above all that were not, the first above the second.
        rank = 1 + (game.max_steps - game.steps) / game.max_steps
        chosen = scores[game.rows, action]
        scores[game.rows, action] = torch.where(chosen > 1, chosen, rank)
        turn = game.step(action)
        record.add(turn.rows, action, turn.visible, turn.prediction)
    return [_found_first(found) for found in record.finish(scores)]


def _found_first(found: Found) -> Found:
    """The items found rank above those that were tried and shown again."""
    masked = set(found.masked)
    return replace(found, scores=tuple(s + (i in masked) for i, s in enumerate(found.scores)))


def _shares(values: Float[Tensor, "games items"]) -> Float[Tensor, "games items"]:
    """Values scaled to [0, 1] over the items that may be toggled; 0 elsewhere."""
    legal = values.isfinite()
    low = values.masked_fill(~legal, torch.inf).amin(1, keepdim=True)
    high = values.masked_fill(~legal, -torch.inf).amax(1, keepdim=True)
    return ((values - low) / (high - low).clamp(min=1e-9)).masked_fill(~legal, 0.0)
