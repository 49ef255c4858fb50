"""From the scores of an attribution method to a mask: two protocols, so that each attribution is judged in both."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.masking.goal import Goal
from foveate.masking.probe import Probe
from foveate.masking.record import Found, Record

AnyProbe = TypeVar("AnyProbe", bound=Probe)


def mask_positive(probe: Probe, goal: Goal, scores: Float[Tensor, "cases items"]) -> list[Found]:
    """Mask every item with a positive score at once: one query a case, none where no score is positive.

    The protocol of AttExplainer, table 2.
    """
    chosen = probe.maskable & (scores > 0)
    record = Record(probe, goal)
    rows = chosen.any(1).nonzero().squeeze(1)
    if len(rows):
        visible = probe.real[rows] & ~chosen[rows]
        actions = [tuple(mask.nonzero().squeeze(1).tolist()) for mask in chosen[rows]]
        record.add(rows, actions, visible, probe.query(rows, visible))
    return record.finish(scores)


def mask_in_order(probe: Probe, goal: Goal, scores: Float[Tensor, "cases items"], max_steps: int = 100) -> list[Found]:
    """Mask one item after another, the highest score first, until the goal is reached: early stopping.

    Otherwise it ends after `max_steps`, or with every item masked. Each step costs its case one query.
    """
    order = ranking(probe, scores)
    steps = probe.maskable.sum(1).clamp(max=max_steps)
    record = Record(probe, goal)
    visible = probe.real.clone()
    rows = (steps > 0).nonzero().squeeze(1)
    step = 0
    while len(rows):
        item = order[rows, step]
        visible[rows, item] = False
        step += 1
        reached = record.add(rows, item, visible[rows], probe.query(rows, visible[rows]))
        rows = rows[~reached & (steps[rows] > step)]
    return record.finish(scores)


def ranking(probe: Probe, scores: Float[Tensor, "cases items"]) -> Tensor:
    """Each case's items from the highest score to the lowest (of equals the first first), maskable ones ahead."""
    return scores.masked_fill(~probe.maskable, -torch.inf).argsort(dim=1, descending=True, stable=True)


def fork(probe: AnyProbe) -> AnyProbe:
    """The same cases at the same count of queries: what is asked of the one is not counted to the other.

    So an attribution is computed once, and both protocols go on from it, each with its cost.
    """
    twin = copy.copy(probe)
    twin.queries = probe.queries.clone()
    return twin
