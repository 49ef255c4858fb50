"""Record: the path of every text of a probe, and the explanations it ends in."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.text.explanation import Explanation, Step, Token
from foveate.text.goal import Goal
from foveate.text.classifier import Prediction
from foveate.text.probe import Probe


class Record:
    """Collects the steps that a method takes, text by text."""

    def __init__(self, probe: Probe, goal: Goal) -> None:
        self.probe = probe
        self.goal = goal
        self.paths: list[list[Step]] = [[] for _ in range(len(probe))]

    def add(
        self,
        rows: Int[Tensor, " rows"],
        actions: Sequence[tuple[int, ...]],
        visible: Bool[Tensor, "rows tokens"],
        prediction: Prediction,
    ) -> Bool[Tensor, " rows"]:
        """Append a step to each row's path; says which rows have reached the goal."""
        probe = self.probe
        probability = probe.target_probability(rows, prediction)
        delta = probe.probability[rows] - probability
        labels = prediction.logits.argmax(1).tolist()
        hidden = (probe.maskable[rows, : visible.shape[1]] & ~visible).tolist()
        for i, row in enumerate(rows.tolist()):
            self.paths[row].append(
                Step(
                    action=tuple(actions[i]),
                    masked=tuple(k for k, m in enumerate(hidden[i]) if m),
                    probability=float(probability[i]),
                    delta_p=float(delta[i]),
                    label=probe.classifier.labels[labels[i]],
                )
            )
        return self.goal.reached(probe, rows, prediction)

    def finish(self, method: str, scores: Float[Tensor, "texts tokens"]) -> list[Explanation]:
        """One explanation a text. An unsolved text keeps the mask on its path that lowered p(target) most."""
        probe, encoded = self.probe, self.probe.encoded
        explanations = []
        for row, path in enumerate(self.paths):
            text = encoded.texts[row]
            first, pair = (text, None) if isinstance(text, str) else text
            label = probe.classifier.labels[int(probe.target[row])]
            start_label = probe.classifier.labels[int(probe.label[row])]
            best = max(path, key=lambda s: (s.delta_p, -len(s.masked)), default=None)
            if path and path[-1].delta_p >= self.goal.threshold:
                best = path[-1]
            if best is None or best.delta_p <= 0:
                best = Step((), (), float(probe.probability[row]), 0.0, start_label)
            n = int(encoded.lengths[row])
            maskable = int(encoded.maskable[row].sum())
            explanations.append(
                Explanation(
                    text=first,
                    pair=pair,
                    label=label,
                    probability=float(probe.probability[row]),
                    tokens=_tokens(encoded, row, n, first, pair),
                    masked=best.masked,
                    scores=tuple(scores[row, :n].tolist()),
                    delta_p=best.delta_p,
                    solved=best.delta_p >= self.goal.threshold,
                    flipped=best.label != start_label,
                    final_label=best.label,
                    queries=int(probe.queries[row]),
                    mask_rate=len(best.masked) / maskable if maskable else 0.0,
                    path=tuple(path),
                    method=method,
                    model=probe.classifier.name,
                    threshold=self.goal.threshold,
                    truncated=bool(encoded.truncated[row]),
                )
            )
        return explanations


def _tokens(encoded, row: int, n: int, text: str, pair: str | None) -> tuple[Token, ...]:
    tokens = []
    for (start, end), segment, maskable in zip(
        encoded.offsets[row, :n].tolist(), encoded.segments[row, :n].tolist(), encoded.maskable[row, :n].tolist(), strict=True
    ):
        source = pair if segment and pair is not None else text
        tokens.append(Token(source[start:end], start, end, segment, not maskable))
    return tuple(tokens)
