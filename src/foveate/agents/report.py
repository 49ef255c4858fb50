"""What an update is told of, what many of them come to, and how a run tells of it while it goes on."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NamedTuple

REMEMBERED = 100
"""Games whose mean return the progress tells."""


class Report(NamedTuple):
    """An update, and the unroll that it was made of."""

    scores: list[float]
    """Of the games that ended."""
    lengths: list[int]
    steps: int
    told: Mapping[str, float]
    """Losses and the like."""


class Tally:
    """What happened since the last line of metrics, and the last games' returns."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.updates = 0
        self.scores: list[float] = []
        self.lengths: list[int] = []
        self.recent: deque[float] = deque(maxlen=REMEMBERED)

    def add(self, report: Report) -> None:
        self.sums.update(report.told)
        self.updates += 1
        self.scores += report.scores
        self.lengths += report.lengths
        self.recent += report.scores

    def means(self) -> dict[str, float]:
        """`return` and `length` only where a game ended."""
        means = {"games": float(len(self.scores))}
        if self.scores:
            means |= {"return": sum(self.scores) / len(self.scores), "length": sum(self.lengths) / len(self.lengths)}
        return means | {name: value / self.updates for name, value in self.sums.items()}

    def clear(self) -> None:
        self.sums, self.updates, self.scores, self.lengths = Counter(), 0, [], []

    def to_json(self) -> dict[str, Any]:
        return {
            "sums": dict(self.sums),
            "updates": self.updates,
            "scores": self.scores,
            "lengths": self.lengths,
            "recent": list(self.recent),
        }

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Tally:
        tally = cls()
        tally.sums = Counter(values["sums"])
        tally.updates, tally.scores, tally.lengths = values["updates"], values["scores"], values["lengths"]
        tally.recent += values["recent"]
        return tally


class Progress:
    """A bar on a terminal; a line of metrics elsewhere too."""

    def __init__(self, total: int, start: int) -> None:
        from tqdm import tqdm

        self.total = total
        self.bar = tqdm(total=total, initial=start, unit="step", unit_scale=True, disable=not sys.stderr.isatty())

    def show(self, step: int, tally: Tally) -> None:
        if tally.recent:
            self.bar.set_postfix_str(f"return {sum(tally.recent) / len(tally.recent):.2f}", refresh=False)
        self.bar.update(step - self.bar.n)

    def say(self, step: int, metrics: Mapping[str, float]) -> None:
        from tqdm import tqdm

        rate = metrics["steps_per_second"]
        left = tqdm.format_interval(max(self.total - step, 0) / rate)
        names = ("return", "games", "entropy", "value", "gradient_norm", "map_entropy", "mask_open")
        values = "  ".join(f"{name} {metrics[name]:.3g}" for name in names if name in metrics)
        tqdm.write(f"{step}  {rate:.0f} steps/s  {left} left  {values}", file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
