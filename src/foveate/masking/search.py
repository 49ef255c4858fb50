"""Greedy and beam search over masks: small masks at many queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.masking.goal import Goal
from foveate.masking.probe import Prediction, Probe
from foveate.masking.record import Found, Record

CASES_AT_ONCE = 64
ROWS_AT_ONCE = 2048


def greedy(probe: Probe, goal: Goal, max_steps: int = 100) -> list[Found]:
    """Try every visible item, mask the one that gains most, and again, until the goal is reached.

    A round costs one query for every item tried. Scores: the gain of each item alone, above them the items masked,
    in order.
    """
    record = Record(probe, goal)
    scores = torch.zeros(probe.maskable.shape)
    for rows in torch.arange(len(probe)).split(CASES_AT_ONCE):
        scores[rows] = greedy_path(probe, goal, rows, record, max_steps)[0]
    return record.finish(scores)


def greedy_path(
    probe: Probe, goal: Goal, rows: Int[Tensor, " rows"], record: Record, max_steps: int
) -> tuple[Float[Tensor, "rows items"], Float[Tensor, "rows items"], Bool[Tensor, "rows items"], Bool[Tensor, " rows"]]:
    """Greedy search on the cases of `rows`, its steps put on record.

    Returns the scores, the gain of each item alone, the items visible at the end, and where the goal was reached.
    """
    maskable = probe.maskable[rows]
    visible = probe.real[rows].clone()
    solved = torch.zeros(len(rows), dtype=torch.bool)
    alone = torch.zeros(maskable.shape)
    order: list[tuple[Tensor, Tensor]] = []
    active = maskable.any(1).nonzero().squeeze(1)
    for step in range(max_steps):
        if not len(active):
            break
        gain, choice, logits, index = expand(probe, goal, rows[active], visible[active, None])
        choice, index = choice[:, 0], index[:, 0]
        if step == 0:
            alone[active] = gain[:, 0].where(maskable[active], 0)
        best = choice.argmax(1)
        visible[active, best] = False
        order.append((active, best))
        prediction = Prediction(logits[index.gather(1, best[:, None]).squeeze(1)])
        reached = record.add(rows[active], best, visible[active], prediction)
        solved[active] = reached
        active = active[~reached & (maskable & visible)[active].any(1)]
    return lifted(alone, order), alone, visible, solved


def beam(probe: Probe, goal: Goal, max_steps: int = 100, width: int = 5) -> list[Found]:
    """Beam search: as greedy, but `width` masks of each size are gone on from, and no mask is asked twice.

    The path is the one that leads to the mask kept. Scores as greedy's.
    """
    record = Record(probe, goal)
    scores = torch.zeros(probe.maskable.shape)
    for rows in torch.arange(len(probe)).split(CASES_AT_ONCE):
        scores[rows] = beam_path(probe, goal, rows, record, max_steps, width)
    return record.finish(scores)


@dataclass(frozen=True)
class _Level:
    """The masks of one size that were gone on from, best first."""

    place: Int[Tensor, " cases"]
    """Where a case's beams are in the tensors below; -1 where the case was done before."""
    parent: Int[Tensor, "active beams"]
    item: Int[Tensor, "active beams"]
    visible: Bool[Tensor, "active beams items"]
    logits: Float[Tensor, "active beams labels"]


def beam_path(
    probe: Probe, goal: Goal, rows: Int[Tensor, " rows"], record: Record, max_steps: int, width: int
) -> Float[Tensor, "rows items"]:
    """Beam search on the cases of `rows`, the best paths put on record; returns the scores."""
    maskable = probe.maskable[rows]
    visible = probe.real[rows][:, None]
    alive = torch.ones(len(rows), 1, dtype=torch.bool)
    alone = torch.zeros(maskable.shape)
    best_gain = torch.full((len(rows),), -torch.inf)
    best_level = torch.full((len(rows),), -1)
    levels: list[_Level] = []
    active = maskable.any(1).nonzero().squeeze(1)
    visible, alive = visible[active], alive[active]
    for step in range(max_steps):
        if not len(active):
            break
        fresh = distinct(visible, maskable[active, None] & visible & alive[:, :, None])
        gain, choice, logits, index = expand(probe, goal, rows[active], visible, fresh)
        if step == 0:
            alone[active] = gain[:, 0].where(maskable[active], 0)
        order = choice.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :width]
        parent, item = order // maskable.shape[1], order % maskable.shape[1]
        gain = choice.flatten(1).gather(1, order)
        alive = gain > -torch.inf
        each = torch.arange(len(active))[:, None]
        visible = visible[each, parent]
        visible[each, torch.arange(order.shape[1]), item] = False
        place = torch.full((len(rows),), -1)
        place[active] = each.squeeze(1)
        asked = logits[index.flatten(1).gather(1, order)]
        levels.append(_Level(place, parent, item, visible, asked))
        reached = goal.reached(probe, rows[active], Prediction(asked[:, 0]))
        better = reached | (gain[:, 0] > best_gain[active])
        best_gain[active] = torch.where(better, gain[:, 0], best_gain[active])
        best_level[active] = torch.where(better, step, best_level[active])
        going = ~reached & (maskable[active] & visible[:, 0]).any(1)
        active, visible, alive = active[going], visible[going], alive[going]
    return lifted(alone, _trace(rows, best_level, levels, record))


