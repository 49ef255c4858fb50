"""Minimality: is every masked token needed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from foveate.masking.goal import Attack, Explain, Goal
from foveate.text.explanation import Explanation
from foveate.text.probe import Probe


def verify(probe: Probe, explanations: Sequence[Explanation], goal: Goal | None = None) -> list[Explanation]:
    """Say of each solved explanation whether unmasking any one of its tokens loses the result.

    `explanations[i]` is of text i of the probe. Sets `minimal`, and in `verification_queries` the rows that it took,
    one a masked token; the probe's own count stays as it is. Unsolved ones come back with `minimal` None. `goal` is
    the one that was played for; by default, to explain with the threshold that the explanations name.
    """
    checked = [(i, token) for i, e in enumerate(explanations) if e.solved for token in e.masked]
    if not checked:
        return [replace(e, minimal=None, verification_queries=0) for e in explanations]
    rows, shown = torch.tensor(checked).T
    masked = torch.zeros_like(probe.maskable)
    every = [(i, token) for i, e in enumerate(explanations) for token in e.masked]
    masked[tuple(torch.tensor(every).T)] = True
    visible = probe.encoded.real[rows] & ~masked[rows]
    visible[torch.arange(len(rows)), shown] = True
    prediction = probe.classifier.predict(probe.encoded, rows, visible)
    threshold = explanations[0].threshold
    goal = goal or (Attack() if threshold is None else Explain(threshold))
    spare = torch.zeros(len(probe), dtype=torch.bool)
    spare[rows[goal.reached(probe, rows, prediction)]] = True
    return [
        replace(
            e,
            minimal=not bool(spare[i]) if e.solved else None,
            verification_queries=len(e.masked) if e.solved else 0,
        )
        for i, e in enumerate(explanations)
    ]
