"""Turning points of curves made by hand, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("minatar", reason="needs the extra `agents`")

from test_agents_trace import agent_of

from foveate.agents.analysis.transitions import (
    SMOOTH,
    at_and_elsewhere,
    changes,
    correlation,
    peaks,
    prominence,
    same_game,
    smoothed,
    turning_points,
)
from foveate.agents.trace import record
from foveate.cli import main


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_smoothed_is_the_mean_of_what_there_is() -> None:
    values = np.random.default_rng(0).normal(size=23)
    half = SMOOTH // 2
    wanted = [values[max(t - half, 0) : t + half + 1].mean() for t in range(23)]
    assert np.allclose(smoothed(values), wanted)
    assert np.allclose(smoothed(values[:2]), values[:2].mean())


def test_peaks_are_inside_and_flat_ones_count_once() -> None:
    assert peaks(np.array([0, 2, 1, 3, 3, 3, 1, 1, 4.0])) == [1, 3]
    assert peaks(np.array([5, 4, 4, 3.0])) == peaks(np.array([1.0])) == peaks(np.zeros(4)) == []


def test_prominence() -> None:
    #        0  1  2  3  4  5  6  7
    curve = np.array([0, 5, 3, 4, 1, 9, 2, 6.0])
    assert prominence(curve, 1) == 4  # back to 1 before the 9, to 0 on the other side: the higher of the two
    assert prominence(curve, 3) == 1
    assert prominence(curve, 5) == 7  # the highest: to the higher of the lowest on both sides
    scipy = pytest.importorskip("scipy.signal")
    noise = np.random.default_rng(1).normal(size=300).cumsum()
    found = peaks(noise)
    assert found == scipy.find_peaks(noise)[0].tolist()
    assert np.allclose([prominence(noise, p) for p in found], scipy.peak_prominences(noise, found)[0])


def test_turning_points_are_of_one_game_each() -> None:
    one = np.concatenate([np.linspace(0, 8, 40), np.linspace(8, 2, 30), np.linspace(2, 5, 30)])
    value = np.concatenate([one, one + 100])
    points = turning_points(value, [range(100), range(100, 200)])
    assert {(p.step // 100, p.kind) for p in points} == {(0, "peak"), (0, "trough"), (1, "peak"), (1, "trough")}
    assert [p.prominence for p in points] == sorted((p.prominence for p in points), reverse=True)
    for p in points:
        assert abs(p.step % 100 - (39.5 if p.kind == "peak" else 69.5)) <= 2
    assert turning_points(np.arange(50.0), [range(50)]) == []


def test_changes_are_total_variation() -> None:
    mass = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0]]).view(4, 1, 2, 2)
    assert changes(mass).flatten().tolist() == [0, 1, 0.5, 0]


def test_at_and_elsewhere() -> None:
    at = torch.arange(400) % 10 == 3
    found = at_and_elsewhere(0.1 + 0.2 * at, at, ~at, rng())
    assert found.at and found.elsewhere and found.difference
    assert (found.at.mean, found.elsewhere.mean) == (pytest.approx(0.3), pytest.approx(0.1))
    assert found.difference.low == pytest.approx(0.2) and found.difference.high == pytest.approx(0.2)
    rare = torch.arange(400) == 7
    assert at_and_elsewhere(torch.rand(400), rare, ~rare, rng()).difference is None


def test_correlation_is_pearsons() -> None:
    x = torch.randn(500, generator=rng())
    y = 0.5 * x + torch.randn(500, generator=torch.Generator().manual_seed(1)) + 9
    found = correlation(x, y, rng())
    assert found is not None
    assert found.mean == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]), abs=1e-6)
    assert found.low < found.mean < found.high
    assert correlation(x, torch.ones(500), rng()) is None


@pytest.mark.parametrize("model", ["s3ta", "value-mask-a3c"])
def test_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = agent_of("MinAtar/Breakout-v1", model)
    agent.save_pretrained(tmp_path / "agent")
    trace = record(agent, tmp_path / "trace", steps=90, sample=True)
    assert int((~same_game(trace)).sum()) == len(trace.episodes())
    words = ["agent", "analyse", "transitions", "--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--trace", str(tmp_path / "trace"), "--start", "20"])
    assert end.value.code == 0
    assert "value turns" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())["numbers"]
    assert numbers["strip"] == [20, 36]
    assert numbers["change"].keys() == set(agent.heads)
    value = trace.column("value").numpy()
    best = numbers["turning_points"][0]
    (game,) = [g for g in trace.episodes() if best["step"] in g]
    assert best["value"] == pytest.approx(smoothed(value[game.start : game.stop])[best["step"] - game.start], abs=1e-5)
    assert bool(numbers["openness_with_value"]) == (model != "s3ta")
    for name in ("strip", "value"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5_000
    with pytest.raises(SystemExit) as end:
        main([*words, "--trace", str(tmp_path / "trace"), "--start", "80"])
    assert end.value.code == 2 and "room for what is drawn from 0 to 74" in capsys.readouterr().err
