"""Any Hugging Face sequence classifier, seen the way an explainer needs it: encode, mask, predict, observe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveate.errors import RequestError

Text = str | tuple[str, str]
Replacement = Literal["mask", "pad", "unk", "delete"]


@dataclass(frozen=True)
class Encoded:
    """A batch of tokenised texts, padded on the right to one length."""

    texts: tuple[Text, ...]
    """The texts, or (premise, hypothesis) pairs, as they were given."""
    input_ids: Int[Tensor, "texts tokens"]
    real: Bool[Tensor, "texts tokens"]
    """False on padding."""
    maskable: Bool[Tensor, "texts tokens"]
    """False on padding and on special tokens."""
    segments: Int[Tensor, "texts tokens"]
    """0 for the first text, 1 for the second of a pair."""
    offsets: Int[Tensor, "texts tokens 2"]
    """Character start and end in the token's own text; (0, 0) on special tokens and padding."""
    truncated: Bool[Tensor, " texts"]
    """True where the text was longer than the model reads."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def lengths(self) -> Int[Tensor, " texts"]:
        return self.real.sum(1)

    def select(self, rows: Int[Tensor, " rows"]) -> Encoded:
        """The texts of `rows`, trimmed to the longest of them."""
        width = int(self.lengths[rows].max()) if len(rows) else 0
        return Encoded(
            texts=tuple(self.texts[i] for i in rows.tolist()),
            input_ids=self.input_ids[rows, :width],
            real=self.real[rows, :width],
            maskable=self.maskable[rows, :width],
            segments=self.segments[rows, :width],
            offsets=self.offsets[rows, :width],
            truncated=self.truncated[rows],
        )


@dataclass(frozen=True)
class Observation:
    """What a forward pass shows beside its logits. Zero on padding."""

    attention: Float[Tensor, "rows tokens tokens"]
    """Mean over layers and heads (AttExplainer, section 3.1); [row, query, key]."""
    received: Float[Tensor, "rows layers tokens"]
    """Per layer, mean over heads and queries of the attention that a token receives."""
    pooled: Float[Tensor, "rows layers tokens"]
    """Per layer, mean over heads of the attention from the position that the classifier reads."""
    hidden: Float[Tensor, "rows tokens width"]
    """The encoder's last hidden state."""


@dataclass(frozen=True)
class Prediction:
    logits: Float[Tensor, "rows labels"]
    observation: Observation | None = None

    @property
    def probabilities(self) -> Float[Tensor, "rows labels"]:
        return self.logits.float().softmax(-1)


