"""A run's learning curve: a table and a picture, drawn from its metrics."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from foveate.run import write_atomically

COLUMNS = ("step", "return", "length", "games", "entropy", "value", "gradient_norm", "steps_per_second")
"""The ones that come first in the table."""


def write_curve(directory: Path) -> None:
    """curve.csv and curve.png of a run directory, from its metrics.jsonl."""
    file = directory / "metrics.jsonl"
    if not file.exists():
        return
    rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(directory / "curve.csv", text.getvalue())
    temporary = directory / "curve.tmp"
    _draw(rows, directory.name).savefig(temporary, format="png", dpi=110)
    os.replace(temporary, directory / "curve.png")


def _draw(rows: list[dict[str, Any]], title: str) -> Any:
    """Return, entropy of the policy, and norm of the gradient over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6))
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    # By hand: matplotlib takes as long to find a layout as to draw.
    figure.subplots_adjust(left=0.11, right=0.98, top=0.94, bottom=0.08, hspace=0.1)
    for axis, name, label in zip(
        axes, ("return", "entropy", "gradient_norm"), ("return", "entropy [nat]", "gradient norm"), strict=True
    ):
        known = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot([x for x, _ in known], [y for _, y in known], color="#4c6ef5", marker="." if len(known) < 20 else "")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_title(title)
    axes[-1].set_xlabel("steps")
    return figure
