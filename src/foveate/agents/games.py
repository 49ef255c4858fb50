"""Single games, one class a kind: the emulator with its memory and states, and anything that gymnasium knows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from foveate.agents import screens
from foveate.agents.screens import Box, ScreenName
from foveate.errors import RequestError

MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


MINATAR_COLOURS = (
    (0, 0, 0),
    (64, 192, 87),
    (250, 176, 5),
    (34, 139, 230),
    (224, 49, 49),
    (204, 93, 232),
    (32, 201, 151),
    (253, 126, 20),
    (230, 230, 230),
    (116, 143, 252),
    (240, 101, 149),
)
"""Of nothing, and of each channel."""


@dataclass(frozen=True)
class EnvironmentSettings:
    """What is played, and how an agent sees it. All but `env`, `max_frames` and `options` is for Atari alone."""

    env: str
    """`ALE/Breakout-v5` (or just `Breakout`), `MinAtar/Breakout-v1`, or any gymnasium id with image observations."""
    screen: ScreenName = "rgb"
    """What the agent sees; see foveate.agents.screens."""
    size: tuple[int, int] = (84, 84)
    """Height and width of a grey screen."""
    stack: int = 1
    """Grey screens of so many steps at once, for an agent without a memory."""
    repeat: int = 4
    """Frames that an action is held for."""
    max_pool: bool = True
    """See the brighter of the last two frames of a step, as sprites may flicker; the S3TA paper does not say."""
    sticky: float = 0.0
    """Probability that a frame takes the last action instead (Machado et al. 2018: 0.25)."""
    noops: int = 30
    """A game begins after up to so many frames without an action."""
    fire: bool = True
    """Press FIRE when a game begins that waits for it."""
    life_loss_ends: bool = False
    """A lost life ends the agent's episode, though the game goes on; the S3TA paper does not say."""
    max_frames: int = 108_000
    """A game is cut off after so many frames (30 minutes); elsewhere than on Atari a step is a frame."""
    options: tuple[str, ...] = ()
    """NAME=VALUE, in JSON, handed to gymnasium.make: continuous=false."""


def published_mask_a3c(env: str) -> EnvironmentSettings:
    """How the published Mask-A3C agents were trained and are evaluated: 10,000 steps, no sticky actions."""
    return EnvironmentSettings(env=env, screen="mask-a3c", life_loss_ends=True, max_frames=40_000)


Paint = Callable[[UInt8[np.ndarray, "height width *channels"]], UInt8[np.ndarray, "height width *channels"]]
"""What an experiment does to the pictures that observations are made of, before they are shrunk; the game goes on as if
nothing were. In colour, or grey where the agent's screen is; MinAtar's have a channel for each kind of thing."""


@dataclass(frozen=True)
class Turn:
    """What a step of one game brought."""

    observation: UInt8[np.ndarray, "channels height width"]
    reward: float
    """The game's own, unclipped."""
    over: bool = False
    """The game ended or was cut off; it must be reset before the next step."""
    truncated: bool = False
    life_lost: bool = False


@runtime_checkable
class Game(Protocol):
    """One game. Everything random in it comes from the seed of the first reset."""

    actions: int
    action_names: tuple[str, ...]
    observation_shape: tuple[int, int, int]
    box: Box
    """The part of the screen that the observation shows."""
    threaded: bool
    """Whether stepping it lets other threads run."""
    paint: Paint | None
    """Of the observations from the next one on."""

    def reset(self, seed: int | None = None) -> UInt8[np.ndarray, "channels height width"]: ...
    def step(self, action: int) -> Turn: ...
    def screen(self) -> UInt8[np.ndarray, "height width 3"]:
        """What a person sees."""
        ...

    def snapshot(self) -> bytes:
        """All that the game's future depends on. Raises RequestError where it cannot be had."""
        ...

    def restore(self, snapshot: bytes) -> None: ...
    def close(self) -> None: ...


def open_game(settings: EnvironmentSettings) -> Game:
    """A single game.

    Raises RequestError where there is no such game, its package is missing, or it shows no image.
    """
    if settings.repeat < 1 or settings.stack < 1 or settings.max_frames < 1 or settings.noops < 0:
        raise RequestError("an environment's repeat, stack and max-frames must be at least 1, noops at least 0")
    if not 0 <= settings.sticky < 1:
        raise RequestError(f"sticky is {settings.sticky}; it is a probability below 1")
    name = atari_name(settings.env)
    return GymGame(settings) if name is None else AtariGame(settings, name)


