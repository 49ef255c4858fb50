"""Learners: targets against naive ones, what is and is not learned from, runs that are killed and go on."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("minatar")

from foveate.agents.a3c import A3CSettings
from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import VectorStep
from foveate.agents.games import EnvironmentSettings, parse_options
from foveate.agents.impala import ImpalaSettings
from foveate.agents.learner import backward, optimiser_of, update
from foveate.agents.models import build
from foveate.agents.rms_prop import TensorFlowRMSProp
from foveate.agents.rollout import Actor, Unroll
from foveate.agents.screens import Box
from foveate.agents.training import Stop, Trainer, TrainSettings, train
from foveate.agents.vtrace import generalised_advantages, vtrace
from foveate.cli import main
from foveate.errors import RequestError
from foveate.run import Checkpoint, Run

SMALL_S3TA = (
    "memory=8",
    "keys=2",
    "heads=2",
    "frequencies=1",
    "query_units=[8]",
    "answer_units=[16,8]",
    "core=8",
    "output=8",
    "convolutions=[[3,2,4]]",
)


def small(directory: Path | str, **changes: Any) -> TrainSettings:
    """A run of a second: 2 environments, 4 steps, 12 updates; log and checkpoint fall apart."""
    values: dict[str, Any] = {
        "run": str(directory),
        "environment": EnvironmentSettings("MinAtar/Breakout-v1"),
        "network": SMALL_S3TA,
        "impala": ImpalaSettings(unroll=4),
        "a3c": A3CSettings(unroll=4),
        "steps": 96,
        "envs": 2,
        "log_every": 40,
        "checkpoint_every": 48,
        "device": "cpu",
        "threads": 1,
    }
    return TrainSettings(**(values | changes))


# --- targets ---------------------------------------------------------------------------------------------------------


def batch(seed: int, steps: int, envs: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    values = normal(steps + 1, envs)
    ended = torch.rand(steps, envs, generator=rng) < 0.2
    return {
        "v_tm1": values[:-1],
        "v_t": values[1:],
        "r_t": normal(steps, envs),
        "discount_t": 0.9 * ~ended,
        "learn_t": ~ended | (torch.rand(steps, envs, generator=rng) < 0.5),
        "rho_tm1": normal(steps, envs).exp(),
    }


def naive_vtrace(x: dict[str, Tensor], rho_bar: float, c_bar: float) -> tuple[Tensor, Tensor]:
    """Equation 1 as it is printed: a sum over the future, with products in it, one environment at a time."""
    steps, envs = x["r_t"].shape
    targets, advantages = torch.zeros(steps, envs).double(), torch.zeros(steps, envs).double()
    for b in range(envs):
        for s in range(steps):
            total = float(x["v_tm1"][s, b])
            for t in range(s, steps):
                if not x["learn_t"][t, b]:
                    break
                weight = math.prod(
                    float(x["discount_t"][i, b]) * min(c_bar, float(x["rho_tm1"][i, b])) for i in range(s, t)
                )
                rho = min(rho_bar, float(x["rho_tm1"][t, b]))
                total += (
                    weight * rho * float(x["r_t"][t, b] + x["discount_t"][t, b] * x["v_t"][t, b] - x["v_tm1"][t, b])
                )
            targets[s, b] = total
        for s in range(steps):
            after = targets[s + 1, b] if s + 1 < steps else x["v_t"][s, b]
            rho = min(rho_bar, float(x["rho_tm1"][s, b]))
            if x["learn_t"][s, b]:
                advantages[s, b] = rho * (x["r_t"][s, b] + x["discount_t"][s, b] * after - x["v_tm1"][s, b])
    return targets, advantages


sizes = {"seed": st.integers(0, 10_000), "steps": st.integers(1, 7), "envs": st.integers(1, 3)}
few = hypothesis_settings(max_examples=15, deadline=None)


class TestTargets:
    @few
    @given(**sizes, rho_bar=st.sampled_from([0.5, 1.0, 2.0]), c_bar=st.sampled_from([0.3, 1.0]))
    def test_vtrace_is_the_naive_sum(self, seed: int, steps: int, envs: int, rho_bar: float, c_bar: float) -> None:
        x = batch(seed, steps, envs)
        got = vtrace(**x, rho_bar=rho_bar, c_bar=c_bar)
        targets, advantages = naive_vtrace(x, rho_bar, c_bar)
        torch.testing.assert_close(got.value_tm1, targets)
        torch.testing.assert_close(got.advantage_tm1, advantages)

    @few
    @given(**sizes)
    def test_on_policy_it_is_the_n_step_return(self, seed: int, steps: int, envs: int) -> None:
        x = batch(seed, steps, envs) | {"learn_t": torch.ones(steps, envs, dtype=torch.bool)}
        x["rho_tm1"] = torch.ones_like(x["r_t"])
        returns, later = torch.zeros_like(x["r_t"]), x["v_t"][-1]
        for t in reversed(range(steps)):
            later = returns[t] = x["r_t"][t] + x["discount_t"][t] * later
        got = vtrace(**x)
        torch.testing.assert_close(got.value_tm1, returns)
        torch.testing.assert_close(got.advantage_tm1, returns - x["v_tm1"])
        del x["rho_tm1"]
        monte_carlo = generalised_advantages(**x, gae_lambda=1.0)
        torch.testing.assert_close(monte_carlo.value_tm1, returns)
        torch.testing.assert_close(monte_carlo.advantage_tm1, returns - x["v_tm1"])

    @few
    @given(**sizes)
    def test_without_a_future_it_is_the_reward(self, seed: int, steps: int, envs: int) -> None:
        x = batch(seed, steps, envs) | {"learn_t": torch.ones(steps, envs, dtype=torch.bool)}
        x["discount_t"], x["rho_tm1"] = torch.zeros_like(x["r_t"]), torch.ones_like(x["r_t"])
        torch.testing.assert_close(vtrace(**x).value_tm1, x["r_t"])

    @few
    @given(**sizes, gae_lambda=st.sampled_from([0.0, 0.5, 0.95, 1.0]))
    def test_generalised_advantages_are_the_naive_sum(
        self, seed: int, steps: int, envs: int, gae_lambda: float
    ) -> None:
        """Equation 16: the sum of (γλ)^l δ, up to the end of the episode or what must not be learned from."""
        x = batch(seed, steps, envs)
        x.pop("rho_tm1")
        wanted = torch.zeros(steps, envs).double()
        for b in range(envs):
            for s in range(steps):
                weight = 1.0
                for t in range(s, steps):
                    if not x["learn_t"][t, b]:
                        break
                    delta = x["r_t"][t, b] + x["discount_t"][t, b] * x["v_t"][t, b] - x["v_tm1"][t, b]
                    wanted[s, b] += weight * delta
                    weight *= float(x["discount_t"][t, b]) * gae_lambda
        got = generalised_advantages(**x, gae_lambda=gae_lambda)
        torch.testing.assert_close(got.advantage_tm1, wanted)
        torch.testing.assert_close(got.value_tm1, x["v_tm1"] + wanted)

    @few
    @given(**sizes)
    def test_what_must_not_be_learned_from_keeps_its_value(self, seed: int, steps: int, envs: int) -> None:
        x = batch(seed, steps, envs)
        got = vtrace(**x)
        ignored = ~x["learn_t"]
        assert torch.equal(got.value_tm1[ignored], x["v_tm1"][ignored])
        assert (got.advantage_tm1[ignored] == 0).all()

    def test_a_missing_axis_is_refused(self) -> None:
        x = batch(0, 3, 2)
        with pytest.raises(Exception, match=r"Type-check error|time, envs"):
            vtrace(**(x | {"r_t": x["r_t"][:, 0]}))


# --- optimiser -------------------------------------------------------------------------------------------------------


def test_rms_prop_is_tensorflows() -> None:
    """By hand: mean squares start from 1, ε is inside the root; torch's first step is ten times as long."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimiser = TensorFlowRMSProp([weight], lr=0.1, decay=0.9, epsilon=0.01)
    value, mean_square = 1.0, 1.0
    for gradient in (0.5, -2.0, 0.25):
        weight.grad = torch.tensor([gradient])
        optimiser.step()
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        value -= 0.1 * gradient / math.sqrt(mean_square + 0.01)
        assert weight.item() == pytest.approx(value, rel=1e-6)


