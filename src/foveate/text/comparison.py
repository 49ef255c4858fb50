"""Comparison: methods side by side on the same texts, every mean with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.bootstrap import Interval, bootstrap_means
from foveate.errors import RequestError
from foveate.masking.goal import Task
from foveate.text.explanation import Explanation
from foveate.text.metrics import outcomes

TITLES = {
    "fidelity": "fidelity ↑",
    "queries": "queries ↓",
    "delta_p": "Δp ↑",
    "mask_rate": "masked ↓",
    "solved": "solved ↑",
    "comprehensiveness": "compr. ↑",
    "sufficiency": "suff. ↓",
    "end_fidelity": "fidelity ↑",
    "end_delta_p": "Δp ↑",
    "end_mask_rate": "masked ↓",
}
"""How a measure is called in a table; the arrow says which way is better."""
ATTACK_TITLES = TITLES | {"fidelity": "success ↑", "mask_rate": "modified ↓"}
ATTACK_TITLES |= {"end_fidelity": "success ↑", "end_mask_rate": "modified ↓"}
TRADE = ("fidelity", "queries", "mask_rate")
"""One method beats another where it is better in these three at once."""


@dataclass(frozen=True)
class Sample:
    """What one method did, text by text."""

    texts: tuple[tuple[str, str | None], ...]
    reachable: Bool[Tensor, " texts"]
    """p(label | X) is at least ε: some mask could lower it by ε."""
    values: Mapping[str, Float[Tensor, " texts"]]
    """By measure; a measure that was taken of the first texts only is shorter."""
    seconds: float | None = None
    note: str = ""
    """Why the method did not run, or not to the end."""


@dataclass(frozen=True)
class Summary:
    """Means over some of the texts."""

    texts: int = 0
    means: Mapping[str, Interval] = field(default_factory=dict)
    common: int = 0
    """Texts that the reference explained too."""
    differences: Mapping[str, Interval] = field(default_factory=dict)
    """This method less the reference on the common texts, paired."""

    @property
    def verdict(self) -> str:
        """Whether the reference beats the method: each interval of `TRADE` must lie on one side of zero."""
        signs = [self.differences[m].sign * _direction(m) for m in TRADE if m in self.differences]
        if len(signs) < len(TRADE):
            return ""
        return {-1: "beaten", 1: "beats it"}.get(signs[0], "–") if len(set(signs)) == 1 else "–"


@dataclass(frozen=True)
class Row:
    method: str
    note: str
    seconds: float | None
    """Wall-clock seconds a text."""
    all: Summary
    reachable: Summary


@dataclass(frozen=True)
class Table:
    """One row a method; the differences are from the first."""

    rows: tuple[Row, ...]
    task: Task = "explain"

    @property
    def titles(self) -> Mapping[str, str]:
        return TITLES if self.task == "explain" else ATTACK_TITLES

    @property
    def reference(self) -> str:
        return self.rows[0].method

    def to_dict(self) -> dict[str, Any]:
        rows = [asdict(row) for row in self.rows]
        for row, source in zip(rows, self.rows, strict=True):
            row["all"]["verdict"], row["reachable"]["verdict"] = source.all.verdict, source.reachable.verdict
        return {"task": self.task, "reference": self.reference, "rows": rows}

    def to_markdown(self) -> str:
        """Means over all and over the reachable texts, differences from the reference, and the path's end."""
        parts = [f"{row.method}: {row.note}" for row in self.rows if row.note]
        if self.task == "attack":
            return "\n\n".join([*parts, *self._attacks()]) + "\n"
        main = ("fidelity", "queries", "delta_p", "mask_rate", "solved", "comprehensiveness", "sufficiency")
        for title, which in (("All texts", "all"), ("Texts that can be solved, p(label | X) ≥ ε", "reachable")):
            parts += [f"## {title}", self._means(which, main, seconds=which == "all")]
            parts += [f"### Less {self.reference}, on the texts that both explained", self._differences(which)]
        ends = ("end_fidelity", "end_delta_p", "end_mask_rate")
        parts += ["## With everything masked where the end was not reached", self._means("all", ends)]
        parts += ["### The same, texts that can be solved", self._means("reachable", ends)]
        parts.append(
            "Brackets: 95% bootstrap intervals over texts; bold differences have an interval clear of zero. Beaten: "
            f"worse than {self.reference} in fidelity, queries and masked rate at once, each in bold; beats it: "
            "better in all three. An unsolved text counts with the mask on its path that lowered "
            "p most; the last tables count the end of the path. Queries are all rows after a text's first prediction; "
            "comprehensiveness and sufficiency cost none, and are taken of the scores, whatever was masked."
        )
        return "\n\n".join(parts) + "\n"

    def _attacks(self) -> list[str]:
        return [
            self._means("all", ("fidelity", "queries", "mask_rate", "delta_p"), seconds=True),
            f"### Less {self.reference}, on the texts that both attacked",
            self._differences("all"),
            "### With everything masked where the label did not change",
            self._means("all", ("end_fidelity", "end_mask_rate", "end_delta_p")),
            "Brackets: 95% bootstrap intervals over texts; bold differences have an interval clear of zero. Beaten: "
            f"worse than {self.reference} in success, queries and modified rate at once, each in bold; beats it: "
            "better in all three. Success: the share of texts, right at first, whose label changed. Modified: tokens "
            "changed over tokens that can be; a failed attack counts with the mask on its path that lowered p most. "
            "Queries: all rows after a text's first prediction, of failed attacks too.",
        ]

    def _means(self, which: str, measures: Sequence[str], seconds: bool = False) -> str:
        shown = [m for m in measures if any(m in getattr(row, which).means for row in self.rows)]
        header = ["method", "n", *(self.titles[m] for m in shown), *(["s/text"] if seconds else [])]
        lines = []
        for row in self.rows:
            summary: Summary = getattr(row, which)
            cells = [cell(m, summary.means.get(m)) for m in shown]
            if seconds:
                cells.append("" if row.seconds is None else f"{row.seconds:.3g}")
            if summary.texts:
                lines.append([row.method, str(summary.texts), *cells])
        return _markdown(header, lines)

    def _differences(self, which: str) -> str:
        header = ["method", "n", *(self.titles[m] for m in (*TRADE, "delta_p")), "verdict"]
        lines = []
        for row in self.rows[1:]:
            summary: Summary = getattr(row, which)
            if summary.common:
                cells = [cell(m, summary.differences[m], signed=True) for m in (*TRADE, "delta_p")]
                lines.append([row.method, str(summary.common), *cells, summary.verdict])
        return _markdown(header, lines)


