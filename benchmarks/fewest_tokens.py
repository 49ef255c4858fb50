"""How few tokens an attack must mask: a bound that is proven set by set, beside what the attacks of an agent mask.

    python benchmarks/fewest_tokens.py --attacks FILE [--model ID|DIR] [--texts 300] [--sets 2600] [--seed 0]

FILE holds results of attacks (`foveate attack --output`, or a benchmark's explanations-METHOD.jsonl). For texts drawn
from it, every set of 1 token, then 2, and so on, is asked, as long as it is smaller than what the attack masked and a
text has at most `sets` of that size, until one changes the label. None smaller does, so that is the fewest; where none
does, the fewest is at least one token more than was asked. Where the attack failed, the bound is 0. So what fewer
tokens could save is bounded on the texts drawn; less that, the mean of FILE is a bound for every attack by masking.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from itertools import count, islice
from math import comb

import torch
from jaxtyping import Int
from torch import Tensor

from foveate.bootstrap import Interval, bootstrap_means
from foveate.masking.exact import smaller_sets
from foveate.masking.probe import Prediction
from foveate.masking.search import ask
from foveate.text.classifier import TextClassifier
from foveate.text.explanation_files import load
from foveate.text.probe import Probe

AT_ONCE = 256
"""Sets of a text that are asked together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emotion")
    parser.add_argument("--attacks")
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--sets", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    if wanted.attacks is None:
        print("skipped: name a file of attacks with --attacks")
        return
    attacks = load(wanted.attacks)
    rng = torch.Generator().manual_seed(wanted.seed)
    drawn = [attacks[i] for i in torch.randperm(len(attacks), generator=rng)[: wanted.texts].tolist()]
    texts = [a.text if a.pair is None else (a.text, a.pair) for a in drawn]
    probe = Probe(TextClassifier.from_pretrained(wanted.model), texts)
    if [probe.classifier.labels[label] for label in probe.label.tolist()] != [a.label for a in drawn]:
        raise SystemExit(f"{wanted.attacks} holds attacks on another classifier")
    sizes: Counter[tuple[int, int]] = Counter()
    rows: list[list[float]] = []
    begun = time.process_time()
    for row, attack in enumerate(drawn):
        tokens = int(probe.maskable[row].sum())
        found = len(attack.masked) if attack.solved else 0
        beyond = next(size for size in count(1) if comb(tokens, size) > wanted.sets or size > tokens)
        least = fewest(probe, row, min(found, beyond))
        sizes[found, least] += 1
        rows.append([attack.mask_rate, least / tokens, attack.mask_rate - least / tokens])
        if row % 50 == 49:
            spent = time.process_time() - begun
            print(f"{row + 1} texts, {spent:.0f} CPU s: {summary(rows)}", flush=True)
    [*_, saved] = summarised(rows)
    everywhere = sum(a.mask_rate for a in attacks) / len(attacks)
    print(f"{len(rows)} of {len(attacks)} texts, {int(probe.queries.sum())} masks asked: {summary(rows)}")
    print(f"of all texts {everywhere:.2%} is masked, so at least ", end="")
    print(f"{everywhere - saved.mean:.2%} ({everywhere - saved.high:.2%} to {everywhere - saved.low:.2%})")
    for (found, size), number in sorted(sizes.items()):
        print(f"{number} texts: masked {found or 'in vain'}, at least {size}")


def summarised(rows: list[list[float]]) -> list[Interval]:
    return bootstrap_means(torch.tensor(rows), torch.Generator().manual_seed(0))


def summary(rows: list[list[float]]) -> str:
    masked, least, saved = summarised(rows)
    return f"masked {masked:.2%}; at least {least:.2%}; of what was masked, {saved:.2%} at most could be saved"


def fewest(probe: Probe, row: int, bound: int) -> int:
    """The size of the smallest set of the text's tokens that changes its label; `bound` where all smaller do not."""
    items = probe.maskable[row].nonzero()
    if bound < 2:
        return bound
    alone = asked(probe, row, items)
    if alone.logits.argmax(1).ne(probe.target[row]).any():
        return 1
    strong_first = alone.probabilities[:, probe.target[row]].argsort()
    sets = smaller_sets(items.squeeze(1)[strong_first].tolist(), bound)
    while some := list(islice(sets, AT_ONCE)):
        for size in sorted({len(items) for items in some}):
            same = torch.tensor([items for items in some if len(items) == size])
            if asked(probe, row, same).logits.argmax(1).ne(probe.target[row]).any():
                return size
    return bound


def asked(probe: Probe, row: int, sets: Int[Tensor, "sets size"]) -> Prediction:
    """What is predicted with each of the sets of tokens masked."""
    rows = torch.full((len(sets),), row)
    return ask(probe, rows, probe.real[rows].scatter(1, sets, False))


if __name__ == "__main__":
    main()
