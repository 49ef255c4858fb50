"""Explanation: what one method found for one text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    text: str
    start: int
    """Character offset in the text (or, for segment 1, in the pair)."""
    end: int
    segment: int
    special: bool


@dataclass(frozen=True)
class Step:
    """One query on the way, and what it showed."""

    action: tuple[int, ...]
    """The tokens toggled."""
    masked: tuple[int, ...]
    """All tokens masked after it."""
    probability: float
    delta_p: float
    label: str
    """What the classifier predicts now."""


@dataclass(frozen=True)
class Explanation:
    text: str
    pair: str | None
    label: str
    """The label that is explained."""
    probability: float
    tokens: tuple[Token, ...]
    masked: tuple[int, ...]
    scores: tuple[float, ...]
    """One a token; higher is more important, 0 on special tokens."""
    delta_p: float
    solved: bool
    flipped: bool
    final_label: str
    queries: int
    mask_rate: float
    """Masked tokens over tokens that can be masked."""
    path: tuple[Step, ...]
    method: str
    model: str
    threshold: float
    truncated: bool
    minimal: bool | None = None
    verification_queries: int = 0
