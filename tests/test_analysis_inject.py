"""Injected sprites: pasted exactly, into the same game, and seen by agents that look for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import BALL, LooksAtOneSprite, agent_that

pytest.importorskip("ale_py", reason="needs the extra `agents`")
pytest.importorskip("minatar", reason="needs the extra `agents`")

from test_agents_trace import agent_of

from foveate.agents.analysis.inject import Settings, analyse, mass, variation
from foveate.agents.analysis.rolled import cells_under, elsewhere, roll, together
from foveate.agents.analysis.sprites import LUMINANCE, SHAPES, Sprite, cut, named, paste
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.screens import Box, area
from foveate.agents.trace import record
from foveate.cli import main
from foveate.errors import RequestError

BREAKOUT = "MinAtar/Breakout-v1"


def test_a_sprite_is_pasted_where_it_is_told() -> None:
    picture = np.full((6, 5, 3), 100, np.uint8)
    pixels = np.full((2, 3, 3), 200, np.float32)
    sprite = Sprite(pixels, np.array([[1, 0, 0.5], [1, 1, 1]], np.float32), "x")
    painted = paste(picture, sprite, 1, 1)
    assert painted[1, 1:4, 0].tolist() == [200, 100, 150] and painted[2, 1:4, 0].tolist() == [200] * 3
    assert (painted != 100).any(2).sum() == 5 and (picture == 100).all()
    assert (paste(picture, sprite, -1, 4) != 100).any(2).nonzero()[0].tolist() == [0]
    assert (paste(picture, sprite, 6, 0) == 100).all() and (paste(picture, sprite, 0, -3) == 100).all()


def test_a_grey_screen_takes_the_luminance() -> None:
    sprite = Sprite(np.array([[[255, 0, 0]]], np.float32), np.ones((1, 1), np.float32), "x")
    painted = paste(np.zeros((2, 2), np.uint8), sprite, 1, 0)
    assert painted.tolist() == [[0, 0], [76, 0]]
    assert LUMINANCE.sum() == pytest.approx(1)


def test_sprites_come_from_names_files_channels_and_screens(tmp_path: Path) -> None:
    fish = named(None, "ALE/Seaquest-v5")
    assert fish.name == "fish" and (fish.height, fish.width) == (7, 14) and set(SHAPES) == {"fish", "oxygen", "block"}
    Image.fromarray(np.array([[[1, 2, 3, 255], [9, 9, 9, 0]]], np.uint8), "RGBA").save(tmp_path / "a.png")
    file = named(str(tmp_path / "a.png"), "ALE/Pong-v5")
    assert file.pixels[0, 0].tolist() == [1, 2, 3] and file.opacity.tolist() == [[1, 0]] and file.name == "a"
    ball = named(None, BREAKOUT)
    assert ball.name == "ball" and ball.pixels[0, 0].nonzero()[0].tolist() == [BALL]
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(cut(picture, Box(1, 2, 2, 3), "p").pixels, picture[1:3, 2:5])
    (tmp_path / "b.png").write_text("no picture")
    for wrong, env, words in (
        ("whale", "ALE/Pong-v5", "no sprite is called 'whale'"),
        ("whale", BREAKOUT, "no channel 'whale'; there is paddle"),
        (str(tmp_path / "b.png"), "ALE/Pong-v5", "cannot be read as a picture"),
    ):
        with pytest.raises(RequestError, match=words):
            named(wrong, env)
    with pytest.raises(RequestError, match="not a part of the screen"):
        cut(picture, Box(3, 0, 2, 2), "p")


def test_the_cells_under_a_sprite_are_the_nearest() -> None:
    agent = agent_of("ALE/Pong-v5")
    grid, box = agent.network.grid, Box(0, 0, 210, 160)
    sprite = Sprite(np.zeros((8, 8, 3), np.float32), np.ones((8, 8), np.float32), "x")
    for row, column in ((3, 4), (0, 0), (grid.height - 1, grid.width - 1)):
        y, x = grid.centre(row, column)
        [cells] = cells_under(agent, box, replace(sprite, pixels=sprite.pixels), [(round(y) - 4, round(x) - 4)])
        assert cells.nonzero().tolist() == [[row, column]]
    assert cells_under(agent, box, sprite, [(300, 0)]).sum() == 0


def test_mass_is_the_share_on_the_cells_while_there_are_any() -> None:
    maps = torch.ones(3, 2, 2, 2)
    maps[1, 0] = torch.tensor([[6.0, 1], [1, 2]])
    cells = torch.zeros(3, 2, 2, dtype=torch.bool)
    cells[:2, 0, 0] = True
    assert mass(maps, cells).tolist() == pytest.approx([(0.25 + 0.6) / 2, 0.25])


def test_variation_is_half_the_sum() -> None:
    assert float(variation(torch.tensor([0.5, 0.5, 0]), torch.tensor([0.1, 0.5, 0.4]))) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        (BREAKOUT, {}),
        ("ALE/Pong-v5", {}),
        ("ALE/Breakout-v5", {"screen": "grey", "stack": 2}),
        ("ALE/Breakout-v5", {"screen": "mask-a3c"}),
    ],
)
def test_the_game_goes_on_as_if_nothing_were(env: str, changes: dict[str, object], tmp_path: Path) -> None:
    agent = agent_of(env, "mask-a3c" if "screen" in changes else "s3ta", **changes)
    trace = record(agent, tmp_path, steps=14, sample=True, seed=2)
    beginning = together(trace, agent, [2, 5])
    sprite = named(None, env)
    box = beginning.games.box
    places = [(box.top + box.height // 2 + t, box.left + box.width // 2) for t in range(3)]
    recorded = trace.column("action")
    forced = torch.stack([recorded[2:9], recorded[5:12]], 1)
    subject = Subject("x", tmp_path, sample=True)
    plain = roll(agent, beginning, None, places, 7, forced, subject)
    other = roll(agent, beginning, [sprite] * 2, places, 7, forced, subject)
    logits = trace.column("logits")
    torch.testing.assert_close(plain.probabilities[:, 0], logits[2:9].softmax(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(plain.probabilities[:, 1], logits[5:12].softmax(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(plain.maps[:, 1], trace.column("maps")[5:12], atol=1e-5, rtol=1e-3)
    assert torch.equal(plain.action, forced) and torch.equal(plain.reward, other.reward)
    assert torch.equal(plain.maps[0], other.maps[0]) and not torch.equal(plain.maps[1], other.maps[1])
    for t, start in ((t, n) for t in range(7) for n in range(2)):
        differ = (plain.screens[t][start] != other.screens[t][start]).any(2)
        assert differ.any() == (1 <= t <= 3)
        if differ.any():
            rows, columns = differ.nonzero()
            top, left = places[t - 1]
            assert top <= rows.min() and rows.max() < top + sprite.height
            assert left <= columns.min() and columns.max() < left + sprite.width
    assert all(game.paint is None for game in beginning.games.games)


def test_it_is_pasted_before_the_screen_is_shrunk(tmp_path: Path) -> None:
    agent = agent_of("ALE/Breakout-v5", "mask-a3c", screen="grey")
    trace = record(agent, tmp_path, steps=6, sample=True)
    games = together(trace, agent, [1]).games
    game, sprite = games.games[0], named("block", "ALE/Breakout-v5")
    black = Sprite(np.zeros((210, 160, 3), np.float32), np.ones((210, 160), np.float32), "black")
    game.paint = lambda picture: paste(paste(picture, black, 0, 0), sprite, 100, 50)
    shown = games.step(torch.tensor([0])).observation[0, 0].numpy()
    screen = np.zeros((210, 160), np.uint8)
    screen[100:108, 50:58] = 236
    assert np.array_equal(shown, area(84, 84)(screen.astype(np.float32)))


def test_the_control_lies_elsewhere_in_the_sprites_outline(tmp_path: Path) -> None:
    agent = agent_of("ALE/Pong-v5")
    trace = record(agent, tmp_path, steps=3, sample=True)
    sprite, rng = named("fish", "ALE/Pong-v5"), np.random.default_rng(0)
    screen = trace.column("screen")[1].numpy().astype(np.float32)
    for _ in range(20):
        patch = elsewhere(trace, 1, sprite, (100, 70), Box(0, 0, 210, 160), rng)
        assert np.array_equal(patch.opacity, sprite.opacity)
        windows = np.lib.stride_tricks.sliding_window_view(screen, patch.pixels.shape)[:, :, 0]
        places = np.argwhere((windows == patch.pixels).all((2, 3, 4)))
        assert any(abs(row - 100) >= 7 or abs(column - 70) >= 14 for row, column in places)


def settings_of(tmp_path: Path, **changed: object) -> Settings:
    subject = Subject(agent="synthetic", output=tmp_path / "out", seed=1)
    return replace(
        Settings(subject, Recording(trace=tmp_path / "trace"), starts=8, duration=4, after=3),
        **changed,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("sprite", "looked_at"), [("ball", True), ("brick", False)])
def test_attention_moves_to_the_sprite_that_the_agent_looks_at(
    sprite: str, looked_at: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_that(LooksAtOneSprite())
    record(agent, tmp_path / "trace", steps=60, sample=True, seed=1)
    monkeypatch.setattr(Subject, "open", lambda self: agent)
    findings = analyse(settings_of(tmp_path, sprite=sprite, at=(8, 1)))
    look, acts = findings.numbers["heads"]["sprite"], findings.numbers["actions"]
    if looked_at:
        assert look["moved"]["low"] > 0.005 and look["beyond_patch"]["low"] > 0
        assert acts["variation"]["low"] > 0.01 and acts["beyond_patch"]["low"] > 0
        assert "Attention goes to the ball (sprite)" in findings.sentences[0]
    else:
        assert look["moved"]["mean"] == pytest.approx(0, abs=1e-3)
        assert acts["variation"]["mean"] < 0.01
        assert "No head's attention is shown to go to the brick" in findings.sentences[0]
    # It acts by what it sees now, and remembers nothing.
    assert acts["after"]["mean"] == pytest.approx(0, abs=1e-6)
    assert sum(i["mean"] for i in acts["actions"].values()) == pytest.approx(0, abs=1e-5)


def test_the_command_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_of(BREAKOUT).save_pretrained(tmp_path / "agent")
    words = ["--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out"), "--steps", "30", "--starts", "3"]
    with pytest.raises(SystemExit) as ended:
        main(["agent", "analyse", "inject", *words, "--duration", "3", "--after", "2", "--velocity", "0", "1"])
    assert ended.value.code == 0 and "ball" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert found["protocol"]["sprite"] == "ball" and found["protocol"]["velocity"] == "0 1"
    assert set(found["numbers"]["heads"]) == {"head 1", "head 2", "head 3", "head 4"}
    assert found["numbers"]["free_play"]["starts"] == 3
    for name in ("strip.png", "time.svg", "index.html"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"starts": 0}, "--starts is 0"),
        ({"after": -1}, "--after is -1"),
        ({"starts": 60}, "record more --steps"),
        ({"at": (20, 20)}, "not on what the agent sees: rows 0 to 9"),
        ({"box": (0, 0, 2, 2)}, "--from-step and --box belong together"),
    ],
)
def test_what_cannot_be_is_told(
    changed: dict[str, object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_that(LooksAtOneSprite())
    record(agent, tmp_path / "trace", steps=30, sample=True)
    monkeypatch.setattr(Subject, "open", lambda self: agent)
    with pytest.raises(RequestError, match=words):
        analyse(settings_of(tmp_path, **changed))
