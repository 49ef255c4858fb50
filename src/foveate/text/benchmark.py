"""Benchmark: methods run over a data set, kept on disk as they go, and set side by side (AttExplainer, Tables 2, 3)."""

from __future__ import annotations

import json
import os
import platform
import re
import time
import traceback
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from foveate.bootstrap import Interval
from foveate.errors import RequestError
from foveate.masking.goal import Task, check_threshold, goal_of
from foveate.run import require_wandb, start_wandb, write_atomically
from foveate.text import opponents
from foveate.text.agent import Agent
from foveate.text.attack_result import AttackResult, masked_result
from foveate.text.classifier import TextClassifier
from foveate.text.comparison import Sample, Table, sample, tabulate
from foveate.text.encoded import Text
from foveate.text.explainer import find_agent, label_indices
from foveate.text.explanation import Explanation
from foveate.text.explanation_files import read
from foveate.text.inputs import Columns, read_labelled
from foveate.text.methods import ATTRIBUTIONS, METHODS, attribute, fork, mask_in_order, mask_positive, opens, run
from foveate.text.metrics import faithfulness, scores_of
from foveate.text.opponents import OPPONENTS, Resources
from foveate.text.probe import Probe
from foveate.viz.figures import pareto

WIDE, NARROW, SINGLE = 256, 32, 4
"""Texts that a method is given at once, which is what a killed run loses at most: many for methods that ask a row a
text at a time, few for those that ask hundreds, fewer for opponents that take them one by one."""


NO_MATTER = ("methods", "output", "resume", "wandb", "resources", "mlm")
"""Settings that may change when a run is resumed."""


@dataclass(frozen=True)
class Settings:
    """What is compared, on what, and where the tables go."""

    data: str
    """Texts: a .jsonl, .csv or .tsv file (also .gz), or a data set of the hub."""
    output: Path
    """The directory for table.md, results.json, the explanations and the picture."""
    methods: str = "agent,attention,greedy"
    """Names with commas between; the first is what the others are held against. NAME:positive masks every token with
    a positive score, NAME@200 takes the first 200 texts, agent=DIR plays another agent. Attacks have opponents too:
    pwws, deepwordbug, hotflip, genetic, pso, textbugger, bert-attack, scpn, gan."""
    model: str = "emotion"
    """The classifier: a hub id, a directory, or the one in the package."""
    task: Task = "explain"
    """What the methods do with each text. Texts that the classifier gets wrong are explained as others, but not
    attacked: they are counted apart."""
    limit: int | None = None
    """How many texts; all of them if not given."""
    threshold: float = 0.8
    """ε: the drop in probability that counts as explained; of no account for attacks."""
    text_columns: tuple[str, ...] = ()
    """The column of the text, or the two of a pair; found by their usual names if not given."""
    label_column: str | None = None
    """The column of the true label, which attacks need; found by its usual names if not given."""
    resources: Path | None = None
    """The directory of what the opponents need: tables of words, NLTK's data; `foveate doctor` says what."""
    mlm: str | None = None
    """A masked language model, for bert-attack."""
    faithfulness: int = 500
    """Comprehensiveness and sufficiency are taken of so many first texts; 0 leaves them out."""
    seed: int = 0
    """Of the methods' random choices and of the bootstrap."""
    wandb: bool = False
    """Send the table to Weights & Biases too (WANDB_MODE=offline needs no network)."""
    resume: bool = False
    """Go on where an earlier run into the same directory stopped, or add methods to it; what is there is kept. A method
    whose explanations-METHOD.jsonl is deleted is done again."""


@dataclass(frozen=True)
class Entry:
    """One of the methods to be compared."""

    name: str
    limit: int | None
    """It explains so many first texts, or all."""

    @classmethod
    def parse(cls, text: str) -> Entry:
        """`NAME` or `NAME@LIMIT`; raises RequestError on any other limit than a positive number."""
        name, at, limit = text.strip().partition("@")
        if not name or (at and not re.fullmatch("[1-9][0-9]*", limit)):
            raise RequestError(
                f"cannot read the method {text.strip()!r}; write NAME, or NAME@200 for the first 200 texts"
            )
        return cls(name, int(limit) if at else None)

    @property
    def chunk(self) -> int:
        if self.name in OPPONENTS:
            return SINGLE
        return WIDE if self.name.startswith(("agent", "attention", "random")) else NARROW

    @property
    def file(self) -> str:
        return f"explanations-{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.name)}.jsonl"


