"""What a method found in texts, as explanations."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.masking.goal import Goal
from foveate.masking.record import Found
from foveate.text.explanation import Explanation, Step, Token
from foveate.text.probe import Probe


def explained(probe: Probe, goal: Goal, method: str, found: Sequence[Found]) -> list[Explanation]:
    """One explanation a text; `found[i]` is of text i of the probe, `method` what it was found with.

    What was proven is minimal too; what could not be is by `method:unproven`.
    """
    encoded, labels = probe.encoded, probe.classifier.labels
    explanations = []
    for f, text, tokens, target, label, probability, ordinary, truncated in zip(
        found,
        encoded.texts,
        _tokens(probe),
        probe.target.tolist(),
        probe.label.tolist(),
        probe.probability.tolist(),
        encoded.ordinary.sum(1).tolist(),
        encoded.truncated.tolist(),
        strict=True,
    ):
        first, pair = (text, None) if isinstance(text, str) else text
        explanations.append(
            Explanation(
                text=first,
                pair=pair,
                label=labels[target],
                probability=probability,
                tokens=tokens,
                masked=f.masked,
                scores=f.scores[: len(tokens)],
                delta_p=f.delta_p,
                solved=f.solved,
                flipped=f.label != label,
                final_label=labels[f.label],
                queries=f.queries,
                mask_rate=len(f.masked) / ordinary if ordinary else 0.0,
                minimal=True if f.proven and f.solved else None,
                path=tuple(Step(s.action, s.masked, s.probability, s.delta_p, labels[s.label]) for s in f.path),
                method=f"{method}:unproven" if f.proven is False else method,
                model=probe.classifier.name,
                threshold=goal.threshold,
                truncated=truncated,
            )
        )
    return explanations


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
