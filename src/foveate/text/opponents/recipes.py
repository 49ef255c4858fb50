"""Recipes: TextAttack's search methods, constraints and transformations, with tables where its downloads were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import nltk
import torch
from jaxtyping import Float
from textattack.attack_recipes import DeepWordBugGao2018
from textattack.constraints.grammaticality import PartOfSpeech
from textattack.constraints.overlap import MaxWordsPerturbed
from textattack.constraints.pre_transformation import (
    InputColumnModification,
    RepeatModification,
    StopwordModification,
)
from textattack.search_methods import (
    AlzantotGeneticAlgorithm,
    BeamSearch,
    GreedyWordSwapWIR,
    ParticleSwarmOptimization,
)
from textattack.shared import AttackedText
from textattack.transformations import (
    CompositeTransformation,
    WordSwap,
    WordSwapHomoglyphSwap,
    WordSwapMaskedLM,
    WordSwapNeighboringCharacterSwap,
    WordSwapRandomCharacterDeletion,
    WordSwapRandomCharacterInsertion,
    WordSwapWordNet,
)
from textattack.transformations.word_swaps.word_swap_embedding import recover_word_case
from torch import Tensor

from foveate.errors import RequestError
from foveate.text.masked_language_model import MaskedLanguageModel
from foveate.text.opponents.resources import Resources, table

if TYPE_CHECKING:
    from foveate.text.opponents.harness import Victim

Parts = tuple[Any, list[Any], Any]
"""A transformation, constraints and a search method."""


class WordNetSwap(WordSwapWordNet):
    """TextAttack's, which asks for a download when it is made."""

    def __init__(self) -> None:
        WordSwap.__init__(self)
        self.language = "eng"


class TableSwap(WordSwap):
    """The first `most` words that a table has for a word, in its case."""

    def __init__(self, words: Mapping[str, Sequence[str]], most: int) -> None:
        super().__init__()
        self.words = words
        self.most = most

    def _get_replacement_words(self, word: str) -> list[str]:
        return [recover_word_case(other, word) for other in self.words.get(word.lower(), ())[: self.most]]


