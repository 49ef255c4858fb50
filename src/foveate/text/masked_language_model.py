"""A masked language model: the words it would put in a slot, and two bounds on what others put there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.errors import RequestError
from foveate.text.candidates import Candidates, Slot, like

T = TypeVar("T")

# So many characters on either side of a slot are read: more than a sentence, and within what any model reads.
_AROUND = 500
# Of one batch; a row of logits is as wide as the vocabulary.
_MOST_TOKENS = 1024


class MaskedLanguageModel:
    """A masked language model and its tokenizer. Its rows are no queries of the classifier."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        """Raises RequestError where the tokenizer has no mask token, or gives no character offsets."""
        if tokenizer.mask_token_id is None or not getattr(tokenizer, "is_fast", False):
            raise RequestError(
                f"{type(tokenizer).__name__} has no mask token or no offsets: give a masked language model with a "
                "fast tokenizer (tokenizer.json)"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        limit = int(getattr(model.config, "max_position_embeddings", None) or 512)
        # RoBERTa counts positions from the padding token's number on.
        self._limit = min(limit - 2, tokenizer.model_max_length)
        last = self.tokenizer.convert_ids_to_tokens(self.tokenizer(" a a", add_special_tokens=False).input_ids)[-1]
        # Where the vocabulary marks the start of words, what is unmarked goes on from another word.
        self._marks_starts = last[:1] in ("Ġ", "▁")
        self._words: dict[int, str] = {}

    @classmethod
    def from_pretrained(cls, name: str | Path, device: torch.device | str | None = None) -> MaskedLanguageModel:
        """Load one by hub id or directory (safetensors, no remote code); raises RequestError if there is none."""
        from safetensors import SafetensorError
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
            model, report = AutoModelForMaskedLM.from_pretrained(
                str(name),
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RequestError(
                f"cannot load a masked language model from {str(name)!r}: give a directory with config.json, "
                f"model.safetensors and tokenizer.json, or the id of a model that can be reached ({reason})"
            ) from error
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise RequestError(f"{str(name)!r} is no masked language model: it has no weights for {missing}")
        return cls(model.requires_grad_(False).to(device), tokenizer)

    def words(self, slots: Sequence[Slot], most: int) -> list[list[str]]:
        """The `most` likeliest words in place of each slot's, in its case; pieces of words, punctuation, special
        tokens and the word itself are passed over. All slots are asked in one go."""
        mask = self.tokenizer.mask_token
        views = [_around(slot) for slot in slots]
        ids, places = self._encoded([view.filled(mask) for view in views], [(v.start, v.start + 1) for v in views])
        # Where the text was cut before the slot, nothing is known of it.
        rows = [i for i, place in enumerate(places) if place]
        # More than `most`, for those that are passed over.
        best = self._run(
            [ids[i] for i in rows],
            lambda k, logits: logits[places[rows[k]][0]].topk(min(10 * most + 20, logits.shape[-1])).indices.tolist(),
        )
        found: list[list[str]] = [[] for _ in slots]
        for i, tokens in zip(rows, best, strict=True):
            word = slots[i].word.lower()
            # Of a cased vocabulary's two forms of a word, the likelier.
            others: dict[str, str] = {}
            for other in filter(None, map(self._word, tokens)):
                others.setdefault(other.lower(), other)
            others.pop(word, None)
            found[i] = [like(slots[i].word, other) for other in others.values()][:most]
        return found

    def surprise(self, slots: Sequence[Slot]) -> Float[Tensor, " slots"]:
        """The mean of −log p(token | the text, with all tokens of the slot's word masked), over those tokens, in nats.

        Infinite where the model does not read as far as the slot. Source: pseudo-log-likelihood (Salazar et al. 2020),
        of one word, masked whole.
        """
        views = [_around(slot) for slot in slots]
        ids, places = self._encoded([view.text for view in views], [(v.start, v.end) for v in views])
        shown = [
            [self.tokenizer.mask_token_id if i in place else token for i, token in enumerate(row)]
            for row, place in zip(ids, places, strict=True)
        ]

        def read(i: int, logits: Tensor) -> float:
            wanted = torch.tensor([ids[i][k] for k in places[i]])
            return nn.functional.cross_entropy(logits[places[i]], wanted).item() if places[i] else torch.inf

        return torch.tensor(self._run(shown, read))

    def similarity(self, before: Sequence[str], after: Sequence[str]) -> Float[Tensor, " texts"]:
        """Cosine of the mean last hidden states (over all tokens but special ones) of texts and their edited forms."""
        return torch.cosine_similarity(self._means(before), self._means(after), dim=1)

    def _means(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        unique = list(dict.fromkeys(texts))
        ids, _ = self._encoded(unique, [(0, 0)] * len(unique))
        special = torch.tensor(self.tokenizer.all_special_ids)

        def read(i: int, hidden: Tensor) -> Tensor:
            plain = ~torch.isin(torch.tensor(ids[i]), special)
            return hidden[plain].mean(0) if plain.any() else hidden.mean(0)

        means = dict(zip(unique, self._run(ids, read, hidden=True), strict=True))
        return torch.stack([means[text] for text in texts])

    def _encoded(
        self, texts: Sequence[str], spans: Sequence[tuple[int, int]]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of each text, and its tokens that share a character with its span."""
        # transformers' tokenizers fail on an empty list.
        rows = self.tokenizer(list(texts), truncation=True, max_length=self._limit).encodings if texts else []
        places = [
            [i for i, (a, b) in enumerate(row.offsets) if a < end and b > start and row.sequence_ids[i] is not None]
            for row, (start, end) in zip(rows, spans, strict=True)
        ]
        return [row.ids for row in rows], places

    @torch.inference_mode()
    def _run(self, ids: Sequence[Sequence[int]], read: Callable[[int, Tensor], T], hidden: bool = False) -> list[T]:
        """What `read` makes of each row's logits, or last hidden states; rows of like length go in one batch."""
        model: Any = self.model.base_model if hidden else self.model
        device = next(self.model.parameters()).device
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        found: dict[int, T] = {}
        while order:
            width = len(ids[order[0]])
            size = max(1, _MOST_TOKENS // width)
            chunk, order = order[:size], order[size:]
            fill = self.tokenizer.pad_token_id or 0
            padded = torch.tensor([[*ids[i], *[fill] * (width - len(ids[i]))] for i in chunk], device=device)
            lengths = torch.tensor([len(ids[i]) for i in chunk], device=device)
            answer = model(
                input_ids=padded, attention_mask=(torch.arange(width, device=device) < lengths[:, None]).long()
            )
            rows = (answer.last_hidden_state if hidden else answer.logits).float().cpu()
            found |= {i: read(i, row[: len(ids[i])]) for i, row in zip(chunk, rows, strict=True)}
        return [found[i] for i in range(len(ids))]

    def _word(self, token: int) -> str:
        """What a vocabulary entry says, or nothing where it is no whole word."""
        if token not in self._words:
            name = str(self.tokenizer.convert_ids_to_tokens(token))
            text = str(self.tokenizer.convert_tokens_to_string([name])).strip()
            begins = name[:1] in ("Ġ", "▁") if self._marks_starts else not name.startswith("##")
            whole = begins and token not in self.tokenizer.all_special_ids and text.replace("'", "").isalpha()
            self._words[token] = text if whole else ""
        return self._words[token]


def likely(model: MaskedLanguageModel, most: int) -> Candidates:
    """The `most` likeliest words of the language model, in the context as it now stands."""
    return lambda slots: model.words(slots, most)


def fluent(candidates: Candidates, model: MaskedLanguageModel, ratio: float) -> Candidates:
    """Of `candidates`, those that surprise the language model at most `ratio` times as much as the word they replace.

    The ratio is that of the two words' perplexities, exp(`surprise`), each in the text as it now stands. A word that
    is taken away leaves none to measure, and passes; where the model does not read as far as the slot, no other does.
    """

    def bounded(slots: Sequence[Slot]) -> list[list[str]]:
        found = candidates(slots)
        pairs = [(i, word) for i, words in enumerate(found) for word in words if word]
        if not pairs:
            return found
        measured = model.surprise([*slots, *(_with(slots[i], word) for i, word in pairs)])
        before, after = measured[: len(slots)].tolist(), measured[len(slots) :].tolist()
        # Of logarithms, since what is all but impossible has no perplexity that a float could hold.
        fit = {pair for pair, value in zip(pairs, after, strict=True) if value - before[pair[0]] <= math.log(ratio)}
        return [[word for word in words if not word or (i, word) in fit] for i, words in enumerate(found)]

    return bounded


def similar(candidates: Candidates, model: MaskedLanguageModel, least: float) -> Candidates:
    """Of `candidates`, those that leave the text at least so similar to the original: the cosine of `similarity`,
    between the text before any edit and with all so far and this one. Of a pair, the half that is edited."""

    def bounded(slots: Sequence[Slot]) -> list[list[str]]:
        found = candidates(slots)
        pairs = [(i, word) for i, words in enumerate(found) for word in words]
        if not pairs:
            return found
        cosines = model.similarity([slots[i].original for i, _ in pairs], [slots[i].filled(w) for i, w in pairs])
        fit = {pair for pair, cosine in zip(pairs, cosines.tolist(), strict=True) if cosine >= least}
        return [[word for word in words if (i, word) in fit] for i, words in enumerate(found)]

    return bounded


def _with(slot: Slot, word: str) -> Slot:
    return replace(slot, text=slot.filled(word), end=slot.start + len(word))


def _around(slot: Slot) -> Slot:
    """The slot with no more of its text than `_AROUND` characters on either side."""
    first = max(0, slot.start - _AROUND)
    return Slot(slot.text[first : slot.end + _AROUND], slot.start - first, slot.end - first, slot.original)
