"""Record: the path of every text of a probe, and the explanations it ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.text.classifier import Prediction
from foveate.text.explanation import Explanation, Step, Token
from foveate.text.goal import Goal
from foveate.text.probe import Probe


@dataclass(frozen=True)
class _Moment:
    """One step of several texts, kept as tensors: steps are many, and read only once the method is done."""

    rows: Int[Tensor, " rows"]
    actions: Int[Tensor, " rows"] | Sequence[tuple[int, ...]]
    masked: Bool[Tensor, "rows tokens"]
    probability: Float[Tensor, " rows"]
    label: Int[Tensor, " rows"]
    reached: Bool[Tensor, " rows"]


class Record:
    """Collects the steps that a method takes, text by text."""

    def __init__(self, probe: Probe, goal: Goal) -> None:
        self.probe = probe
        self.goal = goal
        self._moments: list[_Moment] = []

    def add(
        self,
        rows: Int[Tensor, " rows"],
        actions: Int[Tensor, " rows"] | Sequence[tuple[int, ...]],
        visible: Bool[Tensor, "rows tokens"],
        prediction: Prediction,
    ) -> Bool[Tensor, " rows"]:
        """Append a step to each row's path; says which rows have reached the goal.

        `actions` are the tokens toggled: a tensor of one a row, or a tuple of them a row.
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

    def finish(self, method: str, scores: Float[Tensor, "texts tokens"]) -> list[Explanation]:
        """One explanation a text, with the method's `scores` of its tokens (those of special tokens become 0).

        Of the masks on a text's path, the last that reached the goal is kept; where none did, the one that lowered
        p(target) most, the smaller of two equal ones; where none lowered it, nothing is masked.
        """
        probe, encoded = self.probe, self.probe.encoded
        labels = probe.classifier.labels
        shares = torch.where(encoded.maskable, scores.to(encoded.maskable.device), 0).tolist()
        tokens = _tokens(probe)
        paths = self._paths()
        explanations = []
        for row, (text, target, label, probability, ordinary, queries, truncated) in enumerate(
            zip(
                encoded.texts,
                probe.target.tolist(),
                probe.label.tolist(),
                probe.probability.tolist(),
                encoded.ordinary.sum(1).tolist(),
                probe.queries.tolist(),
                encoded.truncated.tolist(),
                strict=True,
            )
        ):
            first, pair = (text, None) if isinstance(text, str) else text
            solved = [step for step, reached in paths[row] if reached]
            steps = tuple(step for step, _ in paths[row])
            unmasked = Step((), (), probability, 0.0, labels[label])
            best = solved[-1] if solved else max(steps, key=lambda s: (s.delta_p, -len(s.masked)), default=unmasked)
            if not solved and best.delta_p <= 0:
                best = unmasked
            explanations.append(
                Explanation(
                    text=first,
                    pair=pair,
                    label=labels[target],
                    probability=probability,
                    tokens=tokens[row],
                    masked=best.masked,
                    scores=tuple(shares[row][: len(tokens[row])]),
                    delta_p=best.delta_p,
                    solved=bool(solved),
                    flipped=best.label != labels[label],
                    final_label=best.label,
                    queries=queries,
                    mask_rate=len(best.masked) / ordinary if ordinary else 0.0,
                    path=steps,
                    method=method,
                    model=probe.classifier.name,
                    threshold=self.goal.threshold,
                    truncated=truncated,
                )
            )
        return explanations

    def _paths(self) -> list[list[tuple[Step, bool]]]:
        """Each text's steps in order, and whether they reached the goal."""
        paths: list[list[tuple[Step, bool]]] = [[] for _ in range(len(self.probe))]
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
        labels = self.probe.classifier.labels
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
            paths[row].append((Step(action, tuple(mask.tolist()), p, delta, labels[label]), reached))
        return paths


def _tokens(probe: Probe) -> list[tuple[Token, ...]]:
    """Each text's tokens: what they cover of the text, or for those that cover nothing, the tokenizer's name."""
    encoded = probe.encoded
    result = []
    for text, length, ids, offsets, segments, maskable in zip(
        encoded.texts,
        encoded.lengths.tolist(),
        encoded.input_ids,
        encoded.offsets.tolist(),
        encoded.segments.tolist(),
        encoded.ordinary.tolist(),
        strict=True,
    ):
        sources = (text,) if isinstance(text, str) else text
        names = probe.classifier.tokenizer.convert_ids_to_tokens(ids[:length].tolist())
        result.append(
            tuple(
                Token(sources[segment][start:end] if free else name, start, end, segment, not free)
                for name, (start, end), segment, free in zip(names, offsets, segments, maskable, strict=False)
            )
        )
    return result
