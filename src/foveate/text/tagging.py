"""Parts of speech of a text's words, where NLTK and its tagger are there (the universal tagset, Petrov 2012)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foveate.errors import RequestError
from foveate.text.opponents.resources import PIECES, Resources

Word = tuple[int, int, str]
"""Start and end in the text, and the part of speech."""
Tagger = Callable[[str], list[Word]]

CONTENT = ("NOUN", "VERB", "ADJ", "ADV")
"""The parts of speech of content words; the others are function words, numbers and punctuation."""


def nltk_tagger(resources: Path | None = None) -> Tagger:
    """NLTK's perceptron tagger for English.

    Its data is looked for in `resources` (zips, or laid out as nltk_data) and where NLTK looks; nothing is downloaded.
    Raises RequestError where NLTK or its data is not there.
    """
    try:
        from nltk.tag.perceptron import PerceptronTagger
        from nltk.tokenize import NLTKWordTokenizer
    except ImportError as error:
        raise RequestError("--tagger nltk needs the package nltk: pip install nltk") from error
    there = Resources(resources)
    places = []
    for kind in ("tagger", "tagset"):
        if not there.has(kind):
            piece = PIECES[kind]
            raise RequestError(
                f"--tagger nltk needs {piece.title}: give --resources a directory with {piece.zips} or with "
                f"nltk_data/{piece.place} in it (one that only its owner can write to), or set NLTK_DATA"
            )
        places.append(Path(there.nltk_data((kind,))[0]) / PIECES[kind].place)
    trained, tagset = places
    # Read here, as NLTK would look in its own places alone, which are one setting of the whole process.
    part = {name: _json(trained / f"{trained.name}.{name}.json") for name in ("weights", "tagdict", "classes")}
    tagger, tokenizer = PerceptronTagger(load=False), NLTKWordTokenizer()
    tagger.model.weights, tagger.tagdict = part["weights"], part["tagdict"]
    tagger.classes = tagger.model.classes = set(part["classes"])
    lines = (tagset / "en-ptb.map").read_text(encoding="utf-8").splitlines()
    universal = dict(line.split("\t") for line in lines if "\t" in line)

    def tag(text: str) -> list[Word]:
        spans = list(tokenizer.span_tokenize(text))
        tagged = tagger.tag([text[start:end] for start, end in spans])
        return [(start, end, universal.get(name, "X")) for (start, end), (_, name) in zip(spans, tagged, strict=True)]

    return tag


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"cannot read NLTK's tagger: {path} is missing or broken; lay it out anew") from error
