"""Train the embedded emotion classifier, from nothing, on one CPU core.

    python training/emotion_classifier.py --data ../shared/data/emotion --output src/foveate/assets/emotion-classifier

A lower-cased WordPiece vocabulary is trained on the training texts, then a small BERT learns to tell six emotions
apart. Some words are masked while it learns, because masking words is how it will be explained.
One seed gives the same files, byte for byte, on the same machine and library versions.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import transformers
import tyro
from jaxtyping import Float, Int
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
WINDOW = 128


@dataclass(frozen=True)
class Settings:
    """What decides the result."""

    data: Path
    """Directory with Emotion's train.jsonl, validation.jsonl and test.jsonl (columns text and label)."""
    output: Path
    """Directory to write the classifier to."""
    seed: int = 0
    vocabulary: int = 4000
    """Word pieces."""
    width: int = 128
    layers: int = 2
    heads: int = 4
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 1e-3
    dropout: float = 0.2
    smoothing: float = 0.0
    """Label smoothing."""
    average: float = 0.995
    """Decay, a step, of the running average of the weights; the average is what is kept."""

    def steps(self, texts: int) -> int:
        """Optimiser steps in the whole run."""
        return self.epochs * math.ceil(texts / self.batch_size)


@dataclass(frozen=True)
class Labelled:
    """Texts as token ids, [CLS] ... [SEP], and their labels."""

    ids: list[list[int]]
    labels: Int[Tensor, " texts"]


def read(path: Path) -> tuple[list[str], list[int]]:
    """The texts and labels of a JSON Lines file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def train_tokenizer(texts: Sequence[str], size: int) -> Tokenizer:
    """Lower-cased WordPiece that sees no punctuation, since Emotion's authors took it out ("didnt", "new york s")."""
    normalizer = normalizers.Sequence(
        [
            normalizers.BertNormalizer(lowercase=True),
            normalizers.Replace(Regex("['’]"), ""),
            normalizers.Replace(Regex(r"[^\w\s]"), " "),
        ]
    )

    def fresh(model: models.WordPiece) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        return tokenizer

    # The trainer breaks ties by number, and numbers the letters inside words by chance unless they are given to it.
    letters = sorted({letter for text in texts for letter in normalizer.normalize_str(text) if not letter.isspace()})
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL, *(f"##{letter}" for letter in letters)], show_progress=False
    )
    scratch = fresh(models.WordPiece(unk_token="[UNK]"))
    scratch.train_from_iterator(texts, trainer)
    pieces = [*SPECIAL, *sorted(set(scratch.get_vocab()) - set(SPECIAL))]
    tokenizer = fresh(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return tokenizer


def pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "rows tokens"]:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def batches(lengths: Sequence[int], size: int, rng: torch.Generator) -> Iterator[list[int]]:
    """Every row once, in random order, with rows of like length together: padding is work for nothing."""
    order = torch.randperm(len(lengths), generator=rng).tolist()
    pools = [sorted(order[i : i + 40 * size], key=lengths.__getitem__) for i in range(0, len(order), 40 * size)]
    chunks = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
    for i in torch.randperm(len(chunks), generator=rng).tolist():
        yield chunks[i]


def hide(
    ids: Int[Tensor, "rows tokens"], rate: Float[Tensor, "rows 1"], rng: torch.Generator
) -> Int[Tensor, "rows tokens"]:
    """Replace ordinary tokens by [MASK], each with its row's probability."""
    chosen = (torch.rand(ids.shape, generator=rng) < rate) & (ids > MASK)
    return ids.masked_fill(chosen, MASK)


@torch.inference_mode()
def classify(model: nn.Module, ids: Sequence[Sequence[int]]) -> Float[Tensor, "texts labels"]:
    """Probabilities of the labels."""
    result = torch.empty(len(ids), len(LABELS))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = pad([ids[i] for i in rows])
        result[rows] = model(batch, attention_mask=(batch != PAD).long()).logits.softmax(-1)
    return result


def scores(model: nn.Module, split: Labelled) -> tuple[float, float]:
    """Accuracy and macro F1."""
    predicted = classify(model, split.ids).argmax(-1)
    f1 = []
    for label in range(len(LABELS)):
        hits = ((predicted == label) & (split.labels == label)).sum()
        f1.append(2 * hits / ((predicted == label).sum() + (split.labels == label).sum()))
    return (predicted == split.labels).float().mean().item(), torch.stack(f1).mean().item()


