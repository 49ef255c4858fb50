"""Edits: what another's adversarial text changed of the original, and which tokens that touched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from foveate.text.attack_result import Edit
from foveate.text.explanation import Token

# A word is changed as a whole, whichever of its letters is; blanks and punctuation go one by one.
_PIECES = re.compile(r"\w+|\s|[^\w\s]")


def edits_between(before: str, after: str, segment: int = 0) -> tuple[Edit, ...]:
    """The edits, word by word, that make `after` of `before`: `apply_edits` gives `after` to the letter."""
    old, new = _PIECES.findall(before), _PIECES.findall(after)
    # Without autojunk: it would take the blanks of a long text for noise.
    opcodes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    ends = [0]
    for piece in old:
        ends.append(ends[-1] + len(piece))
    return tuple(
        Edit(segment, ends[i], ends[k], before[ends[i] : ends[k]], "".join(new[j:m]))
        for tag, i, k, j, m in opcodes
        if tag != "equal"
    )


def touched(tokens: Sequence[Token], edits: Sequence[Edit]) -> tuple[int, ...]:
    """The tokens that an edit overlaps; one that only inserts touches the tokens it stands against."""
    return tuple(
        i
        for i, token in enumerate(tokens)
        if not token.special and any(edit.segment == token.segment and _meet(token, edit) for edit in edits)
    )


def _meet(token: Token, edit: Edit) -> bool:
    if edit.start == edit.end:
        return token.start <= edit.start <= token.end
    return token.start < edit.end and edit.start < token.end
