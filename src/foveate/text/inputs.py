"""Texts from files (JSONL, CSV, TSV, also gzipped, or standard input) and from the `datasets` hub, row by row."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from foveate.errors import RequestError
from foveate.text.encoded import Text

SINGLE = ("text", "sentence", "content", "review", "tweet")
"""Columns that are taken for the text, the first that is there."""
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "pair"),
)
"""Columns that are taken for a pair, the first two that are there; they go before a single text."""
LABELS = ("label", "labels")
"""Columns that are taken for the label."""
ENDINGS = (".jsonl", ".csv", ".tsv")
HELD = 1000
"""So many bad rows at the start are held back: if nothing follows, one line says it all."""


@dataclass(frozen=True)
class Row:
    """A text that was read."""

    number: int
    """Its line in the file, or its place in the data set, from 1."""
    text: Text
    label: str | int | None = None
    """What the source calls its label, where it has one."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why."""

    number: int
    reason: str


@dataclass(frozen=True)
class Columns:
    """Where a row keeps its text and label."""

    text: tuple[str, ...] = ()
    """One column, or the two of a pair; found by their usual names where not given."""
    label: str | None = None


def read_rows(source: str | Path, columns: Columns | None = None) -> Iterator[Row | BadRow]:
    """The rows of a file, of standard input (`-`), or of a `datasets` hub id, read as they are asked for.

    A hub id may go on with `:SPLIT` or `:CONFIG:SPLIT`; without, the test split is read, or else validation, or train.
    A row that cannot be read comes as a BadRow, and the rest goes on. Raises RequestError where none can be read: no
    such file, a directory, columns that are nowhere.
    """
    columns = columns or Columns()
    if len(columns.text) > 2:
        raise RequestError(f"a text is in one column or in two, not in {len(columns.text)}; name one or two")
    rows = _rows(str(source), columns)
    held = list(islice(_until(rows, lambda row: isinstance(row, Row)), HELD))
    found = any(isinstance(row, Row) for row in held)
    if found or len(held) == HELD:
        yield from held
    for row in rows:
        found = found or isinstance(row, Row)
        yield row
    if not found:
        where = "standard input" if str(source) == "-" else str(source)
        bad = [row for row in held if isinstance(row, BadRow)]
        if not bad:
            raise RequestError(f"there is no text in {where}")
        raise RequestError(f"no row of {where} can be read; the first, line {bad[0].number}: {bad[0].reason}")


def read_texts(source: str | Path, columns: Columns | None = None, limit: int | None = None) -> list[Text]:
    """The first `limit` texts of `source`; rows that cannot be read are left out, and logged as warnings."""
    return [text for text, _ in read_labelled(source, columns, limit)]


def read_labelled(
    source: str | Path, columns: Columns | None = None, limit: int | None = None, *, needed: bool = False
) -> list[tuple[Text, str | int | None]]:
    """The first `limit` texts of `source` and their labels; rows that cannot be read are left out, and logged.

    Raises RequestError where a label is `needed` and there is none.
    """
    found: list[tuple[Text, str | int | None]] = []
    for row in read_rows(source, columns):
        if len(found) == limit:
            break
        if isinstance(row, BadRow):
            logging.getLogger(__name__).warning("%s, line %d: %s", source, row.number, row.reason)
        elif needed and row.label is None:
            raise RequestError(f"{source}, line {row.number}: there is no label; name its column with --label-column")
        else:
            found.append((row.text, row.label))
    return found


