"""Transfer: agents on classifiers that they were not trained on (AttExplainer, section 4.2, RQ3, Table 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from foveate.bootstrap import Interval
from foveate.errors import RequestError
from foveate.masking.game import MaskingGame
from foveate.masking.goal import Task, check_threshold, goal_of
from foveate.run import write_atomically
from foveate.text import benchmark
from foveate.text.agent import Agent
from foveate.text.benchmark import Entry
from foveate.text.classifier import TextClassifier
from foveate.text.explanation_files import load
from foveate.text.features import FEATURES
from foveate.text.metrics import outcomes
from foveate.text.probe import Probe
from foveate.text.seeds import HOW, crossed_means

YARDSTICK = "attention"
"""What every agent is held against: the most attended token first."""
MEASURES = ("fidelity", "queries", "mask_rate")
BOUND = ("layers", "hidden", "labels")
"""The features that have sizes of one classifier."""


@dataclass(frozen=True)
class Settings:
    """Play every agent on every classifier."""

    agents: Annotated[str, tyro.conf.arg(metavar="[NAME=]DIR[+DIR...],...")]
    """Names or directories of agents, with commas between; several trainings of one, with other seeds, as
    NAME=DIR+DIR+DIR."""
    models: Annotated[str, tyro.conf.arg(metavar="[NAME=]ID|DIR,...")]
    """Classifiers, with commas between."""
    data: Annotated[str, tyro.conf.arg(metavar="FILE|ID,...")]
    """Texts for each classifier: .jsonl, .csv or .tsv files (also .gz) or data sets of the hub, with commas between."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The directory for table.md, results.json, the heat map, and a directory a classifier with all that was found."""
    task: Task = "explain"
    """What the agents do with each text. Attacked are the texts that the classifier gets right (by the data's labels);
    those it gets wrong are counted apart."""
    thresholds: Annotated[str, tyro.conf.arg(metavar="P,...")] = "0.8"
    """ε of explaining for each classifier, with commas between, or one for all."""
    limit: int | None = None
    """The first so many texts of each data; all of them if not given."""
    seed: int = 0
    """Of the bootstrap."""
    threads: int = 0
    """CPU threads; 0 for torch's own choice."""
    resume: bool = False
    """Go on where an earlier run into the same directory stopped, or add agents and classifiers to it."""


