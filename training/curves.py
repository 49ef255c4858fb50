"""Learning curves of several runs in one picture and one table, seeds of a model together.

    python training/curves.py RUNS --output DIRECTORY

RUNS holds run directories of `foveate agent train`, named MODEL-SEED. Writes curves.png and curves.md: the mean return
of the games that ended in each tenth of the training, averaged over seeds, and of each seed. The seeds of a model count
up to the steps of the shortest of them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from foveate.run import write_atomically

PARTS = 10
FEW = 5
"""As many models are told apart in one panel."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    metrics = {
        file.parent.name: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for file in sorted(options.runs.glob("*/metrics.jsonl"))
    }
    if not metrics:
        parser.error(f"there are no runs in {options.runs}")
    seeds = defaultdict(list)
    for name, rows in metrics.items():
        seeds[name.rpartition("-")[0]].append(rows)
    ends = {model: min(rows[-1]["step"] for rows in runs) for model, runs in seeds.items()}
    runs = {
        model: [parts_of([row for row in rows if row["step"] <= ends[model]]) for rows in each]
        for model, each in seeds.items()
    }
    options.output.mkdir(parents=True, exist_ok=True)
    draw(runs).savefig(options.output / "curves.png", dpi=130)
    write_atomically(options.output / "curves.md", table(runs, ends))


def parts_of(rows: list[dict[str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and mean returns of each tenth of a run; lines of metrics are weighted by their games."""
    played = [row for row in rows if row.get("games")]
    chunks = np.array_split(np.arange(len(played)), min(PARTS, len(played)))
    steps = [played[chunk[-1]]["step"] for chunk in chunks]
    games = [np.array([played[i]["games"] for i in chunk]) for chunk in chunks]
    returns = [np.array([played[i]["return"] for i in chunk]) for chunk in chunks]
    return np.array(steps), np.array([(g * r).sum() / g.sum() for g, r in zip(games, returns, strict=True)])


def draw(runs: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """Many: S3TA and its ablations in one panel, all else in another; ten curves in one are a thicket."""
    families = [[name for name in runs if name.startswith("s3ta") is attentive] for attentive in (True, False)]
    families = [names for names in families if names] if len(runs) > FEW else [list(runs)]
    figure = Figure(figsize=(2 + 4.5 * len(families), 4.5), layout="constrained")
    [panels] = figure.subplots(1, len(families), sharey=True, squeeze=False)
    for axes, names in zip(panels, families, strict=True):
        for name in names:
            length = min(len(steps) for steps, _ in runs[name])
            steps = runs[name][0][0][:length]
            values = np.stack([returns[:length] for _, returns in runs[name]])
            [line] = axes.plot(steps, values.mean(0), label=name, marker=".", linewidth=2)
            axes.plot(steps, values.T, color=line.get_color(), alpha=0.35, linewidth=0.8)
        axes.set_xlabel("steps")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel("return: mean of the seeds, and each (thin)")
    return figure


def table(runs: dict[str, list[tuple[np.ndarray, np.ndarray]]], steps: dict[str, int]) -> str:
    """Return in the last tenth of the training."""
    lines = ["| model | seeds | steps | return in the last tenth of them | each seed |", "|---|---|---|---|---|"]
    means = {name: [float(returns[-1]) for _, returns in seeds] for name, seeds in runs.items()}
    for name, ends in sorted(means.items(), key=lambda item: -np.mean(item[1])):
        each = ", ".join(f"{end:.1f}" for end in ends)
        lines.append(f"| {name} | {len(ends)} | {steps[name]:,} | {np.mean(ends):.1f} | {each} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
