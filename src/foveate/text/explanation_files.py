"""The files that explanations are kept in: JSONL, Parquet, and pages to look at."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from foveate.errors import RequestError
from foveate.text.explanation import Explanation

NULLABLE = ("pair", "minimal", "threshold", "truth", "correct", "adversarial_pair")
"""What may be null in a file."""


class Writer(ABC):
    """A file of explanations that grows as they are found, and appears under its own name when it is closed.

    A context manager. What was written before an error or Ctrl-C is kept; a file that was there before is replaced
    only once there is something to replace it with.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.count = 0
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> Writer:
        """Raises RequestError where the place cannot be written to, before any work is done."""
        try:
            if self.path.is_dir():
                raise IsADirectoryError(0, "it is a directory")
            self._open()
        except OSError as error:
            raise RequestError(f"cannot write {self.path}: {error.strerror}; name another file") from error
        return self

    def write(self, explanations: Iterable[Explanation]) -> None:
        """Append explanations, in order."""
        for explanation in explanations:
            self._write(explanation)
            self.count += 1

    def go_on(self, done: Iterable[Explanation], seen: Callable[[Explanation], object]) -> None:
        """Append what an interrupted run left at the same place, and tell `seen` of each.

        Where that fails, the file stays as it was: it holds more than what was copied of it as yet.
        """
        try:
            for explanation in done:
                self.write([explanation])
                seen(explanation)
        except BaseException:
            self.count = 0
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if kind is None or self.count:
            os.replace(self._part, self.path)
        else:
            self._part.unlink()

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _write(self, explanation: Explanation) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


class TextWriter(Writer):
    """A writer of a text file in UTF-8."""

    _file: TextIO

    def _open(self) -> None:
        self._file = self._part.open("w", encoding="utf-8", newline="\n")

    def _close(self) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


class JsonlWriter(TextWriter):
    """One explanation a line, as `Explanation.to_json` has it."""

    def _write(self, explanation: Explanation) -> None:
        self._file.write(explanation.to_json() + "\n")


class ParquetWriter(Writer):
    """One explanation a row, nested as in the JSON (`action` is always a list), in row groups of `GROUP`."""

    GROUP = 1000

    def _open(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._kind: type[Explanation] = Explanation
        self._sink = self._part.open("wb")
        self._file: Any = None

    def _write(self, explanation: Explanation) -> None:
        self._kind = type(explanation)
        row = explanation.to_dict()
        for step, kept in zip(row["path"], explanation.path, strict=True):
            step["action"] = list(kept.action)
        self._rows.append(row)
        if len(self._rows) == self.GROUP:
            self._flush()

    def _flush(self) -> None:
        from pyarrow import Table, parquet

        if self._file is None:
            # Only now is it known of what kind the explanations are.
            self._file = parquet.ParquetWriter(self._sink, _schema(self._kind), compression="zstd")
        self._file.write_table(Table.from_pylist(self._rows, schema=self._file.schema))
        self._rows = []

    def _close(self) -> None:
        with self._sink:
            self._flush()
            self._file.close()


def open_writer(path: str | Path) -> Writer:
    """The writer for a file's ending: .jsonl, .parquet or .html; raises RequestError on any other."""
    ending = Path(path).suffix.lower()
    if ending == ".jsonl":
        return JsonlWriter(path)
    if ending == ".parquet":
        return ParquetWriter(path)
    if ending in (".html", ".htm"):
        from foveate.viz.html import HtmlWriter

        return HtmlWriter(path)
    raise RequestError(f"cannot write {path}: its name must end in .jsonl, .parquet or .html")


def save(explanations: Iterable[Explanation], path: str | Path) -> None:
    """Write explanations to a .jsonl, .parquet or .html file; the first two lose nothing."""
    with open_writer(path) as writer:
        writer.write(explanations)


def read(path: str | Path) -> Iterator[Explanation]:
    """The explanations of a .jsonl or .parquet file, one after another, so that a file of any size can be read.

    Raises RequestError, with the line, where the file is none that `save` wrote.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".jsonl", ".parquet"):
        raise RequestError(f"cannot read {path}: explanations are kept in files that end in .jsonl or .parquet")
    if not Path(path).is_file():
        raise RequestError(f"cannot read {path}: there is no such file")
    yield from _read_jsonl(Path(path)) if ending == ".jsonl" else _read_parquet(Path(path))


def load(path: str | Path) -> list[Explanation]:
    """All explanations of a .jsonl or .parquet file. Raises RequestError, with the line, where it holds others."""
    return list(read(path))


def _read_jsonl(path: Path) -> Iterator[Explanation]:
    # In bytes, lines end at \n alone; a text may hold any of Unicode's other line ends.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield Explanation.from_json(line)
                except RequestError as error:
                    raise RequestError(f"{path}, line {number}: {error}") from error


def _read_parquet(path: Path) -> Iterator[Explanation]:
    from pyarrow import ArrowException, parquet

    done = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ParquetWriter.GROUP):
                for row in batch.to_pylist():
                    yield Explanation.from_dict(row)
                    done += 1
    except RequestError as error:
        raise RequestError(f"{path}, row {done + 1}: {error}") from error
    except (ArrowException, OSError) as error:
        raise RequestError(f"{path} is no Parquet file, or it is broken after row {done}") from error


def _schema(kind: type[Explanation]) -> Any:
    import pyarrow as pa

    columns = kind.columns()
    names = [f.name for f in fields(kind) if f.name != "explainer"]
    return pa.schema([pa.field(name, columns[name], nullable=name in NULLABLE) for name in names])
