"""Synonyms from WordNet, in the form and case of the word they replace."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from foveate.errors import RequestError
from foveate.text.candidates import Candidates, Slot, like

TABLE = "wordnet_oewn2022_synonyms.json.gz"
"""Open English WordNet as {part of speech: {lemma: [[synonyms] per sense]}}, which needs no NLTK."""
PARTS = ("adj", "verb", "noun", "adv")
Senses = Callable[[str, str], Sequence[Sequence[str]]]
"""A part of speech and a lemma in lower case to the synonyms of each sense, the most frequent sense first."""

# WordNet takes "i" for iodine, "in" for indium and "he" for helium: words of closed classes have no synonyms there.
CLOSED = frozenset(
    """a about after all am an and any are as at be because been before being both but by can could did do does doing
    down during each for from had has have having he her here hers him his how i if in into is it its just let may me
    might more most must my no nor not of off on once only or our out over own shall she should so some such than that
    the their them then there these they this those though through to too under until up upon us very was we were what
    when where which while who whom whose why will with would yet you your""".split()  # noqa: SIM905
)
_IRREGULAR = dict(
    pair.split(":")
    for pair in """become:became begin:began break:broke bring:brought build:built buy:bought catch:caught choose:chose
    come:came draw:drew drink:drank drive:drove eat:ate fall:fell feel:felt fight:fought find:found fly:flew
    forget:forgot get:got give:gave go:went grow:grew hear:heard hide:hid hold:held keep:kept know:knew lead:led
    leave:left lend:lent lose:lost make:made mean:meant meet:met pay:paid ride:rode rise:rose run:ran say:said see:saw
    seek:sought sell:sold send:sent shake:shook show:showed sing:sang sit:sat sleep:slept speak:spoke spend:spent
    stand:stood steal:stole stick:stuck strike:struck swim:swam take:took teach:taught tell:told think:thought
    throw:threw understand:understood wake:woke wear:wore weep:wept win:won write:wrote""".split()  # noqa: SIM905
)


def synonyms(resources: str | Path | None, most: int) -> Candidates:
    """The first `most` synonyms of a word, those of its frequent senses first, whatever the part of speech.

    WordNet comes from `TABLE` in `resources`, or else through NLTK from `resources` laid out as nltk_data, or from
    where NLTK looks for itself (NLTK_DATA). Nothing is downloaded. Raises RequestError where there is none.
    """
    table = None if resources is None else Path(resources) / TABLE
    senses = _from_table(table) if table is not None and table.is_file() else _from_nltk(resources)

    def candidates(slots: Sequence[Slot]) -> list[list[str]]:
        return [[like(slot.word, word) for word in islice(of(slot.word.lower(), senses), most)] for slot in slots]

    return candidates


def of(word: str, senses: Senses) -> Iterator[str]:
    """A word's synonyms, each once, inflected as it is."""
    seen = {word}
    readings = () if word in CLOSED else [(senses(part, lemma), bend) for part, lemma, bend in analyses(word)]
    depth = max((len(groups) for groups, _ in readings), default=0)
    for sense in range(depth):
        for groups, bend in readings:
            for synonym in groups[sense] if sense < len(groups) else ():
                spaced = synonym.replace("_", " ")
                # Which word of several would bend is not known.
                bent = spaced if bend is str else "" if " " in spaced else bend(spaced)
                if bent and bent.lower() not in seen:
                    seen.add(bent.lower())
                    yield bent


def analyses(word: str) -> Iterator[tuple[str, str, Callable[[str], str]]]:
    """What a word may be a form of: part of speech, lemma, and how another lemma is put in the same form."""
    for part in PARTS:
        yield part, word, str
    for lemma, past in _IRREGULAR.items():
        if past == word:
            yield "verb", lemma, _past
    for ending, parts, bend in (
        ("s", ("verb", "noun"), _plural),
        ("ed", ("verb",), _past),
        ("ing", ("verb",), partial(_joined, ending="ing")),
        ("er", ("adj",), partial(_compared, ending="er")),
        ("est", ("adj",), partial(_compared, ending="est")),
    ):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            # The lemma is whatever gives this word: "y" for "ies", an "e" that was dropped, a letter not doubled.
            stem = word.removesuffix(ending)
            tails = (stem, stem + "e", stem[:-1], stem[:-1] + "y", stem[:-2] + "y")
            for lemma in dict.fromkeys(lemma for lemma in tails if len(lemma) > 1 and bend(lemma) == word):
                for part in parts:
                    yield part, lemma, bend


def _plural(lemma: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", lemma):
        return lemma + "es"
    return lemma[:-1] + "ies" if re.search(r"[^aeiou]y$", lemma) else lemma + "s"


def _past(lemma: str) -> str:
    return _IRREGULAR.get(lemma) or _joined(lemma, "ed")


def _compared(lemma: str, ending: str) -> str:
    # Long adjectives take "more" and "most", which is no form of one word.
    return _joined(lemma, ending) if len(lemma) <= 6 else ""


def _joined(lemma: str, ending: str) -> str:
    """A lemma and an ending that begins with a vowel."""
    if lemma.endswith("e") and not (ending == "ing" and lemma.endswith(("ee", "oe", "ye"))):
        return lemma[:-1] + ending
    if re.search(r"[^aeiou]y$", lemma) and ending != "ing":
        return lemma[:-1] + "i" + ending
    short = re.fullmatch(r"(qu|[^aeiou])*[aeiou][^aeiouwxy]", lemma)
    return lemma + lemma[-1] + ending if short else lemma + ending


def _from_table(path: Path) -> Senses:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            table: Mapping[str, Mapping[str, list[list[str]]]] = json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise RequestError(f"cannot read synonyms from {path}: it is broken ({error})") from error
    return lambda part, lemma: table.get(part, {}).get(lemma, ())


def _from_nltk(resources: str | Path | None) -> Senses:
    try:
        import nltk
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
    except ImportError as error:
        raise RequestError(
            f"synonyms need {TABLE} in --resources, or NLTK and its WordNet: pip install 'foveate[attacks]'"
        ) from error
    if resources is not None and str(resources) not in nltk.data.path:
        # NLTK reads from no place that is not named here.
        nltk.data.path.insert(0, str(resources))
    try:
        root: Any = nltk.data.find("corpora/wordnet", None if resources is None else [str(resources)])
        wordnet = WordNetCorpusReader(root, None)
    except LookupError as error:
        where = f"in {resources}" if resources is not None else "where NLTK looks (NLTK_DATA)"
        raise RequestError(
            f"there is no WordNet {where}; give a directory that holds {TABLE} or corpora/wordnet as --resources"
        ) from error
    except OSError as error:
        raise RequestError(f"NLTK refuses to read WordNet: {str(error).strip().splitlines()[0]}") from error
    names = {"adj": "a", "verb": "v", "noun": "n", "adv": "r"}

    def senses(part: str, lemma: str) -> list[list[str]]:
        # Of the forms that NLTK would try for itself, only the lemma: the inflection is known here.
        found = wordnet.synsets(lemma.replace(" ", "_"), names[part])
        groups = [[str(name) for name in synset.lemma_names()] for synset in found]
        return [[n for n in group if n.lower() != lemma] for group in groups if lemma in (n.lower() for n in group)]

    return senses
