"""Explanation: what one method found for one text, and the files it is kept in (JSONL, Parquet)."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

from foveate.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

T = TypeVar("T", str, int, float, bool, list, dict)


@dataclass(frozen=True)
class Token:
    """A piece of the text as the classifier reads it."""

    text: str
    start: int
    """Character offset in the text (or, for segment 1, in the pair)."""
    end: int
    segment: int
    """0 for the first text, 1 for the second of a pair."""
    special: bool
    """Put there by the tokenizer; never masked."""


@dataclass(frozen=True)
class Step:
    """One query on the way, and what it showed."""

    action: tuple[int, ...]
    """The tokens toggled."""
    masked: tuple[int, ...]
    """All tokens masked after it."""
    probability: float
    """p(label | X'), of the label that is explained."""
    delta_p: float
    """By how much it is lower than with nothing masked."""
    label: str
    """What the classifier predicts now."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Which tokens of one text carry the classifier's decision, and how a method found them."""

    text: str
    pair: str | None
    """The second text, where the classifier reads two."""
    label: str
    """The label that is explained."""
    probability: float
    """p(label | X), nothing masked."""
    tokens: tuple[Token, ...]
    masked: tuple[int, ...]
    """The tokens found: with them masked, the decision falls."""
    scores: tuple[float, ...]
    """One a token; higher is more important, 0 on special tokens."""
    delta_p: float
    """p(label | X) − p(label | X with `masked` masked)."""
    solved: bool
    """Δp reached the threshold."""
    flipped: bool
    """The predicted label changed."""
    final_label: str
    """What is predicted with `masked` masked."""
    queries: int
    """Rows that went through the classifier after the first prediction."""
    mask_rate: float
    """Masked tokens over tokens that can be masked."""
    minimal: bool | None = None
    """Whether it was verified that unmasking any one token loses the result; None: not checked."""
    path: tuple[Step, ...]
    method: str
    model: str
    threshold: float | None
    """ε: the Δp that counts as explained; None for an attack, where any change of the label counts."""
    truncated: bool
    """The text was longer than the model reads."""
    verification_queries: int = 0
    """The rows that the check of minimality took, not counted in `queries`."""
    explainer: Any = field(default=None, compare=False, repr=False)
    """The Explainer that made it, for `plot`; no part of equality, of files, or of pickles."""

    @property
    def reachable(self) -> bool:
        """Whether p(label | X) is at least the threshold, so that some mask could lower it by as much."""
        return self.threshold is None or self.probability >= self.threshold

    @property
    def goal(self) -> float:
        """What p(label) was to fall to, or, of an attack, below which the label is sure to have changed."""
        return 0.5 if self.threshold is None else max(0.0, self.probability - self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """The explanation as plain values, keys in a fixed order; `action` is an int where one token was toggled."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "explainer"}
        values["tokens"] = [asdict(t) for t in self.tokens]
        values["masked"] = list(self.masked)
        values["scores"] = list(self.scores)
        values["path"] = [
            {
                "action": s.action[0] if len(s.action) == 1 else list(s.action),
                "masked": list(s.masked),
                "probability": s.probability,
                "delta_p": s.delta_p,
                "label": s.label,
            }
            for s in self.path
        ]
        return values

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as JSON; reading it back gives an equal explanation. Raises ValueError on NaN and infinity."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Explanation:
        """The inverse of `to_dict`, of any kind of explanation; raises RequestError where `values` is none."""
        kind: type[Explanation] = Explanation
        if "adversarial" in values:
            from foveate.text.attack_result import AttackResult

            kind = AttackResult
        try:
            return kind(**kind.parse(values))
        except (ValueError, OverflowError) as error:
            raise RequestError(f"not an explanation: {error}") from error

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that the plain values stand for; raises ValueError where one is missing or of another kind."""
        tokens = tuple(
            Token(
                text=get(t, "text", str),
                start=get(t, "start", int),
                end=get(t, "end", int),
                segment=get(t, "segment", int),
                special=get(t, "special", bool),
            )
            for t in get(values, "tokens", list)
        )
        path = tuple(
            Step(
                action=_ints({"action": [a]} if type(a := _key(s, "action")) is int else s, "action", len(tokens)),
                masked=_ints(s, "masked", len(tokens)),
                probability=get(s, "probability", float),
                delta_p=get(s, "delta_p", float),
                label=get(s, "label", str),
            )
            for s in get(values, "path", list)
        )
        scores = tuple(get({"scores": s}, "scores", float) for s in get(values, "scores", list))
        if len(scores) != len(tokens):
            raise ValueError(f"it has {len(tokens)} tokens but {len(scores)} scores")
        return {
            "text": get(values, "text", str),
            "pair": None if values.get("pair") is None else get(values, "pair", str),
            "label": get(values, "label", str),
            "probability": get(values, "probability", float),
            "tokens": tokens,
            "masked": _ints(values, "masked", len(tokens)),
            "scores": scores,
            "delta_p": get(values, "delta_p", float),
            "solved": get(values, "solved", bool),
            "flipped": get(values, "flipped", bool),
            "final_label": get(values, "final_label", str),
            "queries": get(values, "queries", int),
            "mask_rate": get(values, "mask_rate", float),
            "minimal": None if values.get("minimal") is None else get(values, "minimal", bool),
            "path": path,
            "method": get(values, "method", str),
            "model": get(values, "model", str),
            "threshold": None if _key(values, "threshold") is None else get(values, "threshold", float),
            "truncated": get(values, "truncated", bool),
            "verification_queries": get({"verification_queries": 0, **values}, "verification_queries", int),
        }

    @classmethod
    def from_json(cls, text: str | bytes) -> Explanation:
        """The inverse of `to_json`; raises RequestError where `text` is not an explanation."""
        try:
            values = json.loads(text, parse_constant=_refuse)
        except ValueError as error:
            raise RequestError(f"not JSON: {error}") from error
        if not isinstance(values, dict):
            raise RequestError("not an explanation: it is no JSON object")
        return cls.from_dict(values)

    @classmethod
    def columns(cls) -> dict[str, Any]:
        """The JSON's keys and their kinds, as Parquet has them."""
        import pyarrow as pa

        def struct(**fields: Any) -> Any:
            return pa.struct([pa.field(name, kind, nullable=False) for name, kind in fields.items()])

        def each(kind: Any) -> Any:
            return pa.list_(pa.field("element", kind, nullable=False))

        string, real, index, flag = pa.string(), pa.float64(), pa.int32(), pa.bool_()
        token = struct(text=string, start=index, end=index, segment=index, special=flag)
        step = struct(action=each(index), masked=each(index), probability=real, delta_p=real, label=string)
        kinds = {"tokens": each(token), "masked": each(index), "scores": each(real), "path": each(step)}
        kinds |= dict.fromkeys(("text", "pair", "label", "final_label", "method", "model"), string)
        kinds |= dict.fromkeys(("probability", "delta_p", "mask_rate", "threshold"), real)
        kinds |= dict.fromkeys(("solved", "flipped", "minimal", "truncated"), flag)
        kinds |= dict.fromkeys(("queries", "verification_queries"), pa.int64())
        return kinds

    def to_html(self) -> str:
        """A page that shows the explanation step by step and needs nothing else."""
        from foveate.viz.html import page

        return page([self])

    def plot(self, explainer: Any = None) -> Figure:
        """Attention, label probabilities, features and Q values, step by step (AttExplainer, figure 5).

        What the file does not hold is asked of the classifier again: of `explainer`, or else of the one that made
        this explanation. Without either, the probabilities and the scores are drawn.
        """
        from foveate.viz.figures import plot

        asked = self.explainer if explainer is None else explainer
        return plot(self, getattr(asked, "classifier", None), getattr(asked, "agent", None))

    def __str__(self) -> str:
        from foveate.viz.terminal import plain

        return plain(self)

    def __rich__(self) -> RenderableType:
        from foveate.viz.terminal import View

        return View(self)

    def _repr_html_(self) -> str:
        from foveate.viz.html import fragment

        return fragment(self)

    def __getstate__(self) -> dict[str, Any]:
        # A pickle goes to another process; a whole classifier must not ride along.
        return {**self.__dict__, "explainer": None}


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


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _key(values: Any, key: str) -> Any:
    if not isinstance(values, Mapping) or key not in values:
        raise ValueError(f"'{key}' is missing")
    return values[key]


def get(values: Any, key: str, kind: type[T]) -> T:
    """`values[key]`; raises ValueError where it is missing or of another kind."""
    value = _key(values, key)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"'{key}' is {json.dumps(value, default=str)[:40]}, which is no {kind.__name__}")
    return value


def _ints(values: Any, key: str, below: int | None = None) -> tuple[int, ...]:
    found: Sequence[Any] = get(values, key, list)
    for value in found:
        if type(value) is not int or (below is not None and not 0 <= value < below):
            raise ValueError(f"'{key}' holds {value!r}, which is no token's number")
    return tuple(found)
