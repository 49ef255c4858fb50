"""Playing agents: published weights, saving and loading, scores."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ale_py")
pytest.importorskip("minatar")

from foveate.agents import human_scores
from foveate.agents.agent import PlayingAgent, import_mask_a3c
from foveate.agents.evaluation import Evaluation, EvaluationSettings, evaluate_agent
from foveate.agents.games import EnvironmentSettings, open_game, published_mask_a3c
from foveate.agents.models.interface import AgentInputs
from foveate.agents.player import choose
from foveate.cli import main
from foveate.errors import RequestError

OFFICIAL = Path(__file__).parents[2] / "shared" / "official" / "mask_a3c"
GAMES = ("Breakout", "MsPacman", "SpaceInvaders")
SMALL = EnvironmentSettings("MinAtar/Breakout-v1")


def published(game: str) -> Path:
    file = OFFICIAL / f"{game}NoFrameskip-v4_Mask-A3C-double+ConvLSTM_best.dat"
    if not file.exists():
        pytest.skip("the published weights are not beside the repository (../shared/official/mask_a3c)")
    return file


def small_agent(model: str = "s3ta", seed: int = 0) -> PlayingAgent:
    torch.manual_seed(seed)
    settings = {"memory": 16, "core": 16, "answer_units": [32, 16], "query_units": [16]} if model == "s3ta" else {}
    return PlayingAgent(model, (4, 10, 10), 3, asdict(SMALL), settings, steps=7).eval()


class TestImport:
    @pytest.mark.parametrize("game", GAMES)
    def test_golden_values(self, game: str) -> None:
        agent = import_mask_a3c(published(game))
        golden = {k: torch.from_numpy(v) for k, v in np.load(OFFICIAL / f"{game}_golden.npz").items()}
        zeros = torch.zeros(12, 1)
        inputs = AgentInputs(golden["obs"], zeros, zeros.long(), zeros.bool())
        output, state = agent(inputs, agent.initial_state(1), observe=True)
        close = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(output.logits, golden["logits"], **close)
        torch.testing.assert_close(output.value, golden["value"][..., 0], **close)
        torch.testing.assert_close(output.attention.maps[:, :, 0], golden["policy_mask"][:, 0], **close)
        torch.testing.assert_close(output.attention.maps[:, :, 1], golden["value_mask"][:, 0], **close)
        torch.testing.assert_close(state["vision"], golden["hx"], **close)
        torch.testing.assert_close(state["vision_cell"], golden["cx"], **close)

    def test_it_knows_its_game(self, tmp_path: Path) -> None:
        agent = import_mask_a3c(published("MsPacman"))
        assert agent.environment == published_mask_a3c("ALE/MsPacman-v5")
        game = open_game(agent.environment)
        agent.check(game.observation_shape, game.actions, agent.environment.env)
        with pytest.raises(RequestError, match="plays ALE/MsPacman-v5"):
            agent.check((1, 80, 80), 4, "ALE/Breakout-v5")

    def test_the_command(self, tmp_path: Path, capsys) -> None:
        with pytest.raises(SystemExit) as done:
            main(["import", "mask-a3c", str(published("Breakout")), "--output", str(tmp_path / "agent")])
        assert done.value.code == 0
        agent, direct = PlayingAgent.load(tmp_path / "agent"), import_mask_a3c(published("Breakout"))
        for name, tensor in direct.state_dict().items():
            assert torch.equal(tensor, agent.state_dict()[name]), name
        assert "Apache-2.0" in json.loads((tmp_path / "agent" / "config.json").read_text())["source"]

    @pytest.mark.parametrize("content", [b"", b"not a tensor", None])
    def test_other_files_are_refused(self, content: bytes | None, tmp_path: Path) -> None:
        file = tmp_path / "Breakout_x.dat"
        if content is None:
            torch.save({"actor_linear.weight": torch.zeros(4, 3200)}, file)
        else:
            file.write_bytes(content)
        with pytest.raises(RequestError, match="is not a double-masked network"):
            import_mask_a3c(file)
        with pytest.raises(RequestError, match="no such file"):
            import_mask_a3c(tmp_path / "none.dat")


class TestSaving:
    @pytest.mark.parametrize("model", ["s3ta", "mask-a3c", "residual-lstm"])
    def test_nothing_is_lost(self, model: str, tmp_path: Path) -> None:
        agent = small_agent(model)
        agent.save_pretrained(tmp_path)
        assert sorted(f.name for f in tmp_path.iterdir() if f.suffix != ".md") == ["config.json", "model.safetensors"]
        again = PlayingAgent.load(tmp_path)
        assert (again.model, again.environment, again.steps) == (model, SMALL, 7)
        assert again.network.settings == agent.network.settings
        kept = json.loads((tmp_path / "config.json").read_text())
        assert kept["settings"].keys() == asdict(agent.network.settings).keys(), "defaults too: they may change"
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in agent.state_dict().items())

    def test_what_is_no_agent_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="no playing agent"):
            PlayingAgent.load(tmp_path / "nothing")
        small_agent().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"model": "mask-a3c", "settings": {}}))
        with pytest.raises(RequestError, match="no playing agent"):
            PlayingAgent.load(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config | {"model": "s5ta"}))
        with pytest.raises(RequestError, match="no model is called"):
            PlayingAgent.load(tmp_path)


class TestEvaluation:
    def test_every_game_counts_once(self) -> None:
        """Five games in two environments; parallel or not, each environment's games are the same."""
        agent = small_agent()
        settings = EvaluationSettings("here", episodes=5, parallel=2, sample=True)
        result = evaluate_agent(agent, settings)
        assert len(result.scores) == len(result.lengths) == 5
        assert result == evaluate_agent(agent, settings), "the seed decides"
        assert result.scores != evaluate_agent(agent, replace(settings, seed=1, episodes=5)).scores or (
            result.lengths != evaluate_agent(agent, replace(settings, seed=1)).lengths
        )
        assert all(length > 2 for length in result.lengths) and result.cut_off == 0

    def test_scores_are_the_games_own(self) -> None:
        """Played by hand beside it."""
        agent = small_agent()
        result = evaluate_agent(agent, EvaluationSettings("here", episodes=1))
        game = open_game(SMALL)
        seed = int(np.random.SeedSequence(0).spawn(1)[0].generate_state(1)[0])
        observation, state, score, steps = game.reset(seed), agent.initial_state(1), 0.0, 0
        reward, action, first = torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1).bool()
        over = False
        while not over:
            inputs = AgentInputs(torch.from_numpy(observation)[None, None], reward, action, first)
            with torch.no_grad():
                output, state = agent(inputs, state)
            action = output.logits.argmax(-1)
            turn = game.step(int(action))
            observation, over, score, steps = turn.observation, turn.over, score + turn.reward, steps + 1
            reward, first = torch.tensor([[turn.reward]]).clamp(-1, 1), torch.zeros(1, 1).bool()
        assert (result.scores, result.lengths) == ((score,), (steps,))

    def test_games_may_be_cut_off(self) -> None:
        result = evaluate_agent(small_agent(), EvaluationSettings("here", episodes=3, max_steps=4))
        assert result.cut_off == 3 and result.lengths == (4, 4, 4)

    def test_on_atari(self) -> None:
        torch.manual_seed(0)
        environment = EnvironmentSettings("ALE/Pong-v5", screen="grey", size=(40, 40))
        agent = PlayingAgent("a3c", (1, 40, 40), 6, asdict(environment)).eval()
        result = evaluate_agent(agent, EvaluationSettings("here", episodes=1, max_steps=12, sticky=0.25))
        assert result.lengths[0] <= 12 and result.cut_off == 1 and result.sticky == 0.25
        assert result.human_normalised == pytest.approx((result.scores[0] + 20.7) / 35.3)
        with pytest.raises(RequestError, match="this agent plays"):
            evaluate_agent(agent, EvaluationSettings("here", env="ALE/Breakout-v5"))

    def test_the_interval_holds_the_mean(self) -> None:
        result = Evaluation("a", "ALE/Breakout-v5", (1.7, 30.5, 59.3), (3, 4, 5), 1, False, 0.0, 0)
        told = json.loads(result.to_json())
        assert told["mean"] == pytest.approx(30.5) and told["max"] == 59.3 and told["low"] < 30.5 < told["high"]
        assert told["human_normalised"] == pytest.approx(1)
        assert "100.0%" in result.to_text() and "1 cut off" in result.to_text()

    def test_the_command(self, tmp_path: Path, capsys) -> None:
        small_agent().save_pretrained(tmp_path)
        with pytest.raises(SystemExit) as done:
            main(["agent", "evaluate", "--agent", str(tmp_path), "--episodes", "2", "--json"])
        told = json.loads(capsys.readouterr().out)
        assert done.value.code == 0 and len(told["scores"]) == 2 and told["human_normalised"] is None

    def test_sampling_follows_the_policy(self) -> None:
        logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(4000, 3)
        drawn = choose(logits, torch.Generator().manual_seed(0))
        assert (drawn.bincount(minlength=3) / 4000 - torch.tensor([0.7, 0.2, 0.1])).abs().max() < 0.03
        assert (choose(logits, None) == 0).all()


def test_human_scores() -> None:
    """The table is whole, its names are ROMs', and it agrees with figures that papers name."""
    assert len(human_scores.SCORES) == 57
    from foveate.agents.games import _roms

    assert human_scores.SCORES.keys() <= set(_roms())
    assert all(human > random for random, human in human_scores.SCORES.values())
    # S3TA's Table 3: 21 in Pong is 118.1%; ANCHORS: Breakout 660 is 2284%.
    assert human_scores.human_normalised("pong", 21.0) == pytest.approx(1.181, abs=1e-3)
    assert human_scores.human_normalised("breakout", 659.6) == pytest.approx(22.842, abs=0.01)
    assert human_scores.human_normalised("tetris", 3.0) is None