# --- learning --------------------------------------------------------------------------------------------------------


class Signs:
    """Which half of the picture is lit? The action that names it pays 1, the other one nothing; games of 4 steps."""

    actions = 2
    action_names = ("LEFT", "RIGHT")
    observation_shape = (1, 4, 4)
    box = Box(0, 0, 4, 4)

    def __init__(self, envs: int) -> None:
        self.envs = envs

    def reset(self, seed: int) -> VectorStep:
        self.rng = torch.Generator().manual_seed(seed)
        self.number, self.score = 0, torch.zeros(self.envs)
        return self._show(torch.zeros(self.envs), first=True)

    def step(self, actions: Tensor) -> VectorStep:
        self.number += 1
        return self._show((actions == self.right).float(), first=False)

    def _show(self, reward: Tensor, first: bool) -> VectorStep:
        over = torch.full((self.envs,), self.number % 4 == 0 and not first)
        self.score += reward
        score = self.score.clone()
        self.score[over] = 0
        self.right = torch.randint(2, (self.envs,), generator=self.rng)
        picture = torch.zeros(self.envs, 1, 4, 4, dtype=torch.uint8)
        for env, right in enumerate(self.right.tolist()):
            picture[env, :, :, 2 * right : 2 * right + 2] = 255
        nothing = torch.zeros(self.envs, dtype=torch.bool)
        return VectorStep(
            observation=picture,
            reward=reward,
            clipped=reward,
            done=over | first,
            over=over,
            truncated=nothing,
            life_lost=nothing,
            learn=torch.full((self.envs,), not first),
            episode_return=score,
            episode_length=torch.full((self.envs,), 4),
        )

    def snapshot(self) -> list[bytes]:
        raise RequestError("not these")

    def restore(self, snapshot: Any) -> None:
        raise RequestError("not these")

    def close(self) -> None: ...


