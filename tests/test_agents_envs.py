"""Environments: one form for what a step brought, and none of ale-py's traps in it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ale_py")
pytest.importorskip("minatar")

from foveate.agents import screens
from foveate.agents.atari import AtariGame
from foveate.agents.envs import AtariVector, Games, VectorStep, open_environments
from foveate.agents.games import EnvironmentSettings, atari_name, open_game, published_mask_a3c
from foveate.errors import RequestError

PLAIN = {"noops": 0, "fire": False}
"""Games that begin the same whoever runs them."""


def stack_steps(steps: list[VectorStep]) -> dict[str, torch.Tensor]:
    """Steps one after another: every field with a time axis in front."""
    return {f.name: torch.stack([getattr(step, f.name) for step in steps]) for f in fields(VectorStep)}


def play(environments, steps: int, seed: int = 0, policy=None) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    seen = [environments.reset(seed)]
    for number in range(steps):
        actions = torch.randint(environments.actions, (environments.envs,), generator=rng)
        if policy is not None:
            actions = torch.full_like(actions, policy(number))
        seen.append(environments.step(actions))
    return stack_steps(seen)


def fire_then_left(number: int) -> int:
    """Loses all five lives of Breakout within 250 steps of four frames."""
    return 1 if number % 4 == 0 else 2


@pytest.fixture(scope="module")
def breakout() -> dict[str, torch.Tensor]:
    """Two games of Breakout, played past their end."""
    return play(AtariVector(EnvironmentSettings("Breakout", **PLAIN), "breakout", 2, threads=1), 300, 3, fire_then_left)


class TestTrapsOfAlePy:
    def test_reward_is_the_games_own(self) -> None:
        """ale-py clips by default: MsPacman's dots, worth 10, would be worth 1."""
        seen = play(open_environments(EnvironmentSettings("MsPacman", **PLAIN), 1, threads=1), 120)
        assert seen["reward"].max() >= 10
        assert torch.equal(seen["clipped"], seen["reward"].clamp(-1, 1))
        assert seen["episode_return"][-1] == seen["reward"].sum()

    def test_a_lost_life_does_not_reset_the_game(self, breakout: dict[str, torch.Tensor]) -> None:
        """`episodic_life` would: four lives are lost before the one that ends the game."""
        end = int(breakout["over"][:, 0].nonzero()[0])
        assert breakout["life_lost"][: end + 1, 0].sum() == 5
        assert breakout["over"][:end, 0].sum() == 0
        assert breakout["episode_length"][end, 0] == end

    def test_a_lost_life_is_what_ale_py_says_it_is(self, breakout: dict[str, torch.Tensor]) -> None:
        from ale_py.vector_env import AtariVectorEnv

        env = AtariVectorEnv(
            "breakout",
            num_envs=2,
            num_threads=1,
            noop_max=0,
            use_fire_reset=False,
            life_loss_info=True,
            autoreset_mode="SameStep",
        )
        env.reset(seed=3)
        ended = [env.step(np.full(2, fire_then_left(n)))[2] for n in range(300)]
        assert np.array_equal(breakout["life_lost"][1:].numpy(), np.stack(ended))

    def test_there_is_no_dummy_step(self, breakout: dict[str, torch.Tensor]) -> None:
        """ale-py's next-step reset brings a step that plays no frame and pays nothing; ours are its without those."""
        from ale_py.vector_env import AtariVectorEnv

        env = AtariVectorEnv(
            "breakout",
            num_envs=2,
            num_threads=1,
            img_height=210,
            img_width=160,
            grayscale=False,
            stack_num=1,
            noop_max=0,
            use_fire_reset=False,
            reward_clipping=False,
        )
        picture, info = env.reset(seed=3)
        pictures, frames, number = [picture[0, 0]], [int(info["frame_number"][0])], 0
        dummies = 0
        while len(pictures) < 301:
            picture, _, _, _, info = env.step(np.full(2, fire_then_left(number)))
            if int(info["frame_number"][0]) == frames[-1]:
                dummies += 1
                pictures[-1] = picture[0, 0]  # its terminal frame is stale; ours shows the new game at once
                continue
            pictures.append(picture[0, 0])
            frames.append(int(info["frame_number"][0]))
            number += 1
        assert dummies == breakout["over"][:, 0].sum() == 1
        theirs = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        assert torch.equal(breakout["observation"][:, 0], theirs)

    def test_the_terminal_frame_is_never_shown(self, breakout: dict[str, torch.Tensor]) -> None:
        """ale-py's is the one before; ours is the next game's first, so no agent acts on a frame that is not there."""
        end = int(breakout["over"][:, 0].nonzero()[0])
        assert torch.equal(breakout["observation"][end, 0], breakout["observation"][0, 0])
        assert breakout["done"][end, 0]
        assert not breakout["truncated"].any()
        assert breakout["episode_length"][end + 1, 0] == 1

    def test_what_is_cut_off_is_not_learned_from(self) -> None:
        seen = play(open_environments(EnvironmentSettings("Pong", max_frames=100, **PLAIN), 1, threads=1), 60)
        assert seen["truncated"].sum() == 2
        assert torch.equal(seen["truncated"], seen["over"])
        assert torch.equal(seen["learn"][1:], ~seen["truncated"][1:])
        assert not seen["learn"][0] and seen["done"][0]