@dataclass(frozen=True)
class Contender:
    """An agent, in one or several trainings."""

    name: str
    places: tuple[str, ...]
    agents: tuple[Agent, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(f"agent={place}" for place in self.places)


@dataclass(frozen=True)
class Column:
    """A classifier and its texts."""

    name: str
    model: str
    data: str
    threshold: float


@dataclass(frozen=True)
class Summary:
    """Means over texts and seeds, and what they are less the yardstick's, paired text by text."""

    texts: int
    means: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """What an agent did with a classifier's texts."""

    note: str = ""
    """Why there is nothing, in a phrase."""
    seeds: int = 0
    all: Summary = Summary(0)
    reachable: Summary = Summary(0)
    """Over the texts that can be explained; the same where texts are attacked."""


@dataclass(frozen=True)
class Matrix:
    """Cells by agent (and the yardstick) and classifier."""

    task: Task
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    wrong: Mapping[str, int]
    """Texts of each classifier that it gets wrong, and that are not attacked for that reason."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        cells = [{"agent": row, "model": column, **asdict(cell)} for (row, column), cell in self.cells.items()]
        return {"task": self.task, "cells": cells, "wrong": dict(self.wrong), "notes": list(self.notes)}

    def to_markdown(self) -> str:
        titles = ("success ↑", "queries ↓", "modified ↓") if self.task == "attack" else TITLES
        parts = ["# " + ("Attacks" if self.task == "attack" else "Explanations") + ": agents and classifiers"]
        groups = [("", "all")]
        if self.task == "explain":
            groups = [("All texts: ", "all"), ("Texts that can be solved, p(label | X) ≥ ε: ", "reachable")]
        for prefix, which in groups:
            for measure, title in zip(MEASURES, titles, strict=True):
                header = "| agent | " + " | ".join(self._heading(column, which) for column in self.columns) + " |"
                lines = [header, "|---" * (len(self.columns) + 1) + "|"]
                for row in self.rows:
                    shown = [_cell(self.cells[row, column], which, measure) for column in self.columns]
                    lines.append(f"| {row} | " + " | ".join(shown) + " |")
                parts += [f"## {prefix}{title}", "\n".join(lines)]
        better = "Bold: better than the yardstick, the most attended token first; italic: worse. Both by a difference "
        parts.append(better + "whose interval, text by text, is clear of zero.")
        parts += [HOW, *self.notes]
        if self.task == "attack":
            wrong = ", ".join(f"{name} {count}" for name, count in self.wrong.items())
            parts.append(f"Texts that the classifier gets wrong are not attacked and in no mean: {wrong}.")
        return "\n\n".join(parts) + "\n"

    def _heading(self, column: str, which: str) -> str:
        count = max(getattr(self.cells[row, column], which).texts for row in self.rows)
        return f"{column} ({count} texts)"


TITLES = ("fidelity ↑", "queries ↓", "masked ↓")


def transfer(settings: Settings) -> Matrix:
    """Play every agent on every classifier, and write the matrix: table.md, results.json, transfer.png and .svg.

    Each classifier's results are kept as they come in a directory of its own, as `foveate text benchmark` has them.
    Raises RequestError where the request is wrong.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    contenders, columns = _contenders(settings.agents), _columns(settings)
    _check_output(settings)
    cells: dict[tuple[str, str], Cell] = {}
    wrong: dict[str, int] = {}
    for column in columns:
        found, wrong[column.name] = _play(settings, contenders, column)
        cells |= {(row, column.name): cell for row, cell in found.items()}
        done = columns[: len(wrong)]
        matrix = Matrix(
            task=settings.task,
            rows=(YARDSTICK, *(c.name for c in contenders)),
            columns=tuple(c.name for c in done),
            cells=cells,
            wrong=wrong,
            notes=_notes(contenders, settings.task, cells),
        )
        _report(matrix, settings, contenders, finished=len(done) == len(columns))
    _draw(matrix, settings.output)
    return matrix


def _contenders(named: str) -> list[Contender]:
    contenders = []
    for name, value in _named(named, "--agents").items():
        places = tuple(value.split("+"))
        agents = tuple(Agent.load(place) for place in places)
        if len({(a.features, a.inputs, a.task) for a in agents}) > 1:
            raise RequestError(f"the agents of {name} differ in task or features; + joins trainings of one agent")
        contenders.append(Contender(name, places, agents))
    if YARDSTICK in (c.name for c in contenders):
        raise RequestError(f"{YARDSTICK!r} is the name of the yardstick; give the agent another, NAME=DIR")
    return contenders


def _columns(settings: Settings) -> list[Column]:
    models = _named(settings.models, "--models")
    data = settings.data.split(",")
    try:
        thresholds = [float(t) for t in settings.thresholds.split(",")]
    except ValueError as error:
        raise RequestError(f"--thresholds {settings.thresholds}: give numbers with commas between") from error
    for threshold in thresholds:
        check_threshold(threshold)
    thresholds = thresholds * len(models) if len(thresholds) == 1 else thresholds
    for values, name in ((data, "--data"), (thresholds, "--thresholds")):
        if len(values) != len(models):
            raise RequestError(f"{len(models)} classifiers need as many {name}, not {len(values)}")
    return [Column(n, m, d, t) for (n, m), d, t in zip(models.items(), data, thresholds, strict=True)]


def _named(listed: str, option: str) -> dict[str, str]:
    """`[NAME=]PLACE` with commas between; a place without a name has its last part's, `runs/e0/agent` its run's."""
    named: dict[str, str] = {}
    for part in listed.split(","):
        given, equals, place = part.strip().rpartition("=")
        path = Path(place.split("+")[0])
        name = given if equals else path.parent.name if path.name == "agent" and path.parent.name else path.name
        if not place or not name or any(c in name for c in "/\\|"):
            raise RequestError(f"cannot read {option} {part.strip()!r}; write PLACE or NAME=PLACE")
        if name in named:
            raise RequestError(f"{option} has two called {name!r}; name them, NAME=PLACE")
        named[name] = place
    return named


def _check_output(settings: Settings) -> None:
    if (settings.output / "results.json").exists() and not settings.resume:
        raise RequestError(f"{settings.output} holds a transfer; pass --resume to go on, or name another directory")


def _play(settings: Settings, contenders: Sequence[Contender], column: Column) -> tuple[dict[str, Cell], int]:
    """The column's cells, and how many texts are in no mean because the classifier gets them wrong."""
    misfits = _misfits(settings, contenders, column)
    playing = [c for c in contenders if c.name not in misfits]
    run = benchmark.Settings(
        data=column.data,
        output=settings.output / column.name,
        methods=",".join([YARDSTICK, *dict.fromkeys(m for c in playing for m in c.methods)]),
        model=column.model,
        task=settings.task,
        limit=settings.limit,
        threshold=column.threshold,
        faithfulness=0,
        seed=settings.seed,
        resume=settings.resume,
    )
    table = benchmark.benchmark(run)
    values, failed = {}, {row.method: row.note for row in table.rows if row.note}
    if YARDSTICK in failed:
        raise RequestError(f"{column.name}: {YARDSTICK} was {failed[YARDSTICK]}")
    for row in table.rows:
        if row.note:
            continue
        found = load(run.output / Entry(row.method, None).file)[: row.all.texts]
        measured = outcomes(found)
        values[row.method] = torch.stack([measured[name] for name in MEASURES], 1)
        reachable = torch.tensor([e.reachable for e in found], dtype=torch.bool)
    yardstick = values[YARDSTICK][None]
    cells = {YARDSTICK: _summarised(yardstick, None, reachable, settings.seed)}
    for contender in playing:
        if notes := [failed[method] for method in contender.methods if method in failed]:
            cells[contender.name] = Cell(note=notes[0])
            continue
        mine = torch.stack([values[method] for method in contender.methods])
        cells[contender.name] = _summarised(mine, yardstick, reachable, settings.seed)
    cells |= {name: Cell(note=note) for name, note in misfits.items()}
    wrong = json.loads((run.output / "results.json").read_text(encoding="utf-8"))["wrong"]
    return cells, wrong


def _misfits(settings: Settings, contenders: Sequence[Contender], column: Column) -> dict[str, str]:
    """The agents that cannot play on the classifier, and why, in a phrase."""
    classifier = TextClassifier.from_pretrained(column.model)
    goal = goal_of(settings.task, column.threshold)
    state = MaskingGame(Probe(classifier, ["a text"], opened=False), goal, iter([0]), slots=1).state
    assert state is not None
    misfits = {}
    for contender in contenders:
        agent = contender.agents[0]
        features = sum(FEATURES[name](state).shape[-1] for name in agent.features)
        if features != agent.inputs:
            misfits[contender.name] = f"needs {agent.inputs} features a token, here are {features}"
    return misfits


def _summarised(
    mine: Float[Tensor, "seeds texts measures"],
    yardstick: Float[Tensor, "1 texts measures"] | None,
    reachable: Tensor,
    seed: int,
) -> Cell:
    def summary(keep: Tensor) -> Summary:
        if not keep.any():
            return Summary(0)

        def intervals(values: Tensor) -> dict[str, Interval]:
            rng = torch.Generator().manual_seed(seed)
            return dict(zip(MEASURES, crossed_means(values[:, keep], rng), strict=True))

        return Summary(int(keep.sum()), intervals(mine), {} if yardstick is None else intervals(mine - yardstick))

    return Cell("", len(mine), summary(torch.ones_like(reachable)), summary(reachable))


def _notes(contenders: Sequence[Contender], task: Task, cells: Mapping[tuple[str, str], Cell]) -> tuple[str, ...]:
    notes = []
    seeds = [f"{c.name} {len(c.places)}" for c in contenders if len(c.places) > 1]
    if seeds:
        notes.append(f"Seeds: {', '.join(seeds)}; one of every other agent.")
    if others := [c.name for c in contenders if c.agents[0].task != task]:
        notes.append(f"Trained for the other task: {', '.join(others)}.")
    if any(cell.note for cell in cells.values()):
        free = ", ".join(name for name in FEATURES if name not in BOUND)
        notes.append(
            f"The features {', '.join(BOUND)} have sizes of one classifier, so an agent with them plays on classifiers "
            f"of the same layers, width and labels only. Agents with these features play on any: {free}."
        )
    return tuple(notes)


def _report(matrix: Matrix, settings: Settings, contenders: Sequence[Contender], finished: bool) -> None:
    agents = [
        {"name": c.name, "places": c.places, "task": c.agents[0].task, "features": c.agents[0].features}
        for c in contenders
    ]
    about = {"settings": asdict(settings), "versions": benchmark.versions(), "finished": finished}
    results = {**about, "agents": agents, **matrix.to_dict()}
    text = json.dumps(results, indent=1, ensure_ascii=False, default=str)
    write_atomically(settings.output / "results.json", text + "\n")
    write_atomically(settings.output / "table.md", matrix.to_markdown())


def _draw(matrix: Matrix, folder: Path) -> None:
    from foveate.viz.panels import heat_maps, save

    names = ("success", "queries", "modified") if matrix.task == "attack" else ("fidelity", "queries", "masked")
    values: dict[str, list[list[float | None]]] = {}
    for measure, name in zip(MEASURES, names, strict=True):
        cells = [[matrix.cells[row, column].reachable.means for column in matrix.columns] for row in matrix.rows]
        values[name] = [[means[measure].mean if measure in means else None for means in row] for row in cells]
    which = "attacks" if matrix.task == "attack" else "explanations, texts that can be solved"
    save(heat_maps(matrix.rows, matrix.columns, values, which + "; darker is better"), folder / "transfer")


def _cell(cell: Cell, which: str, measure: str) -> str:
    summary: Summary = getattr(cell, which)
    if measure not in summary.means:
        return cell.note or "no such text"
    interval = summary.means[measure]
    mean, low, high = (f"{x:.2f}" if measure == "queries" else f"{x:.3f}" for x in asdict(interval).values())
    sign = summary.differences[measure].sign * (1 if measure == "fidelity" else -1) if summary.differences else 0
    mark = {1: "**", -1: "*"}.get(sign, "")
    return f"{mark}{mean}{mark} [{low}, {high}]"
