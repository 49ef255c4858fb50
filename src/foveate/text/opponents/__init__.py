"""Opponents: published attacks with words of their own, run over our classifier and counter (AttExplainer, Table 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from tqdm import tqdm

from foveate.errors import RequestError
from foveate.masking.goal import Attack
from foveate.masking.record import Record
from foveate.text.attack_result import AttackResult
from foveate.text.encoded import Text
from foveate.text.explained import explained
from foveate.text.explanation import Explanation, Step
from foveate.text.opponents import generators
from foveate.text.opponents.edits import edits_between, touched
from foveate.text.opponents.loading import drawn, nltk_data, textattack
from foveate.text.opponents.registry import OPPONENTS, known, missing, note
from foveate.text.opponents.resources import PIECES, Resources, prepare
from foveate.text.probe import Probe

__all__ = ["OPPONENTS", "Resources", "attack", "missing", "note", "prepare"]


def attack(
    name: str,
    probe: Probe,
    rng: torch.Generator,
    resources: Resources,
    *,
    truths: Sequence[int | None] | None = None,
    max_queries: int | None = None,
) -> list[AttackResult]:
    """Attack the probe's texts, one after another, with the opponent of that name.

    A text whose true label is another than the predicted one is skipped, and nothing is asked of it. Each text is
    seeded by itself. `max_queries` a text ends the search, by default where `OPPONENTS` says; what came closest is then
    the result. Raises RequestError where the name is unknown or what the opponent needs is missing.
    """
    opponent = known(name)
    if lacks := missing(name, resources):
        raise RequestError(lacks)
    if max_queries is not None and max_queries < 1:
        raise RequestError(f"--max-queries is {max_queries}: give at least 1")
    known_truths = list(truths) if truths is not None else [None] * len(probe)
    played = [t is None or t == label for t, label in zip(known_truths, probe.label.tolist(), strict=True)]
    budget = opponent.max_queries if max_queries is None else max_queries
    seeds = torch.randint(2**31, (len(probe),), generator=rng).tolist()
    ends = list(probe.encoded.texts)
    rows = [row for row, plays in enumerate(played) if plays]
    if opponent.package is None:
        for row in rows:
            ends[row] = generators.attack(name, probe, row, resources, budget)
    elif rows:
        with nltk_data(resources.nltk_data(tuple(kind for kind in opponent.needs if kind in PIECES))), drawn() as seed:
            recipe = textattack().Opponent(name, probe, resources, budget)
            for row in tqdm(rows, desc=name, leave=False, disable=None):
                seed(seeds[row])
                ends[row] = recipe.attack(row, ends[row])
    return _results(name, probe, known_truths, ends, played)


def _results(
    name: str, probe: Probe, truths: Sequence[int | None], ends: Sequence[Text], played: Sequence[bool]
) -> list[AttackResult]:
    """What the texts' ends are worth, by our classifier, which has been asked for each of them already."""
    classifier = probe.classifier
    blank = explained(probe, Attack(), name, Record(probe, Attack()).finish(torch.zeros(probe.maskable.shape)))
    changed = [row for row, end in enumerate(ends) if end != probe.encoded.texts[row]]
    finals = probe.probability.clone(), probe.label.clone()
    if changed:
        prediction = classifier.predict(classifier.encode([ends[row] for row in changed]))
        finals[0][changed] = prediction.probabilities.gather(1, probe.target[changed, None]).squeeze(1)
        finals[1][changed] = prediction.logits.argmax(1)
    return [
        _result(found, end, None if truth is None else classifier.labels[truth], not plays, p, classifier.labels[label])
        for found, end, truth, plays, p, label in zip(
            blank, ends, truths, played, finals[0].tolist(), finals[1].tolist(), strict=True
        )
    ]


def _result(
    found: Explanation, end: Text, truth: str | None, skipped: bool, probability: float, label: str
) -> AttackResult:
    text, pair = (end, None) if isinstance(end, str) else end
    edits = edits_between(found.text, text, 0)
    if found.pair is not None and pair is not None:
        edits += edits_between(found.pair, pair, 1)
    masked = touched(found.tokens, edits)
    words = sum(not token.special for token in found.tokens)
    drop = found.probability - probability
    inherited = {f.name: getattr(found, f.name) for f in fields(Explanation)} | {
        "masked": masked,
        "scores": tuple(float(i in masked) for i in range(len(found.tokens))),
        "delta_p": drop,
        "solved": label != found.label,
        "flipped": label != found.label,
        "final_label": label,
        "mask_rate": len(masked) / words if words else 0.0,
        "path": (Step(masked, masked, probability, drop, label),) if edits else (),
    }
    return AttackResult(
        **inherited,
        truth=truth,
        correct=None if truth is None else truth == found.label,
        skipped=skipped,
        edits=edits,
        adversarial=text,
        adversarial_pair=pair,
        final_probability=probability,
        fill="words",
    )
