"""Train a small masked language model, which stands in for a downloaded one where none can be had.

    python training/masked_language_model.py --encoders ../shared/victims/{emotion,sst2,snli} \
        --data ../shared/data --run runs/mlm

It starts from BERT classifiers that were fine-tuned from one encoder: the mean of their weights lies near what they
started from, nearest in the lower layers, which are kept. Then the uppermost of these and a new head learn to guess
masked words in the texts that the classifiers were trained on. What comes out is RUN/model, a directory that
`AutoModelForMaskedLM` loads. A run that was killed goes on with --resume.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForMaskedLM

from foveate.run import Checkpoint, Run, flatten, optimiser_tensors, unflatten
from foveate.text.inputs import Columns, read_texts

SOURCES = {"emotion": "train.jsonl", "sst2": "train.jsonl.gz", "snli": "train_subset.jsonl.gz"}
HELD_OUT = {"emotion": "validation.jsonl", "sst2": "validation.jsonl", "snli": "validation.jsonl.gz"}


@dataclass(frozen=True)
class Settings:
    """What decides the result."""

    encoders: tuple[Path, ...]
    """Directories of BERT sequence classifiers of one shape and vocabulary."""
    data: Path
    """Directory with emotion/, sst2/ and snli/."""
    run: Path
    """Directory of the run; the model is written to `model` in it."""
    layers: int = 4
    """The lowest layers of the encoders, which are kept."""
    trained: int = 2
    """The uppermost of these, which learn; the others and the embeddings stay as they are."""
    texts: int = 16_000
    """Read from each source."""
    steps: int = 400
    tokens: int = 1024
    """A batch's tokens, padding included."""
    learning_rate: float = 1e-3
    rate: float = 0.25
    """Share of the tokens that are masked."""
    longest: int = 48
    """Tokens of a text; the rest is cut off."""
    every: int = 50
    """Steps between checkpoints."""
    seed: int = 0


def mean_encoder(directories: Sequence[Path], layers: int, trained: int) -> BertForMaskedLM:
    """A masked language model on the mean of the classifiers' lower layers; its head is new."""
    states = []
    for directory in directories:
        classifier = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
        states.append({n: v for n, v in classifier.state_dict().items() if n.startswith("bert.") and "pooler" not in n})
    shape = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    model = BertForMaskedLM(
        BertConfig(num_hidden_layers=layers, **{name: getattr(classifier.config, name) for name in shape})
    )
    kept = [name for name in states[0] if name in model.state_dict()]
    model.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in kept}, strict=False)
    model.requires_grad_(False)
    for part in (*model.bert.encoder.layer[layers - trained :], model.cls.predictions.transform):
        part.requires_grad_(True)
    model.cls.predictions.bias.requires_grad_(True)
    return model


def sentences(data: Path, files: dict[str, str], limit: int) -> list[str]:
    """Every sentence once, the halves of pairs apart."""
    found: dict[str, None] = {}
    for name, file in files.items():
        columns = Columns(text=("premise", "hypothesis") if name == "snli" else ("text",))
        for text in read_texts(data / name / file, columns, limit):
            found.update(dict.fromkeys([text] if isinstance(text, str) else text))
    return list(found)


def pad(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "rows tokens"]:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def chosen(
    ids: Int[Tensor, "rows tokens"], special: Int[Tensor, " special"], rate: float, rng: torch.Generator
) -> Bool[Tensor, "rows tokens"]:
    """The tokens to mask: each with probability `rate`, never a special one."""
    return (torch.rand(ids.shape, generator=rng) < rate) & ~torch.isin(ids, special)


def guess(
    model: BertForMaskedLM, ids: Int[Tensor, "rows tokens"], masked: Bool[Tensor, "rows tokens"], mask: int, fill: int
) -> Float[Tensor, "masked vocabulary"]:
    """Logits of the masked tokens alone: the vocabulary is the most expensive layer."""
    hidden = model.bert(ids.masked_fill(masked, mask), attention_mask=(ids != fill).long()).last_hidden_state
    return model.cls(hidden[masked])


