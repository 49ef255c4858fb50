"""What may stand in the place of the tokens that an attack masks, as it is asked for: no torch, so that it is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from foveate.errors import RequestError

Fill = Literal["mask", "delete", "mlm", "synonym", "typo"]


@dataclass(frozen=True)
class FillSettings:
    """What stands in the place of the tokens that an attack masks."""

    fill: Fill = "mask"
    """mask: they stay masked; delete: nothing; mlm: a language model's words; synonym: WordNet's; typo: misspelt."""
    budget: Annotated[int, tyro.conf.arg(metavar="N")] = 50
    """So many filled texts may be classified for each text, beside what the attack itself asked."""
    candidates: Annotated[int, tyro.conf.arg(metavar="N")] = 12
    """Words tried in one place."""
    mlm: Annotated[str | None, tyro.conf.arg(metavar="ID|DIR")] = None
    """A masked language model: for `--fill mlm`, to measure the two bounds, and for the method bert-attack."""
    resources: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where WordNet is, and what methods with words of their own need (see `foveate doctor`); or where NLTK looks."""
    max_perplexity_ratio: Annotated[float | None, tyro.conf.arg(metavar="FACTOR")] = None
    """A word's perplexity under the language model may be so many times that of the word it replaces, and no more."""
    min_similarity: Annotated[float | None, tyro.conf.arg(metavar="COSINE")] = None
    """How similar the text must stay to the original: the least cosine of the language model's mean hidden states."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
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
