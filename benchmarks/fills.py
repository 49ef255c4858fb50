"""How many attacks still succeed once the masked positions are filled with words, and what the texts look like.

python benchmarks/fills.py --model ../shared/victims/emotion --data ../shared/data/emotion/test.jsonl \
    --agent runs/attackers/emotion/agent --fills delete,typo,synonym,mlm --resources ../shared/data/resources --mlm DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from foveate import Attacker, TextClassifier
from foveate.bootstrap import bootstrap_means
from foveate.text.attack_result import AttackResult
from foveate.text.fill import filler
from foveate.text.filling import FillSettings
from foveate.text.inputs import read_labelled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emotion")
    parser.add_argument("--data", help="texts with their labels")
    parser.add_argument("--agent")
    parser.add_argument("--fills", default="delete,typo")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--resources", type=Path)
    parser.add_argument("--mlm")
    parser.add_argument("--examples", type=int, default=3)
    wanted = parser.parse_args()
    if wanted.data is None:
        print("skipped: name a file of texts and labels with --data")
        return
    attacker = Attacker(TextClassifier.from_pretrained(wanted.model), agent=wanted.agent)
    texts = read_labelled(wanted.data, limit=wanted.limit, needed=True)
    masked = attacker([text for text, _ in texts], truths=[label for _, label in texts])
    attacked = [result for result in masked if not result.skipped]
    print(f"{len(attacked)} texts that were right at first; budget {wanted.budget} texts each")
    print("| fill | success | of those that masks solved | queries | modified |\n| --- | --- | --- | --- | --- |")
    filled = {"mask": attacked}
    print(row("mask", attacked, attacked))
    for kind in wanted.fills.split(","):
        settings = FillSettings(kind, wanted.budget, mlm=wanted.mlm, resources=wanted.resources)  # type: ignore[arg-type]
        filled[kind] = filler(settings)(attacker.classifier, attacked)
        print(row(kind, filled[kind], attacked), flush=True)
    for kind, results in filled.items():
        for result in [r for r in results if r.solved][: wanted.examples]:
            text = result.adversarial if result.pair is None else f"{result.adversarial} / {result.adversarial_pair}"
            print(f"{kind}: {text}  ({result.label} -> {result.final_label})")


def row(name: str, results: list[AttackResult], masked: list[AttackResult]) -> str:
    """A line of the table, each mean with its 95% bootstrap interval over texts."""
    columns = torch.tensor([[float(r.solved), float(r.queries), r.mask_rate] for r in results])
    success, queries, modified = bootstrap_means(columns, torch.Generator().manual_seed(0))
    kept = sum(r.solved for r, m in zip(results, masked, strict=True) if m.solved)
    return (
        f"| {name} | {success.mean:.2f} [{success.low:.2f}, {success.high:.2f}] | {kept} of "
        f"{sum(m.solved for m in masked)} | {queries.mean:.1f} [{queries.low:.1f}, {queries.high:.1f}] | "
        f"{modified.mean:.3f} [{modified.low:.3f}, {modified.high:.3f}] |"
    )


if __name__ == "__main__":
    main()