class Store:
    """The directory of a run. What a method has done of a chunk counts once its line is in the journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "progress.jsonl"

    def open(self, settings: Settings) -> None:
        """Raises RequestError where another run's results lie there, or lie there and are not to be resumed."""
        results = self.folder / "results.json"
        if results.exists():
            if not settings.resume:
                raise RequestError(
                    f"{self.folder} holds a benchmark; pass --resume to go on, or name another directory"
                )
            before = json.loads(results.read_text(encoding="utf-8"))["settings"]
            now = settings_of(settings)
            changed = [key for key in now if key not in NO_MATTER and before.get(key) != now[key]]
            if changed:
                wanted = ", ".join(f"{key} {before.get(key)!r}" for key in changed)
                raise RequestError(f"{self.folder} was made with {wanted}; resume with that, or name another directory")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            started = {"settings": settings_of(settings), "finished": False}
            write_atomically(results, json.dumps(started))
        except OSError as error:
            raise RequestError(f"cannot write to {self.folder}: {error.strerror}; name another directory") from error
        self._mend(self.journal, self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0)

    def chunks(self, entry: Entry, texts: int) -> list[dict[str, Any]]:
        """The journal's lines of the chunks that are done and stay: the whole ones, and one that ends the texts."""
        done: list[dict[str, Any]] = []
        file = self.folder / entry.file
        if not self.journal.exists() or not file.exists():
            return done
        kept = file.read_bytes().count(b"\n")
        for line in self.journal.read_text(encoding="utf-8").splitlines():
            chunk = json.loads(line)
            follows = chunk["start"] == (done[-1]["stop"] if done else 0)
            whole = chunk["stop"] - chunk["start"] == entry.chunk or chunk["stop"] >= texts
            if chunk["method"] == entry.name and follows and whole and chunk["stop"] <= kept:
                done.append(chunk)
        return done

    def add(
        self, entry: Entry, start: int, found: Sequence[Explanation], seconds: float, extra: Mapping[str, Any]
    ) -> None:
        """Append a chunk, over whatever a killed run or a smaller limit left after `start`."""
        file = self.folder / entry.file
        self._mend(file, start)
        with file.open("a", encoding="utf-8", newline="\n") as out:
            out.writelines(e.to_json() + "\n" for e in found)
            out.flush()
            os.fsync(out.fileno())
        line = {"method": entry.name, "start": start, "stop": start + len(found), "seconds": seconds, **extra}
        with self.journal.open("a", encoding="utf-8", newline="\n") as out:
            out.write(json.dumps(line) + "\n")

    def _mend(self, file: Path, lines: int) -> None:
        """Cut a file down to its first whole lines."""
        if file.exists():
            with file.open("r+b") as content:
                for _ in range(lines):
                    content.readline()
                content.truncate()


@dataclass(frozen=True)
class Job:
    """What all methods of a run share."""

    settings: Settings
    classifier: TextClassifier
    texts: Sequence[Text]
    store: Store
    wrong: int = 0
    """Texts that were left out, since the classifier gets them wrong and they are to be attacked."""

    def count(self, entry: Entry) -> int:
        return min(len(self.texts), entry.limit or len(self.texts))

    def agent(self, entry: Entry) -> Agent | None:
        """The agent that an entry plays with; raises RequestError where there is none."""
        method, _, place = entry.name.partition("=")
        return find_agent(place or None, self.classifier, self.settings.task) if method == "agent" else None


def benchmark(settings: Settings) -> Table:
    """Explain or attack the data's first texts with each method, and write the tables.

    Into the directory `output`: explanations-METHOD.jsonl and progress.jsonl while it runs, table.md and results.json
    after each method, pareto.png and .svg at the end. A method that cannot run is a row that says so.
    Raises RequestError where the request is wrong as a whole.
    """
    if settings.wandb:
        require_wandb()
    entries = parse_methods(settings.methods, settings.task)
    columns = Columns(settings.text_columns, settings.label_column)
    labelled = read_labelled(settings.data, columns, settings.limit, needed=settings.task == "attack")
    check_threshold(settings.threshold)
    classifier = TextClassifier.from_pretrained(settings.model)
    # Nothing is written before all that can be wrong with the request as a whole is known.
    texts = right_ones(classifier, labelled) if settings.task == "attack" else [text for text, _ in labelled]
    store = Store(settings.output)
    store.open(settings)
    job = Job(settings, classifier, texts, store, len(labelled) - len(texts))
    samples: dict[str, Sample] = {}
    with tqdm(total=sum(map(job.count, entries)), unit="text", disable=None) as progress:
        for family in families(entries):
            progress.set_description(family[0].name)
            samples |= run_family(family, job, progress)
            # Families gather what may be named apart; the table keeps the order that was asked for.
            samples = {entry.name: samples[entry.name] for entry in entries if entry.name in samples}
            table = tabulate(samples, seed=settings.seed, task=settings.task)
            report(table, job, finished=len(samples) == len(entries))
    draw(table, settings.output)
    if settings.wandb:
        track(table, settings)
    return table


