"""A benchmark run: what it writes, how it goes on after it was stopped, and what it says when something cannot run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS

from foveate.errors import RequestError
from foveate.masking.goal import Explain
from foveate.text import benchmark as module
from foveate.text.agent import Agent
from foveate.text.benchmark import Entry, Settings, benchmark
from foveate.text.classifier import TextClassifier
from foveate.text.comparison import Table
from foveate.text.explanation_files import load
from foveate.text.methods import run
from foveate.text.probe import Probe

METHODS = "attention,random,attention:positive,greedy@4"


@pytest.fixture(scope="module")
def base(tiny: Callable[[str], tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Ten texts and a tiny classifier."""
    place = tmp_path_factory.mktemp("benchmark")
    for part in tiny("bert"):
        part.save_pretrained(place / "model")
    texts = [*TEXTS, *(f"{text} and {TEXTS[0]}" for text in TEXTS)]
    (place / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Settings(
        data=str(place / "texts.jsonl"),
        output=place / "out",
        methods=METHODS,
        model=str(place / "model"),
        threshold=0.3,
        faithfulness=5,
    )


@pytest.fixture(scope="module")
def whole(base: Settings) -> Iterator[Table]:
    """The table of a run that nothing stopped; its files are in `base.output`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Entry, "chunk", 3)
        yield benchmark(base)


@pytest.fixture
def settings(base: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Another run on a copy of the data, in chunks of three; the picture, which takes a second, is left out."""
    monkeypatch.setattr(Entry, "chunk", 3)
    monkeypatch.setattr(module, "draw", lambda table, folder: None)
    shutil.copy(base.data, tmp_path)
    return replace(base, data=str(tmp_path / "texts.jsonl"), output=tmp_path / "out")


def _timeless(table: Table) -> Table:
    """Only the clock may differ between two runs."""
    return Table(tuple(replace(row, seconds=None) for row in table.rows))


def test_a_run_and_what_it_writes(base: Settings, whole: Table) -> None:
    assert [row.method for row in whole.rows] == METHODS.replace("@4", "").split(",")
    assert [row.all.texts for row in whole.rows] == [10, 10, 10, 4]
    assert whole.rows[3].all.common == 4
    assert all(row.seconds and row.seconds > 0 for row in whole.rows)
    for name in ("table.md", "results.json", "pareto.png", "pareto.svg"):
        assert (base.output / name).stat().st_size > 500
    assert whole.to_markdown() in (base.output / "table.md").read_text(encoding="utf-8")
    results = json.loads((base.output / "results.json").read_text(encoding="utf-8"))
    assert results["finished"]
    assert results["settings"]["threshold"] == 0.3
    assert set(results["versions"]) >= {"foveate", "torch", "transformers", "python"}
    assert results["rows"][0]["all"]["means"]["queries"]["low"] == whole.rows[0].all.means["queries"].low
    assert len(load(base.output / "explanations-attention-positive.jsonl")) == 10


def test_explanations_are_those_of_the_method(settings: Settings) -> None:
    """Scores that two protocols share are paid for by both."""
    benchmark(replace(settings, methods="feature-ablation:positive,feature-ablation"))
    classifier = TextClassifier.from_pretrained(settings.model)
    for name in ("feature-ablation:positive", "feature-ablation"):
        found = load(settings.output / f"explanations-{name.replace(':', '-')}.jsonl")
        probe = Probe(classifier, [e.text for e in found])
        wanted = run(name, probe, Explain(0.3), torch.Generator())
        assert [(e.masked, e.queries, e.method) for e in found] == [(e.masked, e.queries, e.method) for e in wanted]
        assert all(e.queries >= sum(not t.special for t in e.tokens) for e in found)


@pytest.mark.parametrize("chunks", [1, 6])
def test_a_run_that_was_stopped_ends_with_the_same_table(
    settings: Settings, whole: Table, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    with monkeypatch.context() as patch:
        _stop_after(patch, chunks)
        with pytest.raises(KeyboardInterrupt):
            benchmark(settings)
    # What a kill in the middle of writing leaves behind.
    for name in ("progress.jsonl", "explanations-attention.jsonl"):
        with (settings.output / name).open("a") as file:
            file.write('{"text": "half a li')
    assert not json.loads((settings.output / "results.json").read_text())["finished"]
    asked = _count_chunks(monkeypatch)
    resumed = benchmark(replace(settings, resume=True))
    assert _timeless(resumed) == _timeless(whole)
    # Attention and its other protocol are done together: four chunks, then four of random and two of greedy.
    assert len(asked) == 10 - chunks


def test_a_chunk_is_done_again_when_its_explanations_are_gone(base: Settings, settings: Settings, whole: Table) -> None:
    shutil.copytree(base.output, settings.output)
    file = settings.output / "explanations-random.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    assert _timeless(benchmark(replace(base, output=settings.output, resume=True))) == _timeless(whole)


def test_methods_and_texts_can_be_added(settings: Settings, whole: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark(replace(settings, methods="attention,random@4"))
    asked = _count_chunks(monkeypatch)
    assert _timeless(benchmark(replace(settings, resume=True))) == _timeless(whole)
    # Of random, the first whole chunk is kept; attention is asked for its other protocol alone.
    assert asked == [
        *(("attention:positive", start) for start in (0, 3, 6, 9)),
        *(("random", start) for start in (3, 6, 9)),
        *(("greedy", start) for start in (0, 3)),
    ]
    fewer = benchmark(replace(settings, resume=True, methods="attention@5"))
    assert fewer.rows[0].all.texts == 5
    assert len(asked) == 9, "what is there already is only read"


def test_a_method_that_cannot_run_is_a_row_that_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lime", None)
    monkeypatch.setitem(sys.modules, "lime.lime_text", None)
    table = benchmark(replace(settings, methods="attention,lime,random", output=settings.output / "lime"))
    assert [row.all.texts for row in table.rows] == [10, 0, 10]
    assert table.rows[1].note.startswith("not run: ")
    assert "lime" in table.rows[1].note
    assert "not run" in (settings.output / "lime" / "table.md").read_text()


def test_a_method_that_breaks_does_not_end_the_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(probe: Probe, goal: Any, rng: torch.Generator) -> torch.Tensor:
        raise ZeroDivisionError("oh")

    monkeypatch.setitem(module.ATTRIBUTIONS, "attention-cls", broken)
    table = benchmark(replace(settings, methods="attention-cls,random"))
    assert table.rows[0].note == "failed: ZeroDivisionError: oh"
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert table.rows[1].all.texts == 10


def test_an_agent_that_is_not_there_is_a_row_that_says_so(settings: Settings) -> None:
    table = benchmark(replace(settings, methods=f"agent={settings.output}/nobody,attention"))
    assert table.rows[0].note.startswith("not run: no agent at")
    assert table.rows[1].all.texts == 10


def test_several_agents_are_told_apart(settings: Settings, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Agent(features=["statistics"], inputs=68, network="paper").save_pretrained(tmp_path / "mine")
    name = f"agent={tmp_path}/mine"
    table = benchmark(replace(settings, methods=f"attention,{name}@3"))
    assert [(row.method, row.all.texts, row.note) for row in table.rows] == [("attention", 10, ""), (name, 3, "")]
    [file] = settings.output.glob("explanations-agent-*-mine.jsonl")
    assert {e.method for e in load(file)} == {name}


def test_bad_rows_are_named_and_left_out(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    data = Path(settings.data)
    lines = data.read_text().splitlines()
    data.write_text("\n".join([lines[0], "{not json", *lines[1:]]) + "\n")
    table = benchmark(replace(settings, methods="attention", limit=4))
    assert table.rows[0].all.texts == 4
    assert "line 2" in caplog.text


def test_requests_that_cannot_be_met(settings: Settings) -> None:
    for methods, said in (
        ("attention,atention", "unknown method 'atention'"),
        ("attention,attention@3", "named twice"),
        ("attention@0", "cannot read the method"),
        ("", "cannot read the method"),
    ):
        with pytest.raises(RequestError, match=said):
            benchmark(replace(settings, methods=methods))
    assert not settings.output.exists(), "nothing is made for a request that is wrong"
    benchmark(replace(settings, methods="attention", limit=3))
    with pytest.raises(RequestError, match="--resume"):
        benchmark(settings)
    with pytest.raises(RequestError, match=r"threshold 0\.3"):
        benchmark(replace(settings, resume=True, limit=3, threshold=0.4))
    data = Path(settings.data)
    data.write_text("".join(reversed(data.read_text().splitlines(keepends=True))))
    with pytest.raises(RequestError, match="other texts"):
        benchmark(replace(settings, methods="attention", resume=True, limit=3))


def _count_chunks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    asked: list[tuple[str, int]] = []
    explain = module.explain_chunk

    def counting(waiting: Any, job: Any, agent: Any, start: int, stop: int) -> None:
        asked.append((next(iter(waiting)).name, start))
        explain(waiting, job, agent, start, stop)

    monkeypatch.setattr(module, "explain_chunk", counting)
    return asked


def _stop_after(monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    asked = _count_chunks(monkeypatch)
    explain = module.explain_chunk

    def stopping(*arguments: Any) -> None:
        if len(asked) == chunks:
            raise KeyboardInterrupt
        explain(*arguments)

    monkeypatch.setattr(module, "explain_chunk", stopping)
