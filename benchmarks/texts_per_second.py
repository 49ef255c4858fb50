"""Texts explained a second, and their ratios to captum's ShapleyValueSampling, KernelShap, and LIME on the same texts.

    python benchmarks/texts_per_second.py [--model ID|DIR] [--data FILE] [--limit 32] [--methods a,b,c]

Every method gets the same texts and the same classifier, goes all the way to a mask (attributions with early stopping),
and has its perturbations batched: captum's own default, one row a call, is slower than what is shown here. Methods take
turns for some rounds, and the fastest round of each counts, so that what else the machine does harms none more.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

from foveate.errors import RequestError
from foveate.text.classifier import TextClassifier
from foveate.text.explainer import Explainer
from foveate.text.inputs import read_texts

OPPONENTS = ("shapley-25", "shapley-5", "kernel-shap", "lime")
TEXTS = [
    "i feel dirty and ashamed for saying that",
    "i am feeling more confident that we will be able to take care of this baby",
    "i was feeling a little bit lonely when everyone had left the house",
    "i feel so lucky to have found friends who are gentle and kind",
    "i cannot help but feel furious about the way they were treated",
    "i am still amazed and curious about what happened on that strange night",
    "i feel nervous and shaky whenever i have to speak in front of people",
    "i do not know why but the whole day left me feeling rather cold",
]


@dataclass(frozen=True)
class Speed:
    seconds: float
    """A text."""
    queries: float
    """A text."""


def measure(explainers: dict[str, Explainer], texts: list, rounds: int) -> dict[str, Speed]:
    """The fastest of `rounds` of each method."""
    best: dict[str, Speed] = {}
    for explainer in explainers.values():
        explainer(texts[:1])
    for _ in range(rounds):
        for name, explainer in explainers.items():
            begun = time.perf_counter()
            found = explainer(texts)
            seconds = (time.perf_counter() - begun) / len(texts)
            if name not in best or seconds < best[name].seconds:
                best[name] = Speed(seconds, sum(e.queries for e in found) / len(found))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emotion")
    parser.add_argument("--data", help="a .jsonl, .csv or .tsv file; eight sentences if not given")
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--methods", default="agent,attention,greedy,beam", help="what is compared with the opponents")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threshold", type=float, default=0.8)
    options = parser.parse_args()
    texts = read_texts(options.data, limit=options.limit) if options.data else TEXTS
    classifier = TextClassifier.from_pretrained(options.model)
    explainers = {}
    for name in dict.fromkeys([*options.methods.split(","), *OPPONENTS]):
        try:
            explainer = Explainer(classifier, method=name, threshold=options.threshold)
            explainer(texts[:1])
            explainers[name] = explainer
        except RequestError as error:
            print(f"{name}: not run: {error}")
    speeds = measure(explainers, texts, options.rounds)
    opponents = [name for name in OPPONENTS if name in speeds]
    print(f"{len(texts)} texts, {classifier.name}")
    print("| method | texts/s | queries a text |" + "".join(f" times {name} |" for name in opponents))
    print("|---|---:|---:|" + "---:|" * len(opponents))
    for name, speed in speeds.items():
        ratios = "".join(f" {speeds[other].seconds / speed.seconds:.2f} |" for other in opponents)
        print(f"| {name} | {1 / speed.seconds:.1f} | {speed.queries:.1f} |{ratios}")


if __name__ == "__main__":
    main()
