"""Many games stepped at once, and the one form in which every consumer sees what a step brought.

Environments are reset within the step that ends an episode, so a `done` step already shows the next episode's first
screen. That leaves no dummy step, no stale terminal frame and one flag that both cuts returns and clears memories.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from foveate.agents import screens
from foveate.agents.atari import AtariGame
from foveate.agents.games import EnvironmentSettings, Game, Turn, atari_name, open_game
from foveate.agents.screens import Box
from foveate.errors import RequestError


@dataclass(frozen=True)
class VectorStep:
    """What one step of every environment brought: the transition into `observation`.

    An agent that is shown `observation` is told `clipped` as the previous reward, and clears its memory where `done`.
    """

    observation: UInt8[Tensor, "envs channels height width"]
    """What to act on next. Where `done`, the next episode's first screen."""
    reward: Float32[Tensor, " envs"]
    """As the game counts; never clipped."""
    clipped: Float32[Tensor, " envs"]
    """The reward in [-1, 1]."""
    done: Bool[Tensor, " envs"]
    """The agent's episode ended with this transition: the discount is 0, and memories are cleared before `observation`
    is looked at. True of every first step."""
    over: Bool[Tensor, " envs"]
    """The game itself ended; `done` without `over` is a lost life, where that ends the agent's episode."""
    truncated: Bool[Tensor, " envs"]
    """The game was cut off by a limit of time."""
    life_lost: Bool[Tensor, " envs"]
    learn: Bool[Tensor, " envs"]
    """False where the transition must not be learned from: there was none (the first step), or its outcome is unknown
    (cut off). There the return is bootstrapped from the value before: a temporal difference of 0."""
    episode_return: Float32[Tensor, " envs"]
    """Sum of `reward` over the game, this transition included; where `over`, the score of the game that ended."""
    episode_length: Int64[Tensor, " envs"]
    """The same in agent steps."""

    def rows(self, stay: Bool[Tensor, " envs"]) -> VectorStep:
        """Some of the environments."""
        return VectorStep(**{f.name: getattr(self, f.name)[stay] for f in fields(self)})


@runtime_checkable
class VectorEnvironment(Protocol):
    """Environments stepped together."""

    actions: int
    action_names: tuple[str, ...]
    observation_shape: tuple[int, int, int]
    """Channels, height, width."""
    box: Box
    """The part of the screen that an observation shows."""

    @property
    def envs(self) -> int:
        """How many there are."""
        ...

    def reset(self, seed: int) -> VectorStep: ...
    def step(self, actions: Int64[Tensor, " envs"]) -> VectorStep: ...
    def snapshot(self) -> list[bytes]:
        """All that the future depends on, one piece an environment. Raises RequestError where it cannot be had."""
        ...

    def restore(self, snapshot: Sequence[bytes]) -> None:
        """Go on from a snapshot; the last VectorStep is the caller's to keep."""
        ...

    def close(self) -> None: ...


def open_environments(
    settings: EnvironmentSettings, envs: int, *, threads: int = 0, exact: bool = False
) -> VectorEnvironment:
    """As many environments as asked for, the fastest way there is.

    `exact` gives environments whose state can be taken and put back, for runs that resume bit for bit; they make up
    the same games as the fast ones, but for the random numbers behind no-ops and sticky actions. `threads` 0 is one a
    core. Raises RequestError where there is no such environment or `envs` is not positive.
    """
    if envs < 1:
        raise RequestError(f"there must be at least one environment, not {envs}")
    name = atari_name(settings.env)
    if name is None or exact or settings.screen == "mask-a3c":
        return Games([open_game(settings) for _ in range(envs)], settings, threads=threads)
    return AtariVector(settings, name, envs, threads=threads)