def signs_agent(seed: int = 0, model: str = "residual-lstm") -> PlayingAgent:
    torch.manual_seed(seed)
    network = {"channels": [4], "units": 16}
    return PlayingAgent(model, (1, 4, 4), 2, {"env": "Signs"}, network)


@pytest.mark.parametrize(
    "learning",
    [
        ImpalaSettings(unroll=4, learning_rate=3e-3),
        ImpalaSettings(unroll=4, optimiser="rmsprop-tensorflow", reduce="sum", clip_norm=40.0, learning_rate=2e-2),
        A3CSettings(unroll=4, learning_rate=1e-2),
    ],
    ids=["impala", "impala-tensorflow", "a3c"],
)
def test_what_can_be_learned_is_learned(learning: ImpalaSettings | A3CSettings) -> None:
    """A random player scores 2 of 4."""
    agent = signs_agent(model="residual")
    actor = Actor(agent, Signs(8), steps=4, seed=0)
    optimiser = optimiser_of(agent.network, learning)
    scores = []
    for _ in range(80):
        unroll = actor.unroll()
        scores += unroll.scores.tolist()
        update(agent.network, optimiser, unroll, learning, rate=learning.learning_rate, autocast=actor.autocast)
    assert 1.5 < sum(scores[:40]) / 40 < 2.6
    assert sum(scores[-80:]) / 80 > 3.5


