"""Protected words: what an attack leaves alone (`--keep`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from foveate.errors import RequestError
from foveate.text.encoded import Encoded

NEGATIONS = """not no never none nor neither nothing nobody nowhere cannot without hardly scarcely barely rarely seldom
aint arent cant couldnt didnt doesnt dont hadnt hasnt havent isnt shouldnt wasnt werent wont wouldnt""".split()  # noqa: SIM905
"""What `negations` names, beside every word that ends in n't."""


def pattern(keep: Sequence[str]) -> re.Pattern[str]:
    """One expression for all that is to be kept, upper and lower case alike.

    Each of `keep` is `negations`, a `/regular expression/`, a file with one word or phrase a line, or a list of them
    parted by commas. Words match whole. Raises RequestError where an expression or a file cannot be read.
    """
    parts = [part for value in keep for part in _parts(value.strip())]
    # What can match nowhere, for an empty list.
    return re.compile("|".join(f"(?:{part})" for part in parts) or r"(?!)", re.IGNORECASE)


def protected(encoded: Encoded, keep: Sequence[str]) -> Bool[Tensor, "texts tokens"]:
    """True on the tokens that share a character with a match of `keep`. Raises RequestError as `pattern` does."""
    kept = pattern(keep)
    result = encoded.maskable.new_zeros(encoded.maskable.shape)
    start, end = encoded.offsets.unbind(2)
    for row, text in enumerate(encoded.texts):
        for segment, part in enumerate((text,) if isinstance(text, str) else text):
            for first, last in matches(kept, part):
                meets = (start[row] < last) & (end[row] > first)
                result[row] |= meets & (encoded.segments[row] == segment) & encoded.maskable[row]
    return result


def without_protected(encoded: Encoded, keep: Sequence[str]) -> Encoded:
    """The same texts, in which protected tokens cannot be masked. Raises RequestError as `pattern` does."""
    return replace(encoded, maskable=encoded.maskable & ~protected(encoded, keep)) if keep else encoded


def matches(kept: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    """Start and end of every match that is not empty."""
    return [match.span() for match in kept.finditer(text) if match.end() > match.start()]


def _parts(value: str) -> list[str]:
    if value == "negations":
        return [r"\w+n['’]t(?!\w)", _words(NEGATIONS)]
    if len(value) > 2 and value.startswith("/") and value.endswith("/"):
        try:
            re.compile(value[1:-1])
        except re.error as error:
            raise RequestError(f"--keep {value} is no regular expression: {error}") from error
        return [value[1:-1]]
    path = Path(value)
    if path.suffix == ".txt" or "/" in value or path.is_file():
        try:
            words = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise RequestError(f"cannot read the words to keep from {value}: {reason}") from error
    else:
        words = value.split(",")
    named = [word.strip() for word in words if word.strip()]
    if not named:
        raise RequestError(f"--keep {value!r} names no word; give words parted by commas, a file, or a /regex/")
    return [_words(named)]


def _words(words: Sequence[str]) -> str:
    # The longest first, or else "no" would hide "no one".
    listed = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return rf"(?<!\w)(?:{listed})(?!\w)"
