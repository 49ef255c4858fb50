"""Explanation: what one method found for one text, and its plain forms (a dictionary, JSON, the columns of a table)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

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