def unroll_of(seed: int = 0) -> tuple[PlayingAgent, Unroll]:
    agent = signs_agent(seed)
    return agent, Actor(agent, Signs(3), steps=5, seed=seed).unroll()


class TestUnrolls:
    def test_they_overlap_by_a_step_and_hold_the_memory_before_it(self) -> None:
        agent = signs_agent()
        actor = Actor(agent, Signs(3), steps=5, seed=0)
        one, two = actor.unroll(), actor.unroll()
        for name in ("observation", "reward", "action", "done"):
            assert torch.equal(getattr(one.inputs, name)[-1], getattr(two.inputs, name)[0])
        inputs = type(one.inputs)(*(getattr(one.inputs, n)[:-1] for n in ("observation", "reward", "action", "done")))
        with torch.no_grad():
            _, state = agent(inputs, one.state)
        assert two.state.keys() == state.keys()
        for name, part in state.items():
            torch.testing.assert_close(two.state[name], part)
        assert one.scores.shape == (3,) and one.steps == 15

    def test_the_network_that_learns_says_what_the_one_that_played_said(self) -> None:
        """Else V-trace's ratios would correct for a difference that is none."""
        agent, unroll = unroll_of()
        with torch.no_grad():
            output, _ = agent(unroll.inputs, unroll.state)
        torch.testing.assert_close(output.logits[:-1], unroll.behaviour)

    @pytest.mark.parametrize(
        ("model", "network"),
        [
            ("s3ta", SMALL_S3TA),
            ("mask-a3c", ("memory=4", "features=2")),
            ("residual-lstm", ("channels=[4]", "units=8")),
        ],
    )
    def test_gradients_kept_at_play_are_those_of_looking_again(self, model: str, network: tuple[str, ...]) -> None:
        torch.manual_seed(0)
        agent = PlayingAgent(model, (1, 4, 4), 2, {"env": "Signs"}, parse_options(network))
        actor = Actor(agent, Signs(3), steps=5, seed=0, gradients=True)
        actor.unroll()
        unroll = actor.unroll()  # this one begins with a memory
        assert unroll.state and not any(part.requires_grad for part in unroll.state.values())

        def gradient(unroll: Unroll) -> list[Tensor]:
            backward(agent.network, unroll, ImpalaSettings(), actor.autocast)
            return [p.grad.clone() for p in agent.network.parameters() if p.grad is not None]

        again, kept = gradient(replace(unroll, said=None)), gradient(unroll)
        torch.testing.assert_close(kept, again, rtol=1e-4, atol=1e-6)
        assert any(bool((g != 0).any()) for g in kept)

    @pytest.mark.parametrize("learning", [ImpalaSettings(), A3CSettings()])
    def test_what_must_not_be_learned_from_has_no_gradient(self, learning: ImpalaSettings | A3CSettings) -> None:
        agent, unroll = unroll_of()

        def gradient(learn: Tensor, reward: float) -> list[Tensor]:
            changed = unroll.inputs.reward.clone()
            changed[3, 1] = reward  # what transition 2 of environment 1 brought
            seen = replace(unroll, inputs=replace(unroll.inputs, reward=changed), learn=learn)
            # No memory tells the reward to a later step: the episode is over there.
            done = unroll.inputs.done.clone()
            done[3, 1] = True
            seen = replace(seen, inputs=replace(seen.inputs, done=done))
            backward(
                agent.network, seen, replace(learning, clip_norm=1e9), Actor(agent, Signs(3), steps=1, seed=0).autocast
            )
            return [p.grad.clone() for p in agent.network.parameters()]

        every = torch.ones_like(unroll.learn)
        but_one = every.clone()
        but_one[2, 1] = False
        assert any(not torch.equal(a, b) for a, b in zip(gradient(every, 0.0), gradient(every, 1.0), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(gradient(but_one, 0.0), gradient(but_one, 1.0), strict=True))
        nothing = gradient(torch.zeros_like(every), 1.0)
        assert all((g == 0).all() for g in nothing)


# --- runs ------------------------------------------------------------------------------------------------------------


def same(one: Path, other: Path, **case: Any) -> None:
    """Two runs stand at the same place: every tensor and number of their checkpoints, and what they logged."""
    first, second = (Run(d, small(d, **case), resume=True).begin() for d in (one, other))
    assert first is not None and second is not None
    assert first.numbers == second.numbers
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name
    assert metrics(one) == metrics(other)


def metrics(directory: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "steps_per_second"} for row in rows]


