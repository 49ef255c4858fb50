"""What playing the masking game costs over the classifier's bare forward pass with attention on the same rows.

    python benchmarks/game_overhead.py [--texts 64] [--steps 8] [--rounds 3] [--threads N] [--models emotion ...]

The game is played by an agent, 32 games at a time, `--steps` steps each; what goes into the model is recorded, and the
same tensors go through the bare model with eager attention and output_attentions=True. Game and bare model take turns,
and the fastest round of each counts. The aim is a ratio of at most 1.15.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from foveate.masking.game import MaskingGame
from foveate.masking.goal import Explain
from foveate.text.agent import Agent, embedded_agents
from foveate.text.classifier import EMBEDDED, TextClassifier
from foveate.text.encoded import Text
from foveate.text.features import token_features
from foveate.text.methods.agent import play
from foveate.text.probe import Probe
from foveate.text.training import TrainingSettings

SHARED = Path(__file__).parents[2] / "shared"
VICTIMS = {
    "emotion": ("test.jsonl", ("text",)),
    "sst2": ("validation.jsonl", ("text", "sentence")),
    "snli": ("test.jsonl.gz", ("premise", "hypothesis")),
}
WORDS = "i feel so very happy and sad about the long day that we had with our friends at home last week".split()  # noqa: SIM905


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--models", nargs="+", default=[*VICTIMS, "packaged", "bert-base-sized"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{'model':16} {'rows':>6} {'game, s':>9} {'bare, s':>9} {'ratio':>6}   (batch 32, {options.threads} threads)"
    )
    for name in options.models:
        if name in VICTIMS and not (SHARED / "victims" / name).is_dir():
            print(f"{name:16} skipped: ../shared/victims/{name} is not there")
            continue
        classifier, texts = _material(name, options.texts)
        rows, game, bare = measure(classifier, texts, options.steps, options.rounds)
        print(f"{name:16} {rows:6} {game:9.3f} {bare:9.3f} {game / bare:6.3f}", flush=True)


def measure(classifier: TextClassifier, texts: list[Text], steps: int, rounds: int) -> tuple[int, float, float]:
    """Rows sent to the model, and the seconds of the fastest game and of the fastest bare passes."""
    probe, goal = Probe(classifier, texts), Explain()
    agent = _agent(probe, goal)
    calls: list[dict[str, Any]] = []
    hook = classifier.model.register_forward_pre_hook(lambda module, args, named: calls.append(named), with_kwargs=True)
    play(probe, goal, agent, max_steps=steps)
    hook.remove()

    def bare() -> None:
        config = classifier.model.config
        before, config._attn_implementation = config._attn_implementation, "eager"
        with torch.inference_mode():
            for named in calls:
                classifier.model(**named, output_attentions=True)
        config._attn_implementation = before

    contestants: list[Callable[[], Any]] = [lambda: play(probe, goal, agent, max_steps=steps), bare]
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for contestant, times in zip(contestants, seconds, strict=True):
            begun = time.perf_counter()
            contestant()
            times.append(time.perf_counter() - begun)
    return sum(len(named["input_ids"]) for named in calls), min(seconds[0]), min(seconds[1])


def _agent(probe: Probe, goal: Explain) -> Agent:
    """The general agent where the package has it, and otherwise one with the same network, untrained."""
    if "general" in embedded_agents():
        return Agent.load("general")
    settings = TrainingSettings(model=("",), data=("",), run="")
    state = MaskingGame(probe, goal, iter([0]), slots=1).state
    assert state is not None
    inputs = token_features(state, settings.features).shape[-1]
    network = settings.network
    return Agent(settings.features, inputs, network.kind, network.width, network.layers, settings.moves).eval()


def _material(name: str, count: int) -> tuple[TextClassifier, list[Text]]:
    if name in VICTIMS:
        file, columns = VICTIMS[name]
        place = SHARED / "data" / name / file
        with gzip.open(place, "rt") if place.suffix == ".gz" else place.open() as lines:
            found = [json.loads(line) for line in itertools.islice(lines, count)]
        columns = tuple(column for column in columns if column in found[0])
        texts: list[Text] = [tuple(r[c] for c in columns) if len(columns) > 1 else r[columns[0]] for r in found]
        return TextClassifier.from_pretrained(SHARED / "victims" / name), texts
    packaged = TextClassifier.from_pretrained(EMBEDDED["emotion"])
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(10, 31, (count,), generator=generator).tolist()
    written = [" ".join(WORDS[int(i)] for i in torch.randint(len(WORDS), (n,), generator=generator)) for n in lengths]
    if name == "packaged":
        return packaged, list(written)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(packaged.tokenizer), num_labels=6)
    return TextClassifier(BertForSequenceClassification(config).eval(), packaged.tokenizer), list(written)


if __name__ == "__main__":
    main()
