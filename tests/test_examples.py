"""The examples run, and do what they say."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXTS

from foveate.text.agent import embedded_agents
from foveate.text.explanation_files import load

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_run() -> None:
    source = Path(__file__).read_text()
    assert all(f'run("{path.name}"' in source for path in EXAMPLES.glob("*.py"))


@pytest.mark.skipif("emotion" not in embedded_agents(), reason="the embedded agent is not trained yet")
def test_explain_a_text(run: Callable[..., str]) -> None:
    out = run("explain_a_text.py")
    assert "sadness" in out
    assert "p(sadness) =" in out


def test_corpus_to_parquet(run: Callable[..., str], tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS) + "broken\n")
    assert "of 5 solved" in run("corpus_to_parquet.py", source, tmp_path / "out.parquet")
    assert [e.text for e in load(tmp_path / "out.parquet")] == list(TEXTS)


def test_own_model(run: Callable[..., str], tiny: Callable[[str], tuple[Any, Any]], tmp_path: Path) -> None:
    for part in tiny("bert"):
        part.save_pretrained(tmp_path)
    assert run("own_model.py", tmp_path).count("Δp") == 2


def test_minigrid_pixels(run: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("minigrid", reason="minigrid is not installed")
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra `agents`")
    assert "Room-v0, 20 games, sampled" in run("minigrid_pixels.py", tmp_path / "run", 320)
    assert (tmp_path / "run" / "room.mp4").stat().st_size > 1000