TINY_A3C = ("memory=4", "features=2")

CASES = {
    "impala": {"impala": ImpalaSettings(unroll=4, anneal=True)},
    "tensorflow": {"impala": ImpalaSettings(unroll=4, optimiser="rmsprop-tensorflow")},
    "a3c": {"algorithm": "a3c", "model": "mask-a3c", "network": TINY_A3C},
}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a run of a second would go into the picture of its curve, which `test_what_it_leaves` looks at."""
    monkeypatch.setattr("foveate.agents.training.write_curve", lambda directory: None)


@pytest.mark.usefixtures("undrawn")
class TestResuming:
    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_a_stopped_run_ends_as_one_left_alone(self, case: dict[str, Any], tmp_path: Path) -> None:
        """Bit for bit: weights, optimiser, memories, frame statistics, games, random numbers, metrics."""
        alone, stopped = tmp_path / "alone", tmp_path / "stopped"
        train(small(alone, **case))
        # Stopped between two checkpoints, as Ctrl-C does it.
        settings = small(stopped, **case)
        trainer, run, stop = Trainer(settings), Run(stopped, settings), Stop()
        run.begin()
        for metrics in trainer.play(run, stop):
            run.log(trainer.step, metrics)
            stop.asked = True
        run.close()
        assert trainer.step == trainer.saved == 40
        train(replace(settings, resume=True))
        same(alone, stopped, **case)

    def test_a_killed_run_ends_as_one_left_alone(self, tmp_path: Path) -> None:
        alone, killed = tmp_path / "alone", tmp_path / "killed"
        train(small(alone))
        code = (
            "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path\n"
            "from test_agents_learning import small\n"
            "from foveate.agents import training\n"
            "act = training.Trainer._unroll\n"
            "def unroll(self):\n"
            "    if self.step == 72: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return act(self)\n"
            "training.Trainer._unroll = unroll\n"
            "training.train(small(sys.argv[2]))\n"
        )
        words = [sys.executable, "-c", code, str(Path(__file__).parent), str(killed)]
        done = subprocess.run(words, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert not (killed / "agent" / "none").exists() and (killed / "checkpoint.safetensors").exists()
        train(small(killed, resume=True))
        same(alone, killed)

    def test_what_is_run_may_not_change_but_where_and_how_long_may(self, tmp_path: Path) -> None:
        train(small(tmp_path / "before", steps=16))
        tmp_path = (tmp_path / "before").rename(tmp_path / "moved")
        with pytest.raises(RequestError, match="other settings \\(model\\)"):
            train(small(tmp_path, model="s3ta-paper", resume=True))
        train(small(tmp_path, steps=24, overlap=True, log_every=8, resume=True))
        assert PlayingAgent.load(tmp_path / "agent").steps == 24

    @pytest.mark.parametrize(
        "other", [CASES["a3c"], {"environment": EnvironmentSettings("MinAtar/Asterix-v1")}], ids=["model", "game"]
    )
    def test_a_checkpoint_of_another_run_is_refused(self, other: dict[str, Any], tmp_path: Path) -> None:
        train(small(tmp_path / "one", steps=8))
        train(small(tmp_path / "other", steps=8, **other))
        os.replace(tmp_path / "other" / "checkpoint.safetensors", tmp_path / "one" / "checkpoint.safetensors")
        with pytest.raises(RequestError, match=r"is not of this run's s3ta for MinAtar/Breakout-v1; .*--run") as error:
            train(small(tmp_path / "one", steps=16, resume=True))
        assert "\n" not in str(error.value)


class TestStarting:
    def test_it_learns_on_from_another_s_weights_and_what_that_knows_of_its_screens(self, tmp_path: Path) -> None:
        first = train(small(tmp_path / "first", steps=16, whiten=True, seed=1))
        settings = small(tmp_path / "second", steps=16, whiten=True, seed=2, start=str(first))
        before, begun = PlayingAgent.load(first), Trainer(settings)
        begun.begin()
        for agent in (begun.agent, begun.actor.agent):
            assert all(torch.equal(t, agent.state_dict()[name]) for name, t in before.state_dict().items())
        assert begun.step == 0 and not begun.optimiser.state
        begun.close()
        after = PlayingAgent.load(train(settings))
        assert after.steps == 16 and after.fingerprint() != before.fingerprint()

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"model": "mask-a3c", "network": ()}, "model s3ta, not mask-a3c; give"),
            ({"network": ("memory=16",)}, "memory 8, not 16"),
            ({"whiten": True}, "whiten False, not True"),
            ({"environment": EnvironmentSettings("MinAtar/Asterix-v1")}, "actions 3, not 5"),
            ({"start": "nobody"}, "no playing agent at nobody"),
        ],
        ids=["model", "size", "whitened", "game", "none"],
    )
    def test_another_network_s_weights_are_refused(self, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
        first = train(small(tmp_path / "first", steps=8))
        with pytest.raises(RequestError, match=said) as error:
            train(small(tmp_path / "second", **{"start": str(first), **changes}))
        assert "\n" not in str(error.value) and not (tmp_path / "second").exists()


class TestRuns:
    def test_what_it_leaves(self, tmp_path: Path) -> None:
        place = train(small(tmp_path))
        agent = PlayingAgent.load(place)
        assert (agent.model, agent.steps, agent.environment.env) == ("s3ta", 96, "MinAtar/Breakout-v1")
        assert agent.network.settings.memory == 8
        rows = metrics(tmp_path)
        assert [row["step"] for row in rows] == [40, 80, 96]
        # 72 cells on a 5 × 5 map at most: an entropy between nothing and that of a uniform map.
        assert all(0 < row["map_entropy"] <= math.log(25) + 1e-4 for row in rows)
        assert all(0 < row["entropy"] <= math.log(agent.actions) + 1e-5 for row in rows)
        table = (tmp_path / "curve.csv").read_text().splitlines()
        assert table[0].startswith("step,return,length,games") and len(table) == 4
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
        assert list(tmp_path.glob("events*"))

    @pytest.mark.usefixtures("undrawn")
    def test_acting_while_learning(self, tmp_path: Path) -> None:
        """The first unroll is played with the first weights; every later one with those before the last update."""
        settings = small(tmp_path, overlap=True)
        trainer, run = Trainer(settings), Run(tmp_path, settings)
        run.begin()
        first = {name: weight.clone() for name, weight in trainer.agent.state_dict().items()}
        for _ in trainer.play(run):
            pass
        trainer.close()
        assert trainer.step == 96 and trainer.updates == 12
        learned = trainer.agent.state_dict()
        played = trainer.actor.agent.state_dict()
        assert any(not torch.equal(learned[name], first[name]) for name in first)
        assert any(not torch.equal(learned[name], played[name]) for name in first)
        assert any(not torch.equal(played[name], first[name]) for name in first)

    @pytest.mark.usefixtures("undrawn")
    def test_workers_share_what_they_learn(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two processes change the weights of a third, whose run is saved, and goes on."""
        counts, save = [], Run.save

        def counting(run: Run, checkpoint: Checkpoint) -> None:
            counts.append((checkpoint.numbers["updates"], float(checkpoint.tensors["optimiser.0.step"])))
            save(run, checkpoint)

        monkeypatch.setattr(Run, "save", counting)
        settings = small(
            tmp_path,
            algorithm="a3c",
            workers=2,
            steps=48,
            log_every=16,
            checkpoint_every=16,
            model="a3c",
            network=TINY_A3C,
        )
        first = {name: weight.clone() for name, weight in Trainer(settings).agent.state_dict().items()}
        place = train(settings)
        learned = PlayingAgent.load(place)
        assert learned.steps == 48
        assert any(not torch.equal(weight, first[name]) for name, weight in learned.state_dict().items())
        # The optimiser's counts are the workers': unlocked, an update may be lost, but not most of them. They stand
        # still while they are read, so that there is none that was not counted.
        assert [updates for updates, _ in counts] == [4, 8, 12]
        assert all(updates / 2 <= steps <= updates for updates, steps in counts)
        kept = Run(tmp_path, settings, resume=True).begin()
        assert kept is not None and kept.numbers["updates"] == 12
        Trainer(settings).restore(kept)

    @pytest.mark.usefixtures("undrawn")
    def test_a_worker_s_loss_that_is_not_a_number_stops_the_run(self, tmp_path: Path) -> None:
        settings = small(
            tmp_path,
            algorithm="a3c",
            a3c=A3CSettings(unroll=4, learning_rate=1e30),
            workers=1,
            checkpoint_every=8,
            model="a3c",
            network=TINY_A3C,
        )
        with pytest.raises(RequestError, match=r"not finite at step 8 \(update 2\); the last checkpoint, of step 8"):
            train(settings)
        kept = Run(tmp_path, settings, resume=True).begin()
        assert kept is not None and kept.numbers["step"] == 8
        assert all(bool(t.isfinite().all()) for t in kept.tensors.values() if t.is_floating_point())

    def test_a_loss_that_is_not_a_number_stops_at_the_last_checkpoint(self, tmp_path: Path) -> None:
        settings = small(tmp_path, checkpoint_every=16)
        trainer, run = Trainer(settings), Run(tmp_path, settings)
        run.begin()
        act = trainer._unroll

        def poisoned() -> Unroll:
            unroll = act()
            if trainer.step < 24:
                return unroll
            reward = unroll.inputs.reward.clone()
            reward[2, 0] = float("nan")
            return replace(unroll, inputs=replace(unroll.inputs, reward=reward))

        trainer._unroll = poisoned  # type: ignore[method-assign]
        with pytest.raises(
            RequestError, match=r"loss is nan at step 24 \(update 4\); the last checkpoint, of step 16"
        ) as e:
            for _ in trainer.play(run):
                pass
        assert "\n" not in str(e.value)
        kept = Run(tmp_path, settings, resume=True).begin()
        assert kept is not None and kept.numbers["step"] == 16
        assert all(bool(t.isfinite().all()) for t in kept.tensors.values() if t.is_floating_point())
        # The update was not made either.
        assert all(bool(p.isfinite().all()) for p in trainer.agent.parameters())

    @pytest.mark.usefixtures("undrawn")
    def test_a_full_disk_leaves_the_last_checkpoint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in TestResuming, but what ends the run is that no file may grow."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        save = Run.save

        def running_full(run: Run, checkpoint: Checkpoint) -> None:
            if checkpoint.numbers["step"] == 96:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            try:
                save(run, checkpoint)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        alone, full = tmp_path / "alone", tmp_path / "full"
        train(small(alone))
        with monkeypatch.context() as patch:
            patch.setattr(Run, "save", running_full)
            with pytest.raises(Exception, match="File too large"):
                train(small(full))
        kept = Run(full, small(full), resume=True).begin()
        assert kept is not None and kept.numbers["step"] == 48
        train(small(full, resume=True))
        same(alone, full)

    def test_a_game_whose_state_cannot_be_taken_goes_on_with_new_games(self) -> None:
        actor = Actor(signs_agent(), Signs(3), steps=5, seed=0)
        first = actor.step
        actor.unroll()
        kept = actor.state_dict()
        assert kept.keys() == {"generator"}
        actor.load_state_dict(kept)
        again = [actor.step]
        actor.load_state_dict(kept)
        again.append(actor.step)
        assert torch.equal(again[0].observation, again[1].observation)
        assert not torch.equal(again[0].observation, first.observation) or not torch.equal(
            actor.unroll().inputs.observation,
            Actor(signs_agent(), Signs(3), steps=5, seed=0).unroll().inputs.observation,
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", "MinAtar/Chess-v1"], "MinAtar/Chess-v1"),
        (["--env", "ALE/Chess-v5"], "there is no Atari game 'ALE/Chess-v5'"),
        (["--env", "MinAtar/Breakout-v1", "--model", "alphago"], "no model is called 'alphago'; there is s3ta"),
        (["--env", "MinAtar/Breakout-v1", "--network", "legs=3"], "no setting legs"),
        (["--env", "MinAtar/Breakout-v1", "--network", "legs"], "NAME=VALUE"),
        (["--env", "MinAtar/Breakout-v1", "--algorithm", "dqn"], "dqn"),
        (["--env", "MinAtar/Breakout-v1", "--envs", "0"], "--envs is 0"),
        (["--env", "MinAtar/Breakout-v1", "--device", "abacus"], "no device 'abacus'"),
        (["--env", "MinAtar/Breakout-v1", "--preset", "best"], "unknown preset 'best'"),
        (["--model", "s3ta"], "--env"),
    ],
)
def test_wrong_requests_are_told_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["agent", "train", "--run", str(tmp_path / "run"), *words])
    assert exit.value.code == 2
    told = capsys.readouterr()
    assert told.out == "" and said in told.err and len(told.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_minatar_s_preset_is_where_flags_start_from(tmp_path: Path) -> None:
    # In a process of its own: required flags are placeholders, which the run-time check of types would refuse.
    words = ["--env", "MinAtar/Breakout-v1", "--run", str(tmp_path / "run"), "--preset", "minatar", "--threads", "1"]
    command = [sys.executable, "-m", "foveate", "agent", "train", *words, "--steps", "160", "--a3c.clip-norm", "2"]
    subprocess.run(command, check=True, capture_output=True)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))
    learner = settings["a3c"]
    assert (settings["algorithm"], learner["learning_rate"], learner["anneal"]) == ("a3c", 1e-3, True)
    assert (learner["clip_norm"], learner["entropy_cost"], settings["steps"]) == (2, 0.02, 160)
    assert PlayingAgent.load(tmp_path / "run" / "agent").network.settings.memory == 24


def test_atari_s_preset_is_of_whitened_grey_screens_and_a_network_for_them(tmp_path: Path) -> None:
    from foveate.agents.presets import atari

    said = atari(small(tmp_path))
    assert (said.whiten, said.algorithm, said.environment.screen, said.environment.size) == (
        True,
        "a3c",
        "grey",
        (64, 64),
    )
    network = build("s3ta", (1, *said.environment.size), 4, parse_options(said.network))
    assert (network.grid.height, network.grid.width, len(network.heads)) == (8, 8, 8)


def test_the_paper_s_learner(tmp_path: Path) -> None:
    """Appendix A.1, by the flag."""
    from foveate.agents.presets import paper

    settings = paper(small(tmp_path))
    said = settings.impala
    assert (settings.envs, said.unroll, said.learning_rate, said.epsilon, said.clip_norm) == (
        32,
        50,
        2e-4,
        0.01,
        1280.0,
    )
    assert (said.optimiser, said.decay, said.entropy_cost, said.discount, said.reduce) == (
        "rmsprop-tensorflow",
        0.99,
        0.01,
        0.99,
        "sum",
    )
