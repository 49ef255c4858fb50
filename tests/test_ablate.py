"""Does the attention matter? What blind classifiers show, and what an ablation trains, tests and keeps."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS, WORDS

from foveate.errors import RequestError
from foveate.masking.goal import Explain
from foveate.text import ablate as module
from foveate.text.ablate import CONDITIONS, Settings, ablate
from foveate.text.agent import Agent
from foveate.text.blind import blind
from foveate.text.classifier import Observation, TextClassifier
from foveate.text.explanation_files import load
from foveate.text.methods.agent import play
from foveate.text.probe import Probe

# Blind classifiers


def _seen(classifier: TextClassifier, texts: list[str], hidden: tuple[int, ...] = ()) -> Observation:
    encoded = classifier.encode(texts)
    visible = encoded.real.clone()
    visible[:, list(hidden)] = False
    observation = classifier.predict(encoded, None, visible, observe=True).observation
    assert observation is not None
    return observation


@pytest.mark.parametrize("sight", ["random", "shuffled", "untrained"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
def test_only_what_is_observed_changes(tiny: Callable[[str], tuple[Any, Any]], family: str, sight: Any) -> None:
    classifier = TextClassifier.from_pretrained(tiny(family))
    other = blind(classifier, sight)
    encoded = classifier.encode(list(TEXTS))
    visible = encoded.real.clone()
    visible[:, 1] = False
    mine, real = (c.predict(encoded, None, visible, observe=True) for c in (other, classifier))
    torch.testing.assert_close(mine.logits, real.logits)
    seen, own = mine.observation, real.observation
    assert seen is not None and own is not None
    assert not torch.allclose(seen.attention, own.attention, atol=1e-3)
    # Every row still sums to one, or, of what is padding or deleted, to nothing.
    torch.testing.assert_close(seen.attention.sum(2), own.attention.sum(2))
    torch.testing.assert_close(seen.received.sum(2), own.received.sum(2))
    torch.testing.assert_close(seen.pooled.sum(2), own.pooled.sum(2))
    assert (seen.attention >= 0).all()
    assert torch.equal(seen.hidden, own.hidden) == (sight != "untrained")
    assert other.labels == classifier.labels and other.name == classifier.name


@pytest.mark.parametrize("sight", ["random", "shuffled", "untrained"])
def test_what_is_seen_of_a_state_depends_on_the_state_alone(classifier: TextClassifier, sight: Any) -> None:
    other = blind(classifier, sight, seed=3)
    together = _seen(other, list(TEXTS), hidden=(2,))
    for row, text in enumerate(TEXTS):
        alone = _seen(other, [text], hidden=(2,) if len(classifier.encode([text]).input_ids[0]) > 2 else ())
        n = alone.attention.shape[1]
        torch.testing.assert_close(together.attention[row, :n, :n], alone.attention[0], atol=1e-5, rtol=1e-4)
        assert not together.attention[row, n:].any()
    if sight != "untrained":
        assert not torch.allclose(_seen(other, [TEXTS[0]]).received, _seen(other, [TEXTS[0]], (2,)).received, atol=1e-3)
    assert not torch.allclose(together.attention, _seen(blind(classifier, sight, 4), list(TEXTS), (2,)).attention)


def test_rows_of_a_batch_are_seen_as_they_are_asked_for(classifier: TextClassifier) -> None:
    other, encoded = blind(classifier, "shuffled"), classifier.encode(list(TEXTS))
    whole = other.predict(encoded, observe=True).observation
    part = other.predict(encoded, torch.tensor([3, 0]), observe=True).observation
    assert whole is not None and part is not None
    torch.testing.assert_close(part.attention, whole.attention[[3, 0]])


def test_shuffling_moves_words_and_keeps_all_else(classifier: TextClassifier) -> None:
    real, seen = (_seen(c, [TEXTS[0]]) for c in (classifier, blind(classifier, "shuffled")))
    words = classifier.encode([TEXTS[0]]).maskable[0]
    order = [int((real.received[0, 0] == value).nonzero()) for value in seen.received[0, 0]]
    assert sorted(order) == list(range(len(words))) != order
    assert [order[i] for i in range(len(words)) if not words[i]] == [0, len(words) - 1], "special tokens stay"
    torch.testing.assert_close(seen.attention[0], real.attention[0][order][:, order])
    torch.testing.assert_close(seen.pooled[0], real.pooled[0][:, order])


def test_real_attention_needs_no_other_classifier(classifier: TextClassifier) -> None:
    assert blind(classifier, "real") is classifier


# The ablation


@pytest.fixture(scope="module")
def base(tiny: Callable[[str], tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    place = tmp_path_factory.mktemp("ablation")
    for part in tiny("bert"):
        part.save_pretrained(place / "model")
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(24)]
    (place / "texts.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": i % 3}) + "\n" for i, t in enumerate(texts))
    )
    return Settings(
        data=str(place / "texts.jsonl"),
        validation=str(place / "texts.jsonl"),
        output=place / "out",
        model=str(place / "model"),
        threshold=0.3,
        features=("profile", "context"),
        steps=128,
        seeds="0",
        limit=12,
        points=2,
        curve_texts=4,
        threads=1,
    )


@pytest.fixture(scope="module")
def done(base: Settings) -> Any:
    return ablate(base)


def test_every_condition_is_trained_and_tested_as_it_says(base: Settings, done: Any) -> None:
    assert [row.condition for row in done.rows] == [c.name for c in CONDITIONS]
    classifier = TextClassifier.from_pretrained(base.model)
    texts = [json.loads(line)["text"] for line in Path(base.validation).read_text().splitlines()][:12]
    for condition, row in zip(CONDITIONS, done.rows, strict=True):
        run = base.output / "seed0" / condition.training
        assert json.loads((run / "settings.json").read_text())["attention"] == condition.training
        seen = blind(classifier, condition.testing, 0)
        found = play(Probe(seen, texts), Explain(0.3), Agent.load(run / "agent"))
        assert [e.masked for e in found] == [e.masked for e in load(run / f"test-{condition.testing}.jsonl")]
        assert row.all["queries"].mean == pytest.approx(sum(e.queries for e in found) / 12)
        difference = row.reachable["queries"].mean - done.rows[0].reachable["queries"].mean
        assert row.differences.get("queries", row.reachable["queries"]).mean == pytest.approx(
            difference if row.differences else row.reachable["queries"].mean
        )
        assert not (run / "checkpoint.safetensors").exists()


def test_curves_and_pictures(base: Settings, done: Any) -> None:
    assert set(done.curves) == {"reward", "fidelity", "queries", "mask_rate", "delta_p"}
    for panel, drawn in done.curves.items():
        expected = {c.name for c in CONDITIONS} - ({"random when tested"} if panel == "reward" else set())
        assert set(drawn) == expected, "an agent that is only tested otherwise earns no other reward"
        assert all([step for step, _ in points] == [64, 128] for points in drawn.values())
    for name in ("panels", "done-steps"):
        for ending in ("png", "svg"):
            assert (base.output / f"{name}.{ending}").stat().st_size > 1000
    table = (base.output / "table.md").read_text()
    assert table.endswith(done.to_markdown()) and "| shuffled |" in table
    assert json.loads((base.output / "results.json").read_text())["seeds"] == 1


def test_it_goes_on_where_it_stopped(base: Settings, done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="--resume"):
        ablate(base)
    with pytest.raises(RequestError, match="another steps"):
        ablate(replace(base, steps=64, resume=True))
    lost = base.output / "seed0" / "real" / "test-random.jsonl"
    before = lost.read_text()
    lost.unlink()
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained already"))
    assert ablate(replace(base, resume=True)) == done
    assert lost.read_text() == before


def test_attacks_are_tested_on_what_was_right(base: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONDITIONS", CONDITIONS[:1])
    monkeypatch.setattr(module, "_draw", lambda *_: None)
    classifier = TextClassifier.from_pretrained(base.model)
    rows = [json.loads(line) for line in Path(base.validation).read_text().splitlines()]
    given = Probe(classifier, [row["text"] for row in rows]).label.tolist()
    right = [row["text"] for row, label in zip(rows, given, strict=True) if row["label"] == label]
    ablate(replace(base, task="attack", limit=None, steps=64, output=tmp_path / "out"))
    found = load(tmp_path / "out" / "seed0" / "real" / "test-real.jsonl")
    assert [e.text for e in found] == right and all(e.threshold is None for e in found)
    assert "success ↑" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("seeds", ["0,1,0", "one"])
def test_seeds_that_are_none(base: Settings, tmp_path: Path, seeds: str) -> None:
    with pytest.raises(RequestError, match="--seeds"):
        ablate(replace(base, seeds=seeds, output=tmp_path / "out"))
