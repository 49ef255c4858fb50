"""Train the embedded emotion classifier, from nothing, on one CPU core.

    python training/emotion_classifier.py --data ../shared/data --output src/foveate/assets/emotion-classifier

A lower-cased WordPiece vocabulary is trained on the training texts, a small BERT learns to fill in masked words, then
to tell six emotions apart. Words are masked while it learns to classify too, because that is how it will be explained.
One seed gives the same files, byte for byte, on the same machine and library versions.
"""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
import tyro
from jaxtyping import Float, Int
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
WINDOW = 128


@dataclass(frozen=True)
class Settings:
    """What decides the result."""

    data: Path
    """Directory with emotion/{train,validation,test}.jsonl and sst2/train.jsonl.gz (columns text and label)."""
    output: Path
    """Directory to write the classifier to."""
    seed: int = 0
    vocabulary: int = 8000
    """Word pieces."""
    width: int = 128
    layers: int = 3
    heads: int = 4
    pretraining_epochs: int = 12
    """Passes over the texts of Emotion and SST-2 (training splits), filling in masked words."""
    epochs: int = 16
    """Passes over Emotion's training split, classifying."""
    batch_size: int = 32
    learning_rate: float = 5e-4
    dropout: float = 0.2
    smoothing: float = 0.05
    """Label smoothing."""
    average: float = 0.998
    """Decay, a step, of the running average of the weights; the average is what is kept."""


@dataclass(frozen=True)
class Labelled:
    """Texts as token ids, [CLS] ... [SEP], and their labels."""

    ids: list[list[int]]
    labels: Int[Tensor, " texts"]


def read(path: Path) -> tuple[list[str], list[int]]:
    """The texts and labels of a JSON Lines file, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def train_tokenizer(texts: Sequence[str], size: int) -> Tokenizer:
    """Lower-cased WordPiece; apostrophes vanish because Emotion's authors removed them ("didnt")."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.BertNormalizer(lowercase=True), normalizers.Replace(Regex("['’]"), "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
    )
    # The trainer finds the same pieces every time but numbers them by chance.
    pieces = [*SPECIAL, *sorted(set(tokenizer.get_vocab()) - set(SPECIAL))]
    tokenizer.model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
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


def fit(
    model: nn.Module,
    settings: Settings,
    steps: int,
    losses: Callable[[], Iterator[Tensor]],
    after_epoch: Callable[[nn.Module, int], None],
) -> nn.Module:
    """Minimise what `losses` yields, epoch after epoch, for `steps`; returns the averaged model."""
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    warm = max(1, round(0.06 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min((t + 1) / warm, (steps - t) / max(1, steps - warm))
    )
    averaged = copy.deepcopy(model).requires_grad_(False)
    step = epoch = 0
    while step < steps:
        model.train()
        for loss in losses():
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            # Early on the average would remember the random start, so it forgets faster then.
            keep = min(settings.average, step / (step + 10))
            torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - keep)
        epoch += 1
        after_epoch(averaged.eval(), epoch)
    return averaged


def pretrain(config: BertConfig, ids: Sequence[Sequence[int]], settings: Settings, rng: torch.Generator) -> nn.Module:
    """Fill in masked words, on windows of running text so that every position is learned; returns the encoder."""
    model = BertForMaskedLM(config)
    flat = torch.tensor([i for row in ids for i in row])
    began = time.monotonic()

    def losses() -> Iterator[Tensor]:
        start = int(torch.randint(WINDOW, (), generator=rng))
        windows = flat[start : start + (len(flat) - start) // WINDOW * WINDOW].view(-1, WINDOW)
        size = max(1, settings.batch_size // 4)
        for rows in torch.randperm(len(windows), generator=rng).split(size):
            true = windows[rows]
            shown = hide(true, torch.full((len(true), 1), 0.2), rng)
            where = shown != true
            hidden = model.bert(shown).last_hidden_state[where]
            yield nn.functional.cross_entropy(model.cls(hidden), true[where])

    def report(averaged: nn.Module, epoch: int) -> None:
        print(f"pretraining epoch {epoch}, {time.monotonic() - began:.0f} s", flush=True)

    steps = settings.pretraining_epochs * math.ceil(len(flat) // WINDOW / max(1, settings.batch_size // 4))
    return fit(model, settings, steps, losses, report).bert


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


def finetune(
    encoder: nn.Module,
    config: BertConfig,
    train: Labelled,
    validation: Labelled,
    settings: Settings,
    rng: torch.Generator,
) -> BertForSequenceClassification:
    """Classify texts some of whose words are masked."""
    model = BertForSequenceClassification(config)
    model.bert.load_state_dict(encoder.state_dict(), strict=False)  # the pooler is new
    lengths = [len(row) for row in train.ids]
    began = time.monotonic()

    def losses() -> Iterator[Tensor]:
        for rows in batches(lengths, settings.batch_size, rng):
            ids = pad([train.ids[i] for i in rows])
            # Mean 1/7; the long tail reaches texts that are masked whole, which teaches the class prior.
            shown = hide(ids, torch.rand(len(ids), 1, generator=rng) ** 6, rng)
            logits = model(shown, attention_mask=(ids != PAD).long()).logits
            yield nn.functional.cross_entropy(logits, train.labels[rows], label_smoothing=settings.smoothing)

    def report(averaged: nn.Module, epoch: int) -> None:
        accuracy, f1 = scores(averaged, validation)
        print(f"epoch {epoch}, {time.monotonic() - began:.0f} s: validation {accuracy:.4f}, F1 {f1:.4f}", flush=True)

    steps = settings.epochs * math.ceil(len(lengths) / settings.batch_size)
    return fit(model, settings, steps, losses, report)


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


def main(settings: Settings) -> None:
    """Train, evaluate, write."""
    began = time.monotonic()
    # More threads would add up in another order, and so give other weights.
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)  # initial weights and dropout
    rng = torch.Generator().manual_seed(settings.seed)  # order and masks

    splits = {name: read(settings.data / "emotion" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    unlabelled = splits["train"][0] + read(settings.data / "sst2" / "train.jsonl.gz")[0]
    tokenizer = train_tokenizer(unlabelled, settings.vocabulary)
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
    encoder = pretrain(config, encode(unlabelled), settings, rng)
    model = finetune(encoder, config, train, validation, settings, rng)
    tokenizer.no_truncation()
    save(model, tokenizer, settings.output)

    kept = BertForSequenceClassification.from_pretrained(settings.output, dtype=torch.float32).eval()
    masked = [[i if i < MASK else MASK for i in row] for row in test.ids]
    report = {
        "validation": scores(kept, validation),
        "test": scores(kept, test),
        "all masked": dict(zip(LABELS, classify(kept, masked).mean(0).tolist())),
        "class shares": dict(zip(LABELS, (train.labels.bincount() / len(train.labels)).tolist())),
        "parameters": kept.num_parameters(),
        "minutes": (time.monotonic() - began) / 60,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Settings))
