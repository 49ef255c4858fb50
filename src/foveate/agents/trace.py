"""Trace: play, recorded once and analysed many times; read a piece at a time, and gone on with from any step."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor
from tqdm import tqdm

from foveate.agents.agent import PlayingAgent
from foveate.agents.atari import AtariGame
from foveate.agents.envs import Games, VectorStep
from foveate.agents.games import EnvironmentSettings, open_game
from foveate.agents.models.interface import AS_IT_IS, AgentInputs, AgentOutput, Attention, Edit, State
from foveate.agents.player import Player
from foveate.errors import RequestError

FORMAT = "2"
"""Of traces; another one cannot be read."""

ABOUT = "trace.json"
"""What was played, and which of PLACES the pieces are in. So it alone says which trace the directory holds."""

PLACES = ("pieces-0", "pieces-1")
"""A trace is written to the one that the trace before is not in."""

PIECE = 64
"""Steps of a file: as many are held in memory at once, and at most as many are played again to go on from a step."""

ALL_OF_A_STEP = tuple(f.name for f in fields(VectorStep))


@dataclass(frozen=True)
class Piece:
    """Consecutive steps of one environment. Row t holds what the agent was shown at step t, and what it made of it."""

    start: int
    """Step of the first row."""
    step: VectorStep
    """The steps as the agent was shown them; the first axis is time, not environments."""
    screen: UInt8[Tensor, "time height width 3"]
    """What a person saw."""
    ram: UInt8[Tensor, "time bytes"]
    """The console's memory as the screen shows it; no bytes where the environment has none."""
    before: Int64[Tensor, " time"]
    """The previous action, which led to the step."""
    action: Int64[Tensor, " time"]
    """What the agent then did."""
    logits: Float[Tensor, "time actions"]
    value: Float[Tensor, " time"]
    maps: Float[Tensor, "time heads rows columns"]
    queries: Float[Tensor, "time asked channels"]
    """One of no channels where the network asks none."""
    state: State
    """What the agent remembered before the first row."""
    emulator: bytes | None = field(repr=False)
    """The environment's state at the first row; None where it cannot be had."""

    @property
    def steps(self) -> int:
        return len(self.action)

    @property
    def inputs(self) -> AgentInputs:
        """The steps in the form that networks take: one environment."""
        return AgentInputs(
            self.step.observation[:, None], self.step.clipped[:, None], self.before[:, None], self.step.done[:, None]
        )


@dataclass(frozen=True)
class Moment:
    """An environment and an agent as they were before a step was decided on; both can go on from it."""

    games: Games
    """One game, ready to be stepped."""
    step: VectorStep
    """What the agent is about to be shown."""
    state: State
    """What it remembers."""
    action: Int64[Tensor, " envs"]
    """What it did before."""


