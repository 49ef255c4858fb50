"""Where an explanation's tokens lie in the text that a person reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby

from foveate.text.attack_result import AttackResult
from foveate.text.explanation import Explanation, Step


@dataclass(frozen=True)
class Piece:
    """A stretch of the text, and the tokens that stand for it: none between words, several where they overlap."""

    text: str
    tokens: tuple[int, ...]


def pieces(explanation: Explanation) -> list[list[Piece]]:
    """Each text of the explanation (one, or two of a pair) cut at its tokens; joined again, the pieces are the text.

    A token's blanks at either end stay outside its piece. Byte-level tokens that share a character share a piece.
    """
    texts = [explanation.text] if explanation.pair is None else [explanation.text, explanation.pair]
    return [list(_cut(explanation, segment, text)) for segment, text in enumerate(texts)]


def _cut(explanation: Explanation, segment: int, text: str) -> Iterator[Piece]:
    spans: list[tuple[int, int, list[int]]] = []
    for number, token in enumerate(explanation.tokens):
        covered = text[token.start : token.end]
        if token.special or token.segment != segment or not covered.strip():
            continue
        start = token.start + len(covered) - len(covered.lstrip())
        end = token.start + len(covered.rstrip())
        if spans and start < spans[-1][1]:
            before, reach, tokens = spans[-1]
            spans[-1] = (before, max(end, reach), [*tokens, number])
        else:
            spans.append((start, end, [number]))
    at = 0
    for start, end, tokens in spans:
        if start > at:
            yield Piece(text[at:start], ())
        yield Piece(text[start:end], tuple(tokens))
        at = end
    if at < len(text):
        yield Piece(text[at:], ())


def marked(cut: list[Piece], masked: Collection[int]) -> Iterator[tuple[str, bool]]:
    """Runs of the text, and whether they are masked; the pieces of one word make one run."""
    chosen = set(masked)
    for mark, run in groupby(cut, lambda piece: not chosen.isdisjoint(piece.tokens)):
        yield "".join(piece.text for piece in run), mark


def action(explanation: Explanation, step: Step) -> str:
    """The words that a step toggled, in quotation marks where they are shown again; a part of a word as wo[rd]."""
    words = []
    for number in step.action:
        word = visible(_in_word(explanation, number))
        words.append(word if number in step.masked else f"show “{word}”")
    return ", ".join(words) or "–"


def _in_word(explanation: Explanation, number: int) -> str:
    token = explanation.tokens[number]
    text = explanation.pair if token.segment and explanation.pair is not None else explanation.text
    start, end = token.start, token.end
    # Only scripts that set words apart by blanks are cased, or nearly so.
    while start > 0 and _cased(text[start - 1]) and text[start : start + 1].isalnum():
        start -= 1
    while end < len(text) and _cased(text[end]) and text[end - 1 : end].isalnum():
        end += 1
    if (start, end) == (token.start, token.end) or end - start > 30:
        return " ".join(token.text.split()) or "␣"
    return f"{text[start : token.start]}[{token.text}]{text[token.end : end]}"


def _cased(character: str) -> bool:
    return character.islower() or character.isupper() or character.isdigit()


def kept(explanation: Explanation) -> int | None:
    """The number of the step whose mask the explanation kept; None where it kept none."""
    steps = [i for i, s in enumerate(explanation.path) if s.masked == explanation.masked]
    return steps[-1] if steps else None


def excerpt(explanation: Explanation, most: int) -> list[int | None]:
    """The numbers of at most `most` steps to show, in order, with None where steps are left out.

    The first ones, the last one, and the one whose mask was kept.
    """
    count = len(explanation.path)
    if count <= most:
        return list(range(count))
    must = {0, count - 1, kept(explanation) or 0}
    shown = sorted([*must, *[i for i in range(count) if i not in must][: most - len(must) - 2]])
    result: list[int | None] = []
    for before, number in zip([-1, *shown], shown, strict=False):
        result += [number] if number == before + 1 else [None, number]
    return result


def rewritten(explanation: Explanation) -> list[str]:
    """An attack's texts, one or two of a pair, where words stand in the place of the tokens; none otherwise."""
    if not isinstance(explanation, AttackResult) or explanation.fill == "mask" or not explanation.edits:
        return []
    return [text for text in (explanation.adversarial, explanation.adversarial_pair) if text is not None]


def skipped(explanation: Explanation) -> bool:
    """Whether an attack left the text alone, since its label was wrong from the start."""
    return isinstance(explanation, AttackResult) and explanation.skipped


def visible(text: str) -> str:
    """The text with control characters (but line breaks and tabs) as pictures, so that none reaches a terminal."""
    return text.translate(_PICTURES)


_PICTURES = {c: chr(0x2400 + c) for c in range(32) if c not in (9, 10)} | {127: "␡"}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), "�")
