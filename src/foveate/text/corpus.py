"""A corpus: rows in, explanations out, as they are found; and how an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from foveate.errors import RequestError
from foveate.text.explainer import Explainer
from foveate.text.explanation import Explanation, read
from foveate.text.inputs import BadRow, Row

Item = Row | BadRow
Result = tuple[int, Explanation | RequestError]
"""A row's number, and its explanation or why there is none."""


def explain_rows(
    explainer: Explainer, rows: Iterable[Item], *, target: str | int | None = None, verify: bool = False
) -> Iterator[list[Result]]:
    """Explain rows, `explainer.at_once` at a time: lists of what came of them, in the order of the rows."""
    chunk: list[Item] = []
    for row in chain(rows, [None]):
        if row is not None:
            chunk.append(row)
        if chunk and (row is None or len(chunk) == explainer.at_once):
            texts = [row.text for row in chunk if isinstance(row, Row)]
            found = iter(explainer.attempt(texts, target=target, verify=verify) if texts else ())
            yield [(row.number, next(found) if isinstance(row, Row) else RequestError(row.reason)) for row in chunk]
            chunk = []


def resume(
    path: Path, explainer: Explainer, rows: Iterator[Item], *, target: str | int | None = None, verify: bool = False
) -> tuple[Iterator[Explanation], Iterator[Item]]:
    """What an interrupted run left at `path`, and the rows that are still to be explained.

    Take all of the first before the second. Rows that could not be explained are tried again. Raises RequestError where
    the file is of other texts or was made in another way.
    """
    missed: list[Item] = []
    label = explainer.label_index(target)

    def done() -> Iterator[Explanation]:
        for explanation in read(path):
            _same(path, explanation, explainer, label, verify)
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


def _same(path: Path, explanation: Explanation, explainer: Explainer, label: int | None, verify: bool) -> None:
    made = {"method": explanation.method, "model": explanation.model, "threshold": explanation.threshold}
    asked = {"method": explainer.method, "model": explainer.classifier.name, "threshold": explainer.goal.threshold}
    for name, value in made.items():
        if value != asked[name]:
            raise RequestError(f"{path} was made with {name} {value}, not {asked[name]}; resume with the same")
    if label is not None and explanation.label != explainer.classifier.labels[label]:
        raise RequestError(f"{path} was made with another --target; resume with the same")
    if verify and explanation.solved and explanation.minimal is None:
        raise RequestError(f"{path} was made without --verify; resume without it")
