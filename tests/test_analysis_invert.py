"""Attention inverted, moved and levelled: what each must do to agents whose attention is known by construction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("minatar", reason="needs the extra `agents`")

from mapped import by_brightness, by_place, player
from test_agents_trace import agent_of

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import conditions, invert
from foveate.agents.analysis.conditions import STEPS, Play, difference, play_all, ratio, value_changed
from foveate.agents.analysis.edits import as_bright, inverted, inverted_weights, level, shuffled, shuffled_once
from foveate.agents.analysis.invert import PUBLISHED
from foveate.agents.analysis.subject import Subject
from foveate.agents.evaluation import EvaluationSettings, Played, evaluate_agent
from foveate.agents.models.interface import Edit
from foveate.bootstrap import bootstrap_ratio
from foveate.cli import main
from foveate.errors import RequestError


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class TestMaps:
    weights = torch.rand(5, 3, 4, 6, generator=rng()).flatten(2).softmax(2).view(5, 3, 4, 6)

    def test_inverse_of_weights(self) -> None:
        upside_down = inverted_weights(self.weights)
        torch.testing.assert_close(upside_down.sum((2, 3)), torch.ones(5, 3))
        assert torch.equal(upside_down.flatten(2).argsort(2), self.weights.flatten(2).argsort(2).flip(2))
        assert (upside_down.flatten(2).gather(2, self.weights.flatten(2).argmax(2, keepdim=True)) == 0).all()
        uniform = torch.full((1, 1, 4, 6), 1 / 24)
        torch.testing.assert_close(inverted_weights(uniform), uniform)

    def test_as_bright(self) -> None:
        masks = torch.rand(5, 1, 4, 6, generator=rng()) ** 3
        scaled = as_bright(inverted(masks), masks)
        torch.testing.assert_close(scaled.mean((2, 3)), masks.mean((2, 3)))
        assert (scaled / inverted(masks)).flatten(2).std(2).max() < 1e-5

    def test_level(self) -> None:
        torch.testing.assert_close(level(self.weights), torch.full_like(self.weights, 1 / 24))

    def test_shuffled(self) -> None:
        same = self.weights[:1, :1].expand(5, 3, -1, -1)
        change = shuffled(rng())
        places = torch.cat([change(same), change(same)]).flatten(2)
        assert torch.equal(places.sort(2).values, same.flatten(2).sort(2).values.repeat(2, 1, 1))
        assert len(places.flatten(0, 1).unique(dim=0)) == 30  # another order in every frame and head

    def test_shuffled_once(self) -> None:
        same = self.weights[:1, :1].expand(5, 3, -1, -1)
        change = shuffled_once(rng())
        places = torch.cat([change(same), change(same[:2])]).flatten(2)
        assert torch.equal(places[0].sort(1).values, same[0].flatten(1).sort(1).values)
        assert len(places.unique(dim=0)) == 1 and len(places[0].unique(dim=0)) == 3


def played(agent: PlayingAgent, place: Path, games: int = 4) -> dict[str, Played]:
    subject = Subject(agent="made by hand", output=place)
    return play_all(agent, subject, Play(episodes=games, max_steps=80, parallel=games), invert.conditions(agent))


class TestWhatIsKnownByConstruction:
    def test_a_mask_in_vain(self, tmp_path: Path) -> None:
        games = played(player(by_place, ignores=True), tmp_path)
        normal = games["normal"]
        assert min(normal.scores) >= 1
        for name, score in games.items():
            if name != "random play":
                assert score == normal, name
        said = invert.findings(games, invert.conditions(player(by_place)), None, None, {}).sentences
        assert "inversion says nothing" in said[-1] and " 0.0% [0.0, 0.0]" in said[0]

    def test_brightness_alone(self, tmp_path: Path) -> None:
        games = played(player(by_brightness), tmp_path)
        for name in ("shuffled", "shuffled once", "constant", "inverted, as bright"):
            assert games[name] == games["normal"], name
        assert min(games["normal"].scores) >= 1 and max(games["inverted"].scores) == 0
        said = invert.findings(games, invert.conditions(player(by_place)), None, None, {}).sentences
        assert "it is the brightness that costs" in " ".join(said) and "inversion says nothing" in said[-1]

    def test_place_alone(self, tmp_path: Path) -> None:
        games = played(player(by_place), tmp_path)
        for name in ("inverted", "constant", "inverted, as bright"):
            assert max(games[name].scores) == 0, name
        for name in ("shuffled", "shuffled once"):
            assert difference(games["normal"], games[name]).low > 0
        said = invert.findings(games, invert.conditions(player(by_place)), None, None, {}).sentences
        assert "constant costs already 100% [100, 100]" in said[-1]
        assert "not the brightness that costs" in " ".join(said) and "constant; so its drop" in said[-1]
        assert ": 100.0% [100.0, 100.0] less" in said[0]

    def test_the_value_alone(self, tmp_path: Path) -> None:
        agent = player(by_place)
        found = value_changed(agent, agent.environment, Subject(agent="", output=tmp_path), inverted)
        assert (found.steps, found.logits) == (4 * STEPS, 0)
        assert (found.value, found.changed) == pytest.approx((0.108, 0.892), abs=1e-3)


class TestGames:
    def test_a_condition_is_an_edit_of_evaluation(self, tmp_path: Path) -> None:
        agent = agent_of("MinAtar/Breakout-v1")
        subject = Subject(agent="x", output=tmp_path, sample=True)
        games = play_all(agent, subject, Play(episodes=3, parallel=3), invert.conditions(agent))
        seed = int(conditions.np.random.SeedSequence((0, 0)).generate_state(1)[0])
        same = EvaluationSettings(agent="x", episodes=3, parallel=3, sample=True, seed=seed)
        assert evaluate_agent(agent, same).scores == games["normal"].scores
        assert evaluate_agent(agent, same, edit=Edit(maps=inverted_weights)).scores == games["inverted"].scores

    def test_an_interrupted_one_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        agent = agent_of("MinAtar/Breakout-v1", "mask-a3c")
        subject = Subject(agent="x", output=tmp_path / "a", sample=True)
        whole = play_all(agent, subject, Play(episodes=5, parallel=2), invert.conditions(agent))
        batches: list[str] = []
        last = 5
        batch = conditions._batch

        def counted(*arguments: object) -> Played:
            batches.append(arguments[2].name)  # type: ignore[attr-defined]
            if len(batches) == last:
                raise KeyboardInterrupt
            return batch(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(conditions, "_batch", counted)
        subject = Subject(agent="x", output=tmp_path / "b", sample=True)
        with pytest.raises(KeyboardInterrupt):
            play_all(agent, subject, Play(episodes=5, parallel=2), invert.conditions(agent))
        assert batches == ["normal"] * 3 + ["inverted"] * 2
        with pytest.raises(RequestError, match="add --resume"):
            play_all(agent, subject, Play(episodes=5, parallel=2), invert.conditions(agent))
        with pytest.raises(RequestError, match=r"of others \(seed\)"):
            other = Subject(agent="x", output=tmp_path / "b", sample=True, seed=1)
            play_all(agent, other, Play(episodes=5, parallel=2, resume=True), invert.conditions(agent))
        batches.clear()
        last = 0
        on = Play(episodes=5, parallel=2, resume=True)
        assert play_all(agent, subject, on, invert.conditions(agent)) == whole
        assert batches[:3] == ["inverted"] * 2 + ["random play"]
        batches.clear()
        # More games go on from the last whole batch; fewer are the first ones.
        more = play_all(agent, subject, Play(episodes=6, parallel=2, resume=True), invert.conditions(agent)[:1])
        assert more["normal"].scores[:4] == whole["normal"].scores[:4] and batches == ["normal"]
        few = play_all(agent, subject, Play(episodes=2, parallel=2, resume=True), invert.conditions(agent)[:1])
        assert few["normal"].scores == whole["normal"].scores[:2]
        agent.network.policy.output.bias.data += 1  # type: ignore[union-attr]
        with pytest.raises(RequestError, match=r"of others \(weights\)"):
            play_all(agent, subject, on, invert.conditions(agent))
        (tmp_path / "b" / "games.json").write_text("{")
        with pytest.raises(RequestError, match="does not hold games"):
            play_all(agent, subject, on, invert.conditions(agent))

    def test_parts(self) -> None:
        few, many = Played((1.0, 2.0, 3.0), (1,) * 3, (False,) * 3), Played((4.0, 4.0, 4.0), (1,) * 3, (False,) * 3)
        part = ratio(few, many)
        assert part is not None and part.mean == 0.5 and 0.25 <= part.low < 0.5 < part.high <= 0.75
        assert ratio(many, Played((-1.0, 1.0, 3.0), (1,) * 3, (False,) * 3)) is None
        # Pong's -20 is not 217% less than its 17.
        assert ratio(Played((-20.0, -21.0, -20.0), (1,) * 3, (False,) * 3), many) is None
        twice = torch.rand(30, 1, generator=rng()) + 1
        exact = bootstrap_ratio(torch.cat([2 * twice, twice], 1), rng())
        assert (exact.mean, exact.low, exact.high) == pytest.approx((2, 2, 2))
        with pytest.raises(ValueError):
            bootstrap_ratio(torch.zeros(3, 2), rng())

    @pytest.mark.parametrize("model", ["value-mask-a3c", "a3c", "residual"])
    def test_what_has_no_attention_on_its_policy(self, model: str, tmp_path: Path) -> None:
        agent = PlayingAgent(model, (4, 10, 10), 3, {"env": "MinAtar/Breakout-v1"})
        with pytest.raises(RequestError, match="take a"):
            invert.conditions(agent)


def test_table_3_follows_from_table_2() -> None:
    for (_, game), row in PUBLISHED.items():
        if game != "fishing_derby":
            for which in (0, 1):
                assert 100 * (1 - row.inverted[which] / row.normal[which]) == pytest.approx(
                    row.decrease[which], abs=0.015
                )


@pytest.mark.parametrize("model", ["mask-a3c", "s3ta"])
def test_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_of("MinAtar/Breakout-v1", model).save_pretrained(tmp_path / "agent")
    words = ["agent", "analyse", "invert", "--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--episodes", "3", "--max-steps", "40", "--sample"])
    assert end.value.code == 0
    assert "inverted the agent scores" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "numbers.json").read_text())
    rows = found["numbers"]["conditions"]
    expected = {"normal", "inverted", "random play", "shuffled", "shuffled once", "constant"}
    assert rows.keys() == expected | ({"inverted, as bright"} if model == "mask-a3c" else set())
    assert all(len(row["scores"]) == row["games"] == 3 for row in rows.values())
    assert (found["numbers"]["value_inverted"] is None) == (model == "s3ta")
    assert found["numbers"]["paper"] is None and found["protocol"]["episodes"] == 3
    assert (tmp_path / "out" / "scores.svg").stat().st_size and (tmp_path / "out" / "index.html").stat().st_size


def test_sentences_have_the_papers_figures() -> None:
    def games(*scores: float) -> Played:
        return Played(scores, (1,) * len(scores), (False,) * len(scores))

    scores = {
        "normal": games(100.0, 120.0),
        "inverted": games(10.0, 12.0),
        "random play": games(9.0, 14.0),
        "constant": games(50.0, 60.0),
    }
    paper = PUBLISHED["mask-a3c", "ms_pacman"]
    agent = agent_of("MinAtar/Breakout-v1", "mask-a3c")
    found = invert.findings(scores, invert.conditions(agent), paper, None, {})
    assert "90.0% [90.0, 90.0] less" in found.sentences[0] and "96.34%" in found.sentences[0]
    assert "constant costs already 56% [" in found.sentences[-1] and "claim holds" in found.sentences[-1]
    assert [row[0] for row in found.tables[1].rows] == ["normal", "inverted", "random play", "decrease (%)"]
    assert found.tables[1].rows[3][1:] == ["90.00 [90.00, 90.00]", "90.00", "96.34", "93.79"]