def atari_name(env: str) -> str | None:
    """The ROM's name (`ms_pacman`) of an Atari id, or None where the id is of something else.

    Raises RequestError where it is of the form of an Atari id and there is no such game.
    """
    plain = "/" not in env and "-" not in env
    if not plain and not env.startswith("ALE/") and "NoFrameskip-" not in env:
        return None
    word = env.removeprefix("ALE/").split("-")[0].removesuffix("NoFrameskip").removesuffix("Deterministic")
    name = _snake(word)
    need("ale_py", "ale-py", "Atari")
    known = _roms()
    if name not in known:
        near = [n for n in known if n.replace("_", "") == name.replace("_", "")]
        if not near:
            raise RequestError(
                f"there is no Atari game {env!r}; games are named as in ALE/Breakout-v5, and ale-py knows "
                f"{', '.join(known)}"
            )
        name = near[0]
    return name


def need(module: str, package: str, purpose: str) -> None:
    """Raises RequestError where a package of the extra `agents` is missing."""
    if find_spec(module) is None:
        raise RequestError(f"{purpose} needs the package {package}: pip install 'foveate[agents]'")


@cache
def _roms() -> tuple[str, ...]:
    from ale_py import roms

    return tuple(sorted(roms.get_all_rom_ids()))


def _rom(name: str) -> Path:
    """Raises RequestError where the file is missing, or not the one that ale-py knows."""
    from ale_py import roms

    try:
        # It tells on standard output where it looks, if ALE_ROMS_DIR says so.
        with redirect_stdout(sys.stderr):
            return Path(roms.get_rom_path(name))
    except OSError as error:
        raise RequestError(
            f"the ROM of {name} cannot be read ({_line(error)}); install ale-py again, or name a directory that has "
            f"{name}.bin in ALE_ROMS_DIR"
        ) from error


def _snake(word: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(word))


