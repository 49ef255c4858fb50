"""A corpus: rows in, explanations out, as they are found; and how an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import ClassVar

from foveate.errors import RequestError
from foveate.text.attack_result import AttackResult
from foveate.text.attacker import Attacker
from foveate.text.explainer import Explainer
from foveate.text.explanation import Explanation
from foveate.text.explanation_files import read
from foveate.text.inputs import BadRow, Row

Item = Row | BadRow
Result = tuple[int, Explanation | RequestError]
"""A row's number, and its explanation or why there is none."""


class ExplainRows:
    """Explains each row's text."""

    done: ClassVar[str] = "explained"
    """What has been done to a text."""

    def __init__(self, explainer: Explainer, target: str | int | None = None, verify: bool = False) -> None:
        """Raises RequestError where the label `target` is unknown."""
        self.explainer = explainer
        self.label = explainer.label_index(target)
        self.verify = verify

    def __call__(self, rows: Sequence[Row]) -> Sequence[Explanation | RequestError]:
        return self.explainer.attempt([row.text for row in rows], target=self.label, verify=self.verify)

    def changed(self, explanation: Explanation) -> str | None:
        """In which other way `explanation` was made; None where it was made in this very way."""
        if self.label is not None and explanation.label != self.explainer.classifier.labels[self.label]:
            return "with another --target"
        return "without --verify" if self.verify and explanation.solved and explanation.minimal is None else None


class AttackRows:
    """Attacks each row's text; its label is the truth."""

    done: ClassVar[str] = "attacked"

    def __init__(self, attacker: Attacker, verify: bool = False) -> None:
        self.explainer: Explainer = attacker
        self.attacker = attacker
        self.verify = verify

    def __call__(self, rows: Sequence[Row]) -> Sequence[Explanation | RequestError]:
        return self.attacker.attempt([r.text for r in rows], truths=[r.label for r in rows], verify=self.verify)

    def changed(self, explanation: Explanation) -> str | None:
        if not isinstance(explanation, AttackResult):
            return "by foveate explain"
        if explanation.fill != self.attacker.fill:
            return f"with the fill {explanation.fill}, not {self.attacker.fill}"
        return None


Worker = ExplainRows | AttackRows


def work(worker: Worker, rows: Iterable[Item]) -> Iterator[list[Result]]:
    """Work on rows, `at_once` at a time: lists of what came of them, in the order of the rows."""
    chunk: list[Item] = []
    for row in chain(rows, [None]):
        if row is not None:
            chunk.append(row)
        if chunk and (row is None or len(chunk) == worker.explainer.at_once):
            good = [row for row in chunk if isinstance(row, Row)]
            found = iter(worker(good) if good else ())
            yield [(row.number, next(found) if isinstance(row, Row) else RequestError(row.reason)) for row in chunk]
            chunk = []


def resume(path: Path, worker: Worker, rows: Iterator[Item]) -> tuple[Iterator[Explanation], Iterator[Item]]:
    """What an interrupted run left at `path`, and the rows that are still to be worked on.

    Take all of the first before the second. Rows that could not be explained are tried again. Raises RequestError where
    the file is of other texts or was made in another way.
    """
    missed: list[Item] = []

    def done() -> Iterator[Explanation]:
        for explanation in read(path):
            _same(path, explanation, worker)
            text = explanation.text if explanation.pair is None else (explanation.text, explanation.pair)
            for row in rows:
                if isinstance(row, Row) and row.text == text:
                    break
                missed.append(row)
            else:
                raise RequestError(f"{path} holds explanations of other texts; resume with the same input")
            yield explanation

    def remaining() -> Iterator[Item]:
        yield from missed
        yield from rows

    return done(), remaining()


def _same(path: Path, explanation: Explanation, worker: Worker) -> None:
    explainer = worker.explainer
    made = {"method": explanation.method, "model": explanation.model, "threshold": explanation.threshold}
    asked = {"method": explainer.method, "model": explainer.classifier.name, "threshold": explainer.goal.threshold}
    for name, value in made.items():
        if value != asked[name]:
            raise RequestError(f"{path} was made with {name} {value}, not {asked[name]}; resume with the same")
    if changed := worker.changed(explanation):
        raise RequestError(f"{path} was made {changed}; resume with the same")