def test_a_lost_life_may_end_the_agents_episode() -> None:
    settings = EnvironmentSettings("Breakout", life_loss_ends=True, **PLAIN)
    seen = play(AtariVector(settings, "breakout", 1, threads=1), 260, 3, fire_then_left)
    assert seen["done"][1:].sum() == 5 and seen["over"].sum() == 1
    assert torch.equal(seen["done"][1:], seen["life_lost"][1:])


class TestSingleGames:
    @pytest.mark.parametrize("screen", ["rgb", "grey"])
    def test_they_are_what_ale_pys_vector_is(self, screen: str) -> None:
        settings = EnvironmentSettings("SpaceInvaders", screen=screen, stack=2 if screen == "grey" else 1, **PLAIN)
        fast = play(open_environments(settings, 1, threads=1), 40)
        slow = play(open_environments(settings, 1, threads=1, exact=True), 40)
        for name in ("reward", "done", "over", "life_lost", "episode_return"):
            assert torch.equal(fast[name], slow[name]), name
        gap = (fast["observation"].int() - slow["observation"].int()).abs()
        assert fast["observation"].shape[2:] == open_game(settings).observation_shape
        # OpenCV rounds its averages in whole numbers.
        assert gap.max() <= (0 if screen == "rgb" else 1)

    def test_threads_change_nothing(self) -> None:
        settings = EnvironmentSettings("Breakout", sticky=0.25)
        one = play(open_environments(settings, 3, threads=1, exact=True), 30)
        two = play(open_environments(settings, 3, threads=2, exact=True), 30)
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert not torch.equal(one["observation"][-1, 0], one["observation"][-1, 1]), "seeded apart"

    @pytest.mark.parametrize(
        "settings",
        [
            EnvironmentSettings("Breakout", sticky=0.25),
            published_mask_a3c("Breakout"),
            EnvironmentSettings("Pong", screen="grey", stack=3),
            *(EnvironmentSettings(f"MinAtar/{name}-v1") for name in ("Breakout", "Asterix", "Seaquest", "Freeway")),
            EnvironmentSettings("MinAtar/SpaceInvaders-v0"),
        ],
        ids=lambda s: f"{s.env}-{s.screen}",
    )
    def test_a_game_goes_on_from_its_snapshot(self, settings: EnvironmentSettings) -> None:
        environments = open_environments(settings, 2, threads=1, exact=True)
        rng = torch.Generator().manual_seed(1)
        environments.reset(5)

        def go(environments, actions) -> dict[str, torch.Tensor]:
            return stack_steps([environments.step(a) for a in actions])

        before = torch.randint(environments.actions, (30, 2), generator=rng)
        after = torch.randint(environments.actions, (60, 2), generator=rng)
        go(environments, before)
        snapshot = environments.snapshot()
        first = go(environments, after)
        environments.restore(snapshot)
        again = go(environments, after)
        other = open_environments(settings, 2, threads=1, exact=True)
        other.reset(99)
        other.restore(snapshot)
        elsewhere = go(other, after)
        for name in first:
            assert torch.equal(first[name], again[name]), name
            assert torch.equal(first[name], elsewhere[name]), name

    def test_memory_can_be_read(self) -> None:
        game = open_game(EnvironmentSettings("Breakout", **PLAIN))
        assert isinstance(game, AtariGame)
        game.reset(0)
        before = game.ram()
        for _ in range(10):
            game.step(game.action_names.index("RIGHT"))
        assert before.shape == (128,) and (game.ram() != before).any()

    def test_games_may_leave(self) -> None:
        settings = EnvironmentSettings("MinAtar/Breakout-v1")
        environments = Games([open_game(settings) for _ in range(3)], settings)
        environments.reset(0)
        environments.step(torch.zeros(3, dtype=torch.long))
        environments.keep(torch.tensor([True, False, True]))
        seen = environments.step(torch.zeros(2, dtype=torch.long))
        assert environments.envs == 2 and seen.episode_length.tolist() == [2, 2]