def _trace(
    rows: Int[Tensor, " rows"], best_level: Int[Tensor, " rows"], levels: list[_Level], record: Record
) -> list[tuple[Tensor, Tensor]]:
    """Put on record the steps that led to each case's best mask; returns (rows, items) of each step."""
    slot = torch.zeros_like(best_level)
    steps = []
    for number in reversed(range(len(levels))):
        level = levels[number]
        cases = (best_level >= number).nonzero().squeeze(1)
        at = (level.place[cases], slot[cases])
        steps.append((cases, level.item[at], level.visible[at], level.logits[at]))
        slot[cases] = level.parent[at]
    for cases, item, visible, logits in reversed(steps):
        if len(cases):
            record.add(rows[cases], item, visible, Prediction(logits))
    return [(cases, item) for cases, item, *_ in reversed(steps)]


def distinct(
    visible: Bool[Tensor, "rows beams items"], fresh: Bool[Tensor, "rows beams items"]
) -> Bool[Tensor, "rows beams items"]:
    """`fresh`, without the items that would make a mask that another beam of the same case makes as well."""
    case, beam, item = fresh.nonzero(as_tuple=True)
    after = visible[case, beam].int()
    each = torch.arange(len(item))
    after[each, item] = 0
    _, group = torch.cat([case[:, None].int(), after], 1).unique(dim=0, return_inverse=True)
    first = torch.full((len(item),), len(item)).scatter_reduce(0, group, each, "amin")[group] == each
    kept = fresh.clone()
    kept[fresh] = first
    return kept


def expand(
    probe: Probe,
    goal: Goal,
    rows: Int[Tensor, " rows"],
    visible: Bool[Tensor, "rows beams items"],
    fresh: Bool[Tensor, "rows beams items"] | None = None,
) -> tuple[
    Float[Tensor, "rows beams items"],
    Float[Tensor, "rows beams items"],
    Float[Tensor, "asked labels"],
    Int[Tensor, "rows beams items"],
]:
    """Mask one more item, each of those visible, or of those `fresh`.

    Returns what each would gain (-inf where it was not asked), the same for choosing (where some of a case's reach the
    goal, -inf for those that do not), the logits of all that was asked, and each item's place among them.
    """
    asked = probe.maskable[rows, None] & visible if fresh is None else fresh
    case, beam, item = asked.nonzero(as_tuple=True)
    after = visible[case, beam]
    after[torch.arange(len(item)), item] = False
    logits = ask(probe, rows[case], after).logits
    prediction = Prediction(logits)
    gain = torch.full(asked.shape, -torch.inf)
    gain[asked] = goal.gain(probe, rows[case], prediction).float()
    reached = torch.zeros_like(asked)
    reached[asked] = goal.reached(probe, rows[case], prediction)
    index = torch.zeros(asked.shape, dtype=torch.long)
    index[asked] = torch.arange(len(item))
    choice = gain.masked_fill(reached.flatten(1).any(1)[:, None, None] & ~reached, -torch.inf)
    return gain, choice, logits, index


def ask(probe: Probe, rows: Int[Tensor, " rows"], visible: Bool[Tensor, "rows items"]) -> Prediction:
    """A query of any number of rows, in parts."""
    parts = zip(rows.split(ROWS_AT_ONCE), visible.split(ROWS_AT_ONCE), strict=True)
    return Prediction(torch.cat([probe.query(*part).logits for part in parts]))


def lifted(alone: Float[Tensor, "rows items"], order: list[tuple[Tensor, Tensor]]) -> Float[Tensor, "rows items"]:
    """Gains of single items, with the items masked (rows and items, step by step) lifted above them, in order."""
    scores = alone.clone()
    for step, (rows, items) in enumerate(order):
        # A gain is at most 1 for a difference of probabilities; where it has no bound, the largest is what to exceed.
        scores[rows, items] = alone[rows].amax(1).clamp(min=1) + 1 / (step + 1)
    return scores
