"""The smallest set of items that reaches the goal, by asking every smaller one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.masking.goal import Goal
from foveate.masking.probe import Prediction, Probe
from foveate.masking.record import Found, Record
from foveate.masking.search import CASES_AT_ONCE, ask, greedy_path, lifted

SETS_AT_ONCE = 32
"""Sets of one case that are asked together; what is asked past the one that is found is counted."""


def exact(probe: Probe, goal: Goal, max_steps: int = 100, budget: int = 5000) -> list[Found]:
    """The smallest set of items whose masking reaches the goal, for short cases.

    Greedy search gives a bound; then every smaller set is asked, the small before the large and those of strong items
    first, so that the first one found is the smallest. `budget` is the most queries a case, greedy's included (which
    are never cut short). Within it, what comes back is proven: no smaller set does it, or, where it is not solved, none
    at all; such a set is minimal too. Beyond it, greedy's set comes back, not `proven`.
    """
    record = Record(probe, goal)
    scores = torch.zeros(probe.maskable.shape)
    proven = torch.zeros(len(probe), dtype=torch.bool)
    for rows in torch.arange(len(probe)).split(CASES_AT_ONCE):
        scores[rows], proven[rows] = _exact(probe, goal, rows, record, max_steps, budget)
    return [replace(f, proven=sure) for f, sure in zip(record.finish(scores), proven.tolist(), strict=True)]


@dataclass
class _Search:
    """What is still to be asked of one case."""

    at: int
    sets: Iterator[tuple[int, ...]]
    left: int
    """Queries."""


def _exact(
    probe: Probe, goal: Goal, rows: Int[Tensor, " rows"], record: Record, max_steps: int, budget: int
) -> tuple[Float[Tensor, "rows items"], Bool[Tensor, " rows"]]:
    before = probe.queries[rows]
    scores, alone, visible, solved = greedy_path(probe, goal, rows, record, max_steps)
    spent = (probe.queries[rows] - before).tolist()
    proven = ~solved & ~goal.reachable(probe, rows)
    maskable = probe.maskable[rows]
    bound = torch.where(solved, (maskable & ~visible).sum(1), maskable.sum(1) + 1).tolist()
    strong_first = alone.masked_fill(~maskable, -torch.inf).argsort(dim=1, descending=True, stable=True)
    searches = [
        _Search(i, smaller_sets(strong_first[i, : int(maskable[i].sum())].tolist(), bound[i]), budget - spent[i])
        for i in (~proven).nonzero().squeeze(1).tolist()
    ]
    while searches:
        asked = [(s, list(islice(s.sets, max(0, min(SETS_AT_ONCE, s.left))))) for s in searches]
        for search, sets in asked:
            # Nothing asked: either there is no set left, which is the proof, or no query.
            proven[search.at] |= not sets and next(search.sets, None) is None
        asked = [(search, sets) for search, sets in asked if sets]
        found = _ask_sets(probe, goal, rows, asked, visible, record)
        proven[found] = solved[found] = True
        for search, sets in asked:
            search.left -= len(sets)
        searches = [search for search, _ in asked if not proven[search.at]]
    return torch.where(solved[:, None], _lift_set(alone, maskable & ~visible), scores), proven


def smaller_sets(items: list[int], bound: int) -> Iterator[tuple[int, ...]]:
    """The sets of 2 to `bound` - 1 of the items, by size; of one size, those of the first items first.

    Sets of one are what greedy search begins with.
    """
    for size in range(2, min(bound, len(items) + 1)):
        for last in range(size - 1, len(items)):
            for others in combinations(items[:last], size - 1):
                yield (*others, items[last])


def _ask_sets(
    probe: Probe,
    goal: Goal,
    rows: Int[Tensor, " rows"],
    asked: list[tuple[_Search, list[tuple[int, ...]]]],
    visible: Bool[Tensor, "rows items"],
    record: Record,
) -> Int[Tensor, " found"]:
    """Ask all sets in one query; those found are put on record and written to `visible`. Returns their cases."""
    if not asked:
        return torch.empty(0, dtype=torch.long)
    case = torch.tensor([search.at for search, sets in asked for _ in sets])
    sizes = [len(items) for _, sets in asked for items in sets]
    masks = probe.real[rows[case]].clone()
    each = torch.arange(len(case)).repeat_interleave(torch.tensor(sizes))
    masks[each, torch.tensor([item for _, sets in asked for items in sets for item in items])] = False
    prediction = ask(probe, rows[case], masks)
    reached = goal.reached(probe, rows[case], prediction).tolist()
    gain = goal.gain(probe, rows[case], prediction).tolist()
    best: dict[int, int] = {}
    for i, at in enumerate(case.tolist()):
        # The smallest, and of several the one that gains most.
        if reached[i] and (at not in best or (-sizes[i], gain[i]) > (-sizes[best[at]], gain[best[at]])):
            best[at] = i
    found, chosen = torch.tensor(list(best), dtype=torch.long), torch.tensor(list(best.values()), dtype=torch.long)
    if len(found):
        toggled = [tuple(row.nonzero().squeeze(1).tolist()) for row in visible[found] ^ masks[chosen]]
        record.add(rows[found], toggled, masks[chosen], Prediction(prediction.logits[chosen]))
        visible[found] = masks[chosen]
    return found


def _lift_set(alone: Float[Tensor, "rows items"], chosen: Bool[Tensor, "rows items"]) -> Float[Tensor, "rows items"]:
    """The gains of single items, the chosen items above the others."""
    order = alone.masked_fill(~chosen, -torch.inf).argsort(dim=1, descending=True, stable=True)
    count = chosen.sum(1)
    steps = ((count > step).nonzero().squeeze(1) for step in range(int(count.amax())))
    return lifted(alone, [(rows, order[rows, step]) for step, rows in enumerate(steps)])