class TestMinAtar:
    def test_its_planes_are_channels(self) -> None:
        environments = open_environments(EnvironmentSettings("MinAtar/Breakout-v1"), 4)
        assert environments.observation_shape == (4, 10, 10)
        assert environments.action_names == ("NOOP", "LEFT", "RIGHT")
        first = environments.reset(0).observation
        assert set(first.unique().tolist()) == {0, 255}
        # Three rows of bricks, second to fourth from the top, as its rules say.
        assert torch.equal(first[0, 3].any(1).nonzero().squeeze(1), torch.tensor([1, 2, 3]))

    def test_episodes_end_and_begin_anew(self) -> None:
        seen = play(open_environments(EnvironmentSettings("MinAtar/Breakout-v1"), 8), 200)
        assert seen["over"].sum() > 20
        lengths = seen["episode_length"][seen["over"]]
        assert 2 < lengths.float().mean() < 60
        total = seen["reward"].sum()
        ended = seen["episode_return"][seen["over"]].sum()
        running = seen["episode_return"][-1][~seen["over"][-1]].sum()
        assert total == ended + running

    def test_seeds_decide(self) -> None:
        settings = EnvironmentSettings("MinAtar/SpaceInvaders-v1")
        one, same, other = (play(open_environments(settings, 2), 50, seed) for seed in (1, 1, 2))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert not torch.equal(one["observation"], other["observation"])


@pytest.mark.parametrize("size", [(64, 64), (84, 84), (1, 7), (210, 160)])
def test_shrinking_is_the_product_of_matrices(size: tuple[int, int]) -> None:
    shrink = screens.area(*size)
    grey = np.random.default_rng(0).integers(0, 256, (210, 160)).astype(np.float32)
    product = shrink.rows.astype(float) @ grey @ shrink.columns.T
    assert np.abs(shrink(grey) - product).max() <= 0.501


class TestMaskA3CScreen:
    @pytest.mark.parametrize("name", ["breakout", "ms_pacman", "space_invaders"])
    def test_it_is_the_published_resizing(self, name: str) -> None:
        """Cut, bilinear to 80 × `high`, bilinear to 80 × 80: torch's own interpolation as witness."""
        rng = np.random.default_rng(0)
        grey = rng.uniform(0, 255, (210, 160)).astype(np.float32)
        cut = screens.CUTS.get(name, screens.DEFAULT_CUT)
        part = torch.from_numpy(grey)[None, None, cut.top : cut.bottom + 160, :160]
        shrunk = torch.nn.functional.interpolate(part, size=(cut.high, 80), mode="bilinear", align_corners=False)
        shrunk = torch.nn.functional.interpolate(shrunk, size=(80, 80), mode="bilinear", align_corners=False)
        gap = screens.mask_a3c(name)(grey).astype(float) - shrunk[0, 0].numpy()
        assert np.abs(gap).max() <= 0.51

    def test_cuts_are_the_published_ones(self) -> None:
        file = Path(__file__).parents[2] / "shared" / "official" / "mask_a3c" / "crop.json"
        if not file.exists():
            pytest.skip("the published configuration is not beside the repository (../shared/official)")
        published = json.loads(file.read_text())
        for word, cut in published.items():
            ours = screens.DEFAULT_CUT if word == "Default" else screens.CUTS.get(atari_name(word), screens.DEFAULT_CUT)
            assert (ours.top, ours.bottom, ours.high) == (cut["crop1"], cut["crop2"], cut["dimension2"]), word

    def test_fire_is_pressed_after_every_lost_life(self) -> None:
        """Left alone, Breakout waits for FIRE for ever; here an agent that never fires loses all its lives."""
        environments = open_environments(published_mask_a3c("Breakout"), 1, threads=1)
        seen = play(environments, 400, 0, lambda _: 0)
        assert environments.observation_shape == (1, 80, 80)
        assert seen["over"].sum() >= 1
        assert seen["done"][1:].sum() == seen["life_lost"].sum() >= 5


