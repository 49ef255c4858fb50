"""The masking game on agents: the cells that an action hangs on are found, all of them and no others."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("minatar", reason="needs the extra `agents`")

from test_agents_trace import agent_of

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import masking_game
from foveate.agents.analysis.blur import ATARI, MINATAR, Blur, blurred
from foveate.agents.analysis.masking_agent import learn
from foveate.agents.analysis.masking_beside import compare, ranks
from foveate.agents.analysis.masking_game import GOAL, Settings, analyse, search, smallest
from foveate.agents.analysis.moments import Moments, moments_of
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.models.grid import Grid
from foveate.agents.models.interface import (
    AS_IT_IS,
    AgentInputs,
    AgentNetwork,
    AgentOutput,
    Attention,
    Edit,
    State,
)
from foveate.agents.trace import record
from foveate.cli import main
from foveate.errors import RequestError
from foveate.masking.exact import exact
from foveate.masking.play import play
from foveate.masking.protocols import fork

PAIRS = torch.tensor([[12, 67], [35, 81], [50, 9], [44, 18]])
"""Cells of a 10 × 10 grid; which pair counts, the memory says."""


@dataclass(frozen=True)
class Kind:
    honest: bool


class HangsOnTwoCells(AgentNetwork):
    """Goes on with action 0 while either of two cells is lit; nothing else matters to it. It looks at the two, or, as
    a decoration, at all others."""

    heads = ("head",)
    grid = Grid(10, 10)

    def __init__(self, honest: bool = True) -> None:
        super().__init__()
        self.settings = Kind(honest)

    def initial_state(self, envs: int) -> dict[str, Tensor]:
        return {"pair": torch.zeros(envs, dtype=torch.long)}

    def forward(
        self, inputs: AgentInputs, state: State, observe: bool = False, edit: Edit = AS_IT_IS
    ) -> tuple[AgentOutput, dict[str, Tensor]]:
        pixels = self.scale(inputs.observation)[0, :, 0].flatten(1)
        cells = PAIRS[state["pair"]]
        lit = pixels.gather(1, cells).sum(1)
        logits = 5 * torch.stack([lit, torch.full_like(lit, 0.7)], 1)[None]
        on_them = torch.full_like(pixels, 0.001).scatter(1, cells, 0.45)
        maps = (on_them if self.settings.honest else 1 - on_them).view(1, -1, 1, 10, 10)
        return AgentOutput(logits, lit[None], Attention(maps, maps.log()) if observe else None), dict(state)


def moments(honest: bool = True, count: int = 8, seed: int = 0) -> Moments:
    """Random screens on which both cells of each moment's pair are lit."""
    rng = torch.Generator().manual_seed(seed)
    pair = torch.arange(count) % len(PAIRS)
    frames = (torch.rand(count, 2, 100, generator=rng) < 0.1).to(torch.uint8) * 255
    frames[torch.arange(count)[:, None], 0, PAIRS[pair]] = 255
    nothing = torch.zeros(1, count)
    inputs = AgentInputs(frames.view(1, count, 2, 10, 10), nothing, nothing.long(), nothing.bool())
    return Moments(HangsOnTwoCells(honest), inputs, {"pair": pair}, MINATAR)


@pytest.fixture(scope="module")
def found() -> tuple[Moments, dict]:
    probe = moments()
    return probe, search(probe, {"head": probe.maps[:, 0]}, 4, torch.Generator().manual_seed(0))


def test_the_searches_find_exactly_the_cells_that_the_action_hangs_on(found: tuple[Moments, dict]) -> None:
    probe, by_method = found
    for method in ("greedy", "beam", "attention: head", "each cell alone"):
        for row, f in enumerate(by_method[method]):
            assert f.solved and sorted(f.masked) == sorted(PAIRS[row % len(PAIRS)].tolist()), method
    assert not any(f.solved and len(f.masked) < 3 for f in by_method["random"])
    assert all(len(f.masked) == 2 for f in smallest(by_method))
    assert all(f.proven for f in exact(fork(probe), GOAL, 4))