class AtariGame:
    """One emulator, whose memory can be read and whose state can be taken and put back."""

    threaded = True

    def __init__(self, settings: EnvironmentSettings, name: str) -> None:
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.settings = settings
        self.name = name
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", settings.sticky)
        self.ale.setInt("max_num_frames_per_episode", settings.max_frames)
        self._rom = _rom(name)
        self._load(0)
        self._actions = self.ale.getMinimalActionSet()
        self.actions = len(self._actions)
        self.action_names = tuple(action.name for action in self._actions)
        size = self.ale.getScreenDims()
        self._shrink = None
        if settings.screen == "mask-a3c":
            self._shrink = screens.mask_a3c(name, size)
        elif settings.screen == "grey":
            self._shrink = screens.area(*settings.size, size)
        self.box = Box(0, 0, *size) if self._shrink is None else self._shrink.box
        self._fire = settings.fire and "FIRE" in self.action_names
        self._lives = 0
        self._frames: list[UInt8[np.ndarray, "high wide"]] = []
        self.paint: Paint | None = None
        self.observation_shape: tuple[int, int, int] = (3, *size)
        if self._shrink is not None:
            self.observation_shape = (settings.stack, len(self._shrink.rows), len(self._shrink.columns))

    def reset(self, seed: int | None = None) -> UInt8[np.ndarray, "channels height width"]:
        """A new game. A seed also loads the ROM again, which alone makes the emulator take it."""
        if seed is not None:
            self._load(seed)
        self._frames = []
        self.ale.reset_game()
        published = self.settings.screen == "mask-a3c"
        noops = int(self._random.integers(1 if published else 0, self.settings.noops + 1)) if self.settings.noops else 0
        for _ in range(noops):
            self.ale.act(0)
            if self.ale.game_over():
                self.ale.reset_game()
        pooled = self._begin()
        self._lives = self.ale.lives()
        return self._observe(pooled)

    def step(self, action: int) -> Turn:
        """Hold an action for `repeat` frames."""
        before = self._lives
        pooled, reward = self._hold(action)
        over, truncated = self.ale.game_over(with_truncation=False), self.ale.game_truncated()
        self._lives = self.ale.lives()
        # Some games show no lives for a few frames before they end (Q*bert): that is the end alone.
        lost = 0 < self._lives < before and not over
        if lost and self.settings.life_loss_ends and self.settings.screen == "mask-a3c":
            # Its wrappers reset after every life: a no-op, then FIRE.
            pooled, more = self._hold(0)
            reward += more
            pooled = self._begin(pooled)
            over, truncated = self.ale.game_over(with_truncation=False), self.ale.game_truncated()
            self._lives = self.ale.lives()
        lost = lost or (over and before > 0)
        return Turn(self._observe(pooled), reward, over or truncated, truncated and not over, lost)

    def screen(self) -> UInt8[np.ndarray, "height width 3"]:
        return self.ale.getScreenRGB()

    def ram(self) -> UInt8[np.ndarray, " bytes"]:
        """The console's memory of 128 bytes."""
        return self.ale.getRAM()

    def snapshot(self) -> bytes:
        about = {
            "lives": self._lives,
            "random": self._random.bit_generator.state,
            "frames": [frame.tobytes().hex() for frame in self._frames],
        }
        state = self.ale.cloneState(include_rng=True).serialize()
        return len(state).to_bytes(8, "big") + state + json.dumps(about).encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot. The screen is the old one until the next step."""
        import ale_py

        end = 8 + int.from_bytes(snapshot[:8], "big")
        about = json.loads(snapshot[end:])
        self.ale.restoreState(ale_py.ALEState(snapshot[8:end]))
        self._lives = about["lives"]
        self._random = np.random.default_rng()
        self._random.bit_generator.state = about["random"]
        size = self.observation_shape[1:]
        self._frames = [np.frombuffer(bytes.fromhex(f), np.uint8).reshape(size) for f in about["frames"]]

    def close(self) -> None:
        """Nothing to close; the emulator goes with the object."""

    def _load(self, seed: int) -> None:
        self.ale.setInt("random_seed", int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1))
        self.ale.loadROM(self._rom)
        self._random = np.random.default_rng(seed)

    def _begin(self, pooled: np.ndarray | None = None) -> np.ndarray:
        """Press FIRE where the game waits for it; returns the last picture."""
        if not self._fire:
            return self._picture() if pooled is None else pooled
        # Mask-A3C's FireResetEnv presses the second action and then the third, whatever that is.
        presses = (1, 2) if self.settings.screen == "mask-a3c" else (self.action_names.index("FIRE"),)
        for action in presses:
            pooled, _ = self._hold(action)
            if self.ale.game_over():
                self.ale.reset_game()
                pooled = self._picture()
        assert pooled is not None
        return pooled

    def _hold(self, action: int) -> tuple[np.ndarray, float]:
        reward, pooled = 0.0, None
        for frame in range(self.settings.repeat):
            reward += self.ale.act(self._actions[action])
            last = frame == self.settings.repeat - 1 or self.ale.game_over()
            if self.settings.max_pool and frame == self.settings.repeat - 2 and not last:
                pooled = self._picture()
            if last:
                break
        picture = self._picture()
        return picture if pooled is None else np.maximum(picture, pooled), reward

    def _picture(self) -> np.ndarray:
        return self.ale.getScreenGrayscale() if self.settings.screen == "grey" else self.ale.getScreenRGB()

    def _observe(self, picture: np.ndarray) -> UInt8[np.ndarray, "channels height width"]:
        if self.paint is not None:
            picture = self.paint(picture)
        if self._shrink is None:
            return picture.transpose(2, 0, 1)
        grey = _mean_colour(picture) if picture.ndim == 3 else picture.astype(np.float32)
        frame = self._shrink(grey)
        before = self._frames or [np.zeros_like(frame)] * self.settings.stack
        self._frames = [*before, frame][-self.settings.stack :]
        return np.stack(self._frames)


def _mean_colour(picture: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, "height width"]:
    # Ten times as fast as numpy's mean over so short an axis, and the same number: the sum is exact.
    red, green, blue = (picture[:, :, colour] for colour in range(3))
    return (red.astype(np.uint16) + green + blue).astype(np.float32) / np.float32(3)


class GymGame:
    """Any gymnasium environment with discrete actions whose observation is a picture: MinAtar, CarRacing, MiniGrid.

    Wrappers that an environment was registered with stay around it.
    """

    threaded = False

    def __init__(self, settings: EnvironmentSettings) -> None:
        need("gymnasium", "gymnasium", f"the environment {settings.env}")
        import gymnasium

        if settings.env.startswith("MinAtar/"):
            need("minatar", "minatar", "MinAtar")
            import minatar.gym

            if settings.env not in gymnasium.registry:
                minatar.gym.register_envs()
        options = parse_options(settings.options)
        try:
            self.env: Any = gymnasium.make(settings.env, render_mode="rgb_array", disable_env_checker=True, **options)
        except (gymnasium.error.Error, ImportError, TypeError, KeyError) as error:
            raise RequestError(f"gymnasium cannot make {settings.env!r} ({_line(error)})") from error
        if not isinstance(self.env.action_space, gymnasium.spaces.Discrete):
            raise RequestError(
                f"{settings.env} does not have discrete actions; where it knows the option, make it so with the "
                "environment's options: continuous=false"
            )
        self.settings = settings
        self.paint: Paint | None = None
        self._steps = 0
        self.actions = int(self.env.action_space.n)
        self.action_names = _action_names(self.env.unwrapped, self.actions)
        self.observation_shape: tuple[int, int, int] = self.reset(seed=0).shape
        self.box = Box(0, 0, *self.screen().shape[:2])

    def reset(self, seed: int | None = None) -> UInt8[np.ndarray, "channels height width"]:
        self._steps = 0
        observation, _ = self.env.reset(seed=seed)
        return self._picture(observation)

    def step(self, action: int) -> Turn:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        self._steps += 1
        truncated = bool(truncated) or self._steps >= self.settings.max_frames
        over = bool(terminated) or truncated
        return Turn(self._picture(observation), float(reward), over, truncated and not terminated, False)

    def screen(self) -> UInt8[np.ndarray, "height width 3"]:
        if self.settings.env.startswith("MinAtar/"):
            return _painted(self.env.unwrapped.game.state())
        picture = np.asarray(self.env.render())
        return picture if picture.dtype == np.uint8 else (picture * 255).astype(np.uint8)

    def snapshot(self) -> bytes:
        """For MinAtar, whose games are a few numbers."""
        game = getattr(self.env.unwrapped, "game", None)
        if not self.settings.env.startswith("MinAtar/") or game is None:
            raise RequestError(f"the state of {self.settings.env} cannot be taken; MinAtar's and Atari's can")
        inner = {k: _plain(v) for k, v in vars(game.env).items() if k != "random"}
        about = {"steps": self._steps, "last_action": int(game.last_action), "game": inner}
        about["random"] = [_plain(part) for part in game.random.get_state()]
        return json.dumps(about).encode()

    def restore(self, snapshot: bytes) -> None:
        about = json.loads(snapshot)
        game = self.env.unwrapped.game
        self._steps, game.last_action = about["steps"], about["last_action"]
        for name, value in about["game"].items():
            setattr(game.env, name, _unplain(value))
        name, keys, *rest = about["random"]
        game.random.set_state((name, _unplain(keys), *rest))
        game.env.random = game.random

    def close(self) -> None:
        self.env.close()

    def _picture(self, observation: Any) -> UInt8[np.ndarray, "channels height width"]:
        if isinstance(observation, dict):
            observation = observation.get("image")
        picture = np.asarray(observation)
        if picture.dtype == bool:
            picture = picture.astype(np.uint8) * 255
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
            raise RequestError(
                f"{self.settings.env} shows no image but {picture.dtype} of {picture.ndim} axes; "
                "foveate looks at pixels"
            )
        if self.paint is not None:
            picture = self.paint(picture)
        if picture.ndim == 2:
            return picture[None]
        # Channels are last, but where the first axis alone could be one of colours.
        first = picture.shape[0] <= 4 < picture.shape[2]
        return picture if first else picture.transpose(2, 0, 1)


def _painted(state: Bool[np.ndarray, "height width channels"]) -> UInt8[np.ndarray, "height width 3"]:
    """Each channel in its own colour, the last one on top; in MinAtar's own picture the player is all but black."""
    top = (state * np.arange(1, state.shape[2] + 1)).max(2)
    return np.array(MINATAR_COLOURS, np.uint8)[top]


def _action_names(env: Any, actions: int) -> tuple[str, ...]:
    if hasattr(env, "action_set"):  # MinAtar
        words = ("NOOP", "LEFT", "UP", "RIGHT", "DOWN", "FIRE")
        return tuple(words[int(a)] for a in env.action_set)
    with suppress(AttributeError):
        return tuple(env.get_action_meanings())
    return tuple(str(action) for action in range(actions))


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs, the value in JSON. Raises RequestError for any other word."""
    options = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError as error:
            raise RequestError(f"{word!r} is not NAME=VALUE with a value in JSON, as in continuous=false") from error
    return options


def _plain(value: Any) -> Any:
    """Numbers, arrays and lists of them as JSON has them."""
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype), "shape": value.shape}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _unplain(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"array", "dtype", "shape"}:
        return np.array(value["array"], dtype=value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict):
        return {k: _unplain(v) for k, v in value.items()}
    return [_unplain(v) for v in value] if isinstance(value, list) else value


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