class Games:
    """Single games side by side; those that let other threads run are stepped in threads."""

    def __init__(self, games: Sequence[Game], settings: EnvironmentSettings, *, threads: int = 0) -> None:
        self.games = list(games)
        self.settings = settings
        self.actions = games[0].actions
        self.action_names = games[0].action_names
        self.observation_shape = games[0].observation_shape
        self.box = games[0].box
        workers = min(threads or os.cpu_count() or 1, len(games)) if games[0].threaded else 1
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self._tally = Tally(len(games))

    @property
    def envs(self) -> int:
        return len(self.games)

    def reset(self, seed: int) -> VectorStep:
        """New games, seeded apart from each other."""
        seeds = [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(len(self.games))]
        first = [Turn(game.reset(s), 0.0) for game, s in zip(self.games, seeds, strict=True)]
        self._tally = Tally(len(self.games))
        return self._pack(first, begin=True)

    def step(self, actions: Int64[Tensor, " envs"]) -> VectorStep:
        pairs = list(zip(self.games, actions.tolist(), strict=True))
        turns = [_play(*pair) for pair in pairs] if self._pool is None else list(self._pool.map(_play_pair, pairs))
        return self._pack(turns)

    def keep(self, stay: Bool[Tensor, " envs"]) -> None:
        """Let the other games leave."""
        rows = stay.nonzero().squeeze(1).tolist()
        self.games = [self.games[row] for row in rows]
        self._tally.keep(stay)

    def snapshot(self) -> list[bytes]:
        tallies = self._tally.rows()
        return [tally + game.snapshot() for tally, game in zip(tallies, self.games, strict=True)]

    def restore(self, snapshot: Sequence[bytes]) -> None:
        self._tally = Tally.of_rows([piece[: Tally.BYTES] for piece in snapshot])
        for game, piece in zip(self.games, snapshot, strict=True):
            game.restore(piece[Tally.BYTES :])

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        for game in self.games:
            game.close()

    def _pack(self, turns: Sequence[Turn], *, begin: bool = False) -> VectorStep:
        def flags(name: str) -> Tensor:
            return torch.tensor([getattr(turn, name) for turn in turns])

        return self._tally.count(
            observation=torch.from_numpy(np.stack([turn.observation for turn in turns])),
            reward=torch.tensor([turn.reward for turn in turns], dtype=torch.float32),
            over=flags("over"),
            truncated=flags("truncated"),
            life_lost=flags("life_lost"),
            life_loss_ends=self.settings.life_loss_ends,
            begin=begin,
        )


def _play(game: Game, action: int) -> Turn:
    """A step; where that ends the game, the observation is already the next one's first."""
    turn = game.step(action)
    if not turn.over:
        return turn
    return Turn(game.reset(), turn.reward, turn.over, turn.truncated, turn.life_lost)


def _play_pair(pair: tuple[Game, int]) -> Turn:
    return _play(*pair)


