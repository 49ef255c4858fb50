"""Record: the path of every case of a probe, and what it ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.masking.goal import Goal
from foveate.masking.probe import Prediction, Probe


@dataclass(frozen=True)
class Step:
    """One query on the way, and what it showed."""

    action: tuple[int, ...]
    """The items toggled."""
    masked: tuple[int, ...]
    """All items masked after it."""
    probability: float
    """p(target) then."""
    delta_p: float
    """How far that is below p(target | X)."""
    label: int
    """What is predicted then."""
    reached: bool
    """The goal was."""


@dataclass(frozen=True)
class Found:
    """What a method found in one case, and how."""

    masked: tuple[int, ...]
    """The items found: with them masked, the goal is reached where it is `solved`."""
    scores: tuple[float, ...]
    """One an item, padding included; higher is more important, 0 on what cannot be masked."""
    delta_p: float
    """p(target | X) − p(target | X with `masked` masked)."""
    label: int
    """What is predicted with `masked` masked."""
    solved: bool
    queries: int
    path: tuple[Step, ...]
    proven: bool | None = None
    """Whether every smaller set was asked, and no one of them does it (or, where it is not solved, none at all); None:
    it was not tried."""


@dataclass(frozen=True)
class _Moment:
    """One step of several cases, kept as tensors: steps are many, and read only once the method is done."""

    rows: Int[Tensor, " rows"]
    actions: Int[Tensor, " rows"] | Sequence[tuple[int, ...]]
    masked: Bool[Tensor, "rows items"]
    probability: Float[Tensor, " rows"]
    label: Int[Tensor, " rows"]
    reached: Bool[Tensor, " rows"]


class Record:
    """Collects the steps that a method takes, case by case."""

    def __init__(self, probe: Probe, goal: Goal) -> None:
        self.probe = probe
        self.goal = goal
        self._moments: list[_Moment] = []

    def add(
        self,
        rows: Int[Tensor, " rows"],
        actions: Int[Tensor, " rows"] | Sequence[tuple[int, ...]],
        visible: Bool[Tensor, "rows items"],
        prediction: Prediction,
    ) -> Bool[Tensor, " rows"]:
        """Append a step to each row's path; says which rows have reached the goal.

        `actions` are the items toggled: a tensor of one a row, or a tuple of them a row.
        """
        reached = self.goal.reached(self.probe, rows, prediction)
        self._moments.append(
            _Moment(
                # Copies, since a game may go on to write in the tensors that it hands over.
                rows=rows.clone(),
                actions=actions.clone() if isinstance(actions, Tensor) else tuple(actions),
                masked=self.probe.maskable[rows, : visible.shape[1]] & ~visible,
                probability=self.probe.target_probability(rows, prediction),
                label=prediction.logits.argmax(1),
                reached=reached,
            )
        )
        return reached

    def finish(self, scores: Float[Tensor, "cases items"]) -> list[Found]:
        """What was found in each case, with the method's `scores` of its items.

        Of the masks on a case's path, the last that reached the goal is kept; where none did, the one that lowered
        p(target) most, the smaller of two equal ones; where none lowered it, nothing is masked.
        """
        probe = self.probe
        shares = torch.where(probe.maskable, scores.to(probe.maskable.device), 0).tolist()
        found = []
        for path, share, label, probability, queries in zip(
            self._paths(), shares, probe.label.tolist(), probe.probability.tolist(), probe.queries.tolist(), strict=True
        ):
            solved = [step for step in path if step.reached]
            unmasked = Step((), (), probability, 0.0, label, False)
            best = solved[-1] if solved else max(path, key=lambda s: (s.delta_p, -len(s.masked)), default=unmasked)
            if not solved and best.delta_p <= 0:
                best = unmasked
            found.append(
                Found(
                    masked=best.masked,
                    scores=tuple(share),
                    delta_p=best.delta_p,
                    label=best.label,
                    solved=bool(solved),
                    queries=queries,
                    path=tuple(path),
                )
            )
        return found

    def _paths(self) -> list[list[Step]]:
        """Each case's steps in order."""
        paths: list[list[Step]] = [[] for _ in range(len(self.probe))]
        if not self._moments:
            return paths
        rows = torch.cat([m.rows for m in self._moments])
        width = max(m.masked.shape[1] for m in self._moments)
        masked = torch.cat([F.pad(m.masked, (0, width - m.masked.shape[1])) for m in self._moments])
        probability = torch.cat([m.probability for m in self._moments])
        actions = [
            (a,) if isinstance(a, int) else tuple(int(k) for k in a)
            for m in self._moments
            for a in (m.actions.tolist() if isinstance(m.actions, Tensor) else m.actions)
        ]
        masks = masked.nonzero()[:, 1].split(masked.sum(1).tolist())
        for row, action, mask, p, delta, label, reached in zip(
            rows.tolist(),
            actions,
            masks,
            probability.tolist(),
            (self.probe.probability[rows] - probability).tolist(),
            torch.cat([m.label for m in self._moments]).tolist(),
            torch.cat([m.reached for m in self._moments]).tolist(),
            strict=True,
        ):
            paths[row].append(Step(action, tuple(mask.tolist()), p, delta, label, reached))
        return paths