def compare(explanations: Mapping[str, Sequence[Explanation]], *, seed: int = 0) -> Table:
    """Set methods side by side; the first is the reference.

    Each method's explanations are of the same texts in the same order; a shorter list is of the first of them.
    Raises RequestError where they are not.
    """
    return tabulate({method: sample(found) for method, found in explanations.items()}, seed=seed)


def sample(
    explanations: Sequence[Explanation],
    extra: Mapping[str, Float[Tensor, " texts"]] | None = None,
    *,
    seconds: float | None = None,
    note: str = "",
) -> Sample:
    """Reduce explanations to what a table needs; `extra` measures may be of the first texts only."""
    return Sample(
        texts=tuple((e.text, e.pair) for e in explanations),
        reachable=torch.tensor([e.reachable for e in explanations], dtype=torch.bool),
        values={**outcomes(explanations), **(extra or {})},
        seconds=seconds,
        note=note,
    )


def tabulate(samples: Mapping[str, Sample], *, seed: int = 0, task: Task = "explain") -> Table:
    """The table of `samples`, the first of which is the reference. Every method's texts are drawn alike."""
    if not samples:
        raise RequestError("nothing to compare: name at least one method")
    reference_name, reference = next(iter(samples.items()))
    rows = []
    for method, one in samples.items():
        common = min(len(one.texts), len(reference.texts))
        if one.texts[:common] != reference.texts[:common]:
            raise RequestError(f"{method} and {reference_name} explain different texts; compare them on the same ones")
        every = torch.ones_like(one.reachable)
        other = None if one is reference else reference
        per_text = None if one.seconds is None or not one.texts else one.seconds / len(one.texts)
        summaries = [_summary(one, other, keep, seed) for keep in (every, one.reachable)]
        rows.append(Row(method, one.note, per_text, *summaries))
    return Table(tuple(rows), task)


def _summary(one: Sample, reference: Sample | None, keep: Bool[Tensor, " texts"], seed: int) -> Summary:
    common = keep[: len(reference.texts)] if reference else keep[:0]
    differences = {}
    for name, values in one.values.items():
        if reference and name in reference.values:
            length = min(len(values), len(reference.values[name]))
            differences[name] = values[:length] - reference.values[name][:length]
    return Summary(
        texts=int(keep.sum()),
        means=_intervals(one.values, keep, seed),
        common=int(common.sum()),
        differences=_intervals(differences, common, seed),
    )


def _intervals(values: Mapping[str, Tensor], keep: Bool[Tensor, " texts"], seed: int) -> dict[str, Interval]:
    """Measures of equally many texts are drawn together."""
    intervals: dict[str, Interval] = {}
    for length in {len(v) for v in values.values()}:
        names = [name for name, v in values.items() if len(v) == length]
        columns = torch.stack([values[name] for name in names], 1)[keep[:length]]
        if len(columns):
            rng = torch.Generator().manual_seed(seed)
            intervals |= zip(names, bootstrap_means(columns, rng), strict=True)
    return {name: intervals[name] for name in values if name in intervals}


def _direction(measure: str) -> int:
    return 1 if TITLES[measure].endswith("↑") else -1


def cell(measure: str, interval: Interval | None, signed: bool = False) -> str:
    """An interval as a table has it, empty where there is none; a difference clear of zero is bold."""
    if interval is None:
        return ""
    form = ("{:+" if signed else "{:") + (".2f}" if measure == "queries" else ".3f}")
    mean, low, high = (form.format(x) for x in (interval.mean, interval.low, interval.high))
    return f"**{mean}** [{low}, {high}]" if signed and interval.sign else f"{mean} [{low}, {high}]"


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines))
