"""The opponents by name: the nine of AttExplainer's Table 3, what each needs, and what stands in for what it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from foveate.errors import RequestError
from foveate.text.opponents.resources import TITLES, Resources


@dataclass(frozen=True)
class Opponent:
    """An attack that was published, and how it runs here."""

    paper: str
    needs: tuple[str, ...]
    """Kinds of resource; see `foveate.text.opponents.resources`."""
    exchanged: str = ""
    """What is not as in TextAttack's recipe; empty where all is."""
    column: str = "both texts"
    """What is changed of a pair."""
    max_queries: int | None = None
    """Where the search ends, unless another budget is asked for; None: where the recipe ends it."""
    package: str | None = "textattack"
    """What must be installed."""


OPPONENTS = {
    "pwws": Opponent(
        "Ren 2019",
        ("stopwords", "wordnet"),
        "the WordNet that --resources or NLTK_DATA holds for Princeton's 3.0",
    ),
    "deepwordbug": Opponent("Gao 2018", ("stopwords",)),
    "hotflip": Opponent(
        "Ebrahimi 2017",
        ("stopwords", "tagger", "tagset", "neighbours"),
        "flips rank by the gradient at the classifier's own embeddings, summed over a word's pieces, among a table's "
        "counter-fitted neighbours in place of all words with a cosine of 0.8; the ten best flips of a text are tried "
        "in place of one; each gradient is a query",
    ),
    "genetic": Opponent(
        "Alzantot 2018",
        ("stopwords", "neighbours"),
        "a table's counter-fitted neighbours for vectors and their distance bound; no language model filters",
        "the hypothesis",
        2000,
    ),
    "pso": Opponent(
        "Zang 2020",
        ("stopwords", "tagger", "tagset", "sememes"),
        "a table's sememe candidates for HowNet's; NLTK's tagger for flair's",
        "the hypothesis",
        2000,
    ),
    "textbugger": Opponent(
        "Li 2019",
        ("stopwords", "neighbours"),
        "a table's counter-fitted neighbours for GloVe's; no sentence encoder filters",
    ),
    "bert-attack": Opponent(
        "Li 2020",
        ("stopwords", "mlm"),
        "the language model of --mlm for BERT; no sentence encoder filters; words of more than four pieces are kept",
    ),
    "scpn": Opponent(
        "Iyyer 2018",
        ("scpn",),
        "the paraphrases were made beforehand; they are tried in their order",
        package=None,
    ),
    "gan": Opponent(
        "Zhao 2018",
        ("gan",),
        "the generator's texts were made beforehand; they are tried in their order",
        package=None,
    ),
}
"""Every opponent; what TextAttack has of them runs as its recipe has it, but for what is `exchanged`."""


def known(name: str) -> Opponent:
    """Raises RequestError where no opponent has that name."""
    if name not in OPPONENTS:
        raise RequestError(f"unknown opponent {name!r}; choose one of {', '.join(OPPONENTS)}")
    return OPPONENTS[name]


def lacks(name: str, resources: Resources) -> tuple[str, str] | None:
    """What an opponent lacks to run, and how to mend that; None where it can run."""
    opponent = known(name)
    if opponent.package and find_spec(opponent.package) is None:
        return "TextAttack", "pip install 'foveate[attacks]'"
    kinds = [kind for kind in opponent.needs if not resources.has(kind)]
    if not kinds:
        return None
    where = resources.folder or "a directory and give that as --resources"
    mends = [f"put it into {where}"] if kinds != ["mlm"] else []
    mends += ["give its directory as --mlm"] if "mlm" in kinds else []
    return " and ".join(TITLES[kind] for kind in kinds), ", or ".join(mends)


def missing(name: str, resources: Resources) -> str:
    """The same in one line, for an error or a table; empty where the opponent can run."""
    found = lacks(name, resources)
    return f"{name} needs {found[0]}: {found[1]}" if found else ""


def note(name: str) -> str:
    """How an opponent differs from TextAttack's recipe, for the note of a table; empty where it does not."""
    opponent = known(name)
    column = "" if opponent.column == "both texts" else f"of a pair, {opponent.column} alone is changed"
    return "; ".join(part for part in (opponent.exchanged, column) if part)
