"""Attacks a second of foveate's agent, and its ratios to TextAttack's own DeepWordBug and PWWS on the same texts.

    python benchmarks/attacks_per_second.py [--model ID|DIR] [--data FILE] [--limit 16] [--resources DIR] [--agent DIR]

Each attacks the same texts of the same classifier on the same machine, the label that is predicted first. TextAttack
runs as it comes: its recipe over its own HuggingFaceModelWrapper, which pads every text to the model's longest (where
that is 512 tokens, a text takes many seconds on one core); beside it, the same recipes over foveate's classifier, which
pads a batch to its longest text. Loading is not timed, of anybody. They take turns for some rounds, and the fastest
round of each counts, so that what else the machine does harms none more. Without TextAttack, or without what a recipe
needs, that line says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from texts_per_second import TEXTS, Run, measure, table

from foveate import Attacker
from foveate.errors import RequestError
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Text
from foveate.text.inputs import read_texts
from foveate.text.opponents import Resources, attack, missing
from foveate.text.opponents.loading import drawn, nltk_data, textattack
from foveate.text.opponents.registry import OPPONENTS
from foveate.text.opponents.resources import PIECES
from foveate.text.probe import Probe

RECIPES = ("deepwordbug", "pwws")


def ours(attacker: Attacker) -> Run:
    def run(texts: list[Text]) -> Sequence[float]:
        found = attacker(texts)
        return sum(r.solved for r in found) / len(found), sum(r.queries for r in found) / len(found)

    return run


def over_foveate(name: str, classifier: TextClassifier, resources: Resources) -> Run:
    """TextAttack's recipe over foveate's classifier."""

    def run(texts: list[Text]) -> Sequence[float]:
        found = attack(name, Probe(classifier, texts), torch.Generator().manual_seed(0), resources)
        return sum(r.solved for r in found) / len(found), sum(r.queries for r in found) / len(found)

    return run


def as_it_comes(name: str, classifier: TextClassifier, resources: Resources) -> Run:
    """TextAttack's recipe over its own wrapper; queries are as it counts them."""
    places = resources.nltk_data(tuple(kind for kind in OPPONENTS[name].needs if kind in PIECES))
    with nltk_data(places):
        textattack()
        from textattack import attack_recipes
        from textattack.models.wrappers import HuggingFaceModelWrapper

        recipe = {"deepwordbug": attack_recipes.DeepWordBugGao2018, "pwws": attack_recipes.PWWSRen2019}[name]
        search = recipe.build(HuggingFaceModelWrapper(classifier.model, classifier.tokenizer))

    def run(texts: list[Text]) -> Sequence[float]:
        labels = Probe(classifier, texts).label.tolist()
        with nltk_data(places), drawn() as seed:
            seed(0)
            found = [search.attack(text, label) for text, label in zip(texts, labels, strict=True)]
        changed = sum(r.perturbed_result.output != label for r, label in zip(found, labels, strict=True))
        return changed / len(found), sum(r.num_queries for r in found) / len(found)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emotion")
    parser.add_argument("--data", help="a .jsonl, .csv or .tsv file of single texts; eight sentences if not given")
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--agent", help="a directory; the one that comes with the model if not given")
    parser.add_argument("--resources", type=Path, help="NLTK's data, as zips or laid out; else where NLTK_DATA says")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    texts = list(read_texts(options.data, limit=options.limit)) if options.data else TEXTS
    classifier = TextClassifier.from_pretrained(options.model)
    resources = Resources(options.resources)
    runs: dict[str, Run] = {}
    try:
        runs["agent"] = ours(Attacker(classifier, agent=options.agent))
    except RequestError as error:
        print(f"agent: not run: {error}")
    runs["greedy"] = ours(Attacker(classifier, method="greedy"))
    for name in RECIPES:
        if lacks := missing(name, resources):
            print(f"{name}: not run: {lacks}")
            continue
        runs[f"TextAttack's {name}"] = as_it_comes(name, classifier, resources)
        runs[f"{name} over foveate's classifier"] = over_foveate(name, classifier, resources)
    speeds = measure(runs, texts, options.rounds)
    print(f"{len(texts)} texts, {classifier.name}")
    columns = {"attacks/s": ".2f", "label changed": ".2f", "queries a text": ".1f"}
    print(table("attack", speeds, columns, [name for name in speeds if name.startswith("TextAttack")]))


if __name__ == "__main__":
    main()
