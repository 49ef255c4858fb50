"""Heads knocked out, swapped and frozen: what each does to the score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("minatar", reason="needs the extra `agents`")

from mapped import by_brightness, by_place, player
from test_agents_trace import agent_of

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import heads
from foveate.agents.analysis.conditions import Play, play_all
from foveate.agents.analysis.subject import Subject
from foveate.agents.evaluation import Played
from foveate.agents.trace import record
from foveate.cli import main
from foveate.errors import RequestError


def test_queries() -> None:
    queries = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    before = queries.clone()
    assert torch.equal(heads.swapped(1, 3)(queries), queries[:, [0, 3, 2, 1]])
    found = heads.frozen(2, torch.arange(5.0))(queries)
    assert torch.equal(found[:, [0, 1, 3]], queries[:, [0, 1, 3]])
    assert torch.equal(found[:, 2], torch.arange(5.0).expand(3, 5))
    assert torch.equal(queries, before)


def played(agent: PlayingAgent, place: Path, conditions: list[heads.Condition], **options: object) -> dict[str, Played]:
    subject = Subject(agent="made by hand", output=place, **options)  # type: ignore[arg-type]
    return play_all(agent, subject, Play(episodes=4, max_steps=80, parallel=4), conditions)


def test_a_mask_is_needed_where_it_is_read(tmp_path: Path) -> None:
    agent = player(by_place)
    games = played(agent, tmp_path / "place", heads.mask_conditions(agent))
    assert min(games["normal"].scores) >= 1
    assert max(games["policy: open"].scores) == max(games["policy: level"].scores) == 0
    agent = player(by_brightness)
    games = played(agent, tmp_path / "brightness", heads.mask_conditions(agent))
    assert games["policy: level"] == games["normal"] and max(games["policy: open"].scores) == 0
    said = heads.findings(games, heads.mask_conditions(agent), {}, {}).sentences
    assert "Open, the score changes by: policy -" in said[0] and "no effect shows of policy 0.0 [0.0, 0.0]" in said[1]


def test_a_head_that_nothing_reads(tmp_path: Path) -> None:
    agent = agent_of("MinAtar/Breakout-v1")
    network = agent.network
    with torch.no_grad():
        # The answer processor reads answers, last reward and action, queries: nothing of the second head's.
        first = network.answer_processor[0].weight
        answers = network.settings.memory - network.settings.keys + len(network.basis)
        first[:, answers : 2 * answers] = 0
        start = 4 * answers + 1 + agent.actions + network.query_size
        first[:, start : start + network.query_size] = 0
        # The others decide more than they do at the start, so that a change shows.
        network.policy.weight *= 60
    queries = record(agent, tmp_path / "trace", steps=20, seed=1).column("queries").mean(0)
    conditions = heads.head_conditions(agent, queries)
    names = [c.name for c in conditions]
    assert names[:3] == ["normal", "head 1: knocked out", "head 2: knocked out"] and len(names) == 1 + 4 + 6 + 4
    logits = {}
    for condition in conditions:
        assert condition.edit is not None
        edit = condition.edit(torch.Generator())
        logits[condition.name] = record(agent, tmp_path / "edited", steps=6, seed=1, edit=edit).column("logits")[1]
    same = {name for name in names if torch.allclose(logits[name], logits["normal"], atol=1e-5)}
    assert same == {"normal", "head 2: knocked out", "head 2: frozen"}
    wanted = [c for c in conditions if c.name in ("normal", "head 2: knocked out")]
    games = played(agent, tmp_path, wanted)
    assert games["head 2: knocked out"] == games["normal"]


def test_of_many_heads_each_is_swapped_with_the_next() -> None:
    agent = PlayingAgent("s3ta", (4, 10, 10), 3, {"env": "MinAtar/Breakout-v1"}, {"heads": 9})
    conditions = heads.head_conditions(agent, torch.zeros(9, agent.network.query_size))
    swaps = [c.name for c in conditions if c.name.endswith("swapped")]
    assert len(swaps) == 9 and swaps[-1] == "head 9 and head 1: swapped"


def test_what_has_no_heads() -> None:
    with pytest.raises(RequestError, match="no heads"):
        heads.head_conditions(PlayingAgent("residual", (4, 10, 10), 3, {"env": "MinAtar/Breakout-v1"}), None)
    with pytest.raises(RequestError, match="no mask on its policy"):
        heads.mask_conditions(PlayingAgent("value-mask-a3c", (4, 10, 10), 3, {"env": "MinAtar/Breakout-v1"}))


@pytest.mark.parametrize("model", ["mask-a3c", "s3ta", "s3ta-l2-keys"])
def test_the_command(model: str, tmp_path: Path) -> None:
    agent = agent_of("MinAtar/Breakout-v1", model)
    agent.save_pretrained(tmp_path / "agent")
    words = ["agent", "analyse", "heads", "--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--episodes", "2", "--max-steps", "20", "--steps", "15"])
    assert end.value.code == 0
    found = json.loads((tmp_path / "out" / "numbers.json").read_text())
    count = {"mask-a3c": 3, "s3ta": 15, "s3ta-l2-keys": 2}[model]
    assert len(found["numbers"]["conditions"]) == len(found["numbers"]["less_normal"]) + 1 == count
    assert found["numbers"]["value"].keys() == ({"open", "level"} if model == "mask-a3c" else set())
    assert (tmp_path / "out" / "trace" / "trace.json").exists() == (model == "s3ta")
    if model == "s3ta":
        assert found["protocol"]["steps"] == 15 and "uniform" in found["protocol"]["knocked_out"]
    assert (tmp_path / "out" / "effects.svg").stat().st_size and (tmp_path / "out" / "index.html").stat().st_size