class AtariVector:
    """ale-py's own vector of emulators, in C++ threads: the fastest, but its states cannot be taken.

    What ale-py would do by itself is turned off: rewards are not clipped, so that scores are scores; a lost life is
    read from the lives and never resets the game (`episodic_life` would).
    """

    def __init__(self, settings: EnvironmentSettings, name: str, envs: int, *, threads: int = 0) -> None:
        from ale_py.vector_env import AtariVectorEnv

        colour = settings.screen == "rgb"
        example = AtariGame(settings, name)
        screen = example.screen().shape[:2]
        high, wide = screen if colour else settings.size
        self.settings = settings
        self.envs = envs
        self.action_names = example.action_names
        self.actions = example.actions
        self.observation_shape = example.observation_shape
        self.box = Box(0, 0, *screen) if colour else screens.area(high, wide, screen).box
        self._env: Any = AtariVectorEnv(
            name,
            num_envs=envs,
            num_threads=threads,
            max_num_frames_per_episode=settings.max_frames,
            repeat_action_probability=settings.sticky,
            autoreset_mode="SameStep",
            img_height=high,
            img_width=wide,
            grayscale=not colour,
            stack_num=1 if colour else settings.stack,
            frameskip=settings.repeat,
            maxpool=settings.max_pool and settings.repeat > 1,
            noop_max=settings.noops,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=settings.fire,
        )
        self._tally = Tally(envs)
        self._lives = torch.zeros(envs, dtype=torch.long)

    def reset(self, seed: int) -> VectorStep:
        seeds = np.random.SeedSequence(seed).generate_state(self.envs).astype(np.int64) >> 1
        picture, info = self._env.reset(seed=seeds)
        self._tally = Tally(self.envs)
        self._lives = torch.from_numpy(info["lives"]).long()
        nothing = torch.zeros(self.envs, dtype=torch.bool)
        return self._count(picture, torch.zeros(self.envs), nothing, nothing, nothing, begin=True)

    def step(self, actions: Int64[Tensor, " envs"]) -> VectorStep:
        picture, reward, terminated, truncated, info = self._env.step(actions.numpy())
        ended, cut = torch.from_numpy(terminated), torch.from_numpy(truncated)
        before, self._lives = self._lives, torch.from_numpy(info["lives"]).long()
        lost = torch.where(ended, before > 0, (self._lives < before) & (self._lives > 0) & ~cut)
        return self._count(picture, torch.from_numpy(reward).float(), ended | cut, cut & ~ended, lost)

    def snapshot(self) -> list[bytes]:
        raise RequestError("ale-py's vector of games gives no states; open the environments with exact=True")

    def restore(self, snapshot: Sequence[bytes]) -> None:
        raise RequestError("ale-py's vector of games takes no states; open the environments with exact=True")

    def close(self) -> None:
        self._env.close()

    def _count(
        self,
        picture: np.ndarray,
        reward: Tensor,
        over: Tensor,
        truncated: Tensor,
        life_lost: Tensor,
        *,
        begin: bool = False,
    ) -> VectorStep:
        observation = torch.from_numpy(picture)
        if observation.dim() == 5:
            # One colour screen: channels last in memory, which is how convolutions like them; nothing is copied.
            observation = observation.squeeze(1).permute(0, 3, 1, 2)
        return self._tally.count(
            observation=observation,
            reward=reward,
            over=over,
            truncated=truncated,
            life_lost=life_lost,
            life_loss_ends=self.settings.life_loss_ends,
            begin=begin,
        )


class Tally:
    """Counts each game's return and length, and makes VectorSteps of what environments tell."""

    BYTES = 17
    """Of a row: return, length, whether the game is over."""

    def __init__(self, envs: int) -> None:
        self.returned = torch.zeros(envs, dtype=torch.float64)
        self.length = torch.zeros(envs, dtype=torch.long)
        self.over = torch.zeros(envs, dtype=torch.bool)
        """Of the step before: these begin to count anew."""

    def count(
        self,
        *,
        observation: Tensor,
        reward: Tensor,
        over: Tensor,
        truncated: Tensor,
        life_lost: Tensor,
        life_loss_ends: bool,
        begin: bool,
    ) -> VectorStep:
        self.returned = self.returned.masked_fill(self.over, 0) + reward
        self.length = self.length.masked_fill(self.over, 0) + (not begin)
        self.over = over
        first = torch.full_like(over, begin)
        return VectorStep(
            observation=observation,
            reward=reward,
            clipped=reward.clamp(-1, 1),
            done=first | over | (life_lost if life_loss_ends else torch.zeros_like(over)),
            over=over,
            truncated=truncated,
            life_lost=life_lost,
            learn=~(first | truncated),
            episode_return=self.returned.float(),
            episode_length=self.length.clone(),
        )

    def keep(self, stay: Bool[Tensor, " envs"]) -> None:
        self.returned, self.length, self.over = self.returned[stay], self.length[stay], self.over[stay]

    def rows(self) -> list[bytes]:
        parts = zip(self.returned.numpy(), self.length.numpy(), self.over.numpy(), strict=True)
        return [b"".join(part.tobytes() for part in row) for row in parts]

    @classmethod
    def of_rows(cls, rows: Sequence[bytes]) -> Tally:
        tally = cls(len(rows))
        tally.returned = torch.tensor([np.frombuffer(row[:8], np.float64)[0] for row in rows])
        tally.length = torch.tensor([np.frombuffer(row[8:16], np.int64)[0] for row in rows])
        tally.over = torch.tensor([bool(row[16]) for row in rows])
        return tally
