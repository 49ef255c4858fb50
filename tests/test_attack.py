"""Attacking: the goal, Attacker, its results and their files, the command, and the benchmark's table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PAIRS, TEXTS
from hypothesis import given
from hypothesis import strategies as st
from test_explanation import explanations

import foveate
from foveate.errors import RequestError
from foveate.masking.goal import Attack
from foveate.masking.probe import Prediction
from foveate.text.attack_result import AttackResult, Edit, apply_edits, masked_result, merge
from foveate.text.attacker import Attacker
from foveate.text.benchmark import Settings, benchmark
from foveate.text.classifier import TextClassifier
from foveate.text.corpus import AttackRows, resume
from foveate.text.explanation import Explanation
from foveate.text.explanation_files import load, save
from foveate.text.filling import FillSettings
from foveate.text.inputs import Row
from foveate.text.probe import Probe


@pytest.fixture(scope="module")
def attacker(classifier: TextClassifier) -> Attacker:
    return Attacker(classifier, method="greedy")


def test_the_goal_is_reached_where_the_label_changes_and_only_there(classifier: TextClassifier) -> None:
    probe = Probe(classifier, list(TEXTS))
    rows = torch.arange(len(probe)).repeat_interleave(3)
    # Every text with each label ahead by a margin.
    logits = torch.eye(3).repeat(len(probe), 1) * 2.5
    prediction = Prediction(logits)
    ahead = torch.arange(3).repeat(len(probe))
    reached = Attack().reached(probe, rows, prediction)
    assert torch.equal(reached, ahead != probe.label[rows])
    distance = Attack().distance(probe, rows, prediction)
    assert torch.equal(distance == 0, reached)
    torch.testing.assert_close(distance[~reached], torch.full_like(distance[~reached], 2.5))


def test_the_gain_is_what_the_loss_rose_by(classifier: TextClassifier) -> None:
    probe = Probe(classifier, list(TEXTS))
    rows = torch.arange(len(probe))
    prediction = probe.query(rows, probe.encoded.real & ~probe.maskable)
    loss = torch.nn.functional.cross_entropy(prediction.logits, probe.label, reduction="none")
    first = torch.nn.functional.cross_entropy(probe.first.logits, probe.label, reduction="none")
    torch.testing.assert_close(Attack().gain(probe, rows, prediction), loss - first, atol=1e-5, rtol=1e-4)


def test_a_solved_attack_really_changes_the_label(attacker: Attacker) -> None:
    results = attacker([*TEXTS, *PAIRS])
    assert any(r.solved for r in results) and all(isinstance(r, AttackResult) for r in results)
    for r in results:
        assert r.solved == r.flipped == (r.final_label != r.label)
        text = r.text if r.pair is None else (r.text, r.pair)
        encoded = attacker.classifier.encode([text])
        visible = encoded.real.clone()
        visible[0, list(r.masked)] = False
        prediction = attacker.classifier.predict(encoded, None, visible)
        assert attacker.classifier.labels[int(prediction.logits.argmax())] == r.final_label
        at = attacker.classifier.labels.index(r.label)
        assert float(prediction.probabilities[0, at]) == pytest.approx(r.final_probability, abs=1e-5)
        assert (r.truth, r.correct, r.skipped, r.threshold, r.fill) == (None, None, False, None, "mask")


def test_what_was_masked_stands_as_the_mask_in_the_adversarial_text(attacker: Attacker) -> None:
    for r in attacker([*TEXTS, *PAIRS]):
        for edit in r.edits:
            source = r.pair if edit.segment else r.text
            assert source is not None and source[edit.start : edit.end] == edit.before
            assert edit.after == "[MASK]"
        assert apply_edits(r.text, r.edits, 0) == r.adversarial
        assert r.adversarial.count("[MASK]") + (r.adversarial_pair or "").count("[MASK]") == len(r.masked)


def test_a_text_that_was_wrong_from_the_start_is_skipped_and_costs_nothing(attacker: Attacker) -> None:
    labels = [r.label for r in attacker(list(TEXTS))]
    wrong = next(name for name in attacker.classifier.labels if name != labels[0])
    results = attacker(list(TEXTS), truths=[wrong, *labels[1:]])
    assert results[0].skipped and results[0].correct is False and results[0].truth == wrong
    assert (results[0].queries, results[0].path, results[0].masked, results[0].solved) == (0, (), (), False)
    assert results[0].adversarial == results[0].text
    assert all(r.correct and not r.skipped for r in results[1:])
    forced = Attacker(attacker.classifier, method="greedy", attack_wrong=True)(TEXTS[0], truths=wrong)
    assert not forced.skipped and forced.queries > 0 and forced.correct is False


@pytest.mark.parametrize("method", ["agent", "attention", "attention-cls:positive", "greedy", "gradient-x-input"])
def test_a_text_goes_through_the_classifier_once_before_it_is_attacked(
    classifier: TextClassifier, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    texts = [*TEXTS, *PAIRS]
    attacker = Attacker(classifier, method=method)
    free = attacker(texts)
    others = {r.label: next(n for n in classifier.labels if n != r.label) for r in free}
    truths = [(r.label, others[r.label], None)[i % 3] for i, r in enumerate(free)]
    rows = []
    predict, embedded = classifier.predict, classifier.from_embeddings

    def counted(encoded: Any, asked: Any = None, *rest: Any, **named: Any) -> Prediction:
        rows.append(len(encoded) if asked is None else len(asked))
        return predict(encoded, asked, *rest, **named)

    def counted_too(embeddings: Any, *rest: Any) -> torch.Tensor:
        rows.append(len(embeddings))
        return embedded(embeddings, *rest)

    monkeypatch.setattr(classifier, "predict", counted)
    monkeypatch.setattr(classifier, "from_embeddings", counted_too)
    found = attacker(texts, truths=truths)
    assert sum(rows) == len(texts) + sum(r.queries for r in found)
    for i, (here, there) in enumerate(zip(found, free, strict=True)):
        assert (here.skipped, here.truth) == (i % 3 == 1, truths[i])
        assert here.probability == pytest.approx(there.probability, abs=1e-5)
        if here.skipped:
            assert (here.label, here.tokens) == (there.label, there.tokens)
            assert (here.queries, here.path, here.masked, set(here.scores)) == (0, (), (), {0.0})
        else:
            assert (here.masked, here.queries, here.final_label) == (there.masked, there.queries, there.final_label)


def test_an_unknown_label_harms_its_own_text_alone(attacker: Attacker) -> None:
    found = attacker.attempt([TEXTS[0], TEXTS[1], " "], truths=["no such", None, None])
    assert "unknown label 'no such'" in str(found[0])
    assert isinstance(found[1], AttackResult) and isinstance(found[2], RequestError)


def test_words_that_are_kept_are_left_alone_and_are_still_words(classifier: TextClassifier) -> None:
    text = TEXTS[0]
    word = text.split()[1]
    free = Attacker(classifier, method="greedy")(text)
    kept = Attacker(classifier, method="greedy", keep=(word,))(text)
    assert kept.tokens == free.tokens
    protected = {i for i, t in enumerate(kept.tokens) if not t.special and word in text[t.start : t.end]}
    assert protected and not any(protected & set(step.masked) for step in kept.path)
    count = sum(not t.special for t in kept.tokens)
    assert kept.mask_rate == pytest.approx(len(kept.masked) / count)


def test_opponents_are_methods_of_an_attacker(classifier: TextClassifier, tmp_path: Path) -> None:
    attacker = Attacker(classifier, method="gan", filling=FillSettings(resources=_candidates(tmp_path)))
    result = attacker(TEXTS[0])
    assert result.method == "gan" and result.fill == "words" and result.queries <= 2
    assert result.solved == (result.final_label != result.label)
    with pytest.raises(RequestError, match="needs the texts of a trained generator"):
        Attacker(classifier, method="gan")(TEXTS[0])
    with pytest.raises(RequestError, match="words of its own"):
        Attacker(classifier, method="gan", keep=("not",))
    with pytest.raises(RequestError, match="unknown method"):
        foveate.Explainer(classifier, method="gan")


def test_verified_minimality_is_of_the_label(attacker: Attacker) -> None:
    classifier = attacker.classifier
    found = attacker(list(TEXTS), verify=True)
    found += Attacker(classifier, method="attention")(list(TEXTS), verify=True)
    assert {r.minimal for r in found} == {True, False, None}
    for r in found:
        assert (r.minimal is not None) == r.solved
        assert r.verification_queries == (len(r.masked) if r.solved else 0)
        if not r.solved:
            continue
        # Each token found is shown by itself: every time the first label must come back.
        labels = set()
        for token in r.masked:
            encoded = classifier.encode([r.text])
            visible = encoded.real.clone()
            visible[0, [other for other in r.masked if other != token]] = False
            labels.add(classifier.labels[int(classifier.predict(encoded, None, visible).logits.argmax())])
        assert r.minimal == (labels == {r.label})


def _candidates(folder: Path) -> Path:
    """Where the opponent `gan` finds what it tries for the first two texts."""
    lines = [{"text": text, "pair": None, "candidates": [TEXTS[3], TEXTS[4]]} for text in TEXTS[:2]]
    (folder / "gan_candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("kind", ["opponent", "no mask token", "deleted", "misspelt"])
def test_an_attack_goes_on_whatever_stands_in_the_place_of_tokens(
    classifier: TextClassifier, tiny: Callable[[str], tuple[Any, Any]], tmp_path: Path, kind: str
) -> None:
    gpt2 = TextClassifier.from_pretrained(tiny("gpt2"))
    attacker, fill = {
        "opponent": lambda: (
            Attacker(classifier, method="gan", filling=FillSettings(resources=_candidates(tmp_path))),
            "words",
        ),
        "no mask token": lambda: (Attacker(gpt2, method="greedy", max_steps=3), "delete"),
        "deleted": lambda: (
            Attacker(classifier, method="greedy", max_steps=3, filling=FillSettings("delete")),
            "delete",
        ),
        "misspelt": lambda: (Attacker(classifier, method="greedy", max_steps=3, filling=FillSettings("typo")), "typo"),
    }[kind]()
    first = attacker(TEXTS[0])
    wrong = attacker(TEXTS[1], truths=next(name for name in classifier.labels if name != attacker(TEXTS[1]).label))
    assert first.edits and (wrong.skipped, wrong.edits) == (True, ())
    assert attacker.fill == first.fill == wrong.fill == fill
    save([first, wrong], tmp_path / "done.jsonl")
    done, rest = resume(tmp_path / "done.jsonl", AttackRows(attacker), iter([Row(i, t) for i, t in enumerate(TEXTS)]))
    assert list(done) == [first, wrong]
    assert [row.number for row in rest] == [2, 3, 4]


def test_an_attack_does_not_go_on_with_another_fill(attacker: Attacker, tmp_path: Path) -> None:
    save([attacker(TEXTS[0])], tmp_path / "done.jsonl")
    other = Attacker(attacker.classifier, method="greedy", filling=FillSettings("typo"))
    done, _ = resume(tmp_path / "done.jsonl", AttackRows(other), iter([Row(1, TEXTS[0])]))
    with pytest.raises(RequestError, match="made with the fill mask, not typo; resume with the same"):
        list(done)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_files_lose_nothing(attacker: Attacker, tmp_path: Path, ending: str) -> None:
    results = attacker([*TEXTS, *PAIRS], truths=["bad", *[None] * (len(TEXTS) + len(PAIRS) - 1)])
    save(results, tmp_path / f"attacks.{ending}")
    back = load(tmp_path / f"attacks.{ending}")
    assert back == results and all(isinstance(r, AttackResult) for r in back)


def test_an_empty_parquet_file_is_a_file(tmp_path: Path) -> None:
    save([], tmp_path / "none.parquet")
    assert load(tmp_path / "none.parquet") == []


@given(explanations())
def test_any_attack_survives_json(explanation: Explanation) -> None:
    result = masked_result(replace(explanation, threshold=None, probability=0.75, delta_p=0.5), "[MASK]", "x")
    assert Explanation.from_json(result.to_json()) == result


def test_an_attack_with_a_key_that_is_missing_is_none(attacker: Attacker) -> None:
    values = attacker(TEXTS[0]).to_dict()
    for name in ("edits", "adversarial", "skipped", "final_probability", "threshold"):
        with pytest.raises(ValueError, match=name):
            AttackResult.parse({k: v for k, v in values.items() if k != name})


def test_an_explanation_is_no_attack(classifier: TextClassifier) -> None:
    found = foveate.Explainer(classifier, method="attention")(TEXTS[0])
    with pytest.raises(RequestError, match="explains"):
        masked_result(found, "[MASK]", None)


@given(st.text(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.text(max_size=4)), max_size=6))
def test_edits_change_their_spans_and_nothing_else(text: str, spans: list[tuple[int, int, str]]) -> None:
    inside = [(a, min(a + n, len(text)), new) for a, n, new in spans if a < len(text)]
    edits = merge(Edit(0, a, b, text[a:b], new) for a, b, new in inside)
    changed = apply_edits(text, edits, 0)
    # Undoing them from the right gives the text again, and none touches the other segment.
    shift = sum(len(e.after) - (e.end - e.start) for e in edits)
    assert len(changed) == len(text) + shift
    for number, edit in reversed(list(enumerate(edits))):
        before = sum(len(e.after) - (e.end - e.start) for e in edits[:number])
        at = edit.start + before
        assert changed[at : at + len(edit.after)] == edit.after
        changed = changed[:at] + edit.before + changed[at + len(edit.after) :]
    assert changed == text and apply_edits(text, edits, 1) == text


def test_the_views_show_an_attack(attacker: Attacker) -> None:
    result = next(r for r in attacker([*TEXTS, *PAIRS]) if r.solved)
    assert "(wanted: " not in result.to_html() and result.final_label in result.to_html()
    assert result.final_label in str(result)
    result.plot()
    filled = replace(result, fill="typo", adversarial="quite another text")
    assert "→ quite another text" in str(filled) and "→ quite another text" in filled.to_html()
    skipped = attacker(result.text, truths=next(n for n in attacker.classifier.labels if n != result.label))
    assert "wrong from the start" in str(skipped) and "wrong from the start" in skipped.to_html()


def test_the_command_attacks_a_file_and_goes_on_from_its_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from foveate.cli import main

    rows = [
        {"text": "i feel dirty and ashamed", "label": "sadness"},
        {"text": "i feel happy today", "label": 0},
        {"text": " ", "label": 0},
    ]
    data = tmp_path / "in.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    words = ["attack", "--input", str(data), "--method", "attention", "--output", str(out)]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1 and "2 attacked, 1 failed" in capsys.readouterr().err
    first, second = load(out)
    assert isinstance(first, AttackResult) and isinstance(second, AttackResult)
    assert first.correct and not first.skipped and second.skipped and second.truth == "sadness"
    before = out.read_bytes()
    with pytest.raises(SystemExit):
        main([*words, "--resume"])
    assert out.read_bytes() == before
    with pytest.raises(SystemExit) as end:
        main([*words[:4], "greedy", *words[5:], "--resume"])
    assert end.value.code == 2


def test_the_benchmark_attacks_what_was_right_and_counts_the_rest_apart(
    classifier: TextClassifier, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    classifier.model.save_pretrained(model)
    classifier.tokenizer.save_pretrained(model)
    label = Probe(classifier, list(TEXTS)).label.tolist()
    data = tmp_path / "data.jsonl"
    rows = [{"text": t, "label": n if i else (n + 1) % 3} for i, (t, n) in enumerate(zip(TEXTS, label, strict=True))]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Settings(
        str(data), tmp_path / "out", "greedy,attention,random", model=str(model), task="attack", faithfulness=2
    )
    table = benchmark(settings)
    assert [row.all.texts for row in table.rows] == [len(TEXTS) - 1] * 3
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["wrong"] == 1 and results["task"] == "attack"
    page = (tmp_path / "out" / "table.md").read_text()
    assert "success" in page and "1 that it gets wrong" in page and "compr." not in page
    kept = load(tmp_path / "out" / "explanations-greedy.jsonl")
    assert [e.text for e in kept] == list(TEXTS[1:]) and all(isinstance(e, AttackResult) and e.correct for e in kept)
    with pytest.raises(RequestError, match="label"):
        (tmp_path / "bare.jsonl").write_text('{"text": "i feel"}\n')
        benchmark(replace(settings, data=str(tmp_path / "bare.jsonl"), output=tmp_path / "other"))
