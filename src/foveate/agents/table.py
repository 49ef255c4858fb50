"""`foveate agent table`: every agent of a directory plays, and games and models are set side by side.

Tables 1 of both papers and Table 3 of S3TA; Mask A3C's Table 3 is `foveate agent analyse invert`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import torch
import tyro

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.conditions import Condition, Play, play_all, protocol, scores_numbers, spelled
from foveate.agents.analysis.subject import Subject
from foveate.agents.evaluation import chosen
from foveate.agents.games import atari_name
from foveate.agents.human_scores import SCORES
from foveate.bootstrap import Interval, bootstrap_means
from foveate.errors import RequestError
from foveate.run import write_atomically


@dataclass(frozen=True)
class TableSettings:
    """Let every agent of a directory play, and set games and models side by side, raw and human-normalised."""

    agents: Path
    """A directory whose directories hold an agent each, or a run with one in agent/."""
    output: Path
    """The directory for table.md, table.json, and each agent's games, which --resume goes on with."""
    play: Annotated[Play, tyro.conf.arg(name="")] = field(default_factory=Play)
    sample: bool = False
    """Draw actions from the policy; without it the likeliest is taken."""
    sticky: float | None = None
    """Probability that a frame takes the last action instead; as each agent was trained unless given."""
    threads: int = 0
    """CPU threads; 0 for torch's own choice."""
    seed: int = 0
    """Of everything random."""
    json: bool = False
    """Print JSON, alone, on standard output."""


@dataclass(frozen=True)
class Row:
    """An agent, and what it scored."""

    agent: str
    game: str
    """An Atari game's ROM name, or the environment's id."""
    model: str
    trained_steps: int
    scores: Mapping[str, Any]
    """As `scores_numbers` has them."""
    protocol: Mapping[str, Any]
    fingerprint: str
    """Of the agent."""

    @property
    def interval(self) -> Interval:
        return Interval(*(self.scores[name] for name in ("mean", "low", "high")))


@dataclass(frozen=True)
class Cell:
    """A model's score in a game."""

    interval: Interval
    """Over games; over agents where there are several, as games of one agent say nothing of the next."""
    best: float
    """The highest score of a game."""
    agents: int
    """Different ones: a copy of an agent says nothing new."""


@dataclass(frozen=True)
class Scores:
    """All agents' scores."""

    rows: Sequence[Row]

    @property
    def games(self) -> list[str]:
        return sorted({row.game for row in self.rows})

    @property
    def models(self) -> list[str]:
        return sorted({row.model for row in self.rows})

    def cell(self, game: str, model: str) -> Cell | None:
        """None where no agent of the model plays the game."""
        rows = [row for row in self.rows if (row.game, row.model) == (game, model)]
        if not rows:
            return None
        rows = list({row.fingerprint: row for row in reversed(rows)}.values())
        over = rows[0].interval
        if len(rows) > 1:
            means = torch.tensor([[row.interval.mean] for row in rows], dtype=torch.float64)
            over = bootstrap_means(means, torch.Generator().manual_seed(0))[0]
        return Cell(over, max(row.scores["max"] for row in rows), len(rows))

    def normalised(self, game: str, model: str) -> Interval | None:
        """Per cent of the way from random play to a human; None where there is no score, or no human's."""
        cell = self.cell(game, model)
        if cell is None or game not in SCORES:
            return None
        random, human = SCORES[game]
        return Interval(*(100 * (s - random) / (human - random) for s in asdict(cell.interval).values()))

    @property
    def shared(self) -> list[str]:
        """The games of which every model has a human-normalised score: those alone may be averaged and compared."""
        return [g for g in self.games if all(self.normalised(g, m) is not None for m in self.models)]

    def over_games(self, model: str) -> tuple[float, float] | None:
        """Median and mean of the human-normalised score over the shared games (Table 1 of S3TA)."""
        means = [part.mean for g in self.shared if (part := self.normalised(g, model)) is not None]
        return (median(means), mean(means)) if means else None

    def to_json(self) -> str:
        """All of it; a mean that is no number raises ValueError."""
        cells = {
            game: {
                model: asdict(cell) | {"human_normalised_percent": _plain(self.normalised(game, model))}
                for model in self.models
                if (cell := self.cell(game, model)) is not None
            }
            for game in self.games
        }
        summary = {m: dict(zip(("median", "mean"), o, strict=True)) for m in self.models if (o := self.over_games(m))}
        about = {
            "games": cells,
            "human_normalised_percent": {"games": self.shared, "models": summary},
            "agents": [asdict(row) for row in self.rows],
        }
        return json.dumps(about, indent=1, allow_nan=False)

    def to_markdown(self) -> str:
        """Three tables and how they came about."""
        known = ["random", "human"] if any(game in SCORES for game in self.games) else []
        raw = [
            [game, *(_raw(self.cell(game, model)) for model in self.models), *(_known(game) if known else ())]
            for game in self.games
        ]
        parts = ["# Scores", _lines(self.rows), "## Raw", _table(["game", *self.models, *known], raw)]
        normal = [
            [game, *(_spelled(self.normalised(game, model)) for model in self.models)]
            for game in self.games
            if game in SCORES
        ]
        if normal:
            for n, name in enumerate(("median", "mean")):
                if self.shared:
                    over = [self.over_games(model) for model in self.models]
                    words = ["" if o is None else f"{o[n]:.1f}" for o in over]
                    normal.append([f"{name} of {len(self.shared)} games that all play", *words])
            parts += [
                "## Human-normalised (%)",
                "0 is random play and 100 a human's (Wang et al. 2016, with no-ops).",
                _table(["game", *self.models], normal),
            ]
        return "\n\n".join([*parts, "## Agents", _agents(self.rows)]) + "\n"


