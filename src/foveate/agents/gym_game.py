"""Games of gymnasium's: MinAtar, whose states can be taken and put back, and all else that shows a picture."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from foveate.agents.games import EnvironmentSettings, Paint, Turn, first_line, need, parse_options
from foveate.agents.screens import Box
from foveate.errors import RequestError

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
            raise RequestError(f"gymnasium cannot make {settings.env!r} ({first_line(error)})") from error
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
