"""MaskingGame: many cases at once, one item toggled a step (AttExplainer, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import RequestError
from foveate.masking.goal import Goal
from foveate.masking.probe import Prediction, Probe
from foveate.masking.state import State, gather

Moves = Literal["toggle", "mask", "take-back"]
"""What may be done to an item: `toggle`, mask it or show it again, as in the paper; `mask`, mask it for good;
`take-back`, mask it, and where that led away from the goal it is shown again at once and not tried any more. What was
seen before the step is still known, so taking back costs no query."""


@dataclass(frozen=True)
class Turn:
    """What one step of every running game brought."""

    rows: Int[Tensor, " games"]
    """The case that each game plays."""
    visible: Bool[Tensor, "games items"]
    prediction: Prediction
    gain: Float[Tensor, " games"]
    closer: Float[Tensor, " games"]
    """How much of the goal's distance the step took off, in log-odds; 0 where it was taken back."""
    reached: Bool[Tensor, " games"]
    """The goal was reached: d in equations 2 and 3."""
    over: Bool[Tensor, " games"]
    """Reached, out of steps, or nothing left to do."""


class MaskingGame:
    """A batch of running games; a finished one leaves, and the next case of `source` takes its place."""

    def __init__(
        self,
        probe: Probe,
        goal: Goal,
        source: Iterator[int],
        *,
        slots: int,
        max_steps: int = 100,
        moves: Moves = "take-back",
        tolerance: float = 0.5,
        rounds: int = 1,
        reachable_only: bool = False,
    ) -> None:
        """`tolerance` is how far a step may lead away from the goal before it is taken back, in log-odds.

        After a round in which every item was tried and the label still stands, all may be tried once more in the
        next of `rounds`: those that are masked are shown, and that too is taken back where it leads away. But what was
        tried since the mask last changed would be asked the same again, and is left out; where that is all, the game
        is over.
        `reachable_only=True` passes over cases whose end cannot be reached.
        """
        self.probe = probe
        self.goal = goal
        self.source = source
        self.slots = slots
        self.max_steps = max_steps
        self.moves = moves
        self.tolerance = tolerance
        self.rounds = rounds
        self.reachable_only = reachable_only
        self.rows: Int[Tensor, " games"] = torch.empty(0, dtype=torch.long)
        self.steps: Int[Tensor, " games"] = torch.empty(0, dtype=torch.long)
        self.round: Int[Tensor, " games"] = torch.empty(0, dtype=torch.long)
        self.distance: Float[Tensor, " games"] = torch.empty(0)
        self.stale: Bool[Tensor, "games case_items"] = torch.empty(0, probe.real.shape[1], dtype=torch.bool)
        """Tried since the mask last changed; as wide as the probe's longest case."""
        self.state: State | None = None
        self._refill(torch.empty(0, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def actions(self) -> Bool[Tensor, "games items"]:
        """The items that may be toggled now."""
        assert self.state is not None
        return self.state.legal

    def step(self, action: Int[Tensor, " games"]) -> Turn:
        """Toggle one item in every game. Costs each game's case one query.

        Raises ValueError for an item that may not be toggled: special, padding, or (but for "toggle") tried already.
        """
        state = self.state
        assert state is not None
        if not self.actions.gather(1, action[:, None]).all():
            raise ValueError("an item was chosen that may not be toggled; choose among `actions`")
        chosen = F.one_hot(action, state.visible.shape[1]).bool()
        visible = state.visible ^ chosen
        legal = state.legal if self.moves == "toggle" else state.legal & ~chosen
        prediction = self.probe.query(self.rows, visible, observe=True)
        assert prediction.observation is not None
        self.steps = self.steps + 1
        before, after = self.distance, self.goal.distance(self.probe, self.rows, prediction)
        reached = self.goal.reached(self.probe, self.rows, prediction)
        back = (after > before + self.tolerance) & ~reached if self.moves == "take-back" else torch.zeros_like(reached)
        self.state = _state(self.probe, self.goal, self.rows, visible, legal, prediction)
        if back.any():
            games = torch.arange(len(back))
            place = torch.where(back, games, games + len(back))
            self.state = gather(replace(state, legal=legal), self.state, place, visible.shape[1])
        self.distance = torch.where(back, before, after)
        # A step that stood makes all that was tried before it worth trying again, but for its own item.
        self.stale = (self.stale & back[:, None]).scatter(1, action[:, None], True)
        stands = self.state.probabilities.argmax(1) == self.state.target
        again = ~self.actions.any(1) & stands & (self.round + 1 < self.rounds)
        self.round = self.round + again
        fresh = again[:, None] & state.maskable & ~self.stale[:, : legal.shape[1]]
        self.state = replace(self.state, legal=self.state.legal | fresh)
        turn = Turn(
            rows=self.rows,
            visible=visible,
            prediction=prediction,
            gain=self.goal.gain(self.probe, self.rows, prediction),
            closer=before - self.distance,
            reached=reached,
            over=reached | ~self.actions.any(1) | (self.steps >= self.max_steps),
        )
        self._refill(turn.over)
        return turn

    def _refill(self, over: Bool[Tensor, " games"]) -> None:
        """New cases take the places of finished games; places stay in order, and close up when cases run out."""
        wanted = self.slots if self.state is None else int(over.sum())
        if not wanted:
            return
        fresh, far, new = self._deal(wanted)
        if self.state is None:
            self.rows, self.state, self.distance = fresh, new, far
            self.steps, self.round = torch.zeros_like(fresh), torch.zeros_like(fresh)
            self.stale = self._nothing_tried(fresh)
            return
        place = torch.arange(len(self.rows))
        place[over.nonzero().squeeze(1)[: len(fresh)]] = len(self.rows) + torch.arange(len(fresh))
        keep = place[~over | (place >= len(self.rows))]
        self.rows = torch.cat([self.rows, fresh])[keep]
        self.steps = torch.cat([self.steps, torch.zeros_like(fresh)])[keep]
        self.round = torch.cat([self.round, torch.zeros_like(fresh)])[keep]
        self.stale = torch.cat([self.stale, self._nothing_tried(fresh)])[keep]
        self.distance = torch.cat([self.distance, far])[keep]
        width = self._width(self.rows) if len(keep) else 0
        self.state = gather(self.state, new, keep, width)

    def _deal(self, wanted: int) -> tuple[Int[Tensor, " games"], Float[Tensor, " games"], State | None]:
        """Up to `wanted` new games (cases, their distances, their states), as many as the source still gives."""
        rows, far, state = torch.empty(0, dtype=torch.long), torch.empty(0), None
        passed = 0
        while len(rows) < wanted:
            fresh = torch.tensor(list(islice(self.source, wanted - len(rows))), dtype=torch.long)
            if not len(fresh):
                break
            prediction = self.probe.open(fresh, observe=True)
            width = self._width(fresh)
            opened = _state(
                self.probe,
                self.goal,
                fresh,
                self.probe.real[fresh, :width],
                self.probe.maskable[fresh, :width],
                prediction,
            )
            # Some cases turn out to have nothing to be masked only now that they are opened.
            keep = self.probe.maskable[fresh].any(1)
            if self.reachable_only:
                keep &= self.goal.reachable(self.probe, fresh)
            passed = 0 if keep.any() else passed + len(fresh)
            if passed > 2 * len(self.probe):
                # So many in a row hold a whole epoch of an endless shuffled source, which would never give a case.
                raise RequestError(
                    f"none of all {len(self.probe)} is classified with a probability of at least the threshold, "
                    f"{self.goal.threshold}; lower it"
                )
            if passed:
                continue
            rows = torch.cat([rows, fresh[keep]])
            far = torch.cat([far, self.goal.distance(self.probe, fresh, prediction)[keep]])
            width = self._width(rows)
            opened = gather(opened, None, keep.nonzero().squeeze(1), width)
            state = opened if state is None else gather(state, opened, torch.arange(len(rows)), width)
        return rows, far, state

    def _nothing_tried(self, rows: Int[Tensor, " rows"]) -> Bool[Tensor, "rows case_items"]:
        return torch.zeros(len(rows), self.probe.real.shape[1], dtype=torch.bool)

    def _width(self, rows: Int[Tensor, " rows"]) -> int:
        """Items of the longest of them."""
        return int(self.probe.real[rows].sum(1).max())


def _state(probe: Probe, goal: Goal, rows: Tensor, visible: Tensor, legal: Tensor, prediction: Prediction) -> State:
    width = visible.shape[1]
    assert prediction.observation is not None
    return State(
        observation=prediction.observation,
        real=probe.real[rows, :width],
        maskable=probe.maskable[rows, :width],
        visible=visible,
        legal=legal,
        segments=probe.segments[rows, :width],
        probabilities=prediction.probabilities,
        target=probe.target[rows],
        wanted=goal.wanted(probe, rows),
    )
