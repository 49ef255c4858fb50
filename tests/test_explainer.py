"""Explainer: one call, any shape of texts, and what it refuses."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from conftest import PAIRS, TEXTS
from test_agent import new_agent

import foveate
from foveate.errors import RequestError
from foveate.masking.probe import Prediction
from foveate.text.attacker import Attacker
from foveate.text.classifier import TextClassifier
from foveate.text.corpus import ExplainRows, resume, work
from foveate.text.encoded import Text
from foveate.text.explainer import Explainer, refusal
from foveate.text.explanation import Explanation
from foveate.text.explanation_files import save
from foveate.text.inputs import BadRow, Row
from foveate.text.methods import run
from foveate.text.probe import Probe
from foveate.text.protect import without_protected


@pytest.fixture(scope="module")
def explainer(classifier: TextClassifier) -> Explainer:
    return Explainer(classifier, method="attention", threshold=0.3)


def test_the_shape_of_what_is_asked_is_the_shape_of_the_answer(explainer: Explainer) -> None:
    one = explainer(TEXTS[0])
    assert isinstance(one, Explanation)
    assert (one.text, one.pair, one.method, one.threshold) == (TEXTS[0], None, "attention", 0.3)
    pair = explainer(PAIRS[0])
    assert (pair.text, pair.pair) == PAIRS[0]
    many = explainer(list(TEXTS))
    assert [e.text for e in many] == list(TEXTS)
    assert explainer([]) == []
    assert [(e.text, e.pair) for e in explainer([*PAIRS])] == list(PAIRS)


def test_texts_and_pairs_in_one_list_and_in_chunks_say_what_each_says_alone(explainer: Explainer) -> None:
    mixed: list[Text] = [TEXTS[0], PAIRS[0], *TEXTS[1:], *PAIRS[1:]]
    alone = [explainer(text) for text in mixed]
    chunked = Explainer(explainer.classifier, method="attention", threshold=0.3)
    chunked.at_once = 3
    for found in (explainer(mixed), list(chunked.explain_stream(iter(mixed)))):
        for one, other in zip(found, alone, strict=True):
            assert (one.text, one.pair, one.masked, one.queries) == (
                other.text,
                other.pair,
                other.masked,
                other.queries,
            )
            assert one.delta_p == pytest.approx(other.delta_p, abs=1e-5)


def test_a_stream_is_read_as_it_is_asked_for(explainer: Explainer) -> None:
    drawn = 0

    def texts() -> object:
        nonlocal drawn
        while True:
            drawn += 1
            yield TEXTS[0]

    stream = explainer.explain_stream(texts())  # type: ignore[arg-type]
    next(stream)
    assert drawn == explainer.at_once


@pytest.mark.parametrize("target", ["good", 2, "2"])
def test_a_label_by_name_or_number(explainer: Explainer, target: str | int) -> None:
    found = explainer(TEXTS[0], target=target)
    assert found.label == "good"
    shown = explainer.classifier.predict(explainer.classifier.encode([TEXTS[0]]))
    assert found.probability == pytest.approx(float(shown.probabilities[0, 2]), abs=1e-6)


def test_verification(explainer: Explainer) -> None:
    explainer = Explainer(explainer.classifier, method="greedy", threshold=0.3)
    found = explainer(list(TEXTS), verify=True)
    assert any(e.solved for e in found)
    assert all((e.minimal is not None) == e.solved for e in found)
    assert all(e.minimal is None for e in explainer(list(TEXTS)))


@pytest.mark.parametrize("method", ["agent", "attention", "attention-cls", "attention:positive"])
def test_what_a_method_looks_at_itself_is_asked_of_the_classifier_once(
    classifier: TextClassifier, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    rows = 0
    predict = TextClassifier.predict

    def counting(self: TextClassifier, *arguments: Any, **options: Any) -> Prediction:
        nonlocal rows
        prediction = predict(self, *arguments, **options)
        rows += len(prediction.logits)
        return prediction

    explainer = Explainer(classifier, method=method, agent=new_agent(classifier) if method == "agent" else None)
    attacker = Attacker(classifier, method=method, agent=explainer.agent, keep=("joy",))
    texts = [*TEXTS, *PAIRS]
    monkeypatch.setattr(TextClassifier, "predict", counting)
    for asked, goal, encoded in (
        (explainer, explainer.goal, classifier.encode(texts)),
        (attacker, attacker.goal, without_protected(classifier.encode(texts), ("joy",))),
    ):
        rows = 0
        found = asked(texts)
        assert rows == len(texts) + sum(e.queries for e in found)
        opened = run(method, Probe(classifier, encoded), goal, torch.Generator(), explainer.agent)
        for one, other in zip(found, opened, strict=True):
            same = [f.name for f in fields(Explanation) if f.name not in ("explainer", "probability")]
            assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
            # A text in which nothing may be masked is read in another batch, which rounds otherwise.
            assert one.probability == pytest.approx(other.probability, abs=0 if one.path else 1e-6)


def test_an_explanation_knows_its_explainer(explainer: Explainer) -> None:
    assert explainer(TEXTS[0]).explainer is explainer


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" \t\n", "empty"),
        (("a man", " "), "empty"),
        ("\ud800", "UTF-8"),
        ("\u0000\u200b", "no token"),
        ("[CLS] [SEP]", "no token"),
        (["joy", ""], "^text 1: "),
    ],
)
def test_texts_that_cannot_be_explained(explainer: Explainer, text: object, says: str) -> None:
    with pytest.raises(RequestError, match=says) as refusal:
        explainer(text)  # type: ignore[call-overload]
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", [3, None, (), ("a", "b", "c"), ("a", 3), {"text": "a"}])
def test_what_is_no_text(text: object) -> None:
    assert "give a string" in str(refusal(text))
    assert refusal("a") is refusal(("a", "b")) is None


@pytest.mark.parametrize("target", ["god", "3", 3, -1])
def test_an_unknown_label_names_the_known_ones(explainer: Explainer, target: str | int) -> None:
    with pytest.raises(RequestError, match=r"unknown label .*; there is 0 bad, 1 neutral, 2 good"):
        explainer(TEXTS[0], target=target)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "atention"}, r"did you mean attention\?.*there is agent, .*greedy"),
        ({"method": "attention", "threshold": 0.0}, "threshold"),
        ({"method": "attention", "threshold": 1.5}, "threshold"),
        ({"method": "attention", "threshold": float("nan")}, "threshold"),
        ({"method": "attention", "max_steps": 0}, "max-steps"),
        ({"method": "attention", "agent": "general"}, "agent"),
    ],
)
def test_what_an_explainer_cannot_be(classifier: TextClassifier, options: dict, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        Explainer(classifier, **options)


def test_one_text_that_fails_harms_no_other(explainer: Explainer) -> None:
    rows = [Row(1, TEXTS[0]), BadRow(2, "it is not JSON"), Row(3, " "), Row(4, PAIRS[0]), Row(5, TEXTS[1])]
    [results] = work(ExplainRows(explainer), rows)
    assert [number for number, _ in results] == [1, 2, 3, 4, 5]
    assert [isinstance(result, Explanation) for _, result in results] == [True, False, False, True, True]
    assert str(results[1][1]) == "it is not JSON"


def test_resuming_takes_what_is_done_and_explains_the_rest(explainer: Explainer, tmp_path) -> None:
    path = tmp_path / "done.jsonl"
    done = explainer([TEXTS[0], TEXTS[2]])
    save(done, path)
    rows = [Row(i, text) for i, text in enumerate(TEXTS, 1)]
    kept, remaining = resume(path, ExplainRows(explainer), iter(rows))
    assert list(kept) == done
    assert [row.number for row in remaining] == [2, 4, 5]


@pytest.mark.parametrize(
    ("options", "asked", "says"),
    [
        ({"method": "greedy"}, {}, "made with method attention, not greedy"),
        ({"threshold": 0.4}, {}, "made with threshold 0.05, not 0.4"),
        ({}, {"target": "bad"}, "another --target"),
        ({}, {"verify": True}, "without --verify"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    explainer: Explainer, tmp_path, options: dict, asked: dict, says: str
) -> None:
    path = tmp_path / "done.jsonl"
    explainer = Explainer(explainer.classifier, method="attention", threshold=0.05)
    save(explainer(list(TEXTS), target="good"), path)
    other = Explainer(explainer.classifier, **{"method": "attention", "threshold": 0.05, **options})
    done, _ = resume(path, ExplainRows(other, **asked), iter([Row(i, text) for i, text in enumerate(TEXTS, 1)]))
    with pytest.raises(RequestError, match=says):
        list(done)


def test_resuming_with_other_texts_is_refused(explainer: Explainer, tmp_path) -> None:
    path = tmp_path / "done.jsonl"
    save(explainer([TEXTS[0], TEXTS[1]]), path)
    done, _ = resume(path, ExplainRows(explainer), iter([Row(1, TEXTS[0]), Row(2, TEXTS[2])]))
    with pytest.raises(RequestError, match="other texts"):
        list(done)


def test_every_public_name_is_there() -> None:
    for name in foveate.__all__:
        assert getattr(foveate, name).__name__ == name
    assert set(foveate.__all__) <= set(dir(foveate))
    with pytest.raises(AttributeError, match="nothing"):
        foveate.nothing  # noqa: B018