def test_every_screen_that_the_agent_is_shown_is_counted(found: tuple[Moments, dict]) -> None:
    probe, by_method = found
    cells = probe.maskable.sum(1)
    assert [f.queries for f in by_method["greedy"]] == (2 * cells - 1).tolist()
    assert [f.queries for f in by_method["attention: head"]] == [2] * len(probe)
    assert [f.queries for f in by_method["each cell alone"]] == (cells + 2).tolist()
    assert not probe.queries.any(), "each method counts for itself"


def around(values: Tensor, cell: int) -> float:
    """The mean over a cell of the 10 × 10 and those beside it."""
    row, column = divmod(cell, 10)
    near = [
        10 * i + j for i in range(row - 1, row + 2) for j in range(column - 1, column + 2) if {i, j} <= {*range(10)}
    ]
    return float(values[near].mean())


def test_attention_that_is_used_is_told_from_decoration() -> None:
    for honest in (True, False):
        probe = moments(honest)
        sets = torch.zeros_like(probe.maskable).scatter(1, PAIRS[probe.state["pair"]], True)
        beside = compare(probe.maps[:, 0].view(-1, 10, 10), sets, probe.maskable, torch.Generator().manual_seed(0))
        assert beside is not None and beside.moments == len(probe)
        assert beside.on.random.mean == pytest.approx(float((2 / probe.maskable.sum(1)).mean()), abs=1e-5)
        if honest:
            assert beside.on.inside.mean == pytest.approx(0.9, abs=0.02) and beside.rank.mean < 0.02
            near = [
                sum(around(probe.maps[row, 0], cell) for cell in PAIRS[row % len(PAIRS)].tolist())
                / sum(around(probe.maps[row, 0], cell) for cell in probe.maskable[row].nonzero().squeeze(1).tolist())
                for row in range(len(probe))
            ]
            assert beside.near.inside.mean == pytest.approx(sum(near) / len(near), rel=1e-4)
            assert beside.on.above_random.low > 0.8 and beside.on.above_other.low > 0.5
        else:
            assert beside.on.above_random.high < 0 and beside.on.above_other.high < 0 and beside.rank.mean > 0.98
    assert compare(probe.maps[:, 0].view(-1, 10, 10), torch.zeros_like(sets), probe.maskable, torch.Generator()) is None


def test_ranks_count_the_free_cells_alone_and_share_ties() -> None:
    maps = torch.tensor([[4.0, 3, 2, 1], [1, 1, 1, 5]])
    free = torch.tensor([[1.0, 0, 1, 1], [1, 1, 1, 1]])
    inside = torch.tensor([[0.0, 0, 1, 0], [1, 1, 0, 0]])
    assert ranks(maps, inside, free).tolist() == pytest.approx([1 / 2, 2 / 3])


