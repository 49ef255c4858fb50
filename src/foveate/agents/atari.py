"""Atari: one emulator, with its memory and its states."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from foveate.agents import screens
from foveate.agents.games import EnvironmentSettings, Paint, Turn, first_line
from foveate.agents.screens import Box
from foveate.errors import RequestError


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


def _rom(name: str) -> Path:
    """Raises RequestError where the file is missing, or not the one that ale-py knows."""
    from ale_py import roms

    try:
        # It tells on standard output where it looks, if ALE_ROMS_DIR says so.
        with redirect_stdout(sys.stderr):
            return Path(roms.get_rom_path(name))
    except OSError as error:
        raise RequestError(
            f"the ROM of {name} cannot be read ({first_line(error)}); install ale-py again, or name a directory that "
            f"has {name}.bin in ALE_ROMS_DIR"
        ) from error
