"""From the scores of an attribution method to a mask: two protocols, so that each attribution is judged in both."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.text.explanation import Explanation
from foveate.text.goal import Goal
from foveate.text.probe import Probe
from foveate.text.record import Record


def mask_positive(probe: Probe, goal: Goal, scores: Float[Tensor, "texts tokens"], method: str) -> list[Explanation]:
    """Mask every token with a positive score at once: one query a text, none where no score is positive.

    The protocol of AttExplainer, table 2.
    """
    chosen = probe.maskable & (scores > 0)
    record = Record(probe, goal)
    rows = chosen.any(1).nonzero().squeeze(1)
    if len(rows):
        visible = probe.encoded.real[rows] & ~chosen[rows]
        actions = [tuple(mask.nonzero().squeeze(1).tolist()) for mask in chosen[rows]]
        record.add(rows, actions, visible, probe.query(rows, visible))
    return record.finish(method, scores)


def mask_in_order(
    probe: Probe, goal: Goal, scores: Float[Tensor, "texts tokens"], method: str, max_steps: int = 100
) -> list[Explanation]:
    """Mask one token after another, the highest score first, until the goal is reached: early stopping.

    Otherwise it ends after `max_steps`, or with every token masked. Each step costs its text one query.
    """
    order = ranking(probe, scores)
    steps = probe.maskable.sum(1).clamp(max=max_steps)
    record = Record(probe, goal)
    visible = probe.encoded.real.clone()
    rows = (steps > 0).nonzero().squeeze(1)
    step = 0
    while len(rows):
        token = order[rows, step]
        visible[rows, token] = False
        step += 1
        reached = record.add(rows, token, visible[rows], probe.query(rows, visible[rows]))
        rows = rows[~reached & (steps[rows] > step)]
    return record.finish(method, scores)


def ranking(probe: Probe, scores: Float[Tensor, "texts tokens"]) -> Tensor:
    """Each text's tokens from the highest score to the lowest (of equals the first first), maskable ones ahead."""
    return scores.masked_fill(~probe.maskable, -torch.inf).argsort(dim=1, descending=True, stable=True)


def fork(probe: Probe) -> Probe:
    """The same texts at the same count of queries: what is asked of the one is not counted to the other.

    So an attribution is computed once, and both protocols go on from it, each with its cost.
    """
    twin = copy.copy(probe)
    twin.queries = probe.queries.clone()
    return twin