class TextClassifier:
    """A sequence classifier and its tokenizer."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, replacement: Replacement | None = None, batch_size: int = 32) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.labels: tuple[str, ...] = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
        self.replacement: Replacement = replacement or ("mask" if tokenizer.mask_token_id is not None else "delete")
        self.name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)

    @classmethod
    def from_pretrained(cls, model: str | Path | tuple[nn.Module, Any], **options: Any) -> TextClassifier:
        """Load a classifier by hub id or directory, or wrap a (model, tokenizer) pair."""
        if isinstance(model, tuple):
            return cls(*model, **options)
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        loaded = AutoModelForSequenceClassification.from_pretrained(
            str(model), dtype=torch.float32, attn_implementation="eager"
        )
        return cls(loaded, AutoTokenizer.from_pretrained(str(model)), **options)

    @property
    def max_tokens(self) -> int:
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def encode(self, texts: Sequence[Text]) -> Encoded:
        """Tokenise texts or pairs; what the model cannot read is cut off and `truncated` says so."""
        pair = bool(texts) and not isinstance(texts[0], str)
        columns = [list(c) for c in zip(*texts, strict=True)] if pair else [list(texts)]
        batch = self.tokenizer(
            *columns,
            truncation=True,
            max_length=self.max_tokens,
            padding=True,
            padding_side="right",
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        real = batch["attention_mask"].bool()
        segments = torch.tensor([[s or 0 for s in batch.sequence_ids(i)] for i in range(len(texts))])
        return Encoded(
            texts=tuple(texts),
            input_ids=batch["input_ids"],
            real=real,
            maskable=real & ~batch["special_tokens_mask"].bool(),
            segments=segments,
            offsets=batch["offset_mapping"],
            truncated=torch.zeros(len(texts), dtype=torch.bool),
        )

    @torch.inference_mode()
    def predict(
        self,
        encoded: Encoded,
        rows: Int[Tensor, " rows"] | None = None,
        visible: Bool[Tensor, "rows tokens"] | None = None,
        observe: bool = False,
    ) -> Prediction:
        """Classify the texts of `rows` with only the `visible` tokens shown.

        Rows are sorted by length and sent in batches of `batch_size`, each trimmed to its longest row; what comes
        back is in the order of `rows` and as wide as `encoded`. Nothing is counted here: see `Probe.query`.
        """
        if rows is None:
            rows = torch.arange(len(encoded))
        lengths = encoded.lengths[rows]
        order = lengths.argsort(descending=True)
        logits, observed = [], []
        for chunk in order.split(self.batch_size):
            width = int(lengths[chunk[0]])
            take = rows[chunk]
            ids = encoded.input_ids[take, :width]
            if visible is not None:
                ids = torch.where(visible[chunk, :width], ids, self.tokenizer.mask_token_id)
            real = encoded.real[take, :width]
            with _observing(self.model, real) if observe else _nothing() as seen:
                output = self.model(
                    input_ids=ids, attention_mask=real.long(), token_type_ids=encoded.segments[take, :width]
                )
            logits.append(output.logits)
            if seen is not None:
                observed.append(_widen(seen.result(), encoded.input_ids.shape[1]))
        back = order.argsort()
        observation = None
        if observe:
            observation = Observation(*(torch.cat([getattr(o, n) for o in observed])[back] for n in Observation.__dataclass_fields__))
        return Prediction(torch.cat(logits)[back], observation)


def _widen(o: Observation, width: int) -> Observation:
    grow = width - o.hidden.shape[1]
    pad = nn.functional.pad
    return Observation(pad(o.attention, (0, grow, 0, grow)), pad(o.received, (0, grow)), pad(o.pooled, (0, grow)), pad(o.hidden, (0, 0, 0, grow)))


class _Sums:
    """Running sums over layers."""

    def __init__(self, real: Bool[Tensor, "rows tokens"]) -> None:
        self.real = real.float()
        self.total: Tensor | None = None
        self.received: list[Tensor] = []
        self.pooled: list[Tensor] = []
        self.hidden: Tensor | None = None

    def add(self, weights: Float[Tensor, "rows heads tokens tokens"]) -> None:
        mean = weights.mean(1) * self.real[:, :, None]
        self.total = mean if self.total is None else self.total.add_(mean)
        self.received.append(mean.sum(1) / self.real.sum(1, keepdim=True))
        self.pooled.append(mean[:, 0])

    def result(self) -> Observation:
        assert self.total is not None and self.hidden is not None
        return Observation(
            self.total / len(self.received),
            torch.stack(self.received, 1),
            torch.stack(self.pooled, 1),
            self.hidden * self.real[:, :, None],
        )


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


@contextmanager
def _observing(model: nn.Module, real: Tensor) -> Iterator[_Sums]:
    sums = _Sums(real)

    def take_weights(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor) and output[1].dim() == 4:
            sums.add(output[1])
            return (output[0], None, *output[2:])
        return output

    def take_hidden(module: nn.Module, args: Any, output: Any) -> None:
        sums.hidden = output[0]

    hooks = [m.register_forward_hook(take_weights) for m in model.modules() if "Attention" in type(m).__name__]
    hooks.append(model.base_model.register_forward_hook(take_hidden))
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
