"""Whitening: the formula, a part of a screen, what random play measures, and that a run keeps it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from foveate.agents import whitening
from foveate.agents.a3c import A3CSettings
from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import open_environments
from foveate.agents.games import EnvironmentSettings
from foveate.agents.models import MODELS
from foveate.agents.models.interface import AgentInputs, AgentNetwork
from foveate.agents.models.scaling import Whitened
from foveate.agents.training import Trainer, TrainSettings, train
from foveate.agents.whitening import usual

BREAKOUT = EnvironmentSettings(env="MinAtar/Breakout-v1")


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "STEPS", 100)


def known(shape: tuple[int, int, int], seed: int = 0) -> Whitened:
    rng = torch.Generator().manual_seed(seed)
    whitened = Whitened(shape)
    whitened.measure(torch.rand(shape, generator=rng), torch.rand(shape, generator=rng) * 0.3)
    return whitened


def shown(screen: torch.Tensor) -> AgentInputs:
    """One step of one environment."""
    return AgentInputs(
        screen[None, None], torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.bool)
    )


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(0, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_a_part_is_whitened_as_the_whole(top: int, left: int, high: int, wide: int, seed: int) -> None:
    whitened = known((2, 7, 8))
    screens = torch.randint(256, (3, 2, 7, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    whole = whitened(screens)
    place = (..., slice(top, top + high), slice(left, left + wide))
    torch.testing.assert_close(whitened(screens[place], top, left), whole[place])
    # Naively, pixel by pixel.
    mean, deviation = whitened.mean.numpy(), whitened.deviation.numpy()
    expected = np.clip((screens.numpy() / 255 - mean) / (deviation + 0.05), -5, 5)
    np.testing.assert_allclose(whole.numpy(), expected, atol=1e-4)


def test_bytes_and_floating_point_are_whitened_alike() -> None:
    whitened, screen = known((1, 4, 4)), torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4) * 15
    torch.testing.assert_close(whitened(screen), whitened(screen.float() / 255))


def test_random_play_says_what_is_usual() -> None:
    """As numpy finds over the same screens."""
    with closing(open_environments(BREAKOUT, 4)) as games:
        mean, deviation = usual(games, seed=3)
        step, generator, screens = games.reset(3), torch.Generator().manual_seed(3), []
        for _ in range(25):
            screens.append(step.observation.numpy() / 255)
            step = games.step(torch.randint(games.actions, (4,), generator=generator))
    together = np.concatenate(screens)
    np.testing.assert_allclose(mean.numpy(), together.mean(0), atol=1e-6)
    np.testing.assert_allclose(deviation.numpy(), together.std(0), atol=1e-4)
    assert deviation.max() > 0.1


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_every_model_is_shown_whitened_screens(name: str) -> None:
    """The same numbers as from a plain network that is given what the whitened one makes of a screen."""
    shape, environment = (4, 10, 10), {"env": "MinAtar/Breakout-v1"}
    torch.manual_seed(0)
    # The published normalisation of frames, which is for bytes alone, would tell the two apart.
    asked = {"normalise": False} if name.endswith("a3c") else {}
    agent = PlayingAgent(name, shape, 3, environment, asked, whiten=True).eval()
    agent.network.scale = known(shape)
    plain = PlayingAgent(name, shape, 3, environment, asked).eval()
    weights = agent.network.state_dict()
    plain.network.load_state_dict({n: w for n, w in weights.items() if not n.startswith("scale.")})
    screen = torch.randint(256, shape, dtype=torch.uint8)
    ours, _ = agent(shown(screen), agent.initial_state(1))
    theirs, _ = plain(shown(agent.network.scale(screen)), plain.initial_state(1))
    torch.testing.assert_close(ours.logits, theirs.logits)
    assert not torch.allclose(ours.logits, plain(shown(screen), plain.initial_state(1))[0].logits)


@torch.inference_mode()
def test_other_screens_in_a_part_are_whitened_in_their_place() -> None:
    shape = (1, 41, 33)
    torch.manual_seed(0)
    agent = PlayingAgent("s3ta", shape, 3, {"env": "ALE/Breakout-v5"}, {"memory": 16}, whiten=True).eval()
    agent.network.scale = known(shape)
    state, inputs = agent.initial_state(1), shown(torch.randint(256, shape, dtype=torch.uint8))
    part, whole = agent.network.what_if(inputs, state), AgentNetwork.what_if(agent.network, inputs, state)
    for top, left in ((0, 0), (17, 9), (36, 27)):
        patches = torch.randint(256, (3, 1, 5, 6), dtype=torch.uint8)
        ours, theirs = part(patches, top, left), whole(patches, top, left)
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.value, theirs.value, atol=1e-5, rtol=1e-4)


def settings_of(run: Path, steps: int, **changed: object) -> TrainSettings:
    learner = A3CSettings(unroll=5)
    return TrainSettings(
        run=str(run), environment=BREAKOUT, algorithm="a3c", a3c=learner, whiten=True, envs=2, steps=steps, threads=1,
        checkpoint_every=20, log_every=20, **changed,
    )  # fmt: skip


def test_a_run_measures_once_and_keeps_it(tmp_path: Path) -> None:
    """A resumed run goes on with what the first one measured, to the same weights; and the agent takes it along."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(settings_of(whole, 60))
    train(settings_of(parted, 20))
    train(settings_of(parted, 60, resume=True))
    ours, theirs = (load_file(run / "agent" / "model.safetensors") for run in (parted, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert json.loads((whole / "agent" / "config.json").read_text(encoding="utf-8"))["whiten"] is True
    loaded = PlayingAgent.load(whole / "agent")
    with closing(open_environments(BREAKOUT, 2)) as games:
        mean, _ = usual(games, seed=0)
    assert isinstance(loaded.network.scale, Whitened)
    torch.testing.assert_close(loaded.network.scale.mean, mean)


def test_an_actor_with_weights_of_its_own_sees_whitened_screens_from_the_first_step(tmp_path: Path) -> None:
    trainer = Trainer(settings_of(tmp_path / "run", 20, overlap=True))
    with closing(trainer):
        trainer.begin()
        acting, learning = trainer.actor.agent.network.scale, trainer.agent.network.scale
        assert acting is not learning
        assert torch.equal(acting.mean, learning.mean) and not torch.equal(acting.mean, torch.zeros(4, 10, 10))


def test_an_agent_from_before_there_was_whitening_is_shown_plain_screens() -> None:
    agent = PlayingAgent.load("minatar-breakout-s3ta")
    assert not agent.whiten and not list(agent.network.scale.parameters()) and not list(agent.network.scale.buffers())
