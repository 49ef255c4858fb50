"""MaskingGame: many texts at once, one token toggled a step (AttExplainer, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import RequestError
from foveate.text.classifier import Observation, Prediction
from foveate.text.features import State
from foveate.text.goal import Goal
from foveate.text.probe import Probe

Moves = Literal["toggle", "mask", "take-back"]
"""What may be done to a token: `toggle`, mask it or show it again, as in the paper; `mask`, mask it for good;
`take-back`, mask it, and where that led away from the goal it is shown again at once and not tried any more. What was
seen before the step is still known, so taking back costs no query."""


@dataclass(frozen=True)
class Turn:
    """What one step of every running game brought."""

    rows: Int[Tensor, " games"]
    """The text that each game plays."""
    visible: Bool[Tensor, "games tokens"]
    prediction: Prediction
    gain: Float[Tensor, " games"]
    closer: Float[Tensor, " games"]
    """How much of the goal's distance the step took off, in log-odds; 0 where it was taken back."""
    reached: Bool[Tensor, " games"]
    """The goal was reached: d in equations 2 and 3."""
    over: Bool[Tensor, " games"]
    """Reached, out of steps, or nothing left to do."""


class MaskingGame:
    """A batch of running games; a finished one leaves, and the next text of `source` takes its place."""

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

        After a round in which every token was tried and the label still stands, all may be tried once more in the
        next of `rounds`: those that are masked are shown, and that too is taken back where it leads away.
        `reachable_only=True` passes over texts whose end cannot be reached.
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
        self.state: State | None = None
        self._refill(torch.empty(0, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def actions(self) -> Bool[Tensor, "games tokens"]:
        """The tokens that may be toggled now."""
        assert self.state is not None
        return self.state.legal

    def step(self, action: Int[Tensor, " games"]) -> Turn:
        """Toggle one token in every game. Costs each game's text one query.

        Raises ValueError for a token that may not be toggled: special, padding, or (but for "toggle") tried already.
        """
        state = self.state
        assert state is not None
        if not self.actions.gather(1, action[:, None]).all():
            raise ValueError("a token was chosen that may not be toggled; choose among `actions`")
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
            self.state = _gather(replace(state, legal=legal), self.state, place, visible.shape[1])
        self.distance = torch.where(back, before, after)
        stands = self.state.probabilities.argmax(1) == self.state.target
        again = ~self.actions.any(1) & stands & (self.round + 1 < self.rounds)
        self.round = self.round + again
        self.state = replace(self.state, legal=self.state.legal | (again[:, None] & state.maskable))
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
        """New texts take the places of finished games; places stay in order, and close up when texts run out."""
        wanted = self.slots if self.state is None else int(over.sum())
        if not wanted:
            return
        fresh, far, new = self._deal(wanted)
        if self.state is None:
            self.rows, self.state, self.distance = fresh, new, far
            self.steps, self.round = torch.zeros_like(fresh), torch.zeros_like(fresh)
            return
        place = torch.arange(len(self.rows))
        place[over.nonzero().squeeze(1)[: len(fresh)]] = len(self.rows) + torch.arange(len(fresh))
        keep = place[~over | (place >= len(self.rows))]
        self.rows = torch.cat([self.rows, fresh])[keep]
        self.steps = torch.cat([self.steps, torch.zeros_like(fresh)])[keep]
        self.round = torch.cat([self.round, torch.zeros_like(fresh)])[keep]
        self.distance = torch.cat([self.distance, far])[keep]
        width = int(self.probe.encoded.lengths[self.rows].max()) if len(keep) else 0
        self.state = _gather(self.state, new, keep, width)

    def _deal(self, wanted: int) -> tuple[Int[Tensor, " games"], Float[Tensor, " games"], State | None]:
        """Up to `wanted` new games (texts, their distances, their states), as many as the source still gives."""
        rows, far, state = torch.empty(0, dtype=torch.long), torch.empty(0), None
        passed = 0
        while len(rows) < wanted:
            fresh = torch.tensor(list(islice(self.source, wanted - len(rows))), dtype=torch.long)
            if not len(fresh):
                break
            prediction = self.probe.open(fresh, observe=True)
            width = int(self.probe.encoded.lengths[fresh].max())
            opened = _state(
                self.probe,
                self.goal,
                fresh,
                self.probe.encoded.real[fresh, :width],
                self.probe.encoded.maskable[fresh, :width],
                prediction,
            )
            keep = torch.ones_like(fresh, dtype=torch.bool)
            if self.reachable_only:
                keep = self.goal.reachable(self.probe, fresh)
            passed = 0 if keep.any() else passed + len(fresh)
            if passed > 2 * len(self.probe):
                # So many in a row hold a whole epoch of an endless shuffled source, which would never give a text.
                raise RequestError(
                    f"none of the {len(self.probe)} texts is classified with a probability of at least the threshold, "
                    f"{self.goal.threshold}; lower it"
                )
            if passed:
                continue
            rows = torch.cat([rows, fresh[keep]])
            far = torch.cat([far, self.goal.distance(self.probe, fresh, prediction)[keep]])
            width = int(self.probe.encoded.lengths[rows].max())
            opened = _gather(opened, None, keep.nonzero().squeeze(1), width)
            state = opened if state is None else _gather(state, opened, torch.arange(len(rows)), width)
        return rows, far, state


def _state(probe: Probe, goal: Goal, rows: Tensor, visible: Tensor, legal: Tensor, prediction: Prediction) -> State:
    width = visible.shape[1]
    encoded = probe.encoded
    assert prediction.observation is not None
    return State(
        observation=prediction.observation,
        real=encoded.real[rows, :width],
        maskable=encoded.maskable[rows, :width],
        visible=visible,
        legal=legal,
        segments=encoded.segments[rows, :width],
        probabilities=prediction.probabilities,
        target=probe.target[rows],
        wanted=goal.wanted(probe, rows),
    )


TOKEN_AXES: dict[str, tuple[int, ...]] = {
    "attention": (1, 2),
    "received": (2,),
    "pooled": (2,),
    "hidden": (1,),
    **dict.fromkeys(("real", "maskable", "visible", "legal", "segments"), (1,)),
}
"""Which axes of a state's tensors run over tokens."""


def _gather(old: State, new: State | None, keep: Int[Tensor, " games"], width: int) -> State:
    """The games `keep` of `old` followed by `new`, all `width` tokens wide."""

    def join(a: Any, b: Any, name: str) -> Tensor:
        axes = TOKEN_AXES.get(name, ())
        first = _fit(getattr(a, name), axes, width)
        return (first if b is None else torch.cat([first, _fit(getattr(b, name), axes, width)]))[keep]

    seen = (old.observation, None if new is None else new.observation)
    observation = Observation(**{f.name: join(*seen, f.name) for f in fields(Observation)})
    names = {f.name for f in fields(State)} - {"observation"}
    rest: dict[str, Any] = {name: join(old, new, name) for name in names}
    return State(observation=observation, **rest)


def _fit(x: Tensor, axes: tuple[int, ...], width: int) -> Tensor:
    """Pad or cut the token axes to `width`; what is cut is padding."""
    for axis in axes:
        if x.shape[axis] > width:
            x = x.narrow(axis, 0, width)
        elif x.shape[axis] < width:
            pad = [0, 0] * (x.dim() - 1 - axis) + [0, width - x.shape[axis]]
            x = F.pad(x, pad)
    return x
