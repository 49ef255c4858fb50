"""The trained agent plays the masking game (AttExplainer, algorithm 1, without learning)."""

from __future__ import annotations

from dataclasses import replace

import torch

from foveate.text.agent import Agent
from foveate.text.explanation import Explanation
from foveate.text.game import MaskingGame
from foveate.text.goal import Goal
from foveate.text.probe import Probe
from foveate.text.record import Record


def play(
    probe: Probe, goal: Goal, agent: Agent, *, max_steps: int = 100, slots: int = 32, method: str = "agent"
) -> list[Explanation]:
    """Explain every text of `probe` by the agent's best moves, `slots` games at a time, long texts first."""
    record = Record(probe, goal)
    scores = torch.zeros(probe.maskable.shape)
    playable = probe.maskable.any(1)
    order = probe.encoded.lengths.argsort(descending=True, stable=True)
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
    # The game opens the texts that it plays.
    left = (~playable & (probe.label < 0)).nonzero().squeeze(1)
    if len(left):
        probe.open(left)
    while len(game):
        assert game.state is not None
        values = agent.values(game.state)
        action = values.argmax(1)
        new = game.steps == 0
        scores[game.rows[new], : values.shape[1]] = _shares(values[new])
        # A chosen token ranks above all that were not, the first above the second.
        rank = 1 + (game.max_steps - game.steps) / game.max_steps
        chosen = scores[game.rows, action]
        scores[game.rows, action] = torch.where(chosen > 1, chosen, rank)
        turn = game.step(action)
        record.add(turn.rows, action, turn.visible, turn.prediction)
    return [_found_first(explanation) for explanation in record.finish(method, scores)]


def _found_first(explanation: Explanation) -> Explanation:
    """The tokens found rank above those that were tried and shown again."""
    found = set(explanation.masked)
    return replace(explanation, scores=tuple(s + (i in found) for i, s in enumerate(explanation.scores)))


def _shares(values: torch.Tensor) -> torch.Tensor:
    """Values scaled to [0, 1] over the tokens that may be toggled; 0 elsewhere."""
    legal = values.isfinite()
    low = values.masked_fill(~legal, torch.inf).amin(1, keepdim=True)
    high = values.masked_fill(~legal, -torch.inf).amax(1, keepdim=True)
    return ((values - low) / (high - low).clamp(min=1e-9)).masked_fill(~legal, 0.0)
