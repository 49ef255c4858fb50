"""What may stand in a word's place: nothing, or the word misspelt."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Slot:
    """A word in a text, whose place is to be filled."""

    text: str
    """The text, or one of a pair, as it now stands."""
    start: int
    """Character offset."""
    end: int
    original: str
    """The text before any edit."""

    @property
    def word(self) -> str:
        return self.text[self.start : self.end]

    def filled(self, word: str) -> str:
        """The text with `word` in the slot."""
        return self.text[: self.start] + word + self.text[self.end :]


Candidates = Callable[[Sequence[Slot]], list[list[str]]]
"""What may stand in each slot, the best first; never the word itself. An empty string takes the word away."""

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _ROWS for i, letter in enumerate(row)}
"""The letters to the left and right on a QWERTY keyboard."""


def delete(slots: Sequence[Slot]) -> list[list[str]]:
    """Take the word away."""
    return [[""] for _ in slots]


def typos(seed: int, most: int) -> Candidates:
    """Misspellings that stay readable: of a word's inner letters, two are swapped, or one is left out, doubled, or
    exchanged for its neighbour on the keyboard. First and last letter stay.

    Of all of a word, `most` are drawn; they depend on the word and `seed` alone. Source: the edits of DeepWordBug
    (Gao et al. 2018) and TextBugger (Li et al. 2019), without look-alike letters.
    """

    def candidates(slots: Sequence[Slot]) -> list[list[str]]:
        return [_drawn(misspelt(slot.word), seed + zlib.crc32(slot.word.encode()), most) for slot in slots]

    return candidates


def misspelt(word: str) -> list[str]:
    """Every misspelling of `typos`, each once; none of words of fewer than three letters."""
    found: dict[str, None] = {}
    for i in range(1, len(word) - 1):
        letter, before, after = word[i], word[:i], word[i + 1 :]
        if not letter.isalpha():
            continue
        if i + 2 < len(word) and word[i + 1].isalpha():
            found[before + word[i + 1] + letter + word[i + 2 :]] = None
        if len(word) > 3:
            found[before + after] = None
        found[before + 2 * letter + after] = None
        for near in NEIGHBOURS.get(letter.lower(), ""):
            found[before + like(letter, near) + after] = None
    found.pop(word, None)
    return list(found)


def _drawn(words: Sequence[str], seed: int, most: int) -> list[str]:
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed))
    return [words[i] for i in order[:most].tolist()]


def like(model: str, word: str) -> str:
    """`word` in the case of `model`: capitals, a capital at the start, or as it is."""
    if model.isupper() and (len(model) > 1 or len(word) == 1):
        return word.upper()
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every word: letters, digits and marks, and apostrophes between them.

    Scripts that put no blanks between words (Chinese, Japanese) have none here: there a token stands for its word.
    """
    spans: list[tuple[int, int]] = []
    for i, character in enumerate(text):
        if not _in_word(text, i, character):
            continue
        if spans and spans[-1][1] == i:
            spans[-1] = (spans[-1][0], i + 1)
        else:
            spans.append((i, i + 1))
    return spans


def _in_word(text: str, i: int, character: str) -> bool:
    if character in "'’":
        return 0 < i < len(text) - 1 and text[i - 1].isalnum() and text[i + 1].isalnum()
    if not character.isalnum():
        return unicodedata.category(character).startswith("M")
    code = ord(character)
    return not (0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or code >= 0x20000)
