"""Texts explained a second, and their ratios to captum's ShapleyValueSampling, KernelShap, and LIME on the same texts.

    python benchmarks/texts_per_second.py [--model ID|DIR] [--data FILE] [--limit 32] [--methods a,b,c]

Every method gets the same texts and the same classifier, goes all the way to a mask (attributions with early stopping),
and has its perturbations batched: captum's own default, one row a call, is slower than what is shown here. Methods take
turns for some rounds, and the fastest round of each counts, so that what else the machine does harms none more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foveate.errors import RequestError
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Text
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


Run = Callable[[list[Text]], Sequence[float]]
"""Works on texts; gives what goes into the table beside the speed, as the queries a text."""


@dataclass(frozen=True)
class Speed:
    seconds: float
    """A text."""
    figures: Sequence[float]


def measure(runs: Mapping[str, Run], texts: list[Text], rounds: int) -> dict[str, Speed]:
    """The fastest of `rounds` of each, which take turns."""
    best: dict[str, Speed] = {}
    for run in runs.values():
        run(texts[:1])
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            figures = run(texts)
            seconds = (time.perf_counter() - begun) / len(texts)
            # Some take minutes a round; what is done so far is not to be lost with the rest.
            print(f"{name}: {seconds:.3g} s a text", file=sys.stderr, flush=True)
            if name not in best or seconds < best[name].seconds:
                best[name] = Speed(seconds, figures)
    return best


def table(what: str, speeds: Mapping[str, Speed], columns: Mapping[str, str], against: Sequence[str]) -> str:
    """Speeds and figures by name, and how many times as fast as those of `against` each is.

    `what` is the title of the names, `columns` those of the speed and the figures, each with its format.
    """
    titles = [*columns, *(f"times {name}" for name in against)]
    lines = [f"| {what} | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    for name, speed in speeds.items():
        values = zip((1 / speed.seconds, *speed.figures), columns.values(), strict=True)
        shown = [f"{value:{form}}" for value, form in values]
        shown += [f"{speeds[other].seconds / speed.seconds:.2f}" for other in against]
        lines.append("| " + " | ".join([name, *shown]) + " |")
    return "\n".join(lines)


def explaining(explainer: Explainer) -> Run:
    def run(texts: list[Text]) -> Sequence[float]:
        found = explainer(texts)
        return (sum(e.queries for e in found) / len(found),)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emotion")
    parser.add_argument("--data", help="a .jsonl, .csv or .tsv file; eight sentences if not given")
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--methods", default="agent,attention,greedy,beam", help="what is compared with the opponents")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threshold", type=float, default=0.8)
    options = parser.parse_args()
    texts = list(read_texts(options.data, limit=options.limit)) if options.data else TEXTS
    classifier = TextClassifier.from_pretrained(options.model)
    runs: dict[str, Run] = {}
    for name in dict.fromkeys([*options.methods.split(","), *OPPONENTS]):
        try:
            explainer = Explainer(classifier, method=name, threshold=options.threshold)
            explainer(texts[:1])
            runs[name] = explaining(explainer)
        except RequestError as error:
            print(f"{name}: not run: {error}")
    speeds = measure(runs, texts, options.rounds)
    print(f"{len(texts)} texts, {classifier.name}")
    columns = {"texts/s": ".1f", "queries a text": ".1f"}
    print(table("method", speeds, columns, [name for name in OPPONENTS if name in speeds]))


if __name__ == "__main__":
    main()
