"""Any Hugging Face sequence classifier, seen the way an explainer needs it: encode, mask, predict, observe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveate.errors import RequestError
from foveate.masking.probe import Prediction
from foveate.text.encoded import Encoded, Text, encode
from foveate.text.network import Network, Rollout, Sums

EMBEDDED = {"emotion": Path(__file__).parent.parent / "assets" / "emotion-classifier"}
"""The classifiers in the package, by name."""
Replacement = Literal["mask", "pad", "unk", "delete"]

# One batch holds at most so many tokens, and, where attention is observed, so many attention weights a head: what
# 32 rows of 512 tokens have. Longer texts go in smaller batches.
_MOST_TOKENS = 32 * 512
_MOST_WEIGHTS = 32 * 512 * 512


@dataclass(frozen=True)
class Observation:
    """What a forward pass shows beside its logits. Zero on padding and on deleted tokens."""

    attention: Float[Tensor, "rows tokens tokens"]
    """Mean over layers and heads (AttExplainer, section 3.1); [row, query, key]."""
    received: Float[Tensor, "rows layers tokens"]
    """Per layer, mean over heads and queries of the attention that a token receives."""
    pooled: Float[Tensor, "rows layers tokens"]
    """Per layer, mean over heads of the attention from the position that the classifier reads: the first token of most
    encoders, the last of a decoder; the mean over all positions where the classifier pools them."""
    hidden: Float[Tensor, "rows tokens width"]
    """The encoder's last hidden state."""
    summary: Float[Tensor, "rows width"]
    """The last hidden state at the position that the classifier reads, or the mean where it pools them."""

    item_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "attention": (1, 2),
        "received": (2,),
        "pooled": (2,),
        "hidden": (1,),
    }