def _rows(source: str, columns: Columns) -> Iterator[Row | BadRow]:
    if source == "-":
        yield from _standard_input(iter(sys.stdin.buffer), columns)
        return
    path = Path(source)
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    try:
        if path.is_dir():
            raise RequestError(f"cannot read {source}: it is a directory; name a file")
        if ending not in ENDINGS:
            if path.exists():
                raise RequestError(
                    f"cannot read {source}: its name must end in {', '.join(ENDINGS)}, or one of them and .gz"
                )
            yield from _hub(source, columns)
            return
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from _table(file, ending, columns)
    except FileNotFoundError as error:
        raise RequestError(f"cannot read {source}: there is no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"it is broken ({error})"
        raise RequestError(f"cannot read {source}: {reason}") from error


def _table(lines: Iterable[bytes], ending: str, columns: Columns) -> Iterator[Row | BadRow]:
    if ending == ".jsonl":
        return _jsonl(lines, columns)
    return _delimited(lines, "," if ending == ".csv" else "\t", columns)


def _standard_input(lines: Iterator[bytes], columns: Columns) -> Iterator[Row | BadRow]:
    """JSONL where it starts with a brace, else a table whose header is parted by tabs or commas."""
    first = next(lines, b"")
    start = first.removeprefix(b"\xef\xbb\xbf").lstrip()
    ending = ".jsonl" if start[:1] in (b"{", b"") else ".tsv" if b"\t" in start else ".csv"
    yield from _table(chain([first], lines), ending, columns)


def _jsonl(lines: Iterable[bytes], columns: Columns) -> Iterator[Row | BadRow]:
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = _unmarked(line)
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield BadRow(number, "it is not UTF-8")
        except (ValueError, RecursionError) as error:
            yield BadRow(number, f"it is not JSON ({error})")
        else:
            if isinstance(values, dict):
                yield _row(number, values, columns)
            else:
                yield BadRow(number, "it is no JSON object")


def _delimited(lines: Iterable[bytes], delimiter: str, columns: Columns) -> Iterator[Row | BadRow]:
    """CSV with quotes (RFC 4180); in TSV a quote is a character like others, as in GLUE's files."""
    # What is not UTF-8 is carried as surrogates, so that it spoils its own row alone.
    text = (
        (_unmarked(line) if number == 0 else line).decode("utf-8", "surrogateescape")
        for number, line in enumerate(lines)
    )
    reader = csv.reader(text) if delimiter == "," else csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    header = next(reader, [])
    named = dict.fromkeys(header, "")
    if header:
        _find(named, columns)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(number, f"it is not {'CSV' if delimiter == ',' else 'TSV'} ({error})")
            continue
        if not fields:
            continue
        if len(fields) > len(header):
            mend = "; quote texts that hold commas" if delimiter == "," else ""
            yield BadRow(number, f"it has {len(fields)} fields, the header {len(header)}{mend}")
        else:
            yield _row(number, dict(zip(header, fields, strict=False)), columns)


def _hub(source: str, columns: Columns) -> Iterator[Row | BadRow]:
    name, *rest = source.split(":")
    try:
        import datasets
    except ImportError as error:
        raise RequestError(
            f"cannot read {source}: there is no such file; for data sets of the hub, pip install 'foveate[datasets]'"
        ) from error
    try:
        config = rest[0] if len(rest) > 1 else None
        data = datasets.load_dataset(name, config, split=rest[-1] if rest else None, streaming=True)
        if not rest:
            data = next(data[split] for split in ("test", "validation", "train", *data) if split in data)
        for number, values in enumerate(data, 1):
            yield _row(number, values, columns)
    except RequestError:
        raise
    except Exception as error:  # a hub that is out of reach, a data set that is none: datasets names no common class
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RequestError(f"cannot read {source}: there is no such file, nor such a data set ({reason})") from error


def _row(number: int, values: Mapping[str, Any], columns: Columns) -> Row | BadRow:
    try:
        names = _find(values, columns)
    except RequestError as error:
        return BadRow(number, str(error))
    texts = [values[name] for name in names]
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str):
            return BadRow(number, f"its column {name!r} holds no text but {json.dumps(text, default=str)[:40]}")
        if reason := unreadable(text):
            return BadRow(number, f"its column {name!r} {reason}")
    label = values.get(columns.label or next((name for name in LABELS if name in values), ""))
    known = label if isinstance(label, str | int) else None
    return Row(number, texts[0] if len(texts) == 1 else (texts[0], texts[1]), known)


def unreadable(text: str) -> str | None:
    """Why a text cannot be explained, where that can be said without a classifier."""
    if not text.strip():
        return "is empty"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "is not UTF-8"
    return None


def _find(values: Mapping[str, Any], columns: Columns) -> tuple[str, ...]:
    """The columns of the text; raises RequestError where they are not there."""
    there = ", ".join(str(name) for name in values)
    missing = [name for name in (*columns.text, *([columns.label] if columns.label else ())) if name not in values]
    if missing:
        raise RequestError(f"there is no column {missing[0]!r}; there is {there}")
    if columns.text:
        return columns.text
    for names in (*PAIRS, *((name,) for name in SINGLE)):
        # A pair whose second half is null is a single text, as in foveate's own files.
        if all(values.get(name) is not None for name in names):
            return names
    raise RequestError(f"no column is known to hold a text; name it with --text-columns, there is {there}")


def _unmarked(line: bytes) -> bytes:
    """A file's first line without UTF-8's byte order mark."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RequestError("the text is in UTF-16; convert it first: iconv -f UTF-16 -t UTF-8")
    return line.removeprefix(b"\xef\xbb\xbf")


def _until(rows: Iterator[Row | BadRow], done: Callable[[Row | BadRow], bool]) -> Iterator[Row | BadRow]:
    """The items up to and with the first for which `done`; the iterator stands behind it."""
    for row in rows:
        yield row
        if done(row):
            return
