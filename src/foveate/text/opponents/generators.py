"""SCPN and GAN: attacks by a generator that was trained elsewhere, whose texts are tried until the label changes."""

from __future__ import annotations

import torch

from foveate.errors import RequestError
from foveate.text.encoded import Text
from foveate.text.opponents.resources import Resources, generated
from foveate.text.probe import Probe


def attack(name: str, probe: Probe, row: int, resources: Resources, budget: int | None) -> Text:
    """The first of the generator's texts for that of `row` that is classified otherwise, or the one that came closest.

    They are asked one after another, so that none is asked in vain. Raises RequestError where the file has no line for
    the text.
    """
    path = resources.file(name)
    assert path is not None, "`missing` says what is there"
    text = probe.encoded.texts[row]
    key = (text, None) if isinstance(text, str) else text
    if key not in generated(path):
        raise RequestError(f"{path} has nothing for the text {key[0]!r:.60}: generate candidates for all texts")
    best, least = text, float(probe.probability[row])
    target, classifier = int(probe.target[row]), probe.classifier
    for first, pair in generated(path)[key][:budget]:
        candidate = first if pair is None else (first, pair)
        probe.count(torch.tensor([row]))
        prediction = classifier.predict(classifier.encode([candidate]))
        if int(prediction.logits.argmax()) != target:
            return candidate
        if (now := float(prediction.probabilities[0, target])) < least:
            best, least = candidate, now
    return best