def fit(config: BertConfig, train: Labelled, validation: Labelled, settings: Settings) -> BertForSequenceClassification:
    """Learn to classify texts some of whose words are masked; returns the running average of the weights."""
    torch.manual_seed(settings.seed)  # initial weights and dropout
    rng = torch.Generator().manual_seed(settings.seed)  # order and masks
    model = BertForSequenceClassification(config)
    averaged = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    total = settings.steps(len(train.ids))
    warm = max(1, round(0.06 * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min((t + 1) / warm, (total - t) / max(1, total - warm))
    )
    lengths = [len(row) for row in train.ids]
    began = time.monotonic()
    step = 0
    for epoch in range(settings.epochs):
        model.train()
        for rows in batches(lengths, settings.batch_size, rng):
            ids = pad([train.ids[i] for i in rows])
            # Up to a fifth of the words: enough that a mask is nothing new. Texts masked whole would teach the class
            # prior, to which every probability then falls back and not below, so that no mask could lower it by 0.8.
            shown = hide(ids, torch.rand(len(ids), 1, generator=rng) / 5, rng)
            logits = model(shown, attention_mask=(ids != PAD).long()).logits
            loss = nn.functional.cross_entropy(logits, train.labels[rows], label_smoothing=settings.smoothing)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            # Early on the average would remember the random start, so it forgets faster then.
            keep = min(settings.average, step / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - keep)
        accuracy, f1 = scores(averaged, validation)
        seconds = time.monotonic() - began
        print(f"epoch {epoch + 1}, {seconds:.0f} s: validation {accuracy:.4f}, F1 {f1:.4f}", flush=True)
    return averaged


def write(path: Path, content: str | dict) -> None:
    """Write text or JSON under a temporary name, then rename it: a reader never sees half a file."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def save(model: BertForSequenceClassification, tokenizer: Tokenizer, directory: Path) -> None:
    """Write what `AutoModelForSequenceClassification` and `AutoTokenizer` load; weights in half precision."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors.tmp", metadata={"format": "pt"})
    (directory / "model.safetensors.tmp").chmod(0o644)  # safetensors makes it readable by its owner alone
    os.replace(directory / "model.safetensors.tmp", directory / "model.safetensors")
    # "dtype" makes transformers 5 load the half-precision file in single precision, as transformers 4 does anyway.
    config = model.config.to_diff_dict() | {"architectures": [type(model).__name__], "dtype": "float32"}
    config.pop("_name_or_path", None)
    write(directory / "config.json", config)
    write(directory / "tokenizer.json", tokenizer.to_str(pretty=False))
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    write(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": WINDOW, **names},
    )


CARD = """\
---
language: en
license: other
library_name: transformers
pipeline_tag: text-classification
---
# Emotion classifier

Which of six emotions does a short English text express: {labels}?
It comes inside foveate so that there is something to explain before anything is downloaded. It is small, it knows
short, informal, first-person texts ("i feel ...") only, and its labels are hashtags: do not judge people by it.

| | accuracy | macro F1 |
|---|---|---|
| validation (2,000) | {validation[0]:.4f} | {validation[1]:.4f} |
| test (2,000) | {test[0]:.4f} | {test[1]:.4f} |

- **Network**: BERT, {s.layers} layers, {s.width} wide, {s.heads} heads, {parameters:,} parameters, {window} tokens,
  {s.vocabulary:,} lower-cased word pieces; {megabytes:.1f} MB (half precision on disk, single in use).
- **Shown nothing** (every word [MASK], mean over the test texts): {blind}.
  In the training data: {shares}. Words were masked while it learned, so a masked text is nothing new to it.
- **Data**: Emotion (Saravia et al., 2018, "CARER", EMNLP): English tweets labelled by hashtag, of which its authors
  write that they "should be used for educational and research purposes only"; hold these weights to the same. 16,000
  texts to train, the validation split to choose settings, the test split only to report. No pretrained weights and no
  other model's predictions.
- **Made by** `{command}`
  with seed {s.seed}: {s.epochs} epochs, {steps:,} steps, {minutes:.0f} minutes on one CPU core, shared with other work;
  torch {torch}, transformers {transformers}. The command gives the same weights again on the same kind of machine.
"""


def command(settings: Settings) -> str:
    """What to type to get this classifier."""
    changed = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in ("data", "output")}
    defaults = {f.name: f.default for f in fields(settings)}
    options = [f"--{name.replace('_', '-')} {value}" for name, value in changed.items() if value != defaults[name]]
    return " ".join(["python training/emotion_classifier.py --data DATA --output DIRECTORY", *options])


def main(settings: Settings) -> None:
    """Train, evaluate, write."""
    began = time.monotonic()
    # More threads would add up in another order, and so give other weights.
    torch.set_num_threads(1)

    splits = {name: read(settings.data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    tokenizer = train_tokenizer(splits["train"][0], settings.vocabulary)
    tokenizer.enable_truncation(WINDOW)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]

    train, validation, test = (Labelled(encode(x), torch.tensor(y)) for x, y in splits.values())
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.width,
        max_position_embeddings=WINDOW,
        pad_token_id=PAD,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=0.1,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    model = fit(config, train, validation, settings)
    tokenizer.no_truncation()
    save(model, tokenizer, settings.output)

    kept = BertForSequenceClassification.from_pretrained(settings.output, dtype=torch.float32).eval()
    masked = [[min(i, MASK) for i in row] for row in test.ids]
    blind = classify(kept, masked).mean(0).tolist()
    shares = (train.labels.bincount() / len(train.labels)).tolist()
    text = CARD.format(
        s=settings,
        labels=", ".join(LABELS),
        validation=scores(kept, validation),
        test=scores(kept, test),
        parameters=kept.num_parameters(),
        window=WINDOW,
        megabytes=sum(path.stat().st_size for path in settings.output.iterdir() if path.name != "README.md") / 1e6,
        blind=", ".join(f"{label} {p:.2f}" for label, p in zip(LABELS, blind, strict=True)),
        shares=", ".join(f"{label} {p:.2f}" for label, p in zip(LABELS, shares, strict=True)),
        command=command(settings),
        steps=settings.steps(len(train.ids)),
        minutes=(time.monotonic() - began) / 60,
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    write(settings.output / "README.md", text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Settings))