@torch.inference_mode()
def accuracy(model: BertForMaskedLM, rows: Sequence[Sequence[int]], tokenizer, settings: Settings) -> dict[str, float]:
    """Share of masked tokens that are guessed, and that are among the ten best guesses; always the same masks."""
    model.eval()
    rng = torch.Generator().manual_seed(0)
    special = torch.tensor(tokenizer.all_special_ids)
    hits = tens = total = 0
    for start in range(0, len(rows), 64):
        ids = pad(rows[start : start + 64], tokenizer.pad_token_id)
        masked = chosen(ids, special, 0.15, rng)
        best = guess(model, ids, masked, tokenizer.mask_token_id, tokenizer.pad_token_id).topk(10).indices
        found = best == ids[masked][:, None]
        hits += int(found[:, 0].sum())
        tens += int(found.sum())
        total += len(found)
    return {"accuracy": hits / total, "in_ten": tens / total}


def batches(lengths: Sequence[int], settings: Settings, start: int) -> Iterator[tuple[list[int], torch.Generator]]:
    """Texts of like length, and the step's own generator: so a resumed run goes on as if never stopped."""
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    order.sort(key=lengths.__getitem__)
    for step in range(start, settings.steps):
        rng = torch.Generator().manual_seed((settings.seed << 32) + step)
        # A token, not a text, is drawn, or else short texts would be seen as often as long ones.
        first = int(torch.randint(len(order), (1,), generator=rng))
        rows = order[first : first + max(1, settings.tokens // lengths[order[first]])]
        yield rows, rng


def main(settings: Settings, resume: bool = False) -> None:
    """Train, evaluate, write."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(settings.encoders[0])

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts), truncation=True, max_length=settings.longest).input_ids

    rows = encode(sentences(settings.data, SOURCES, settings.texts))
    held_out = encode(sentences(settings.data, HELD_OUT, 150))
    run = Run(settings.run, settings, resume=resume)
    torch.manual_seed(settings.seed)  # the head
    model = mean_encoder(settings.encoders, settings.layers, settings.trained)
    groups = [
        {"params": [p for p in model.parameters() if p.requires_grad and p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.requires_grad and p.dim() == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    start = 0
    checkpoint = run.begin()
    if checkpoint is not None:
        start = int(checkpoint.numbers["step"])
        model.load_state_dict(unflatten("model", checkpoint.tensors), strict=False)
        model.tie_weights()
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in unflatten("optimiser", checkpoint.tensors).items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    warm = max(1, settings.steps // 20)
    special = torch.tensor(tokenizer.all_special_ids)
    began, seen, running = time.process_time(), 0, math.nan
    for step, (chunk, rng) in enumerate(batches([len(r) for r in rows], settings, start), start):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(
                (step + 1) / warm, (settings.steps - step) / (settings.steps - warm)
            )
        model.train()
        torch.manual_seed(step)  # dropout
        ids = pad([rows[i] for i in chunk], tokenizer.pad_token_id)
        masked = chosen(ids, special, settings.rate, rng)
        if not masked.any():
            continue
        logits = guess(model, ids, masked, tokenizer.mask_token_id, tokenizer.pad_token_id)
        loss = nn.functional.cross_entropy(logits, ids[masked])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen += ids.numel()
        running = loss.item() if math.isnan(running) else 0.98 * running + 0.02 * loss.item()
        done = step + 1
        if done % settings.every == 0 or done == settings.steps:
            measured = {"loss": running, **accuracy(model, held_out, tokenizer, settings)}
            run.log(done, measured)
            # The decoder's weights are the embeddings; safetensors keeps no tensor twice.
            weights = {n: v for n, v in model.state_dict().items() if not n.startswith("cls.predictions.decoder.")}
            run.save(
                Checkpoint(
                    {**flatten("model", weights), **flatten("optimiser", optimiser_tensors(optimiser))},
                    {"step": done},
                )
            )
            print(
                json.dumps({"step": done, "cpu_s": round(time.process_time() - began), "tokens": seen, **measured}),
                flush=True,
            )
    run.close()
    model.eval()
    model.save_pretrained(settings.run / "model")
    tokenizer.save_pretrained(settings.run / "model")
    print({**accuracy(model, held_out, tokenizer, settings), "written": str(settings.run / "model")})


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))
