"""Greedy and beam search over masks: small masks at many queries."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.text.classifier import Prediction
from foveate.text.explanation import Explanation
from foveate.text.goal import Goal
from foveate.text.probe import Probe
from foveate.text.record import Record

TEXTS_AT_ONCE = 64
ROWS_AT_ONCE = 2048


def greedy(probe: Probe, goal: Goal, rng: torch.Generator, max_steps: int = 100) -> list[Explanation]:
    """Try every visible token, mask the one that gains most, and again, until the goal is reached.

    A round costs one query for every token tried. Scores: the gain of each token alone, above them the tokens masked,
    in order.
    """
    record = Record(probe, goal)
    scores = torch.zeros(probe.maskable.shape)
    for rows in torch.arange(len(probe)).split(TEXTS_AT_ONCE):
        scores[rows] = greedy_path(probe, goal, rows, record, max_steps)[0]
    return record.finish("greedy", scores)


def greedy_path(
    probe: Probe, goal: Goal, rows: Int[Tensor, " rows"], record: Record, max_steps: int
) -> tuple[
    Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"], Bool[Tensor, " rows"]
]:
    """Greedy search on the texts of `rows`, its steps put on record.

    Returns the scores, the gain of each token alone, the tokens visible at the end, and where the goal was reached.
    """
    maskable = probe.maskable[rows]
    visible = probe.encoded.real[rows].clone()
    solved = torch.zeros(len(rows), dtype=torch.bool)
    alone = torch.zeros(maskable.shape)
    order: list[tuple[Tensor, Tensor]] = []
    active = maskable.any(1).nonzero().squeeze(1)
    for step in range(max_steps):
        if not len(active):
            break
        gain, logits, index = expand(probe, goal, rows[active], visible[active, None])
        gain, index = gain[:, 0], index[:, 0]
        if step == 0:
            alone[active] = gain.where(maskable[active], 0)
        best = gain.argmax(1)
        visible[active, best] = False
        order.append((active, best))
        prediction = Prediction(logits[index.gather(1, best[:, None]).squeeze(1)])
        reached = record.add(rows[active], best, visible[active], prediction)
        solved[active] = reached
        active = active[~reached & (maskable & visible)[active].any(1)]
    return lifted(alone, order), alone, visible, solved


def expand(
    probe: Probe,
    goal: Goal,
    rows: Int[Tensor, " rows"],
    visible: Bool[Tensor, "rows beams tokens"],
    fresh: Bool[Tensor, "rows beams tokens"] | None = None,
) -> tuple[Float[Tensor, "rows beams tokens"], Float[Tensor, "asked labels"], Int[Tensor, "rows beams tokens"]]:
    """Mask one more token, each of those visible, or of those `fresh`.

    Returns what each would gain (-inf where it was not asked; where some of a text's reach the goal, only those keep
    their gain), the logits of all that was asked, and each token's place among them.
    """
    asked = probe.maskable[rows, None] & visible if fresh is None else fresh
    text, beam, token = asked.nonzero(as_tuple=True)
    after = visible[text, beam]
    after[torch.arange(len(token)), token] = False
    logits = ask(probe, rows[text], after).logits
    prediction = Prediction(logits)
    gain = torch.full(asked.shape, -torch.inf)
    gain[asked] = goal.gain(probe, rows[text], prediction).float()
    reached = torch.zeros_like(asked)
    reached[asked] = goal.reached(probe, rows[text], prediction)
    index = torch.zeros(asked.shape, dtype=torch.long)
    index[asked] = torch.arange(len(token))
    return gain.masked_fill(reached.flatten(1).any(1)[:, None, None] & ~reached, -torch.inf), logits, index


def ask(probe: Probe, rows: Int[Tensor, " rows"], visible: Bool[Tensor, "rows tokens"]) -> Prediction:
    """A query of any number of rows, in parts."""
    parts = zip(rows.split(ROWS_AT_ONCE), visible.split(ROWS_AT_ONCE), strict=True)
    return Prediction(torch.cat([probe.query(*part).logits for part in parts]))


def lifted(alone: Float[Tensor, "rows tokens"], order: list[tuple[Tensor, Tensor]]) -> Float[Tensor, "rows tokens"]:
    """Gains of single tokens, with the tokens masked (rows and tokens, step by step) lifted above them, in order."""
    scores = alone.clone()
    for step, (rows, tokens) in enumerate(order):
        # A gain is at most 1 for a difference of probabilities; where it has no bound, the largest is what to exceed.
        scores[rows, tokens] = alone[rows].amax(1).clamp(min=1) + 1 / (step + 1)
    return scores
