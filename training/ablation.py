"""What each difference between the paper's agent and ours is worth: one switch turned back at a time.

    python training/ablation.py --data TRAIN.jsonl --test VALIDATION.jsonl --output DIR

Every variant is trained anew on the embedded classifier for the same number of queries, with each seed, and evaluated
on the same texts. DIR gets a run directory a variant and seed, and table.md; finished variants are not run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from foveate.bootstrap import bootstrap_means
from foveate.masking.goal import Explain
from foveate.run import write_atomically
from foveate.text.agent import Agent
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Encoded
from foveate.text.explanation import Explanation
from foveate.text.explanation_files import load, save
from foveate.text.inputs import read_texts
from foveate.text.methods.agent import play
from foveate.text.probe import Probe
from foveate.text.training import TrainingSettings, paper, train

Variant = Callable[[TrainingSettings], TrainingSettings]


def _features(*names: str) -> Variant:
    return lambda s: replace(s, features=names)


def _without(name: str) -> Variant:
    return lambda s: replace(s, features=tuple(f for f in s.features if f != name))


def _learner(**changes: object) -> Variant:
    return lambda s: replace(s, learner=replace(s.learner, **changes))


def _network(**changes: object) -> Variant:
    return lambda s: replace(s, network=replace(s.network, **changes))


VARIANTS: dict[str, Variant] = {
    "default": lambda s: s,
    "features: the paper's statistics alone": _features("statistics"),
    "features: relative histograms alone": _features("relative-histograms"),
    "features: those that fit any classifier": _features("relative-histograms", "profile", "geometry", "context"),
    "features: no attention at all": _features("hidden", "context", "labels"),
    "features: no hidden states": _without("hidden"),
    "features: no labels": _without("labels"),
    "network: the paper's, each token alone": _network(kind="paper"),
    "network: self-attention": _network(kind="attention"),
    "target: the action taken (equation 5)": _learner(target="taken"),
    "target: the maximum": _learner(target="max"),
    "target: three steps": _learner(n_step=3),
    "loss: square, unclipped": _learner(loss="square", clip_norm=None),
    "replay: uniform": _learner(priority_exponent=0.0),
    "γ = 0.9": _learner(discount=0.9),
    "reward: the paper's": lambda s: replace(s, reward=replace(s.reward, kind="paper")),
    "moves: toggle (the paper's)": lambda s: replace(s, moves="toggle"),
    "moves: mask for good": lambda s: replace(s, moves="mask"),
    "texts: unreachable ones too": lambda s: replace(s, reachable_only=False),
    "all of the paper (--preset paper)": paper,
}


@dataclass(frozen=True)
class Settings:
    """What is trained, on what, and where it goes."""

    data: str
    """Training texts."""
    test: str
    """Texts to evaluate on."""
    output: Path
    """Directory of the runs and the table."""
    model: str = "emotion"
    """The classifier."""
    threshold: float = 0.6
    """ε."""
    steps: int = 12_000
    """Queries a run."""
    seeds: tuple[int, ...] = (0, 1)
    """One run each."""
    texts: int = 1_000
    """Texts evaluated on."""
    threads: int = 0
    """CPU threads; 0 for torch's own choice."""


def main(settings: Settings) -> None:
    classifier = TextClassifier.from_pretrained(settings.model)
    encoded = classifier.encode(read_texts(settings.test)[: settings.texts])
    lines = [
        "| variant | queries | masked | fidelity | solved |",
        "|---|---|---|---|---|",
    ]
    for number, (name, change) in enumerate(VARIANTS.items()):
        place = settings.output / f"{number:02}"
        seeds = [_run(settings, classifier, encoded, change, place / f"seed{seed}", seed) for seed in settings.seeds]
        lines.append(f"| {name} | " + " | ".join(_cells(seeds)) + " |")
        print(lines[-1], flush=True)
        write_atomically(settings.output / "table.md", "\n".join(lines) + "\n")


def _run(
    settings: Settings, classifier: TextClassifier, encoded: Encoded, change: Variant, directory: Path, seed: int
) -> list[Explanation]:
    """The reachable texts' explanations by the agent of one variant and seed."""
    results = directory / "explanations.jsonl"
    if not results.exists():
        base = TrainingSettings(
            model=(settings.model,),
            data=(settings.data,),
            run=str(directory),
            threshold=(settings.threshold,),
            steps=settings.steps,
            seed=seed,
            threads=settings.threads,
            evaluate_every=settings.steps,
            checkpoint_every=settings.steps,
            evaluate_texts=50,
            resume=True,
        )
        agent = Agent.load(train(change(base)))
        goal = Explain(settings.threshold)
        save(play(Probe(classifier, encoded), goal, agent), results)
        # The replay buffers of forty runs would fill the disk.
        (directory / "checkpoint.safetensors").unlink()
    return [e for e in load(results) if e.probability >= e.threshold]


def _cells(seeds: list[list[Explanation]]) -> list[str]:
    """Means over seeds and texts; the intervals are over texts."""
    values = torch.tensor(
        [[[e.queries, e.mask_rate, e.flipped, e.solved] for e in found] for found in seeds], dtype=torch.float64
    ).mean(0)
    intervals = bootstrap_means(values, torch.Generator().manual_seed(0))
    return [f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" for i in intervals]


if __name__ == "__main__":
    main(tyro.cli(Settings))
