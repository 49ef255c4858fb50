"""Recorded play: what was played can be played again, from any step."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ale_py", reason="needs the extra `agents`")
pytest.importorskip("minatar", reason="needs the extra `agents`")

from foveate.agents import trace
from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.evaluation import EvaluationSettings, evaluate_agent
from foveate.agents.games import EnvironmentSettings, open_game
from foveate.agents.models.interface import Edit
from foveate.agents.player import Player
from foveate.agents.trace import PIECE, Trace, attention_of, record
from foveate.errors import RequestError

PART = 8
"""Steps of a file, where there are to be several of them soon."""

SMALL = {"memory": 8, "keys": 4, "core": 16, "output": 16, "query_units": (16,), "answer_units": (16,)}


def agent_of(env: str, model: str = "s3ta", **environment: object) -> PlayingAgent:
    torch.manual_seed(0)
    settings = EnvironmentSettings(env=env, **environment)  # type: ignore[arg-type]
    game = open_game(settings)
    small = SMALL if "s3ta" in model else {"memory": 8, "features": 4}
    if model.startswith("s3ta") and min(game.observation_shape[1:]) > 32:
        small = small | {"convolutions": ((8, 4, 4), (4, 4, 8))}
    return PlayingAgent(model, game.observation_shape, game.actions, {"env": env, **environment}, small).eval()


@pytest.fixture(scope="module", params=["MinAtar/Breakout-v1", "ALE/Pong-v5", "ALE/Breakout-v5"])
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlayingAgent, Trace]:
    env = request.param
    agent = agent_of(env, "mask-a3c", screen="mask-a3c", noops=3) if env == "ALE/Breakout-v5" else agent_of(env)
    return agent, record(agent, tmp_path_factory.mktemp("trace"), steps=PIECE + 20, sample=True, seed=3)


def test_every_step_can_be_gone_on_from(played: tuple[PlayingAgent, Trace]) -> None:
    agent, trace = played
    actions, rewards = trace.column("action"), trace.column("reward")
    observations, logits = trace.column("observation"), trace.column("logits")
    for start in (0, 5, PIECE, PIECE + 3):
        moment = trace.moment(start, agent)
        player = Player(agent, 1, sample=True, seed=0)
        player.state, player.action, step = moment.state, moment.action, moment.step
        for t in range(start, min(start + 6, trace.steps - 1)):
            assert torch.equal(step.observation[0], observations[t])
            _, output = player.act(step)
            torch.testing.assert_close(output.logits[0, 0], logits[t], atol=1e-5, rtol=1e-4)
            player.action = actions[t][None]  # the drawn one was another
            step = moment.games.step(player.action)
            assert step.reward[0] == rewards[t + 1]


def test_a_piece_shown_again_gives_what_was_recorded(played: tuple[PlayingAgent, Trace]) -> None:
    agent, trace = played
    for piece in trace.pieces():
        output = trace.replay(piece, agent)
        torch.testing.assert_close(output.value[:, 0], piece.value, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(attention_of(output).maps[:, 0], piece.maps, atol=1e-5, rtol=1e-3)


def test_it_is_what_the_emulator_showed(played: tuple[PlayingAgent, Trace]) -> None:
    _, trace = played
    assert trace.column("screen").shape[0] == trace.steps == PIECE + 20
    assert trace.column("screen").float().std() > 1
    if trace.environment.env.startswith("ALE"):
        assert trace.column("ram").shape == (trace.steps, 128)
        assert len(trace.column("ram").unique(dim=0)) > 10
    assert [len(e) for e in trace.episodes()] and sum(len(e) for e in trace.episodes()) == trace.steps


def test_an_edit_changes_what_is_played_and_nothing_else_does(tmp_path: Path) -> None:
    agent = agent_of("MinAtar/Breakout-v1")
    settings = EvaluationSettings(agent="x", episodes=3, sample=True, parallel=2)
    flat = Edit(maps=lambda maps: torch.full_like(maps, 1 / maps[0, 0].numel()))
    plain = record(agent, tmp_path / "a", steps=30, seed=1)
    edited = record(agent, tmp_path / "b", steps=30, seed=1, edit=flat)
    again = record(agent, tmp_path / "c", steps=30, seed=1, edit=Edit(maps=lambda maps: maps.clone()))
    assert torch.equal(plain.column("logits"), again.column("logits"))
    assert not torch.allclose(plain.column("logits")[0], edited.column("logits")[0])
    assert edited.column("maps").std() < 1e-6
    assert evaluate_agent(agent, settings).scores == evaluate_agent(agent, settings, edit=Edit()).scores


def test_queries_can_be_edited(tmp_path: Path) -> None:
    agent = agent_of("MinAtar/Breakout-v1")
    swapped = record(agent, tmp_path / "a", steps=5, edit=Edit(queries=lambda q: q[:, [1, 0, 2, 3]]))
    plain = record(agent, tmp_path / "b", steps=5)
    assert torch.equal(swapped.column("queries")[0, 0], plain.column("queries")[0, 1])
    assert torch.equal(swapped.column("maps")[0, 0], plain.column("maps")[0, 1])


def test_a_trace_that_is_not_whole_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no whole trace"):
        Trace(tmp_path)
    agent = agent_of("MinAtar/Breakout-v1")
    trace = record(agent, tmp_path, steps=5)
    with pytest.raises(RequestError, match="steps 0 to 4"):
        trace.piece(5)
    (tmp_path / trace.about["pieces"] / "00000000.npz").write_bytes(b"half")
    with pytest.raises(RequestError, match="cannot be read"):
        Trace(tmp_path).piece(0)
    (tmp_path / "trace.json").write_text('{"format": "0"}')
    with pytest.raises(RequestError, match="another version"):
        Trace(tmp_path)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def test_a_trace_takes_the_place_of_another(tmp_path: Path) -> None:
    """Of all that was its own, and of nothing else; also of what a recording that was killed has left."""
    agent = agent_of("MinAtar/Breakout-v1")
    record(agent, tmp_path, steps=PIECE + 2)
    mine = {"notes.txt": b"mine", "12345678.npz": b"mine", "pieces-1/settings.json": b"mine"}
    (tmp_path / "pieces-1").mkdir()
    for name, words in mine.items():
        (tmp_path / name).write_bytes(words)
    (tmp_path / "pieces-1" / "00000640.npz").write_bytes(b"killed")
    for seed, place in ((1, "pieces-1"), (2, "pieces-0")):
        trace = record(agent, tmp_path, steps=4, seed=seed)
        assert contents(tmp_path).keys() == mine.keys() | {"trace.json", f"{place}/00000000.npz"}
        assert trace.steps == 4 and len(trace.column("action")) == 4
    assert mine.items() <= contents(tmp_path).items()


@pytest.mark.parametrize(
    ("broken", "error", "said"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RequestError, "cannot write to .*: No space left on device"),
    ],
)
@pytest.mark.parametrize("at", ["in play", "at the end"])
def test_until_then_the_old_one_stays_whole(
    at: str, broken: BaseException, error: type[BaseException], said: str | None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(trace, "PIECE", PART)
    agent = agent_of("MinAtar/Breakout-v1")
    old = record(agent, tmp_path / "old", steps=PART + 2)
    (tmp_path / "old" / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    write, written = np.savez_compressed, []

    def breaks(file: Path, **arrays: Any) -> None:
        if len(written) == 2:
            # What there was of the new one is on the disk, and not in memory.
            assert all(f.exists() for f in written) and len(arrays["action"]) == PART
            file.write_bytes(b"half")
            raise broken
        written.append(file)
        write(file, **arrays)

    def broken_off(*_: object) -> None:
        raise broken

    with monkeypatch.context() as broken_here:
        if at == "in play":
            broken_here.setattr(np, "savez_compressed", breaks)
        else:
            broken_here.setattr(os, "replace", broken_off)
        for place in (tmp_path / "old", tmp_path / "new"):
            written.clear()
            with pytest.raises(error, match=said):
                record(agent, place, steps=3 * PART + 1, seed=1)
    assert contents(tmp_path) == before and not (tmp_path / "new").exists()
    assert sorted(p.name for p in (tmp_path / "old").iterdir()) == ["notes.txt", "pieces-0", "trace.json"]
    assert torch.equal(Trace(tmp_path / "old").column("action"), old.column("action"))


def test_where_nothing_can_be_written_nothing_is_played(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match=r"cannot write to .*file"):
        record(agent_of("MinAtar/Breakout-v1"), tmp_path / "file", steps=10**9)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_trace_is_of_one_agent(tmp_path: Path) -> None:
    """Of its weights and its network's settings; what it is called, and where it is kept, is all the same."""
    agent = agent_of("MinAtar/Breakout-v1")
    record(agent, tmp_path / "trace", steps=5, sample=True)
    agent.save_pretrained(tmp_path / "kept")
    recording, subject = Recording(trace=tmp_path / "trace"), Subject(str(tmp_path / "kept"), tmp_path / "out")
    trace = recording.open(subject, PlayingAgent.load(tmp_path / "kept"))
    assert trace.steps == 5 and recording.protocol(trace)["actions"] == "sampled"

    trained = agent_of("MinAtar/Breakout-v1")
    with torch.no_grad():
        next(trained.parameters()).view(-1)[0] += 1e-3
    other = PlayingAgent(
        "s3ta", agent.observation, agent.actions, {"env": "MinAtar/Breakout-v1"}, SMALL | {"normalise_content": False}
    )
    other.load_state_dict(agent.state_dict())
    for stranger in (trained, other.eval(), agent_of("MinAtar/Breakout-v1", "mask-a3c")):
        with pytest.raises(RequestError, match=r"was played by another agent \(s3ta, s3ta\) than .*kept .* is now"):
            recording.open(subject, stranger)


def test_a_trace_is_of_the_environment_that_is_asked_for(tmp_path: Path) -> None:
    """Without a word it is whatever was recorded, which the protocol tells."""
    agent = agent_of("ALE/Pong-v5", "mask-a3c", screen="mask-a3c", noops=3)
    sticky = replace(agent.environment, sticky=0.25)
    record(agent, tmp_path / "trace", steps=2, environment=sticky)
    recording, subject = Recording(trace=tmp_path / "trace"), Subject("x", tmp_path / "out")
    assert recording.protocol(recording.open(subject, agent))["sticky"] == 0.25
    recording.open(replace(subject, env="Pong", sticky=0.25), agent)
    with pytest.raises(RequestError, match=r"with --sticky 0\.25, not 0;"):
        recording.open(replace(subject, sticky=0.0), agent)
    with pytest.raises(RequestError, match="is of ALE/Pong-v5, not of ALE/Tennis-v5"):
        recording.open(replace(subject, env="ALE/Tennis-v5"), agent)
