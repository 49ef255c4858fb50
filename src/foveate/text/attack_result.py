"""AttackResult: what an attack made of one text. An explanation, and the text with its edits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from foveate.errors import RequestError
from foveate.text.explanation import Explanation, get


@dataclass(frozen=True)
class Edit:
    """A stretch of the original text, and what stands there now."""

    segment: int
    """0 for the first text, 1 for the second of a pair."""
    start: int
    """Character offset in the original text."""
    end: int
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class AttackResult(Explanation):
    """One attacked text: `label` is the label before, `masked` the tokens modified, `solved` that the label changed,
    `mask_rate` the modification rate. A skipped text was wrong from the start: nothing was asked of it."""

    threshold: None = None
    """There is none: any change of the label counts."""
    truth: str | None
    """The true label, where it is known."""
    correct: bool | None
    """Whether the text was classified right at first; None where the truth is not known."""
    skipped: bool
    """Wrong from the start, and so not attacked."""
    edits: tuple[Edit, ...]
    """What was changed, in the order of the text."""
    adversarial: str
    """The text with the edits."""
    adversarial_pair: str | None
    """The second text with the edits."""
    final_probability: float
    """p(label | adversarial text)."""
    fill: str
    """What stands in the place of the tokens: `mask`, or what `foveate.text.fill` put there, or an attack's own
    `words`."""

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"edits": [asdict(edit) for edit in self.edits]}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        edits = tuple(
            Edit(
                segment=get(edit, "segment", int),
                start=get(edit, "start", int),
                end=get(edit, "end", int),
                before=get(edit, "before", str),
                after=get(edit, "after", str),
            )
            for edit in get(values, "edits", list)
        )
        return super().parse(values) | {
            "truth": None if values.get("truth") is None else get(values, "truth", str),
            "correct": None if values.get("correct") is None else get(values, "correct", bool),
            "adversarial_pair": None if values.get("pair") is None else get(values, "adversarial_pair", str),
            "skipped": get(values, "skipped", bool),
            "edits": edits,
            "adversarial": get(values, "adversarial", str),
            "final_probability": get(values, "final_probability", float),
            "fill": get(values, "fill", str),
        }

    @classmethod
    def columns(cls) -> dict[str, Any]:
        import pyarrow as pa

        edit = pa.struct(
            [
                pa.field(f.name, pa.int32() if f.name in ("segment", "start", "end") else pa.string(), nullable=False)
                for f in fields(Edit)
            ]
        )
        kinds = dict.fromkeys(("truth", "adversarial", "adversarial_pair", "fill"), pa.string())
        kinds |= dict.fromkeys(("correct", "skipped"), pa.bool_())
        edits = pa.list_(pa.field("element", edit, nullable=False))
        return super().columns() | kinds | {"edits": edits, "final_probability": pa.float64()}


def masked_result(found: Explanation, mask: str, truth: str | None, *, skipped: bool = False) -> AttackResult:
    """The result of an attack that masks tokens: `mask` (empty to delete) stands in the place of each.

    Raises RequestError where the explanation is not of an attack.
    """
    if found.threshold is not None:
        raise RequestError("this explains a label; an attack changes it")
    edits = merge(
        Edit(t.segment, t.start, t.end, t.text, mask)
        for t in (found.tokens[i] for i in found.masked)
        if t.end > t.start
    )
    inherited = {f.name: getattr(found, f.name) for f in fields(Explanation)}
    return AttackResult(
        **inherited,
        truth=truth,
        correct=None if truth is None else truth == found.label,
        skipped=skipped,
        edits=edits,
        adversarial=apply_edits(found.text, edits, 0),
        adversarial_pair=None if found.pair is None else apply_edits(found.pair, edits, 1),
        final_probability=found.probability - found.delta_p,
        fill="mask" if mask else "delete",
    )


def merge(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Edits in the order of the text; one that overlaps the one before it, as byte-level tokens may, falls away."""
    kept: list[Edit] = []
    for edit in sorted(edits, key=lambda e: (e.segment, e.start, e.end)):
        if not kept or edit.segment != kept[-1].segment or edit.start >= kept[-1].end:
            kept.append(edit)
    return tuple(kept)


def apply_edits(text: str, edits: Sequence[Edit], segment: int) -> str:
    """`text` with the edits of one segment, which are in order and do not overlap."""
    parts, at = [], 0
    for edit in edits:
        if edit.segment == segment:
            parts += [text[at : edit.start], edit.after]
            at = edit.end
    return "".join([*parts, text[at:]])