def right_ones(classifier: TextClassifier, labelled: Sequence[tuple[Text, str | int | None]]) -> list[Text]:
    """The texts that the classifier gets right. Raises RequestError where it has no such label, or gets none right."""
    truths = label_indices(classifier, [label for _, label in labelled])
    texts = [text for text, _ in labelled]
    label = Probe(classifier, texts).label.tolist()
    right = [text for text, truth, given in zip(texts, truths, label, strict=True) if truth == given]
    if not right:
        raise RequestError(f"{classifier.name} gets none of the {len(texts)} labels right; are they its own?")
    return right


def parse_methods(methods: str, task: Task = "explain") -> list[Entry]:
    """The entries of a list with commas between. Raises RequestError where a name is unknown or named twice."""
    entries = [Entry.parse(part) for part in methods.split(",")]
    files = [entry.file for entry in entries]
    for name, file in zip((entry.name for entry in entries), files, strict=True):
        if files.count(file) > 1:
            raise RequestError(f"the method {name!r} is named twice")
        known = METHODS if task == "explain" else (*METHODS, *OPPONENTS)
        if name not in known and not name.startswith("agent="):
            raise RequestError(f"unknown method {name!r}; choose from {', '.join(known)}")
    return entries


def families(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries, with those together that differ in the protocol alone and so share their scores."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.name.removesuffix(":positive"), []).append(entry)
    return list(groups.values())


def run_family(family: Sequence[Entry], job: Job, progress: tqdm) -> dict[str, Sample]:
    """Run what is not yet done of the methods of a family, chunk by chunk, and read back all of it."""
    done = {entry: job.store.chunks(entry, job.count(entry)) for entry in family}
    reached = {entry: done[entry][-1]["stop"] if done[entry] else 0 for entry in family}
    end = max(map(job.count, family))
    note = ""
    try:
        agent = job.agent(family[0]) if min(reached[e] - job.count(e) for e in family) < 0 else None
        for start in range(0, end, family[0].chunk):
            stop = min(start + family[0].chunk, end)
            counts = {e: min(stop, job.count(e)) - start for e in family if start < job.count(e)}
            waiting = {e: count for e, count in counts.items() if start >= reached[e]}
            if waiting:
                explain_chunk(waiting, job, agent, start, stop)
            progress.update(sum(counts.values()))
    except (RequestError, ImportError) as error:
        note = f"not run: {error}"
    except Exception as error:
        # Hours of other methods are not thrown away for one; what went wrong is in the row and on stderr.
        traceback.print_exc()
        note = f"failed: {type(error).__name__}: {error}"
    return {entry.name: read_back(entry, job, note) for entry in family}


def explain_chunk(waiting: Mapping[Entry, int], job: Job, agent: Agent | None, start: int, stop: int) -> None:
    """Explain the texts from `start` to `stop`, of them the first `waiting[entry]` with each entry of a family."""
    base = next(iter(waiting)).name.removesuffix(":positive")
    goal = goal_of(job.settings.task, job.settings.threshold)
    # The same draws whatever was done before, so that a resumed run ends where an unbroken one does.
    rng = torch.Generator().manual_seed(zlib.crc32(f"{job.settings.seed} {base} {start}".encode()))
    resources = Resources(job.settings.resources, job.settings.mlm)
    begun = time.perf_counter()
    probe = Probe(job.classifier, job.texts[start:stop], opened=not opens(base.partition("=")[0]))
    scores = attribute(base, probe, goal, rng) if base in ATTRIBUTIONS else None
    shared = time.perf_counter() - begun
    for entry, count in waiting.items():
        begun = time.perf_counter()
        found: list[Explanation]
        if base in OPPONENTS:
            found = list(opponents.attack(base, probe, rng, resources, truths=probe.label.tolist()))
        elif scores is None:
            found = [replace(e, method=base) for e in run(base.partition("=")[0], probe, goal, rng, agent)]
        elif entry.name == base:
            found = mask_in_order(fork(probe), goal, scores, entry.name)
        else:
            found = mask_positive(fork(probe), goal, scores, entry.name)
        seconds = shared + time.perf_counter() - begun
        found = found[:count]
        if job.settings.task == "attack":
            mask = job.classifier.shown_mask
            found = [e if isinstance(e, AttackResult) else masked_result(e, mask, e.label) for e in found]
        extra = _faithfulness(probe, found, job.settings.faithfulness - start)
        job.store.add(entry, start, found, seconds, extra)


def _faithfulness(probe: Probe, found: Sequence[Explanation], limit: int) -> dict[str, list[float]]:
    first = torch.arange(max(0, min(limit, len(found))))
    encoded = probe.encoded.select(first)
    if not len(first) or found[0].threshold is None:
        return {}
    scores = scores_of(found[: len(first)], encoded.input_ids.shape[1])
    measured = faithfulness(probe.classifier, encoded, probe.target[first], scores)
    return {name: values.tolist() for name, values in measured.items()}


def read_back(entry: Entry, job: Job, note: str) -> Sample:
    """All that a method has done. Raises RequestError where it was done on other texts."""
    if entry.name in OPPONENTS and not note:
        note = opponents.note(entry.name)
    texts = job.texts[: job.count(entry)]
    chunks = job.store.chunks(entry, len(texts))
    if not chunks:
        return sample([], note=note)
    count = min(len(texts), chunks[-1]["stop"])
    file = job.store.folder / entry.file
    found = list(islice(read(file), count))
    if [_text(e) for e in found] != list(texts[:count]):
        raise RequestError(f"{file} explains other texts than the data's; name another directory")
    extra = {}
    for name in ("comprehensiveness", "sufficiency"):
        if values := [value for chunk in chunks for value in chunk.get(name, ())]:
            extra[name] = torch.tensor(values[:count], dtype=torch.float64)
    seconds = sum(chunk["seconds"] for chunk in chunks) * count / chunks[-1]["stop"]
    return sample(found, extra, seconds=seconds, note=note)


def _text(e: Explanation) -> Text:
    return e.text if e.pair is None else (e.text, e.pair)


def report(table: Table, job: Job, finished: bool) -> None:
    """Write table.md and results.json."""
    settings = job.settings
    results = {"settings": settings_of(settings), "versions": versions(), "finished": finished, "wrong": job.wrong}
    results |= table.to_dict()
    write_atomically(settings.output / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    title = f"# {settings.model} on {settings.data}, ε = {settings.threshold:g}\n\n"
    if settings.task == "attack":
        title = f"# Attacks on {settings.model}, {settings.data}\n\n{len(job.texts)} texts that it gets right; "
        title += f"{job.wrong} that it gets wrong from the start are left out of every mean.\n\n"
    write_atomically(settings.output / "table.md", title + table.to_markdown())


def draw(table: Table, folder: Path) -> None:
    """Draw queries against masked rate of the texts that can be solved, as pareto.png and pareto.svg."""
    points = [
        (row.method, means["queries"].mean, means["mask_rate"].mean, means["fidelity"].mean, _bars(means))
        for row in table.rows
        if (means := row.reachable.means)
    ]
    if points:
        terms = ("texts that can be solved",) if table.task == "explain" else ("attacks", "success", "modified")
        figure = pareto(points, *terms)
        for ending in ("png", "svg"):
            temporary = folder / f"pareto.{ending}.tmp"
            figure.savefig(temporary, format=ending, dpi=150)
            os.replace(temporary, folder / f"pareto.{ending}")


def track(table: Table, settings: Settings) -> None:
    """Send the means over all texts to Weights & Biases, a row a method."""
    import wandb

    names = sorted({name for row in table.rows for name in row.all.means})
    rows = [
        [row.method, row.all.texts, *(row.all.means[n].mean if n in row.all.means else None for n in names)]
        for row in table.rows
    ]
    tracker = start_wandb(settings.output, settings_of(settings))
    tracker.log({"results": wandb.Table(["method", "texts", *names], rows)})
    tracker.finish()


def _bars(means: Mapping[str, Interval]) -> dict[str, tuple[float, float]]:
    return {name: (means[name].low, means[name].high) for name in ("queries", "mask_rate")}


def settings_of(settings: Settings) -> dict[str, Any]:
    """The settings as JSON has them."""
    return json.loads(json.dumps(asdict(settings), default=str))


def versions() -> dict[str, str]:
    """What the figures were made with."""
    packages = {name: version(name) for name in ("foveate", "torch", "transformers")}
    return {"python": platform.python_version(), **packages, "machine": platform.platform()}