def dots():
    """A kind of environment: a dot that moves to the right."""
    import gymnasium

    class Dot(gymnasium.Env):
        action_space = gymnasium.spaces.Discrete(2)
        observation_space = gymnasium.spaces.Box(0, 255, (12, 16, 3), np.uint8)

        def __init__(self, render_mode=None) -> None:
            self.column = 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.column = 0
            return self.render(), {}

        def step(self, action):
            self.column += int(action)
            return self.render(), float(action), False, False, {}

        def render(self):
            picture = np.zeros((12, 16, 3), np.uint8)
            picture[3, self.column] = 255
            return picture

    return Dot


class TestAnyGymnasium:
    def test_pixels_of_another_environment(self) -> None:
        import gymnasium

        gymnasium.register("FoveateTest/Dot-v0", entry_point=dots(), max_episode_steps=5)
        seen = play(open_environments(EnvironmentSettings("FoveateTest/Dot-v0"), 2), 12, 0, lambda _: 1)
        assert seen["observation"].shape == (13, 2, 3, 12, 16)
        assert seen["observation"][2, 0, 0].nonzero().tolist() == [[3, 2]]
        assert seen["over"][:, 0].nonzero().squeeze(1).tolist() == [5, 10]
        assert seen["truncated"].sum() == 4 and not seen["learn"][5, 0]
        with pytest.raises(RequestError, match="cannot be taken"):
            open_game(EnvironmentSettings("FoveateTest/Dot-v0")).snapshot()

    def test_wrappers_stay(self) -> None:
        """One turns the picture upside down; one cuts the episode off."""
        import gymnasium
        from gymnasium import wrappers

        def upside_down(render_mode: str) -> gymnasium.Env:
            dot = dots()()
            turned = wrappers.TransformObservation(dot, lambda picture: picture[::-1], dot.observation_space)
            return wrappers.TimeLimit(turned, 3)

        gymnasium.register("FoveateTest/UpsideDown-v0", entry_point=upside_down)
        game = open_game(EnvironmentSettings("FoveateTest/UpsideDown-v0"))
        assert game.reset(seed=1)[0].nonzero() == (8, 0)
        turns = [game.step(1) for _ in range(3)]
        assert [turn.over for turn in turns] == [False, False, True] and turns[-1].truncated

    def test_no_image_is_refused(self) -> None:
        with pytest.raises(RequestError, match="looks at pixels"):
            open_game(EnvironmentSettings("CartPole-v1"))

    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(RequestError, match="no Atari game"):
            open_environments(EnvironmentSettings("ALE/Brakeout-v5"), 1)
        with pytest.raises(RequestError, match="gymnasium cannot make"):
            open_environments(EnvironmentSettings("Nowhere/Game-v0"), 1)

    def test_missing_roms_are_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
        monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
        for content, said in ((None, "No such file"), (b"not a ROM", "pong.bin")):
            if content is not None:
                (tmp_path / "pong.bin").write_bytes(content)
            with pytest.raises(RequestError, match=f"the ROM of pong cannot be read .*{said}.*ALE_ROMS_DIR") as error:
                open_environments(EnvironmentSettings("ALE/Pong-v5"), 1)
            assert "\n" not in str(error.value)
        monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path / "nowhere"))
        with pytest.raises(RequestError, match="the ROM of pong cannot be read"):
            open_environments(EnvironmentSettings("ALE/Pong-v5"), 1)
        assert capsys.readouterr().out == "", "standard output is for results"

    def test_names(self) -> None:
        words = ["Breakout", "ALE/MsPacman-v5", "BreakoutNoFrameskip-v4", "MinAtar/Breakout-v1", "UpNDown", "Jamesbond"]
        assert [atari_name(w) for w in words] == ["breakout", "ms_pacman", "breakout", None, "up_n_down", "jamesbond"]


def test_a_step_is_checked() -> None:
    """The shapes are promises: a step with another number of rewards than screens cannot be made."""
    step = open_environments(EnvironmentSettings("MinAtar/Breakout-v1"), 2).reset(0)
    values = {name: getattr(step, name) for name in VectorStep.__dataclass_fields__}
    with pytest.raises(Exception, match="type"):
        VectorStep(**values | {"reward": torch.zeros(3)})