class SememeSwap(WordSwap):
    """The words that a table has for a word as the part of speech that it is here."""

    PARTS: Mapping[str, str] = {"ADJ": "adj", "NOUN": "noun", "ADV": "adv", "VERB": "verb"}

    def __init__(self, words: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        super().__init__()
        self.words = words

    def _get_transformations(self, current_text: AttackedText, indices_to_modify: Iterable[int]) -> list[AttackedText]:
        tagged = nltk.pos_tag(current_text.words, tagset="universal")
        changed = []
        for i in sorted(indices_to_modify):
            word, part = tagged[i]
            for other in self.words.get(word.lower(), {}).get(self.PARTS.get(part, ""), ()):
                if (cased := recover_word_case(other, word)) != word and cased.isalnum():
                    changed.append(current_text.replace_word_at_index(i, cased))
        return changed


class GradientSwap(TableSwap):
    """The `best` single words of a table that, to first order, raise the loss most (HotFlip, equation 1).

    TextAttack's own wants a model that reads whole words. Here a word's embedding is the mean of its pieces', and its
    gradient their sum.
    """

    is_black_box = False

    def __init__(self, victim: Victim, words: Mapping[str, Sequence[str]], most: int, best: int) -> None:
        super().__init__(words, most)
        self.victim = victim
        self.best = best
        self._known: dict[str, Float[Tensor, " width"]] = {}

    def _get_transformations(self, current_text: AttackedText, indices_to_modify: Iterable[int]) -> list[AttackedText]:
        flips = [(i, w) for i in sorted(indices_to_modify) for w in self._get_replacement_words(current_text.words[i])]
        if not flips:
            return []
        classifier = self.victim.probe.classifier
        encoded = classifier.encode([current_text.tokenizer_input])
        embeddings = classifier.embed(encoded).requires_grad_()
        self.victim.pay(1)
        logits = classifier.from_embeddings(embeddings, encoded)
        [gradient] = torch.autograd.grad(-logits.float().log_softmax(1)[0, self.victim.target], embeddings)
        self._learn([word for _, word in flips])
        places = word_places(current_text)
        spans = torch.cat([encoded.segments[0, :, None], encoded.offsets[0]], 1)
        rise = []
        for i, word in flips:
            segment, start, end = places[i]
            within = (spans[:, 0] == segment) & (spans[:, 1] < end) & (spans[:, 2] > start) & encoded.maskable[0]
            # A word that was cut off, for the text is too long, has no gradient.
            before = embeddings[0, within].detach().mean(0) if within.any() else self._known[word]
            rise.append(float((self._known[word] - before) @ gradient[0, within].sum(0)))
        order = sorted(range(len(flips)), key=lambda k: -rise[k])[: self.best]
        return [current_text.replace_word_at_index(*flips[k]) for k in order]

    def _learn(self, words: Iterable[str]) -> None:
        """Keep the embeddings of words that are new."""
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        if new:
            encoded = self.victim.probe.classifier.encode(new)
            weights = encoded.maskable[..., None].float()
            embeddings = (self.victim.probe.classifier.embed(encoded) * weights).sum(1) / weights.sum(1).clamp(min=1)
            self._known |= dict(zip(new, embeddings, strict=True))


class HomoglyphSwap(WordSwapHomoglyphSwap):
    """TextAttack's, whose wheel lacks a file that only another search than ours reads."""

    def __init__(self) -> None:
        # All that is read of it here is there before it looks for the file.
        with suppress(FileNotFoundError):
            super().__init__()


class MaskedModelSwap(WordSwapMaskedLM):
    """TextAttack's, with padding no wider than it must be, and within bounds where a word has many pieces."""

    MOST_PIECES = 4
    """It tries every combination of candidates for the pieces of a word: 8⁴ of them is what can be waited for."""
    max_length: int

    def _encode_text(self, text: str) -> Any:
        width = len(self._lm_tokenizer(text, max_length=self.max_length, truncation=True)["input_ids"])
        most = self.max_length
        # A word may have more pieces alone than in its sentence: TextAttack then looks behind the sentence's end.
        self.max_length = min(most, width + self.MOST_PIECES)
        try:
            return super()._encode_text(text)
        finally:
            self.max_length = most

    def _bert_attack_replacement_words(
        self, current_text: AttackedText, index: SupportsIndex, **logits: Any
    ) -> list[str]:
        pieces = self._lm_tokenizer.encode(current_text.words[index], add_special_tokens=False)
        if len(pieces) > self.MOST_PIECES:
            return []
        return super()._bert_attack_replacement_words(current_text, index, **logits)


def word_places(text: AttackedText) -> list[tuple[int, int, int]]:
    """The segment, start and end of every word, by character."""
    places = []
    columns = text.tokenizer_input
    for segment, (column, words) in enumerate(
        zip((columns,) if isinstance(columns, str) else columns, text.words_per_input, strict=True)
    ):
        at = 0
        for word in words:
            start = column.index(word, at)
            at = start + len(word)
            places.append((segment, start, at))
    return places


def pwws(victim: Victim, resources: Resources) -> Parts:
    return WordNetSwap(), _usual(), GreedyWordSwapWIR("weighted-saliency", _unknown(victim))


def deepwordbug(victim: Victim, resources: Resources) -> Parts:
    made = DeepWordBugGao2018.build(victim)
    made.search_method.unk_token = _unknown(victim)
    return made.transformation, made.pre_transformation_constraints + made.constraints, made.search_method


def hotflip(victim: Victim, resources: Resources) -> Parts:
    swap = GradientSwap(victim, _table(resources, "neighbours"), most=8, best=10)
    return swap, [*_usual(), MaxWordsPerturbed(max_num_words=2), PartOfSpeech()], BeamSearch(beam_width=10)


def genetic(victim: Victim, resources: Resources) -> Parts:
    search = AlzantotGeneticAlgorithm(pop_size=60, max_iters=20, post_crossover_check=False)
    constraints = [*_usual(), _hypothesis_alone(), MaxWordsPerturbed(max_percent=0.2)]
    return TableSwap(_table(resources, "neighbours"), 8), constraints, search


def pso(victim: Victim, resources: Resources) -> Parts:
    search = ParticleSwarmOptimization(pop_size=60, max_iters=20)
    return SememeSwap(_table(resources, "sememes")), [*_usual(), _hypothesis_alone()], search


def textbugger(victim: Victim, resources: Resources) -> Parts:
    inner = {"random_one": True, "skip_first_char": True, "skip_last_char": True}
    bugs = [
        WordSwapRandomCharacterInsertion(letters_to_insert=" ", **inner),
        WordSwapRandomCharacterDeletion(**inner),
        WordSwapNeighboringCharacterSwap(**inner),
        HomoglyphSwap(),
        TableSwap(_table(resources, "neighbours"), 5),
    ]
    return CompositeTransformation(bugs), _usual(), GreedyWordSwapWIR("delete")


def bert_attack(victim: Victim, resources: Resources) -> Parts:
    assert resources.mlm is not None, "`missing` says what is there"
    model = _language_model(resources.mlm)
    config: Any = model.model.config
    kind = config.model_type
    if kind not in ("bert", "roberta", "electra", "bart", "longformer"):
        raise RequestError(f"TextAttack cannot read the word pieces of {kind}: give a BERT or a RoBERTa as --mlm")
    swap = MaskedModelSwap(
        "bert-attack",
        model.model,
        model.tokenizer,
        max_length=min(512, model.tokenizer.model_max_length),
        max_candidates=8,
    )
    return swap, [*_usual(), MaxWordsPerturbed(max_percent=0.4)], GreedyWordSwapWIR("unk", _unknown(victim))


RECIPES: dict[str, Callable[[Victim, Resources], Parts]] = {
    "pwws": pwws,
    "deepwordbug": deepwordbug,
    "hotflip": hotflip,
    "genetic": genetic,
    "pso": pso,
    "textbugger": textbugger,
    "bert-attack": bert_attack,
}


def _usual() -> list[Any]:
    """No word twice, and no stopword: what every recipe begins with."""
    return [RepeatModification(), StopwordModification()]


def _hypothesis_alone() -> Any:
    return InputColumnModification(["premise", "hypothesis"], {"premise"})


def _unknown(victim: Victim) -> str:
    """What a word is left out with, to see what it is worth: TextAttack writes BERT's, whatever the model."""
    return victim.tokenizer.unk_token or "[UNK]"


def _table(resources: Resources, kind: str) -> Mapping[str, Any]:
    path = resources.file(kind)
    assert path is not None, "`missing` says what is there"
    return table(path)


@lru_cache(maxsize=1)
def _language_model(place: str | Path) -> MaskedLanguageModel:
    return MaskedLanguageModel.from_pretrained(place)
