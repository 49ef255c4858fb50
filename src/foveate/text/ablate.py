"""Ablation: does the agent need the attention that it observes? (AttExplainer, section 4.2, RQ2, Figure 4)"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from foveate.bootstrap import Interval
from foveate.errors import RequestError
from foveate.masking.dqn import LearnerSettings
from foveate.masking.goal import Task, check_threshold, goal_of
from foveate.run import write_atomically
from foveate.text import benchmark
from foveate.text.agent import Agent
from foveate.text.blind import Sight, blind
from foveate.text.classifier import TextClassifier
from foveate.text.comparison import cell
from foveate.text.encoded import Text
from foveate.text.explanation import Explanation
from foveate.text.explanation_files import load, save
from foveate.text.inputs import read_labelled
from foveate.text.methods.agent import play
from foveate.text.metrics import outcomes
from foveate.text.probe import Probe
from foveate.text.seeds import HOW, crossed_means, over_seeds
from foveate.text.training import Trainer, TrainingSettings, evaluate, train


@dataclass(frozen=True)
class Condition:
    """Which attention an agent sees while it learns, and while it is tested."""

    name: str
    training: Sight
    testing: Sight


CONDITIONS = (
    Condition("attention", "real", "real"),
    Condition("random when tested", "real", "random"),
    Condition("random throughout", "random", "random"),
    Condition("untrained classifier's", "untrained", "untrained"),
    Condition("shuffled", "shuffled", "shuffled"),
)
"""The first three are the paper's; the first is what the others are held against."""

MEASURES = ("fidelity", "queries", "mask_rate", "delta_p")


@dataclass(frozen=True)
class Settings:
    """Train and test agents with attention, and with others in its place, and draw the five panels."""

    data: str
    """Training texts: a .jsonl, .csv or .tsv file (also .gz), or a data set of the hub."""
    validation: str
    """Texts to test on; for attacks with labels, as only those are tested that the classifier gets right."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The directory for table.md, results.json, the pictures, and a run a seed and attention."""
    model: str = "emotion"
    """The classifier: a hub id, a directory, or the one in the package."""
    task: Task = "explain"
    """What the agents learn."""
    threshold: float = 0.8
    """ε of explaining."""
    features: tuple[str, ...] = ("relative-histograms", "profile", "context")
    """Groups of features that the agents see. Those that hold hidden states (hidden, geometry) tell of the words
    without any attention, and hide what it is worth."""
    steps: int = 20_000
    """Queries to train each agent for."""
    seeds: Annotated[str, tyro.conf.arg(metavar="N,...")] = "0,1,2"
    """One training each of every kind, with commas between."""
    limit: int | None = None
    """Test on the first so many texts; on all if not given."""
    points: int = 10
    """Evaluations while training: the points of the curves."""
    curve_texts: int = 200
    """Texts that the curves are taken of, the first ones to test on."""
    texts: int = 30_000
    """Training texts drawn from the data."""
    min_tokens: int = 0
    """Shorter ones are left out of training (SST-2's training set is mostly phrases)."""
    threads: int = 0
    """CPU threads; 0 for torch's own choice."""
    resume: bool = False
    """Go on where an earlier run into the same directory stopped, or add seeds to it."""


@dataclass(frozen=True)
class Row:
    """What agents did in one condition, over seeds and texts."""

    condition: str
    texts: int
    all: Mapping[str, Interval]
    reachable: Mapping[str, Interval]
    differences: Mapping[str, Interval] = field(default_factory=dict)
    """From the first condition on the texts that can be solved, paired by seed and text."""


