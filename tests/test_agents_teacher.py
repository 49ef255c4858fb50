"""Teachers: what they say of an unroll, what it weighs, that a student learns it, and that runs with one go on."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("minatar")

from foveate.agents.a3c import A3CSettings, a3c_loss
from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import open_environments
from foveate.agents.games import EnvironmentSettings
from foveate.agents.impala import ImpalaSettings, impala_loss
from foveate.agents.learner import optimiser_of, update
from foveate.agents.losses import look_again
from foveate.agents.models.interface import AgentInputs
from foveate.agents.rollout import Actor, Unroll
from foveate.agents.teacher import Teacher, TeacherSettings
from foveate.agents.training import Stop, Trainer, TrainSettings, train
from foveate.cli import main
from foveate.errors import RequestError
from foveate.run import Run

GAME = EnvironmentSettings("MinAtar/Breakout-v1")
ENVS, STEPS = 3, 5


def agent(seed: int, model: str = "mask-a3c", env: EnvironmentSettings = GAME, **changes: Any) -> PlayingAgent:
    torch.manual_seed(seed)
    network = {"memory": 4, "features": 2} if "a3c" in model else {"channels": [4], "units": 16}
    values: dict[str, Any] = {"observation": (4, 10, 10), "actions": 3} | changes
    made = PlayingAgent(model, environment=asdict(env), settings=network, **values)
    with torch.no_grad():  # first policies are all but uniform
        for weight in made.parameters():
            weight.mul_(3)
    return made


@pytest.fixture
def place(tmp_path: Path) -> str:
    agent(7).save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def player(student: PlayingAgent) -> Actor:
    return Actor(student, open_environments(GAME, ENVS, exact=True), steps=STEPS, seed=3)


def teacher(place: str, student: PlayingAgent, **values: Any) -> Teacher:
    return Teacher(TeacherSettings(place, **values), student, envs=ENVS, autocast=nullcontext)


@hypothesis_settings(deadline=None)
@given(cost=st.floats(0, 10), steps=st.integers(1, 10**6), step=st.integers(0, 2 * 10**6))
def test_its_word_weighs_less_and_less(cost: float, steps: int, step: int) -> None:
    weight = TeacherSettings("x", cost, steps).weight(step)
    assert weight == pytest.approx(cost * (steps - step) / steps if step < steps else 0.0)


def test_advice_is_its_policy_step_by_step(place: str) -> None:
    """It remembers what was played from unroll to unroll, and forgets where an episode begins."""
    student = agent(1, "residual")
    told, actor = teacher(place, student, cost=2.0, steps=100, temperature=0.5), player(student)
    known = PlayingAgent.load(place)
    state, episodes = known.initial_state(ENVS), 0
    for number in range(12):
        unroll = actor.unroll()
        said = told.advise(unroll, number).advice
        assert said is not None
        for t in range(STEPS):
            parts = (getattr(unroll.inputs, name)[t : t + 1] for name in ("observation", "reward", "action", "done"))
            with torch.no_grad():
                output, state = known(AgentInputs(*parts), state)
            policy = output.logits[0].softmax(-1)
            firmer = policy**2 / (policy**2).sum(-1, keepdim=True)
            torch.testing.assert_close(said[t], 2.0 * (1 - number / 100) * firmer)
        episodes += int(unroll.inputs.done[1:].sum())
    assert episodes and told.advise(unroll, 100).advice is None


@pytest.mark.parametrize("learning", [ImpalaSettings(), ImpalaSettings(reduce="sum"), A3CSettings()])
def test_the_loss_is_the_naive_cross_entropy(place: str, learning: ImpalaSettings | A3CSettings) -> None:
    student = agent(1, "residual")
    unroll = teacher(place, student).advise(player(student).unroll(), 0)
    assert unroll.advice is not None
    unroll.learn[2, 1] = False
    loss = (impala_loss if isinstance(learning, ImpalaSettings) else a3c_loss)(
        look_again(student.network, unroll, nullcontext), learning
    )
    wanted = 0.0
    for t in range(STEPS):
        for env in range(ENVS):
            if (t, env) != (2, 1):
                own = unroll.behaviour[t, env].softmax(-1)
                wanted -= sum(float(p * q.log()) for p, q in zip(unroll.advice[t, env], own, strict=True))
    per = ENVS if isinstance(learning, A3CSettings) else 1 if learning.reduce == "sum" else STEPS * ENVS
    assert loss.teacher.item() == pytest.approx(wanted / per, rel=1e-4)
    assert loss.total.item() == pytest.approx((loss.policy + loss.value + loss.entropy + loss.teacher).item())


def test_without_one_nothing_is_added(place: str) -> None:
    student = agent(1, "residual")
    unroll = player(student).unroll()
    assert impala_loss(look_again(student.network, unroll, nullcontext), ImpalaSettings()).teacher == 0


def test_a_student_learns_what_it_is_told(place: str) -> None:
    """Without a reward ever: the divergence from the teacher, on screens that the student itself comes to, falls."""
    student = agent(1, "residual")
    told, actor = teacher(place, student, steps=10**9), player(student)
    learning = ImpalaSettings(learning_rate=3e-3, entropy_cost=0.0, baseline_cost=0.0)
    optimiser = optimiser_of(student.network, learning)

    def divergence(unroll: Unroll) -> float:
        assert unroll.advice is not None
        return float((unroll.advice * (unroll.advice.log() - unroll.behaviour.log_softmax(-1))).sum(-1).mean())

    gaps = []
    for _ in range(150):
        unroll = told.advise(actor.unroll(), 0)
        unroll.inputs.reward.zero_()
        gaps.append(divergence(unroll))
        update(student.network, optimiser, unroll, learning, rate=learning.learning_rate, autocast=nullcontext)
    assert sum(gaps[-10:]) < 0.5 * sum(gaps[:10])


@pytest.mark.usefixtures("undrawn")
def test_a_stopped_run_with_a_teacher_ends_as_one_left_alone(place: str, tmp_path: Path) -> None:
    """Bit for bit, the teacher's memory included; and its loss is told while it speaks."""
    alone, stopped = (settings(tmp_path / name, place) for name in ("alone", "stopped"))
    train(alone)
    trainer, run, stop = Trainer(stopped), Run(stopped.run, stopped), Stop()
    run.begin()
    for metrics in trainer.play(run, stop):
        run.log(trainer.step, metrics)
        stop.asked = True
    run.close()
    assert 0 < trainer.saved < stopped.steps
    train(replace(stopped, resume=True))
    first, second = (Run(s.run, s, resume=True).begin() for s in (alone, stopped))
    assert first is not None and second is not None and first.numbers == second.numbers
    assert first.tensors.keys() == second.tensors.keys()
    assert any(name.startswith("teacher.") for name in first.tensors)
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name
    rows = [json.loads(line) for line in (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()]
    assert ["teacher_loss" in row for row in rows] == [True, True, False]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.agents.training.write_curve", lambda directory: None)


def settings(run: Path, place: str, **changes: Any) -> TrainSettings:
    """Twelve updates, of which the first eight are taught."""
    values: dict[str, Any] = {
        "run": str(run),
        "environment": GAME,
        "model": "residual",
        "network": ("channels=[4]", "units=16"),
        "impala": ImpalaSettings(unroll=4),
        "teacher": TeacherSettings(place, steps=64),
        "steps": 96,
        "envs": 2,
        "log_every": 32,
        "checkpoint_every": 48,
        "device": "cpu",
        "threads": 1,
    }
    return TrainSettings(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"env": replace(GAME, env="MinAtar/Freeway-v1"), "observation": (7, 10, 10), "actions": 3}, "this agent play"),
        ({"env": replace(GAME, env="MinAtar/Asterix-v1")}, "with another env"),
        ({"env": replace(GAME, repeat=2)}, r"with another repeat \(repeat 2, not 4\)"),
    ],
)
def test_teachers_of_something_else_are_refused(changes: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    agent(7, **changes).save_pretrained(tmp_path / "other")
    with pytest.raises(RequestError, match=wanted):
        train(settings(tmp_path / "run", str(tmp_path / "other")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "no playing agent at"),
        (["--algorithm", "a3c", "--workers", "2"], "--workers have no teacher"),
        (["--teacher.steps", "0"], "--teacher.steps 0"),
        (["--teacher.temperature", "0"], "--teacher.temperature 0"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory holds no agent."""
    run = tmp_path / "run"
    given = ["--run", str(run), "--env", GAME.env, "--teacher.agent", str(tmp_path), "--envs", "2", *words]
    with pytest.raises(SystemExit) as exit:
        main(["agent", "train", *given])
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert wanted in said and said.count("\n") == 1
    assert not run.exists()
