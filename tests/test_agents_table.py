"""Games and models side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("minatar", reason="needs the extra `agents`")
pytest.importorskip("ale_py", reason="needs the extra `agents`")

from test_agents_trace import agent_of

from foveate.agents.analysis.conditions import scores_numbers
from foveate.agents.evaluation import Played
from foveate.agents.table import Row, Scores, found
from foveate.cli import main
from foveate.errors import RequestError


def row(agent: str, game: str, model: str, *scores: float) -> Row:
    played = Played(scores, (10,) * len(scores), (False,) * len(scores))
    return Row(
        agent, game, model, 100, scores_numbers(played), {"actions": "greedy", "sticky": 0.0, "agent": agent}, agent
    )


SCORES = Scores(
    [
        row("a", "breakout", "s3ta", 30.5, 30.5),  # as a human
        row("b", "breakout", "residual", 1.7, 1.7),  # as random play
        row("c", "pong", "s3ta", -20.7, -20.7),
        row("d", "pong", "residual", 14.6, 14.6),
        row("e", "seaquest", "s3ta", 100.0, 300.0),
        row("f", "MinAtar/Breakout-v1", "s3ta", 5.0, 7.0),
        row("g", "MinAtar/Breakout-v1", "s3ta", 9.0, 11.0),
    ]
)


def test_human_normalised() -> None:
    def mean(game: str, model: str) -> float:
        part = SCORES.normalised(game, model)
        assert part is not None
        return part.mean

    assert (mean("breakout", "s3ta"), mean("breakout", "residual")) == pytest.approx((100, 0))
    assert (mean("pong", "s3ta"), mean("pong", "residual")) == pytest.approx((0, 100))
    assert SCORES.normalised("MinAtar/Breakout-v1", "s3ta") is None
    assert SCORES.normalised("seaquest", "residual") is None
    # Only games that all models play are averaged.
    assert SCORES.shared == ["breakout", "pong"]
    assert SCORES.over_games("s3ta") == pytest.approx((50, 50))


def test_several_agents_are_one_cell() -> None:
    cell = SCORES.cell("MinAtar/Breakout-v1", "s3ta")
    assert cell is not None and (cell.interval.mean, cell.best, cell.agents) == (8, 11, 2)
    assert (cell.interval.low, cell.interval.high) == (6, 10)  # the two agents' means


def test_a_copy_of_an_agent_counts_once() -> None:
    """Of games of one agent there is an interval over games, however many names it has."""
    one, two = (replace(row(name, "pong", "s3ta", 1.0, 3.0), fingerprint="of both") for name in "ab")
    cell = Scores([one, two]).cell("pong", "s3ta")
    assert cell is not None and (cell.interval, cell.agents) == (one.interval, 1)
    third = Scores([one, two, row("c", "pong", "s3ta", 8.0, 8.0)]).cell("pong", "s3ta")
    assert third is not None and (third.interval.mean, third.agents) == (5.0, 2)


def test_human_scores_are_shown_where_there_are_any() -> None:
    text = Scores([row("f", "MinAtar/Breakout-v1", "s3ta", 5.0, 7.0)]).to_markdown()
    assert "| game | s3ta |\n| --- | ---: |\n" in text and "human" not in text
    assert "| game | residual | s3ta | random | human |" in SCORES.to_markdown()


def test_markdown() -> None:
    text = SCORES.to_markdown()
    assert "| breakout | 1.7 [1.7, 1.7], max 1.7 | 30.5 [30.5, 30.5], max 30.5 | 1.7 | 30.5 |" in text
    assert "| MinAtar/Breakout-v1 |  | 8.0 [6.0, 10.0], max 11 (2 agents) |  |  |" in text
    assert "| median of 2 games that all play | 50.0 | 50.0 |" in text
    assert "actions greedy; sticky 0.0." in text and "agent a;" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") == rows[i - 1].count("|") for i, line in enumerate(rows) if line.startswith("| ---"))


def test_agents_are_found(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no directories with agents"):
        found(tmp_path)
    (tmp_path / "notes").mkdir()
    for place in ("one", "run/agent"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}")
    assert found(tmp_path) == {"one": tmp_path / "one", "run": tmp_path / "run" / "agent"}
    with pytest.raises(RequestError, match="no directories with agents"):
        found(tmp_path / "nowhere")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_of("MinAtar/Breakout-v1", "mask-a3c").save_pretrained(tmp_path / "in" / "mask")
    agent_of("MinAtar/Breakout-v1").save_pretrained(tmp_path / "in" / "run" / "agent")
    atari = agent_of("ALE/Pong-v5", "mask-a3c", screen="mask-a3c", noops=3)
    atari.save_pretrained(tmp_path / "in" / "pong")
    words = ["agent", "table", "--agents", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--episodes", "3"]
    words += ["--max-steps", "15", "--parallel", "2"]
    for more in ([], ["--resume", "--json"]):
        with pytest.raises(SystemExit) as end:
            main([*words, *more])
        assert end.value.code == 0
    out = capsys.readouterr().out
    about = json.loads(out[out.index("\n{\n") :])
    assert about == json.loads((tmp_path / "out" / "table.json").read_text())
    assert out.startswith((tmp_path / "out" / "table.md").read_text())
    assert about["games"].keys() == {"MinAtar/Breakout-v1", "pong"}
    assert about["games"]["MinAtar/Breakout-v1"].keys() == {"mask-a3c", "s3ta"}
    pong = about["games"]["pong"]["mask-a3c"]
    assert pong["human_normalised_percent"]["mean"] == pytest.approx(100 * (pong["interval"]["mean"] + 20.7) / 35.3)
    assert [row["agent"] for row in about["agents"]] == ["mask", "run", "pong"]
    assert all(row["scores"]["games"] == 3 for row in about["agents"])
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2  # the games are there already
