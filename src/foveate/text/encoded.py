"""Texts as a classifier's tokenizer cuts them: tokens, and where each stands in its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveate.errors import RequestError

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Encoded:
    """A batch of tokenised texts, padded on the right to one length."""

    texts: tuple[Text, ...]
    """The texts, or (premise, hypothesis) pairs, as they were given."""
    input_ids: Int[Tensor, "texts tokens"]
    real: Bool[Tensor, "texts tokens"]
    """False on padding."""
    maskable: Bool[Tensor, "texts tokens"]
    """False on padding, on special tokens, and on tokens that are to be left alone."""
    segments: Int[Tensor, "texts tokens"]
    """0 for the first text, 1 for the second of a pair; 0 on special tokens and padding."""
    offsets: Int[Tensor, "texts tokens 2"]
    """Start and end of the token's visible characters in its own text; (0, 0) on special tokens and padding."""
    truncated: Bool[Tensor, " texts"]
    """True where the text was longer than the model reads."""
    types: Int[Tensor, "texts tokens"] | None = None
    """The tokenizer's token type ids; None for a family that has none."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def lengths(self) -> Int[Tensor, " texts"]:
        return self.real.sum(1)

    @property
    def ordinary(self) -> Bool[Tensor, "texts tokens"]:
        """The text's own tokens: neither padding nor special, though they may have to be left alone."""
        return self.maskable | (self.offsets[..., 1] > self.offsets[..., 0])

    def select(self, rows: Int[Tensor, " rows"]) -> Encoded:
        """The texts of `rows`, trimmed to the longest of them."""
        width = max(1, int(self.lengths[rows].max())) if len(rows) else 0
        return Encoded(
            texts=tuple(self.texts[i] for i in rows.tolist()),
            input_ids=self.input_ids[rows, :width],
            real=self.real[rows, :width],
            maskable=self.maskable[rows, :width],
            segments=self.segments[rows, :width],
            offsets=self.offsets[rows, :width],
            truncated=self.truncated[rows],
            types=None if self.types is None else self.types[rows, :width],
        )


def encode(tokenizer: Any, texts: Sequence[Text], max_tokens: int | None) -> Encoded:
    """A batch of texts or pairs, each cut off behind `max_tokens`, as `truncated` says.

    Raises RequestError for what is not a text.
    """
    kept = [_checked(i, text) for i, text in enumerate(texts)]
    rows = [_tokenised(tokenizer, [t for t in kept if isinstance(t, kind)], max_tokens) for kind in (str, tuple)]
    singles, pairs = iter(rows[0]), iter(rows[1])
    encodings = [next(singles) if isinstance(text, str) else next(pairs) for text in kept]
    # An empty text of a decoder has no token at all, and still a row.
    width = max([1, *(len(e.ids) for e in encodings)]) if kept else 0

    def stack(rows: list[list[int]], fill: int = 0) -> Tensor:
        padded = [row + [fill] * (width - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.long).reshape(len(kept), width)

    real = stack([e.attention_mask for e in encodings]).bool()
    offsets = [[edge for span in _spans(text, e) for edge in span] for text, e in zip(kept, encodings, strict=True)]
    flat = [row + [0] * (2 * width - len(row)) for row in offsets]
    input_ids = stack([e.ids for e in encodings], tokenizer.pad_token_id or 0)
    # Special tokens that the text itself spells out are no words either; an unknown word is one.
    special = torch.tensor([i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id])
    return Encoded(
        texts=tuple(kept),
        input_ids=input_ids,
        real=real,
        maskable=real
        & ~stack([e.special_tokens_mask for e in encodings]).bool()
        & ~torch.isin(input_ids, special.long()),
        segments=stack([[s or 0 for s in e.sequence_ids] for e in encodings]),
        offsets=torch.tensor(flat, dtype=torch.long).reshape(len(kept), width, 2),
        truncated=torch.tensor([bool(e.overflowing) for e in encodings], dtype=torch.bool),
        types=stack([e.type_ids for e in encodings]) if "token_type_ids" in tokenizer.model_input_names else None,
    )


def _tokenised(tokenizer: Any, texts: Sequence[Text], max_tokens: int | None) -> list[Any]:
    """The tokenizer's own encodings of texts, or of pairs."""
    if not texts:
        return []
    columns = [list(texts)] if isinstance(texts[0], str) else [list(column) for column in zip(*texts, strict=True)]
    limited = {} if max_tokens is None else {"truncation": "longest_first", "max_length": max_tokens}
    return tokenizer(*columns, **limited).encodings


def _checked(i: int, text: Any) -> Text:
    parts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, list | tuple) else ()
    if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
        raise RequestError(f"text {i} is {text!r:.60}: give a string, or a pair of two strings")
    try:
        "".join(parts).encode()
    except UnicodeEncodeError:
        raise RequestError(f"text {i} holds a lone surrogate, which is no character: {text!r:.60}") from None
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _spans(text: Text, encoding: Any) -> list[tuple[int, int]]:
    """Each token's characters without the spaces around them, which byte-level and sentencepiece tokens hold."""
    spans = []
    for (start, end), segment in zip(encoding.offsets, encoding.sequence_ids, strict=True):
        if segment is None:
            start = end = 0
        else:
            piece = (text if isinstance(text, str) else text[segment])[start:end]
            if piece.strip():
                start += len(piece) - len(piece.lstrip())
                end -= len(piece) - len(piece.rstrip())
        spans.append((start, end))
    return spans
