"""Agents on classifiers that they were not trained on: what is in a cell, what fits where, and how a run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS

from foveate.cli import main
from foveate.errors import RequestError
from foveate.masking.goal import Attack, Explain
from foveate.text import benchmark
from foveate.text.agent import Agent
from foveate.text.classifier import TextClassifier
from foveate.text.methods.agent import play
from foveate.text.probe import Probe
from foveate.text.seeds import crossed_means, over_seeds
from foveate.text.transfer import Matrix, Settings, transfer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], tuple[Any, Any]]) -> Path:
    """Classifiers of three and of two labels, texts with true labels of which two are wrong, and untrained agents."""
    folder = tmp_path_factory.mktemp("transfer")
    for part in tiny("bert"):
        part.save_pretrained(folder / "three")
    model, tokenizer = tiny("bert")
    two = type(model.config).from_dict(model.config.to_dict() | {"id2label": {0: "bad", 1: "good"}, "label2id": None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        type(model)(two).save_pretrained(folder / "two")
        tokenizer.save_pretrained(folder / "two")
        for name, inputs, features in (
            ("any0", 23, ["profile", "context"]),
            ("any1", 23, ["profile", "context"]),
            ("own", 15, ["context", "labels"]),
        ):
            Agent(features, inputs, width=8, layers=1).save_pretrained(folder / name / "agent")
    texts = [*TEXTS, *(f"{text} and {TEXTS[0]}" for text in TEXTS)]
    for name in ("three", "two"):
        labels = Probe(TextClassifier.from_pretrained(folder / name), texts).label.tolist()
        labels[:2] = [(label + 1) % 2 for label in labels[:2]]
        rows = (json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True))
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def settings(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(benchmark, "draw", lambda table, folder: None)
    agents = f"any={place}/any0/agent+{place}/any1/agent,{place}/own/agent"
    models, data = (",".join(f"{place}/{name}{end}" for name in ("three", "two")) for end in ("", ".jsonl"))
    return Settings(agents, models, data, tmp_path / "out", thresholds="0.3,0.2", limit=8)


def _direct(place: Path, model: str, agents: tuple[str, ...], goal: Explain | Attack, start: int) -> list[Any]:
    classifier = TextClassifier.from_pretrained(place / model)
    texts = [json.loads(line)["text"] for line in (place / f"{model}.jsonl").read_text().splitlines()][start:8]
    return [play(Probe(classifier, texts), goal, Agent.load(place / agent / "agent")) for agent in agents]


def test_a_cell_is_the_mean_over_seeds_and_texts(settings: Settings, place: Path) -> None:
    matrix = transfer(settings)
    assert (matrix.rows, matrix.columns) == (("attention", "any", "own"), ("three", "two"))
    for model, threshold in (("three", 0.3), ("two", 0.2)):
        found = _direct(place, model, ("any0", "any1"), Explain(threshold), 0)
        cell = matrix.cells["any", model]
        assert (cell.seeds, cell.all.texts, cell.note) == (2, 8, "")
        for name, value in (("queries", lambda e: e.queries), ("fidelity", lambda e: e.flipped)):
            mean = sum(value(e) for one in found for e in one) / 16
            assert cell.all.means[name].mean == pytest.approx(mean)
        able = [e.queries for one in found for e in one if e.reachable]
        assert cell.reachable.texts == len(able) / 2
        difference = cell.all.means["queries"].mean - matrix.cells["attention", model].all.means["queries"].mean
        assert cell.all.differences["queries"].mean == pytest.approx(difference)
    for ending in ("png", "svg"):
        assert (settings.output / f"transfer.{ending}").stat().st_size > 1000
    results = json.loads((settings.output / "results.json").read_text())
    assert results["finished"] and len(results["cells"]) == 6


def test_an_agent_that_does_not_fit_says_so(settings: Settings) -> None:
    matrix = transfer(settings)
    assert matrix.cells["own", "two"].note == "needs 15 features a token, here are 13"
    assert matrix.cells["own", "three"].all.texts == 8
    text = (settings.output / "table.md").read_text()
    assert text == matrix.to_markdown()
    assert "needs 15 features a token" in text
    free = "statistics, relative-histograms, profile, geometry, context"
    assert f"Agents with these features play on any: {free}." in text


def test_only_what_was_right_is_attacked(settings: Settings, place: Path) -> None:
    matrix = transfer(replace(settings, task="attack"))
    assert matrix.wrong == {"three": 2, "two": 2}
    found = _direct(place, "two", ("any0", "any1"), Attack(), 2)
    means = matrix.cells["any", "two"].all.means
    assert matrix.cells["any", "two"].all.texts == 6
    assert means["fidelity"].mean == pytest.approx(sum(e.solved for one in found for e in one) / 12)
    assert (
        "Texts that the classifier gets wrong are not attacked and in no mean: three 2, two 2." in matrix.to_markdown()
    )
    assert "Trained for the other task: any, own." in matrix.to_markdown()


def test_a_run_goes_on_where_it_stopped(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    original, columns = benchmark.benchmark, []

    def dies(run: benchmark.Settings) -> Any:
        columns.append(run.output.name)
        if len(columns) == 2:
            raise KeyboardInterrupt
        return original(run)

    monkeypatch.setattr(benchmark, "benchmark", dies)
    with pytest.raises(KeyboardInterrupt):
        transfer(settings)
    assert not json.loads((settings.output / "results.json").read_text())["finished"]
    monkeypatch.setattr(benchmark, "benchmark", original)
    with pytest.raises(RequestError, match="--resume"):
        transfer(settings)
    played: list[str] = []
    chunk = benchmark.explain_chunk
    monkeypatch.setattr(
        benchmark, "explain_chunk", lambda w, job, *rest: [played.append(job.settings.model), chunk(w, job, *rest)]
    )
    resumed = transfer(replace(settings, resume=True))
    assert {Path(model).name for model in played} == {"two"}, "what was done is not done again"
    assert resumed == transfer(replace(settings, output=settings.output.parent / "anew"))


def test_from_the_command_line(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--agents", settings.agents, "--models", settings.models, "--data", settings.data]
    with pytest.raises(SystemExit) as ended:
        main(["text", "transfer", *words, "--limit", "3", "--output", str(settings.output)])
    assert ended.value.code == 0
    assert capsys.readouterr().out == (settings.output / "table.md").read_text()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"data": "a.jsonl"}, "2 classifiers need as many --data"),
        ({"thresholds": "0.3,much"}, "numbers with commas"),
        ({"thresholds": "0.3,2"}, "above 0 and at most 1, not 2"),
        ({"models": "x=a/b,x=c/d"}, "two called 'x'"),
        ({"agents": "nobody"}, "no agent at nobody"),
    ],
)
def test_wrong_requests(settings: Settings, change: dict[str, str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        transfer(replace(settings, **change))
    assert not settings.output.exists()


def test_trainings_joined_must_be_of_one_agent(settings: Settings, place: Path) -> None:
    with pytest.raises(RequestError, match="the agents of x differ"):
        transfer(replace(settings, agents=f"x={place}/any0/agent+{place}/own/agent"))


# Means over seeds and texts


def test_seeds_and_texts_both_widen_an_interval() -> None:
    rng = torch.Generator()
    texts = torch.rand(1, 50, 1, generator=rng.manual_seed(0)).double()
    (alone,) = crossed_means(texts, rng.manual_seed(1))
    (copies,) = crossed_means(texts.repeat(5, 1, 1), rng.manual_seed(1))
    assert copies.low == pytest.approx(alone.low, abs=0.02), "five equal seeds know no more of the texts than one"
    assert copies.high == pytest.approx(alone.high, abs=0.02)
    (seeds,) = crossed_means(torch.tensor([0.0, 1.0])[:, None, None].repeat(1, 50, 1), rng.manual_seed(1))
    assert (seeds.mean, seeds.low, seeds.high) == pytest.approx((0.5, 0.0, 1.0)), (
        "two seeds that differ: nothing is known between them"
    )


def test_the_band_is_students() -> None:
    assert over_seeds([3.0]).low == over_seeds([3.0]).high == 3
    band = over_seeds([1.0, 2.0, 3.0])
    assert (band.mean, band.high) == (2, pytest.approx(2 + 4.303 / 3**0.5))


def test_matrix_without_a_cell(settings: Settings) -> None:
    assert "agent" in Matrix("explain", (), (), {}, {}).to_markdown()