def table(settings: TableSettings) -> Scores:
    """Let them play, and write table.md and table.json.

    Raises RequestError where there are no agents, one cannot be loaded or does not fit its environment, or the output
    holds other games.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    rows = [_play(name, place, settings) for name, place in found(settings.agents).items()]
    scores = Scores(sorted(rows, key=lambda row: (row.game, row.model, row.agent)))
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
        write_atomically(settings.output / "table.md", scores.to_markdown())
        write_atomically(settings.output / "table.json", scores.to_json() + "\n")
    except OSError as error:
        raise RequestError(f"cannot write to {settings.output}: {error.strerror or error}") from error
    return scores


def found(directory: Path) -> dict[str, Path]:
    """The agents of a directory by name: directories with a config.json, runs with one in agent/.

    Raises RequestError where there are none.
    """
    places = {}
    for place in sorted(directory.iterdir()) if directory.is_dir() else ():
        for agent in (place, place / "agent"):
            if (agent / "config.json").is_file():
                places[place.name] = agent
                break
    if not places:
        raise RequestError(f"{directory} has no directories with agents in them; give one with runs or agents")
    return places


def _play(name: str, place: Path, settings: TableSettings) -> Row:
    agent = PlayingAgent.load(place)
    subject = Subject(
        agent=str(place),
        output=settings.output / "games" / name,
        sample=settings.sample,
        sticky=settings.sticky,
        threads=settings.threads,
        seed=settings.seed,
    )
    played = play_all(agent, subject, settings.play, [Condition("normal", "as it is")])["normal"]
    environment = chosen(agent, None, settings.sticky, settings.play.max_steps)
    return Row(
        agent=name,
        game=atari_name(environment.env) or environment.env,
        model=agent.model,
        trained_steps=agent.steps,
        scores=scores_numbers(played),
        protocol=subject.protocol(agent) | protocol(settings.play, environment),
        fingerprint=agent.fingerprint(),
    )


def _lines(rows: Sequence[Row]) -> str:
    """What the agents' protocols have in common; the rest is in the table of agents."""
    first = rows[0].protocol
    same = [name for name in first if all(row.protocol.get(name) == first[name] for row in rows)]
    said = "; ".join(f"{name.replace('_', ' ')} {first[name]}" for name in same)
    return (
        f"{said}.\n\nA cell is the mean with its 95% interval, over games, or over agents where it says so; and the "
        "maximum."
    )


def _raw(cell: Cell | None) -> str:
    if cell is None:
        return ""
    several = f" ({cell.agents} agents)" if cell.agents > 1 else ""
    return f"{spelled(cell.interval)}, max {cell.best:g}{several}"


def _known(game: str) -> tuple[str, str]:
    random, human = SCORES.get(game, ("", ""))
    return f"{random}", f"{human}"


def _spelled(part: Interval | None) -> str:
    return "" if part is None else spelled(part)


def _plain(part: Interval | None) -> dict[str, float] | None:
    return None if part is None else asdict(part)


def _agents(rows: Sequence[Row]) -> str:
    names = (
        "agent",
        "game",
        "model",
        "steps learned from",
        "games",
        "different scores",
        "mean",
        "max",
        "min",
        "sticky",
    )
    cells = [
        [
            row.agent,
            row.game,
            row.model,
            f"{row.trained_steps:,}" if row.trained_steps else "unknown",
            str(row.scores["games"]),
            str(row.scores["different_scores"]),
            spelled(row.interval),
            f"{row.scores['max']:g}",
            f"{row.scores['min']:g}",
            f"{row.protocol['sticky']:g}",
        ]
        for row in rows
    ]
    return _table(names, cells, words=3)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """The first columns are words, the others numbers."""
    lines = [columns, [*["---"] * words, *["---:"] * (len(columns) - words)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