class TextClassifier:
    """A sequence classifier and its tokenizer.

    `replacement` says what stands for a masked token: the mask, padding or unknown token, or nothing ("delete": the row
    closes up). It is the mask token where there is one, and "delete" otherwise. `autocast` runs the model in bfloat16;
    None means where the CPU has AMX. The model's weights, mode and settings are left as they are.

    Raises RequestError for a model or a tokenizer that cannot be used here.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        replacement: Replacement | None = None,
        batch_size: int = 32,
        device: torch.device | str | None = None,
        autocast: bool | None = None,
    ) -> None:
        config: Any = model.config
        self.name = str(getattr(config, "_name_or_path", "") or type(model).__name__)
        if config.num_labels < 2:
            raise RequestError(f"{self.name} has one output, a regression: give a classifier with two or more labels")
        if config.problem_type == "multi_label_classification":
            raise RequestError(f"{self.name} gives several labels at once: give one that chooses")
        if not getattr(tokenizer, "is_fast", False):
            raise RequestError(
                f"{type(tokenizer).__name__} gives no character offsets: use a fast tokenizer (tokenizer.json)"
            )
        if batch_size < 1:
            raise RequestError(f"batch_size is {batch_size}: give at least 1")
        self.model = model if device is None else model.to(device)
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.labels: tuple[str, ...] = tuple(
            str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels)
        )
        if autocast is None:
            floats = next(model.parameters())
            autocast = floats.device.type == "cpu" and floats.dtype == torch.float32 and _has_amx()
        self._network = Network(model, autocast)
        self._replacements = self._possible_replacements()
        self.replacement: Replacement = replacement or ("mask" if "mask" in self._replacements else "delete")
        if self.replacement not in self._replacements:
            raise RequestError(
                f"{self.name} has no {self.replacement} token: --replacement can be {' or '.join(self._replacements)}"
                if self.replacement in get_args(Replacement)
                else f"no replacement is called {self.replacement!r}: it can be {' or '.join(self._replacements)}"
            )
        self.max_tokens: int | None = _max_tokens(model, tokenizer)
        """The longest row that the model reads, special tokens included; None where nothing limits it."""

    @classmethod
    def from_pretrained(
        cls, model: str | Path | tuple[nn.Module, Any], *, dtype: torch.dtype = torch.float32, **options: Any
    ) -> TextClassifier:
        """Load a classifier by hub id or directory (safetensors, no remote code), or wrap a (model, tokenizer) pair.

        "emotion" is the one in the package. `options` are those of the class. Raises RequestError if there is no such
        classifier.
        """
        if isinstance(model, tuple):
            return cls(*model, **options)
        from safetensors import SafetensorError
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        name = str(model)
        place = str(EMBEDDED.get(name, name))
        try:
            with _no_progress_bar():
                tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
                loaded, report = AutoModelForSequenceClassification.from_pretrained(
                    place, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
                )
        # TypeError and AttributeError: what transformers 4 raises where there are no files of a tokenizer.
        except (
            OSError,
            ValueError,
            KeyError,
            ImportError,
            RuntimeError,
            TypeError,
            AttributeError,
            SafetensorError,
        ) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RequestError(
                f"cannot load a classifier from {name!r}: give a directory with config.json, model.safetensors and "
                f"tokenizer.json, or the id of a model that can be reached ({reason})"
            ) from error
        head = [key for key in report["missing_keys"] if not key.startswith(loaded.base_model_prefix + ".")]
        if head:
            raise RequestError(
                f"{name!r} is not fine-tuned for classification: it has no weights for {', '.join(head)}"
            )
        # transformers makes a tokenizer of special tokens alone where there are no files of one.
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise RequestError(f"{name!r} has no tokenizer: save the one that it was trained with beside it")
        loaded.config._name_or_path = name
        return cls(loaded.requires_grad_(False), tokenizer, **options)

    @property
    def shown_mask(self) -> str:
        """What stands for a masked token in a text that a person reads; nothing where it is deleted."""
        index = self._replacements[self.replacement]
        return "" if index is None else self.tokenizer.convert_ids_to_tokens(index)

    def _possible_replacements(self) -> dict[Replacement, int | None]:
        """What can stand for a masked token, and its id."""
        size = self._network.embeddings.weight.shape[0]
        ids: dict[Replacement, int | None] = {
            "mask": self.tokenizer.mask_token_id,
            "pad": self.tokenizer.pad_token_id,
            "unk": self.tokenizer.unk_token_id,
        }
        # A token that was added to the tokenizer but not to the model has no embedding.
        return {**{name: i for name, i in ids.items() if i is not None and i < size}, "delete": None}

    def encode(self, texts: Sequence[Text]) -> Encoded:
        """Tokenise texts or pairs; what the model cannot read is cut off and `truncated` says so.

        Raises RequestError for what is not a text.
        """
        return encode(self.tokenizer, texts, self.max_tokens)

    def predict(
        self,
        encoded: Encoded,
        rows: Int[Tensor, " rows"] | None = None,
        visible: Bool[Tensor, "rows tokens"] | None = None,
        observe: bool = False,
    ) -> Prediction:
        """Classify the texts of `rows` with only the `visible` tokens shown; special tokens always are.

        Rows are sorted by length and sent in batches of `batch_size`, each trimmed to its longest row; what comes
        back is in the order of `rows` and as wide as `encoded`. Nothing is counted here: see `Probe.query`.
        Raises RequestError if the model answers NaN or, to be observed, gives no attention weights.
        """
        shown = self._show(encoded, rows, visible)
        size, width = shown.ids.shape
        anatomy = self._network.anatomy
        logits = torch.zeros(size, len(self.labels))
        seen = None
        if observe:
            seen = Observation(
                torch.zeros(size, width, width),
                torch.zeros(size, anatomy.layers, width),
                torch.zeros(size, anatomy.layers, width),
                torch.zeros(size, width, anatomy.width),
                torch.zeros(size, anatomy.width),
            )
        with torch.inference_mode():
            for chunk, ids, real, types, reading in self._batches(shown, observe):
                n = ids.shape[1]
                sums = Sums(shown.real[chunk, :n].to(real.device), anatomy.reads, reading) if observe else None
                answer, hidden = self._network(ids, real, types, reading, watch=sums)
                logits[chunk] = answer.cpu()
                if sums is not None and seen is not None:
                    seen.attention[chunk, :n, :n] = sums.attention.cpu()
                    seen.received[chunk, :, :n] = sums.received.cpu()
                    seen.pooled[chunk, :, :n] = sums.pooled.cpu()
                    seen.hidden[chunk, :n] = hidden.float().cpu() * shown.real[chunk, :n, None]
                    seen.summary[chunk] = sums.read(hidden).float().cpu()
        self._check(logits)
        return Prediction(logits, seen if seen is None or shown.order is None else _reopened(seen, shown.order))

    @property
    def reads(self) -> Literal["first", "last", "mean"]:
        """The position whose last hidden state the model classifies; "mean" for any mixture of several."""
        return self._network.anatomy.reads

    def rollout(
        self, encoded: Encoded, rows: Int[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "rows tokens tokens"]:
        """Attention rollout, [row, query, key]: how much of each token reaches each position of the last layer.

        Raises RequestError if the model gives no attention weights. Source: Abnar & Zuidema 2020, section 3.
        """
        shown = self._show(encoded, rows, None)
        size, width = shown.ids.shape
        result = torch.zeros(size, width, width)
        with torch.inference_mode():
            for chunk, ids, real, types, reading in self._batches(shown, observe=True):
                n = ids.shape[1]
                rollout = Rollout()
                self._network(ids, real, types, reading, watch=rollout)
                both = shown.real[chunk, :n, None] & shown.real[chunk, None, :n]
                result[chunk, :n, :n] = rollout.attention.cpu() * both
        return result

    def embed(
        self,
        encoded: Encoded,
        rows: Int[Tensor, " rows"] | None = None,
        visible: Bool[Tensor, "rows tokens"] | None = None,
    ) -> Float[Tensor, "rows tokens width"]:
        """Token embeddings, without gradient, of the `visible` tokens and of the replacement in place of the others.

        A deleted token has no embedding: it is zero.
        """
        ids = encoded.input_ids if rows is None else encoded.input_ids[rows]
        hidden = _hidden(encoded, rows, visible)
        replacement = self._replacements[self.replacement]
        if hidden is not None and replacement is not None:
            ids = ids.masked_fill(hidden, replacement)
        with torch.no_grad():
            embeddings = self._network.embeddings(ids.to(self._network.device)).float().cpu()
        return (
            embeddings if hidden is None or replacement is not None else embeddings.masked_fill(hidden[..., None], 0.0)
        )

    def from_embeddings(
        self,
        embeddings: Float[Tensor, "rows tokens width"],
        encoded: Encoded,
        rows: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, "rows labels"]:
        """Logits of the texts of `rows` with `embeddings` for their tokens, through which gradients flow.

        All rows go in one batch. Raises RequestError if the model answers NaN.
        """
        shown = self._show(encoded, rows, None)
        if not len(shown.ids):
            return torch.zeros(0, len(self.labels))
        n = int(shown.run.sum(1).max())
        weight = self._network.embeddings.weight
        ids, real, types, reading = self._inputs(shown, slice(None), n)
        given = embeddings[:, :n].to(weight.device, weight.dtype)
        logits, _ = self._network(ids, real, types, reading, embeddings=given)
        self._check(logits)
        return logits.cpu()

    def _show(
        self, encoded: Encoded, rows: Int[Tensor, " rows"] | None, visible: Bool[Tensor, "rows tokens"] | None
    ) -> _Shown:
        """What the model is to be given for `rows` when only the `visible` tokens are shown."""

        def pick(tensor: Tensor) -> Tensor:
            return tensor if rows is None else tensor[rows]

        ids, real = pick(encoded.input_ids), pick(encoded.real)
        types = None if encoded.types is None else pick(encoded.types)
        written, order = ids, None
        hidden = _hidden(encoded, rows, visible)
        if hidden is not None:
            replacement = self._replacements[self.replacement]
            if replacement is not None:
                ids = ids.masked_fill(hidden, replacement)
            else:
                kept = real & ~hidden
                order = (~kept).long().argsort(dim=1, stable=True)
                ids = written = ids.gather(1, order)
                types = None if types is None else types.gather(1, order)
                real = kept.gather(1, order)
        run = real
        if ids.shape[1]:
            nothing = ~real[:, 0]
            if nothing.any():
                # A model cannot read nothing: a row without a token is read as one that says as little as possible.
                run, ids = real.clone(), ids.clone()
                run[nothing, 0] = True
                ids[nothing, 0] = self._blank
        return _Shown(ids, run, real, written, types, order)

    @property
    def _blank(self) -> int:
        tokenizer = self.tokenizer
        named = (tokenizer.bos_token_id, tokenizer.eos_token_id, *self._replacements.values())
        return next((i for i in named if i is not None), 0)

    def _batches(
        self, shown: _Shown, observe: bool
    ) -> Iterator[tuple[Int[Tensor, " chunk"], Tensor, Tensor, Tensor | None, Tensor]]:
        """Rows in batches, longest first, each as wide as its longest row; the model's inputs of each."""
        lengths, order = shown.run.sum(1).sort(descending=True, stable=True)
        widths = lengths.tolist()
        start = 0
        while start < len(widths):
            n = widths[start]
            most = min(self.batch_size, (_MOST_WEIGHTS // n**2) if observe else (_MOST_TOKENS // n))
            stop = min(start + max(1, most), len(widths))
            if not self._network.anatomy.pads:
                stop = start + widths[start:stop].count(n)
            chunk = order[start:stop]
            yield chunk, *self._inputs(shown, chunk, n)
            start = stop

    def _inputs(self, shown: _Shown, chunk: Tensor | slice, n: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Token ids, what is real, token types and reading positions of some rows' first `n` tokens."""
        device = self._network.device
        run = shown.run[chunk, :n].to(device)
        types = None if shown.types is None else shown.types[chunk, :n].to(device)
        reading = self._network.reading_position(shown.written[chunk, :n].to(device), run)
        return shown.ids[chunk, :n].to(device), run, types, reading

    def _check(self, logits: Tensor) -> None:
        if logits.isnan().any():
            raise RequestError(
                f"{self.name}: the model returned NaN, so its weights or its dtype are broken; try dtype float32"
            )


@dataclass(frozen=True)
class _Shown:
    """Rows as the model gets them."""

    ids: Int[Tensor, "rows tokens"]
    run: Bool[Tensor, "rows tokens"]
    """What the model is shown: `real`, and one token where a row would be empty."""
    real: Bool[Tensor, "rows tokens"]
    written: Int[Tensor, "rows tokens"]
    """The ids of the same tokens before any was replaced."""
    types: Int[Tensor, "rows tokens"] | None
    order: Int[Tensor, "rows tokens"] | None
    """Where each token stood, if rows were closed up."""


def _hidden(
    encoded: Encoded, rows: Int[Tensor, " rows"] | None, visible: Bool[Tensor, "rows tokens"] | None
) -> Bool[Tensor, "rows tokens"] | None:
    """The tokens to hide; None if there are none."""
    if visible is None:
        return None
    hidden = ~visible & (encoded.maskable if rows is None else encoded.maskable[rows])
    return hidden if hidden.any() else None


def _reopened(seen: Observation, order: Int[Tensor, "rows tokens"]) -> Observation:
    """What was seen of closed-up rows, back at the tokens' own places."""
    place = order.argsort(1)
    rows = torch.arange(len(place))[:, None]
    return Observation(
        seen.attention[rows[..., None], place[:, :, None], place[:, None, :]],
        seen.received.gather(2, place[:, None].expand_as(seen.received)),
        seen.pooled.gather(2, place[:, None].expand_as(seen.pooled)),
        seen.hidden[rows, place],
        seen.summary,
    )


def _max_tokens(model: nn.Module, tokenizer: Any) -> int | None:
    config: Any = model.config
    # A tokenizer that knows no limit says 1e30, a config -1.
    limits = [tokenizer.model_max_length, getattr(config.get_text_config(), "max_position_embeddings", None)]
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding position.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min((int(limit) for limit in limits if limit is not None and 0 < limit < 1e9), default=None)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Loading takes a second, and its bar would get between what a command prints."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _has_amx() -> bool:
    """Whether bfloat16 is fast on this CPU."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
