"""Faint attention cut off: the equations, and what it must do to agents whose attention is known by construction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("minatar", reason="needs the extra `agents`")

from mapped import by_place, player
from test_agents_trace import agent_of

from foveate.agents.analysis import hard_attention
from foveate.agents.analysis.conditions import Play, play_all
from foveate.agents.analysis.edits import cut_at_random, hard, renormalised
from foveate.agents.analysis.hard_attention import Left, cut_name, left, random_name
from foveate.agents.analysis.subject import Subject
from foveate.agents.evaluation import Played
from foveate.cli import main
from foveate.errors import RequestError


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


WEIGHTS = (3 * torch.randn(4, 2, 30, generator=rng())).softmax(2).view(4, 2, 5, 6)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.1, 0.5, 1.0])
def test_the_equations(threshold: float) -> None:
    found = renormalised(hard(WEIGHTS, threshold))
    for frame in range(4):
        for head in range(2):
            a = WEIGHTS[frame, head]
            kept = torch.tensor([[float(w) if w >= threshold * a.max() else 0.0 for w in row] for row in a])
            torch.testing.assert_close(found[frame, head], kept / kept.sum())
    if threshold == 0:
        torch.testing.assert_close(found, WEIGHTS)  # A(0) = A
    if threshold == 1:
        assert ((found > 0).sum((2, 3)) == 1).all()


def test_as_many_cells_are_cut_at_random() -> None:
    for threshold in (0.0, 0.1, 0.5, 1.0):
        at_random = cut_at_random(WEIGHTS, threshold, rng())
        assert torch.equal((at_random > 0).sum((2, 3)), (hard(WEIGHTS, threshold) > 0).sum((2, 3)))
        assert torch.equal(at_random[at_random > 0], WEIGHTS[at_random > 0])
    same = WEIGHTS[:1].expand(50, -1, -1, -1)
    times = (cut_at_random(same, 0.1, rng()) > 0).float().mean(0)
    share = (hard(WEIGHTS[:1], 0.1) > 0).float().mean((0, 2, 3))
    assert ((times.mean((1, 2)) - share).abs() < 1e-6).all()
    assert times.std() < 0.12  # a cell is left as often as any other


def test_what_is_left() -> None:
    maps = torch.tensor([[0.5, 0.04], [0.06, 0.4]])[None, None]
    for threshold, cells, weight in ((0.0, 1.0, 1.0), (0.1, 0.75, 0.96)):
        kept = left(maps, threshold)
        assert (kept.cells, kept.weight) == pytest.approx((cells, weight))


def played(reads: object, place: Path) -> dict[str, Played]:
    agent = player(reads)  # type: ignore[arg-type]
    subject = Subject(agent="made by hand", output=place)
    play = Play(episodes=4, max_steps=80, parallel=4)
    return play_all(agent, subject, play, hard_attention.conditions(agent, (0.0, 0.1, 0.2)))


def said(games: dict[str, Played]) -> tuple[str, ...]:
    leaves = {0.0: Left(1.0, 1.0), 0.1: Left(1.0, 1.0), 0.2: Left(0.01, 0.08)}
    return tuple(hard_attention.findings(games, leaves, None, {}).sentences)


def test_an_agent_that_uses_the_bright_cell_alone(tmp_path: Path) -> None:
    games = played(by_place, tmp_path)
    whole = games[cut_name(0.0)]
    assert min(whole.scores) >= 1
    assert games[cut_name(0.1)] == games[random_name(0.1)] == whole  # a ninth of the maximum is not below a tenth
    assert games[cut_name(0.2)] == whole
    assert max(games[random_name(0.2)].scores) == 0
    sentences = said(games)
    assert "No threshold costs score" in sentences[2] and "at t = 0.2." in sentences[3]
    assert ": 100.0 [100.0, 100.0]% of it" in sentences[0]


def test_an_agent_that_uses_the_faint_cells(tmp_path: Path) -> None:
    def by_faint(mask: Tensor) -> Tensor:
        return mask.mean((1, 2)) - 0.1

    games = played(by_faint, tmp_path)
    assert games[cut_name(0.1)] == games[cut_name(0.0)]
    assert max(games[cut_name(0.2)].scores) == max(games[random_name(0.2)].scores) == 0
    sentences = said(games)
    assert "lowest threshold that costs score is 0.2" in sentences[2] and "At no threshold" in sentences[3]


def test_thresholds_are_parts(tmp_path: Path) -> None:
    settings = hard_attention.Settings(Subject(agent="x", output=tmp_path), thresholds=(0.0, 1.5))
    with pytest.raises(RequestError, match="from 0 to 1"):
        hard_attention.analyse(settings)


@pytest.mark.parametrize("model", ["mask-a3c", "s3ta"])
def test_the_command(model: str, tmp_path: Path) -> None:
    agent_of("MinAtar/Breakout-v1", model).save_pretrained(tmp_path / "agent")
    words = ["agent", "analyse", "hard-attention", "--agent", str(tmp_path / "agent"), "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main([*words, "--episodes", "3", "--max-steps", "30", "--sample", "--thresholds", "0.5", "1"])
    assert end.value.code == 0
    found = json.loads((tmp_path / "numbers.json").read_text())
    names = ["t = 0", "t = 0.5", "t = 0.5, cells at random", "t = 1", "t = 1, cells at random"]
    assert list(found["numbers"]["conditions"]) == names
    assert found["numbers"]["left"]["t = 0"] == {"cells": 1.0, "weight": pytest.approx(1)}
    assert found["protocol"]["after_the_cut"].startswith("not" if model == "mask-a3c" else "renormalised")
    assert (tmp_path / "relative_score.png").stat().st_size and (tmp_path / "index.html").stat().st_size