class Trace:
    """Recorded play of one agent in one environment, in a directory."""

    def __init__(self, directory: str | Path) -> None:
        """Raises RequestError where there is no trace, or one of another version."""
        self.directory = Path(directory)
        try:
            about = json.loads((self.directory / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(f"{directory} holds no whole trace; record one anew") from error
        if about.get("format") != FORMAT:
            raise RequestError(f"{directory} is of another version of foveate; record it anew")
        self.about: Mapping[str, Any] = about
        self.steps: int = about["steps"]
        self.heads: tuple[str, ...] = tuple(about["heads"])
        self.action_names: tuple[str, ...] = tuple(about["action_names"])
        played: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["environment"].items()}
        self.environment = EnvironmentSettings(**played)
        # Of the instance, so that the pieces go with it.
        self._read = lru_cache(maxsize=4)(self._piece)

    def pieces(self) -> Iterator[Piece]:
        """One after another; a few are in memory at a time."""
        for start in range(0, self.steps, PIECE):
            yield self._read(start)

    def piece(self, step: int) -> Piece:
        """The one that a step is in. Raises RequestError for a step that was not played."""
        if not 0 <= step < self.steps:
            raise RequestError(f"the trace has steps 0 to {self.steps - 1}, not {step}")
        return self._read(step // PIECE * PIECE)

    def column(self, name: str) -> Shaped[Tensor, "time ..."]:
        """One quantity of all steps: a field of `Piece` or of `VectorStep`. Keep to those that are small."""
        return torch.cat([getattr(p if hasattr(p, name) else p.step, name) for p in self.pieces()])

    def attention(self, piece: Piece, agent: PlayingAgent) -> Attention:
        """All of a piece's attention, what and where with it, by showing the agent the piece again (one environment).

        Raises RequestError where the agent has no attention.
        """
        return attention_of(self.replay(piece, agent))

    @torch.inference_mode()
    def replay(self, piece: Piece, agent: PlayingAgent, edit: Edit = AS_IT_IS) -> AgentOutput:
        """Show the agent a piece again, from what it remembered then."""
        return agent(piece.inputs, piece.state, True, edit)[0]

    @torch.inference_mode()
    def remembered(self, step: int, agent: PlayingAgent) -> State:
        """What the agent remembered before a step."""
        piece = self.piece(step)
        rows = step - piece.start
        if not rows:
            return piece.state
        inputs = AgentInputs(*(getattr(piece.inputs, f.name)[:rows] for f in fields(AgentInputs)))
        state: State = agent(inputs, piece.state)[1]
        return state

    def moment(self, step: int, agent: PlayingAgent) -> Moment:
        """Environment and agent as they were at a step, to go on from there, each time anew.

        Raises RequestError where the environment's state could not be taken.
        """
        piece = self.piece(step)
        if piece.emulator is None:
            raise RequestError(
                f"the state of {self.environment.env} cannot be put back; this analysis is for Atari and MinAtar"
            )
        games = Games([open_game(self.environment)], self.environment)
        games.reset(0)
        games.restore([piece.emulator])
        row = step - piece.start
        for action in piece.action[:row]:
            games.step(action[None])
        now = VectorStep(**{name: getattr(piece.step, name)[row : row + 1] for name in ALL_OF_A_STEP})
        return Moment(games, now, self.remembered(step, agent), piece.before[row : row + 1])

    def episodes(self) -> list[range]:
        """The steps of each game, the last of which may have been left unfinished."""
        over = self.column("over").nonzero().squeeze(1).tolist()
        starts = [0, *over]
        ends = [*over, self.steps]
        return [range(a, b) for a, b in zip(starts, ends, strict=True) if b > a]

    def _piece(self, start: int) -> Piece:
        file = _file(self.directory / self.about["pieces"], start)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (OSError, ValueError, BadZipFile) as error:
            raise RequestError(f"{file} cannot be read; record the trace anew") from error
        emulator = tensors.pop("emulator").numpy().tobytes()
        step = VectorStep(**{name: tensors.pop(f"step.{name}") for name in ALL_OF_A_STEP})
        state = {n.removeprefix("state."): tensors.pop(n) for n in list(tensors) if n.startswith("state.")}
        if "screen" not in tensors:
            tensors["screen"] = step.observation.permute(0, 2, 3, 1).contiguous()
        return Piece(start=start, step=step, state=state, emulator=emulator or None, **tensors)


def attention_of(output: AgentOutput) -> Attention:
    """What was looked at. Raises RequestError where the agent has no attention."""
    if output.attention is None:
        raise RequestError("this agent has no attention to look at; take an S3TA or a masked A3C")
    return output.attention


@torch.inference_mode()
def record(
    agent: PlayingAgent,
    directory: str | Path,
    *,
    steps: int,
    episodes: int | None = None,
    environment: EnvironmentSettings | None = None,
    sample: bool = True,
    seed: int = 0,
    edit: Edit = AS_IT_IS,
    name: str = "",
) -> Trace:
    """Play, and write down everything; ends after `steps` steps, or sooner with the game that is the `episodes`th.

    `environment` is the agent's own unless given. A trace that is in the directory already is replaced, at the end: it
    stays whole until then, and if that is not reached. Other files there are left alone.
    Raises RequestError where the environment does not fit the agent, or the directory cannot be written to.
    """
    if steps < 1 or (episodes is not None and episodes < 1):
        raise RequestError("a trace has at least one step, and at least one episode")
    environment = environment or agent.environment
    place = Path(directory)
    with closing(Games([open_game(environment)], environment)) as games:
        agent.check(games.observation_shape, games.actions, environment.env)
        with _replaced(place) as pieces:
            player = Player(agent, 1, sample=sample, seed=seed, edit=edit)
            played, ended = _play(games, player, pieces, steps, episodes, seed)
            about = {
                "format": FORMAT,
                "pieces": pieces.name,
                "agent": name or agent.source or agent.model,
                "fingerprint": agent.fingerprint(),
                "model": agent.model,
                "heads": agent.heads,
                "environment": {f.name: getattr(environment, f.name) for f in fields(environment)},
                "action_names": games.action_names,
                "steps": played,
                "finished": ended,
                "sampled": sample,
                "seed": seed,
            }
            (pieces / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return Trace(place)


@contextmanager
def _replaced(place: Path) -> Iterator[Path]:
    """A directory to write the pieces and ABOUT to, which in the end become the trace that `place` holds.

    Whatever happens, that is the old one or the new one, and nothing is left of the other.
    Raises RequestError for an OSError, also for one within.
    """
    try:
        new, before = not place.exists(), _pieces(place)
        pieces = place / next(name for name in PLACES if name != before)
        _remove(pieces)  # what a recording that was killed has left
        try:
            pieces.mkdir(parents=True, exist_ok=True)
            yield pieces
            # One renaming: there is no moment without a trace.
            os.replace(pieces / ABOUT, place / ABOUT)
        finally:
            holds = _pieces(place)
            for name in PLACES:
                if name != holds:
                    _remove(place / name)
            if new and holds is None:
                with suppress(OSError):
                    place.rmdir()
    except OSError as error:
        raise RequestError(f"cannot write to {place}: {error.strerror or error}") from error


def _pieces(place: Path) -> str | None:
    """The one of PLACES that the directory's trace is in; None where it holds none."""
    try:
        return str(json.loads((place / ABOUT).read_text(encoding="utf-8"))["pieces"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _remove(pieces: Path) -> None:
    """Of a directory of pieces, the files that are a trace's; then the directory, if it is empty."""
    for file in (*pieces.glob("[0-9]" * 8 + ".npz"), pieces / ABOUT):
        file.unlink(missing_ok=True)
    with suppress(OSError):
        pieces.rmdir()


def _file(pieces: Path, start: int) -> Path:
    return pieces / f"{start:08}.npz"


def _play(games: Games, player: Player, pieces: Path, steps: int, episodes: int | None, seed: int) -> tuple[int, int]:
    """Write a file every PIECE steps; returns the steps that were played and the games that ended."""
    step, played, ended = games.reset(seed), 0, 0
    rows: list[dict[str, Tensor]] = []
    begin = _begin(games, player.state)
    with tqdm(total=steps, unit="step", desc="recording", disable=not sys.stderr.isatty()) as bar:
        while played < steps and (episodes is None or ended < episodes):
            seen = {
                "screen": torch.from_numpy(games.games[0].screen().copy()),
                "ram": _ram(games),
                "before": player.action[0],
            }
            action, output = player.act(step, observe=True)
            rows.append(_row(step, seen, action, output))
            step = games.step(action)
            ended += int(step.over)
            played += 1
            bar.update(1)
            if len(rows) == PIECE:
                _write(_file(pieces, played - PIECE), rows, begin)
                rows, begin = [], _begin(games, player.state)
    if rows:
        _write(_file(pieces, played - len(rows)), rows, begin)
    return played, ended


def _begin(games: Games, state: State) -> dict[str, np.ndarray]:
    """Where a piece goes on from."""
    try:
        emulator = games.snapshot()[0]
    except RequestError:
        emulator = b""
    return {"emulator": np.frombuffer(emulator, np.uint8)} | {f"state.{n}": part.numpy() for n, part in state.items()}


def _ram(games: Games) -> UInt8[Tensor, " bytes"]:
    game = games.games[0]
    return torch.from_numpy(game.ram().copy()) if isinstance(game, AtariGame) else torch.zeros(0, dtype=torch.uint8)


def _row(step: VectorStep, seen: dict[str, Tensor], action: Tensor, output: AgentOutput) -> dict[str, Tensor]:
    look = output.attention
    nothing = torch.zeros(0)
    return seen | {
        **{f"step.{name}": getattr(step, name)[0] for name in ALL_OF_A_STEP},
        "action": action[0],
        "logits": output.logits[0, 0],
        "value": output.value[0, 0],
        "maps": torch.zeros(0, 1, 1) if look is None else look.maps[0, 0],
        "queries": nothing[None] if look is None or look.queries is None else look.queries[0, 0],
    }


def _write(file: Path, rows: Sequence[dict[str, Tensor]], begin: Mapping[str, np.ndarray]) -> None:
    arrays = {name: torch.stack([row[name] for row in rows]).numpy() for name in rows[0]}
    if np.array_equal(arrays["screen"], arrays["step.observation"].transpose(0, 2, 3, 1)):
        del arrays["screen"]  # the agent sees what a person sees
    np.savez_compressed(file, allow_pickle=False, **arrays, **begin)
