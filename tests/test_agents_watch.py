"""Films: maps where they belong on the screen, and files that are whole or not there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from eyes import make_eyes

pytest.importorskip("ale_py")
pytest.importorskip("minatar")
pytest.importorskip("imageio_ffmpeg")

import imageio_ffmpeg

from foveate.agents import screens
from foveate.agents.agent import PlayingAgent
from foveate.agents.games import EnvironmentSettings
from foveate.agents.models import build
from foveate.agents.models.interface import AgentInputs
from foveate.agents.placement import screen_centres
from foveate.agents.screens import Box
from foveate.agents.watch import Moments, WatchSettings, watch_agent
from foveate.cli import main
from foveate.errors import RequestError
from foveate.viz import video

SMALL = EnvironmentSettings("MinAtar/Breakout-v1")


def agent_of(model: str, observation: tuple[int, int, int], actions: int, env: EnvironmentSettings) -> PlayingAgent:
    torch.manual_seed(0)
    return PlayingAgent(model, observation, actions, asdict(env)).eval()


class TestPlaces:
    def test_of_s3ta_on_the_whole_screen(self) -> None:
        rows, columns = screen_centres(build("s3ta", (3, 210, 160), 3).grid, (3, 210, 160), Box(0, 0, 210, 160))
        assert (len(rows), len(columns)) == (27, 20)
        assert rows[:2].tolist() == [2.5, 10.5] and columns[:2].tolist() == [3.5, 11.5]

    @pytest.mark.parametrize("game", ["breakout", "space_invaders", "ms_pacman"])
    @torch.no_grad()
    def test_of_mask_a3c_through_cutting_and_resizing(self, game: str) -> None:
        """Light on the screen at a cell's place lights that cell, all the way from the emulator's pixels."""
        network = make_eyes(build("mask-a3c", (1, 80, 80), 3))
        shrink = screens.mask_a3c(game)
        rows, columns = screen_centres(network.grid, (1, 80, 80), shrink.box)
        cells = [(0, 0), (9, 9), (2, 7), (8, 1)]
        seen = []
        for row, column in cells:
            grey = np.zeros((210, 160), np.float32)
            top, left = round(rows[row]) - 1, round(columns[column]) - 1
            grey[top : top + 3, left : left + 3] = 255
            seen.append(torch.from_numpy(shrink(grey)).float()[None] / 255)
        none = torch.zeros(1, 4)
        inputs = AgentInputs(torch.stack(seen)[None], none, none.long(), none.bool())
        maps = network(inputs, network.initial_state(4), observe=True)[0].attention.maps[0]
        assert [divmod(int(place), 10) for place in maps[:, 0].flatten(1).argmax(1)] == cells

    @pytest.mark.parametrize("blend", ["light", "reproduction"])
    def test_overlays_are_bright_there(self, blend: video.Blend) -> None:
        """One cell attended to: its centre is the brightest spot, on a screen of one grey."""
        screen = np.full((30, 20, 3), 100, np.uint8)
        weights = np.zeros((3, 4))
        weights[1, 2] = 1
        rows, columns = np.array([4.5, 14.5, 24.5]), np.array([2.0, 7.0, 12.0, 17.0])
        picture = video.overlay(screen, weights, rows, columns, 4, blend).astype(int).sum(2)
        lit = np.argwhere(picture == picture.max()).mean(0)
        assert np.abs((lit + 0.5) / 4 - 0.5 - [14.5, 12.0]).max() <= 0.3
        assert picture[2, 2] == picture[-2, 40] == picture[60, -2] < picture.max(), "and only there"

    def test_weights_are_exact_at_centres(self) -> None:
        screen = np.zeros((8, 8, 3), np.uint8)
        weights = np.array([[0.2, 0.4], [0.6, 1.0]])
        picture = video.overlay(screen, weights, np.array([1.0, 5.0]), np.array([2.0, 6.0]), 1, "reproduction")
        assert picture[[1, 1, 5, 5], [2, 6, 2, 6], 0].tolist() == [25, 51, 76, 127]


def test_words_are_as_pillow_draws_them() -> None:
    """On any ground, cut off at its edge."""
    from PIL import Image, ImageDraw

    ground = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image = Image.fromarray(ground)
    words = [(3, 2, "head 1", video.MARK, 15), (40, 25, "beyond", video.DARK, 12), (0, 20, "", video.MARK, 12)]
    for left, top, text, colour, size in words:
        ImageDraw.Draw(image).text((left, top), text, fill=colour, font=video._font(size))
    picture = ground.copy()
    video.write(picture, words)
    assert np.abs(picture.astype(int) - np.asarray(image)).max() <= 1 and (picture != ground).any()


class TestFilms:
    @pytest.mark.parametrize("model", ["s3ta", "value-mask-a3c", "residual"])
    def test_every_step_is_a_frame(self, model: str, tmp_path: Path) -> None:
        agent = agent_of(model, (4, 10, 10), 3, SMALL)
        settings = WatchSettings(
            "here", tmp_path / "a" / "game.mp4", sheet=tmp_path / "sheet.png", max_steps=5, moments=4
        )
        watched = watch_agent(agent, settings)
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(settings.video))
        assert frames == watched.steps == 5
        from PIL import Image

        size = Image.open(settings.sheet).size
        about = next(imageio_ffmpeg.read_frames(str(settings.video)))["size"]
        assert size == (2 * (about[0] + video.GAP) + video.GAP, 2 * (about[1] + video.GAP) + video.GAP)
        assert [f.name for f in settings.video.parent.iterdir()] == ["game.mp4"]

    def test_on_atari(self, tmp_path: Path) -> None:
        agent = agent_of("s3ta", (3, 210, 160), 6, EnvironmentSettings("ALE/Pong-v5"))
        watched = watch_agent(agent, WatchSettings("here", tmp_path / "pong.mp4", max_steps=2, skip=1, sticky=0.25))
        assert (watched.steps, watched.over) == (2, False)

    def test_what_cannot_be_filmed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        agent = agent_of("residual", (4, 10, 10), 3, SMALL)
        with pytest.raises(RequestError, match=r"end in \.mp4"):
            watch_agent(agent, WatchSettings("here", tmp_path / "a.avi", max_steps=1))
        with pytest.raises(RequestError, match="--skip fewer"):
            watch_agent(agent, WatchSettings("here", tmp_path / "a.mp4", max_steps=1, skip=5000))
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
        with pytest.raises(RequestError, match="ffmpeg"):
            watch_agent(agent, WatchSettings("here", tmp_path / "a.mp4", max_steps=1))
        assert not list(tmp_path.glob("*.mp4"))

    def test_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        agent_of("residual", (4, 10, 10), 3, SMALL).save_pretrained(tmp_path / "agent")
        words = ["agent", "watch", "--agent", str(tmp_path / "agent"), "--video", str(tmp_path / "g.mp4")]
        with pytest.raises(SystemExit) as done:
            main([*words, "--max-steps", "3"])
        assert done.value.code == 0 and (tmp_path / "g.mp4").stat().st_size > 0
        assert "score" in capsys.readouterr().err


def test_moments_are_spread_evenly() -> None:
    moments = Moments(4)
    for number in range(1000):
        moments.add(np.full((1, 1, 3), number % 256, np.uint8))
        assert len(moments._kept) < 16
    assert len(moments.chosen()) == 4
    few = Moments(4)
    few.add(np.zeros((1, 1, 3), np.uint8))
    assert len(few.chosen()) == 1
