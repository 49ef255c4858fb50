"""What may stand in the place of the tokens that an attack masks, as it is asked for: no torch, so that it is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foveate.errors import RequestError

Fill = Literal["mask", "delete", "mlm", "synonym", "typo"]


@dataclass(frozen=True)
class FillSettings:
    """What stands in the place of the tokens that an attack masks."""

    fill: Fill = "mask"
    """mask: they stay masked; delete: nothing; mlm: words of a masked language model; synonym: of WordNet;
    typo: the same words, misspelt."""
    budget: int = 50
    """Texts that may be classified, a text, beside what the attack itself asked."""
    candidates: int = 12
    """Words tried in one place."""
    mlm: str | None = None
    """A masked language model, by hub id or directory: for `mlm`, to measure the two bounds, and for the method
    bert-attack."""
    resources: Path | None = None
    """Where WordNet is, for `synonym`, and what methods with words of their own need (see `foveate doctor`); without
    it, where NLTK looks."""
    max_perplexity_ratio: float | None = None
    """How much more a word may surprise the language model than the word that it replaces (see `fluent`)."""
    min_similarity: float | None = None
    """The least cosine similarity of the language model's mean hidden states, to the original text (see `similar`)."""
    seed: int = 0
    """Of the misspellings that are drawn."""

    def __post_init__(self) -> None:
        """Raises RequestError where a number is out of its range, or the language model is missing."""
        for name, value in (("budget", self.budget), ("candidates", self.candidates)):
            if value < 1:
                raise RequestError(f"{name} of a fill must be 1 or more, not {value}")
        if self.max_perplexity_ratio is not None and not self.max_perplexity_ratio > 0:
            raise RequestError(f"--max-perplexity-ratio is a factor above 0, not {self.max_perplexity_ratio:g}")
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise RequestError(f"--min-similarity is a cosine, from -1 to 1, not {self.min_similarity:g}")
        bounds = (self.max_perplexity_ratio, self.min_similarity)
        if self.mlm is None and (self.fill == "mlm" or any(bound is not None for bound in bounds)):
            what = "--fill mlm" if self.fill == "mlm" else "a bound on the words"
            raise RequestError(f"{what} needs a masked language model: name one, by id or directory, with --mlm")
