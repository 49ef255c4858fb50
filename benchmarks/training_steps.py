"""Training steps a second, against the classifier's bare forward pass with attention on as many rows.

    python benchmarks/training_steps.py [--steps 30] [--models emotion sst2 snli packaged]

One step is one query: a token masked in one game, the transition stored, and two updates of the network for every 64 of
them (the default preset). What is left of 1 is what the game and the learner take.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from foveate.text.training import Trainer, TrainingSettings

SHARED = Path(__file__).parents[2] / "shared"
DATA = {"emotion": "emotion/train.jsonl", "sst2": "sst2/train.jsonl.gz", "snli": "snli/train_subset.jsonl.gz"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--models", nargs="+", default=["packaged", *DATA])
    options = parser.parse_args()
    if not SHARED.is_dir():
        print("skipped: the training texts of ../shared/data are not there")
        return
    print(
        f"{'model':10} {'steps/s':>9} {'bare rows/s':>12} {'ratio':>6}   (batch 32, {torch.get_num_threads()} threads)"
    )
    for name in options.models:
        steps, bare = measure(name, options.steps)
        print(f"{name:10} {steps:9.1f} {bare:12.1f} {steps / bare:6.2f}", flush=True)


def measure(name: str, steps: int) -> tuple[float, float]:
    """Training steps a second, and rows a second of the bare classifier."""
    model = "emotion" if name == "packaged" else str(SHARED / "victims" / name)
    data = str(SHARED / "data" / DATA["emotion" if name == "packaged" else name])
    settings = TrainingSettings(model=(model,), data=(data,), run="", texts=2000, evaluate_texts=1)
    trainer = Trainer(settings)
    for _ in range(8):
        trainer._play_step()
    trainer._learn()
    began = time.perf_counter()
    for _ in range(steps):
        trainer._play_step()
        for _ in range(settings.updates):
            trainer._learn()
    training = steps * settings.games / (time.perf_counter() - began)

    [corpus] = trainer.corpora
    classifier, rows = corpus.probe.classifier, corpus.game.rows
    encoded = corpus.probe.encoded.select(rows)
    began = time.perf_counter()
    for _ in range(5):
        classifier.predict(encoded, observe=True)
    return training, 5 * len(rows) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