@pytest.mark.parametrize("blur", [MINATAR, ATARI], ids=["minatar", "atari"])
def test_a_set_of_cells_is_blurred_as_if_one_after_another(blur: Blur) -> None:
    probe = moments()
    probe = Moments(probe.network, probe.inputs, probe.state, blur)
    cells = [12, 13, 67]
    frame = probe.inputs.observation[0, 1].float()
    expected, away = frame, blurred(frame, blur.width)
    rows, columns = torch.meshgrid(torch.arange(10), torch.arange(10), indexing="ij")
    for cell in cells:
        down, across = (rows - cell // 10) / blur.bump, (columns - cell % 10) / blur.bump
        near = torch.maximum(down.abs(), across.abs()) <= 4
        bump = torch.exp(-(down**2 + across**2) / 2) * near
        expected = expected * (1 - bump) + away * bump
    visible = torch.ones(1, 100, dtype=torch.bool)
    visible[0, cells] = False
    shown = probe.shown(torch.tensor([1]), visible)[0]
    assert (shown.float() - expected).abs().max() <= 0.51
    assert torch.equal(probe.shown(torch.tensor([1]), ~torch.zeros_like(visible))[0], frame.to(torch.uint8))


def test_moments_of_a_trace_are_what_was_played(tmp_path: Path) -> None:
    agent = agent_of("MinAtar/Breakout-v1")
    trace = record(agent, tmp_path, steps=90, seed=2)
    steps = [0, 5, 63, 64, 80]
    probe = moments_of(trace, steps, agent, MINATAR)
    first = probe.open(torch.arange(5), observe=True)
    torch.testing.assert_close(first.logits, trace.column("logits")[steps], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(probe.maps, trace.column("maps")[steps].flatten(2), atol=1e-5, rtol=1e-3)
    # A question about one moment, among others, is answered from that one's memory.
    rows = torch.tensor([3, 1, 3])
    asked = probe.query(rows, torch.ones(3, 100, dtype=torch.bool))
    torch.testing.assert_close(asked.logits, first.logits[rows], atol=1e-5, rtol=1e-4)
    assert probe.queries.tolist() == [0, 1, 0, 2, 0]


def test_an_agent_learns_from_attention_which_cells_to_blur() -> None:
    pupil = learn(moments(count=32, seed=1), GOAL, Grid(10, 10), queries=1_500, max_steps=4, seed=0)
    probe = moments(count=16, seed=2)
    played = play(fork(probe), GOAL, pupil, max_steps=4)
    assert sum(f.solved and f.queries == 2 for f in played) >= 14


def settings_of(tmp_path: Path, **changed: object) -> Settings:
    subject = Subject(agent="synthetic", output=tmp_path / "out", seed=1)
    recording = Recording(trace=tmp_path / "trace")
    return replace(Settings(subject, recording, moments=3, cells=2, learn=0), **changed)  # type: ignore[arg-type]


def test_the_command_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_of("MinAtar/Breakout-v1").save_pretrained(tmp_path / "agent")
    words = ["--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out"), "--steps", "24"]
    with pytest.raises(SystemExit) as ended:
        main(["agent", "analyse", "masking-game", *words, "--moments", "4", "--cells", "3", "--learn", "96"])
    assert ended.value.code == 0 and "cells" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "numbers.json").read_text())
    methods = written["numbers"]["methods"]
    heads = ["head 1", "head 2", "head 3", "head 4", "all heads"]
    orders = [f"attention: {head}" for head in heads]
    assert list(methods) == ["greedy", "beam", *orders, "each cell alone", "random", "agent"]
    assert all(m["within"][0] == 0 and m["within"] == sorted(m["within"]) for m in methods.values())
    assert len(written["numbers"]["smallest"]) == 4 and list(written["numbers"]["attention"]) == heads
    assert written["protocol"]["most_cells"] == 3
    assert (tmp_path / "out" / "methods.svg").stat().st_size > 1000


def test_it_says_that_attention_lies_on_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of("MinAtar/Breakout-v1")
    agent.network = HangsOnTwoCells()
    record(agent, tmp_path / "trace", steps=8, seed=1)
    monkeypatch.setattr(Subject, "open", lambda self: agent)
    monkeypatch.setattr(masking_game, "moments_of", lambda *_: moments(count=3))
    findings = analyse(settings_of(tmp_path))
    first, second, third = findings.sentences
    assert (
        "in 100% of 3 moments" in first and "2 cells in the median" in first and "certain to be the smallest" in first
    )
    assert "Attention lies on them more than on others, and follows them" in second
    assert "in 100% (100% to 100%)" in third and "0% (0% to 0%)" in third


def test_what_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of("MinAtar/Breakout-v1")
    record(agent, tmp_path / "trace", steps=8, seed=1)
    monkeypatch.setattr(Subject, "open", lambda self: agent)
    for changed, words in (({"moments": 1}, "--moments is 1"), ({"cells": 0}, "--cells"), ({"moments": 9}, "8 steps")):
        with pytest.raises(RequestError, match=words):
            analyse(settings_of(tmp_path, **changed))
    blind = PlayingAgent("residual-lstm", (4, 10, 10), 3, {"env": "MinAtar/Breakout-v1"}, {"channels": (8, 8)}).eval()
    monkeypatch.setattr(Subject, "open", lambda self: blind)
    with pytest.raises(RequestError, match="no attention map"):
        analyse(settings_of(tmp_path))