@dataclass(frozen=True)
class Ablation:
    """The table, and the curves by panel and condition."""

    task: Task
    seeds: int
    rows: tuple[Row, ...]
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, Interval]]]]

    def to_dict(self) -> dict[str, Any]:
        curves = {
            panel: {name: [{"step": x, **asdict(i)} for x, i in points] for name, points in drawn.items()}
            for panel, drawn in self.curves.items()
        }
        return {"task": self.task, "seeds": self.seeds, "rows": [asdict(row) for row in self.rows], "curves": curves}

    def to_markdown(self) -> str:
        attack = self.task == "attack"
        titles = (("success ↑", "queries ↓", "modified ↓", "Δp ↑"), ("fidelity ↑", "queries ↓", "masked ↓", "Δp ↑"))[
            not attack
        ]
        groups = [("All texts", "all"), ("Texts that can be solved, p(label | X) ≥ ε", "reachable")]
        parts = []
        for title, which in groups[:1] if attack else groups:
            parts += [f"## {title}", self._table(titles, which, signed=False)]
        parts += [f"## Less {self.rows[0].condition}", self._table(titles, "differences", signed=True)]
        parts += [HOW + " Differences are paired by seed and text; bold ones have an interval clear of zero.", ABOUT]
        return "\n\n".join(parts) + "\n"

    def _table(self, titles: Sequence[str], which: str, signed: bool) -> str:
        lines = ["| what the agent sees | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
        for row in self.rows[1:] if signed else self.rows:
            intervals: Mapping[str, Interval] = getattr(row, which)
            cells = [cell(name, intervals.get(name), signed) for name in MEASURES]
            lines.append(f"| {row.condition} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


ABOUT = (
    "“Random when tested” is the agent of “attention” shown a random matrix only now; “random throughout” learned with "
    "one (both are the paper's). “Untrained classifier's”: the attention of the same architecture with new weights. "
    "“Shuffled”: the classifier's own attention, the words' rows and columns in an order drawn anew in every state. "
    "Labels, probabilities and rewards are the trained classifier's in all of them."
)


def ablate(settings: Settings) -> Ablation:
    """Train what is not yet trained, test what is not yet tested, and write the table and the pictures.

    Into the directory `output`: seedN/ATTENTION/ a run each (see `foveate text train`) with test-CONDITION.jsonl;
    table.md, results.json, panels.png and .svg (over training), done-steps.png and .svg (the paper's panels d and e).
    Raises RequestError where the request is wrong.
    """
    seeds = _seeds(settings.seeds)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    check_threshold(settings.threshold)
    classifier = TextClassifier.from_pretrained(settings.model)
    texts = _texts(settings, classifier)
    _begin(settings, texts)
    found: dict[str, list[list[Explanation]]] = {c.name: [] for c in CONDITIONS}
    runs: dict[str, list[Path]] = {c.name: [] for c in CONDITIONS}
    for seed in seeds:
        for condition in CONDITIONS:
            run = settings.output / f"seed{seed}" / condition.training
            found[condition.name].append(_tested(settings, classifier, texts, condition, seed, run))
            runs[condition.name].append(run)
    result = Ablation(settings.task, len(seeds), _rows(found), _curves(runs))
    about = {"settings": asdict(settings), "versions": benchmark.versions(), "texts": len(texts)}
    text = json.dumps({**about, **result.to_dict()}, indent=1, ensure_ascii=False, default=str)
    write_atomically(settings.output / "results.json", text + "\n")
    title = f"# Does the attention matter? {settings.model}, {settings.task}, {len(texts)} texts\n\n"
    title += (
        f"Features: {', '.join(settings.features)}; {settings.steps} queries of training; seeds {settings.seeds}.\n\n"
    )
    write_atomically(settings.output / "table.md", title + result.to_markdown())
    _draw(result, found, settings)
    return result


def _seeds(listed: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in listed.split(",")]
    except ValueError as error:
        raise RequestError(f"--seeds {listed}: give whole numbers with commas between") from error
    if len(set(seeds)) < len(seeds):
        raise RequestError(f"--seeds {listed}: one is named twice")
    return seeds


def _texts(settings: Settings, classifier: TextClassifier) -> list[Text]:
    """The texts to test on."""
    attack = settings.task == "attack"
    labelled = read_labelled(settings.validation, limit=settings.limit, needed=attack)
    texts = benchmark.right_ones(classifier, labelled) if attack else [text for text, _ in labelled]
    playable = classifier.encode(texts).maskable.any(1).tolist()
    return [text for text, words in zip(texts, playable, strict=True) if words]


def _begin(settings: Settings, texts: Sequence[Text]) -> None:
    """Write down what is asked for; raises RequestError where something else was begun in the directory."""
    file = settings.output / "settings.json"
    free = ("output", "seeds", "threads", "resume")
    asked = {name: value for name, value in json.loads(_json(asdict(settings))).items() if name not in free}
    if file.exists():
        if not settings.resume:
            raise RequestError(
                f"{settings.output} holds an ablation; pass --resume to go on, or name another directory"
            )
        before = json.loads(file.read_text(encoding="utf-8"))
        if changed := sorted(name for name in asked if before.get(name) != asked[name]):
            raise RequestError(f"{settings.output} was made with another {', '.join(changed)}; resume with the same")
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
        write_atomically(file, _json(asked) + "\n")
        # Training reads its validation texts from a file, and is to be evaluated on those that are tested.
        rows = [{"text": t} if isinstance(t, str) else {"premise": t[0], "hypothesis": t[1]} for t in texts]
        write_atomically(settings.output / "texts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise RequestError(f"cannot write to {settings.output}: {error.strerror}; name another directory") from error


def _json(values: Any) -> str:
    return json.dumps(values, indent=1, default=str)


def _tested(
    settings: Settings,
    classifier: TextClassifier,
    texts: Sequence[Text],
    condition: Condition,
    seed: int,
    run: Path,
) -> list[Explanation]:
    """What the agent of a seed and condition finds in all texts; it is trained first where it is not yet."""
    results = run / f"test-{condition.testing}.jsonl"
    if not results.exists():
        _train(settings, condition.training, seed, run)
        seen = blind(classifier, condition.testing, seed)
        goal = goal_of(settings.task, settings.threshold)
        save(play(Probe(seen, texts, opened=False), goal, Agent.load(run / "agent")), results)
    return load(results)


def _train(settings: Settings, attention: Sight, seed: int, run: Path) -> None:
    """Train an agent, unless it is there; its curves, and those of the conditions that it is tested in, in its run."""
    # The replay buffers of all runs would fill a disk, so a finished run has no checkpoint any more.
    checkpoint = run / "checkpoint.safetensors"
    if (run / "agent").exists() and not checkpoint.exists():
        return
    tqdm.write(f"foveate: seed {seed}, attention {attention}", file=sys.stderr)
    every = -(-settings.steps // settings.points)
    asked = TrainingSettings(
        model=(settings.model,),
        data=(settings.data,),
        validation=(str(settings.output / "texts.jsonl"),),
        run=str(run),
        task=settings.task,
        threshold=(settings.threshold,),
        features=settings.features,
        attention=attention,
        learner=LearnerSettings(capacity=min(LearnerSettings.capacity, settings.steps)),
        steps=settings.steps,
        texts=settings.texts,
        min_tokens=settings.min_tokens,
        seed=seed,
        evaluate_every=every,
        evaluate_texts=settings.curve_texts,
        checkpoint_every=every,
        threads=settings.threads,
        resume=True,
    )

    def also(trainer: Trainer) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for condition in CONDITIONS:
            if condition.training == attention != condition.testing:
                corpus = trainer.corpora[0]
                seen = Probe(blind(corpus.probe.classifier, condition.testing, seed), corpus.validation.encoded)
                values = evaluate(seen, corpus.goal, trainer.agent, asked.max_steps)
                metrics |= {f"{condition.testing}/{name}": value for name, value in values.items()}
        return metrics

    train(asked, also)
    checkpoint.unlink()


def _rows(found: Mapping[str, Sequence[Sequence[Explanation]]]) -> tuple[Row, ...]:
    reachable = torch.tensor([e.reachable for e in found[CONDITIONS[0].name][0]], dtype=torch.bool)
    values = {name: torch.stack([_values(one) for one in seeds]) for name, seeds in found.items()}
    first = values[CONDITIONS[0].name]
    rows = []
    for name, mine in values.items():
        differences = {} if mine is first else _intervals((mine - first)[:, reachable])
        rows.append(
            Row(name, len(reachable), _intervals(mine), _intervals(mine[:, reachable]), differences),
        )
    return tuple(rows)


def _values(found: Sequence[Explanation]) -> Float[Tensor, "texts measures"]:
    measured = outcomes(found)
    return torch.stack([measured[name] for name in MEASURES], 1)


def _intervals(values: Float[Tensor, "seeds texts measures"]) -> dict[str, Interval]:
    if not values.shape[1]:
        return {}
    return dict(zip(MEASURES, crossed_means(values, torch.Generator().manual_seed(0)), strict=True))


def _curves(runs: Mapping[str, Sequence[Path]]) -> dict[str, dict[str, list[tuple[float, Interval]]]]:
    """Each measure over training, by condition: means over seeds with their intervals."""
    panels: dict[str, dict[str, list[tuple[float, Interval]]]] = {name: {} for name in ("reward", *MEASURES)}
    for condition in CONDITIONS:
        prefix = "" if condition.training == condition.testing else f"{condition.testing}/"
        logs = [
            [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            for run in runs[condition.name]
        ]
        for measure, drawn in panels.items():
            if all(prefix + measure in line for log in logs for line in log):
                drawn[condition.name] = [
                    (float(lines[0]["step"]), over_seeds([line[prefix + measure] for line in lines]))
                    for lines in zip(*logs, strict=True)
                ]
    return panels


def _draw(result: Ablation, found: Mapping[str, Sequence[Sequence[Explanation]]], settings: Settings) -> None:
    from foveate.viz.panels import curves, save

    attack = settings.task == "attack"
    titles = {
        "reward": "reward a query, training",
        "fidelity": "success rate" if attack else "fidelity",
        "queries": "queries a text",
        "mask_rate": "modified rate" if attack else "masked rate",
        "delta_p": "Δp",
    }
    names = [c.name for c in CONDITIONS]
    what = f"{settings.model}, {settings.task}: " + (
        "one seed" if result.seeds == 1 else f"means over {result.seeds} seeds, bands: 95% intervals over seeds"
    )
    panels = [(titles[name], "training queries", drawn) for name, drawn in result.curves.items()]
    save(curves(panels, names, what), settings.output / "panels")
    done = {"masked": "tokens masked, solved texts", "mask_rate": "masked rate, solved texts"}
    by_step = {name: {c: _by_steps(seeds, name) for c, seeds in found.items()} for name in done}
    panels = [(title, "steps when done", by_step[name]) for name, title in done.items()]
    save(curves(panels, names, "after training"), settings.output / "done-steps")


def _by_steps(seeds: Sequence[Sequence[Explanation]], measure: str) -> list[tuple[float, Interval]]:
    """Masked tokens, or their rate, of the texts solved after so many steps (at least five a seed), mean over seeds."""
    sums: dict[int, list[float]] = {}
    for found in seeds:
        steps: dict[int, list[float]] = {}
        for e in found:
            if e.solved:
                steps.setdefault(len(e.path), []).append(len(e.masked) if measure == "masked" else e.mask_rate)
        for step, values in steps.items():
            if len(values) >= 5:
                sums.setdefault(step, []).append(sum(values) / len(values))
    return [(float(step), over_seeds(values)) for step, values in sorted(sums.items()) if len(values) == len(seeds)]
