"""Filling masked positions with words: exact edits, exact counts, and labels that really change."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import PAIRS, TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM

from foveate.errors import RequestError
from foveate.masking.goal import Attack
from foveate.text.attack_result import AttackResult, apply_edits, masked_result
from foveate.text.candidates import Slot, delete, like, misspelt, typos, word_spans
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Text
from foveate.text.fill import Word, edits_of, fill, filler, words_of
from foveate.text.filling import FillSettings
from foveate.text.masked_language_model import MaskedLanguageModel, fluent, likely, similar
from foveate.text.methods.protocols import mask_in_order
from foveate.text.probe import Probe
from foveate.text.synonyms import TABLE, synonyms

MANY = [*TEXTS, *TEXTS[:2], "i was not happy", "dull dull dull film", "the cat runs , the dog sleeps"]


def attacks(classifier: TextClassifier, texts: Sequence[Text], steps: int = 100) -> list[AttackResult]:
    """What masking from the first token on comes to, not stopped before `steps`."""
    probe = Probe(classifier, list(texts))
    scores = -torch.arange(probe.maskable.shape[1]).float().expand(probe.maskable.shape)
    return [masked_result(e, "[MASK]", None) for e in mask_in_order(probe, Attack(), scores, "test", steps)]


def covering(classifier: TextClassifier, text: Text, *words: str) -> AttackResult:
    """A result in which the tokens of `words` are masked, whatever came of it; earlier words score higher."""
    [result] = attacks(classifier, [text], 1)
    sources = (result.text, result.pair or "")
    tokens = {}
    for rank, word in enumerate(words):
        for segment, source in enumerate(sources):
            for start, end in word_spans(source):
                if source[start:end] == word:
                    tokens |= {
                        i: 10.0 - rank
                        for i, t in enumerate(result.tokens)
                        if not t.special and t.segment == segment and start <= t.start and t.end <= end
                    }
    changes = {"masked": tuple(sorted(tokens)), "scores": tuple(tokens.get(i, 0.0) for i in range(len(result.tokens)))}
    return AttackResult(**{**{f: getattr(result, f) for f in AttackResult.__dataclass_fields__}, **changes})


def fixed(**words: Sequence[str]) -> Callable[[Sequence[Slot]], list[list[str]]]:
    return lambda slots: [list(words.get(slot.word, ())) for slot in slots]


@pytest.fixture
def spied(classifier: TextClassifier, monkeypatch: pytest.MonkeyPatch) -> list[list[Text]]:
    """The texts of every call of `predict`."""
    calls: list[list[Text]] = []
    predict = classifier.predict

    def spy(encoded: Any, *rest: Any, **named: Any) -> Any:
        calls.append(list(encoded.texts))
        return predict(encoded, *rest, **named)

    monkeypatch.setattr(classifier, "predict", spy)
    return calls


def check(classifier: TextClassifier, result: AttackResult) -> None:
    """A result says the truth about its text."""
    adversarial = result.adversarial if result.pair is None else (result.adversarial, result.adversarial_pair)
    probabilities = classifier.predict(classifier.encode([adversarial])).probabilities[0]
    label = classifier.labels.index(result.label)
    assert result.final_label == classifier.labels[int(probabilities.argmax())]
    assert result.final_probability == pytest.approx(float(probabilities[label]), abs=1e-5)
    assert result.delta_p == pytest.approx(result.probability - result.final_probability)
    assert result.solved == result.flipped == (result.final_label != result.label)
    assert apply_edits(result.text, result.edits, 0) == result.adversarial
    sources = (result.text, result.pair or "")
    for edit in result.edits:
        assert sources[edit.segment][edit.start : edit.end] == edit.before
    touched = [
        i
        for i, t in enumerate(result.tokens)
        if any(e.segment == t.segment and e.start < t.end and t.start < e.end for e in result.edits)
    ]
    assert list(result.masked) == touched


# --- the search


def test_filled_texts_are_classified_as_it_is_said(classifier: TextClassifier) -> None:
    found = fill(classifier, attacks(classifier, [*MANY, *PAIRS]), typos(0, 20), "typo")
    assert any(result.solved and result.edits for result in found)
    for result in found:
        assert result.fill == "typo"
        check(classifier, result)


def test_queries_are_the_rows_classified_and_within_the_budget(
    classifier: TextClassifier, spied: list[list[Text]]
) -> None:
    before = attacks(classifier, MANY)
    for budget in (1, 3, 50):
        spied.clear()
        found = fill(classifier, before, typos(0, 20), "typo", budget=budget)
        spent = [b.queries - a.queries for a, b in zip(before, found, strict=True)]
        assert sum(spent) == sum(map(len, spied)) > 0
        assert max(spent) <= budget
        # One row of each text that still searches, together.
        assert len(spied) == max(spent)
        assert sum(s == budget for s in spent) > 0 or budget == 50


def test_a_text_does_not_depend_on_the_others(classifier: TextClassifier) -> None:
    before = attacks(classifier, MANY)
    together = fill(classifier, before, typos(3, 8), "typo")
    for one, result in zip(before, together, strict=True):
        [alone] = fill(classifier, [one], typos(3, 8), "typo")
        assert (alone.edits, alone.queries, alone.final_label) == (result.edits, result.queries, result.final_label)


def test_the_most_important_word_first_and_the_best_candidate_stays(classifier: TextClassifier) -> None:
    texts = ["the film is good and bright"]
    result = covering(classifier, texts[0], "bright", "film")
    options = {"bright": ["dull", "dog", "so"], "film": ["movie", "street"]}
    label = classifier.labels.index(result.label)

    def answer(*texts: str) -> list[tuple[int, float]]:
        prediction = classifier.predict(classifier.encode(list(texts)))
        return list(zip(prediction.logits.argmax(1).tolist(), prediction.probabilities[:, label].tolist(), strict=True))

    # The same search, spelled out.
    now, p, expected = texts[0], result.probability, None
    for word in ("bright", "film"):
        tried = [now.replace(word, option) for option in options[word]]
        answers = answer(*tried)
        flip = next((t for t, (best, _) in zip(tried, answers, strict=True) if best != label), None)
        if flip is not None:
            expected = flip
            break
        lowest = min(range(len(tried)), key=lambda i: answers[i][1])
        if answers[lowest][1] < p:
            now, p = tried[lowest], answers[lowest][1]
    [found] = fill(classifier, [result], fixed(**options), "synonym")
    assert found.adversarial == (expected or now)
    assert found.solved == (expected is not None)


def test_results_that_were_not_solved_are_tried_and_skipped_ones_left(classifier: TextClassifier) -> None:
    [result] = attacks(classifier, ["the film is not good , it is awful"], 1)
    skipped = AttackResult(**{**{f: getattr(result, f) for f in AttackResult.__dataclass_fields__}, "skipped": True})
    assert fill(classifier, [skipped], typos(0, 5), "typo") == [skipped]
    unsolved = covering(classifier, "the film is not good , it is awful", "awful", "good", "film", "not")
    [found] = fill(classifier, [unsolved], typos(0, 5), "typo")
    assert found.queries > unsolved.queries
    check(classifier, found)


def test_nothing_to_put_in_costs_nothing(classifier: TextClassifier) -> None:
    result = covering(classifier, TEXTS[0], "dirty")
    [found] = fill(classifier, [result], fixed(), "synonym")
    assert found.queries == result.queries
    assert (found.edits, found.adversarial, found.masked, found.mask_rate) == ((), TEXTS[0], (), 0.0)
    check(classifier, found)


def test_protected_words_are_neither_replaced_nor_put_in(classifier: TextClassifier) -> None:
    result = covering(classifier, "the film is not good", "not", "good")
    [found] = fill(
        classifier, [result], fixed(**{"not": ["so"], "good": ["never", "nobody"]}), "mlm", keep=["negations"]
    )
    assert found.edits == () and found.queries == result.queries


# --- words and edits


def test_words_hold_their_pieces(classifier: TextClassifier) -> None:
    text = "Unhappiness, unhappiness; I didn't feel dirty"
    result = covering(classifier, text, "unhappiness", "didn't")
    pieces = [t for t in result.tokens if t.start >= 13 and t.end <= 24]
    assert len(pieces) > 1
    one = AttackResult(
        **{
            **{f: getattr(result, f) for f in AttackResult.__dataclass_fields__},
            "masked": (result.tokens.index(pieces[1]), *(i for i in result.masked if result.tokens[i].text == "t")),
        }
    )
    assert sorted(text[w.start : w.end] for w in words_of(one)) == ["didn't", "unhappiness"]
    [found] = fill(classifier, [one], fixed(unhappiness=["joy"]), "synonym")
    # The second of the two, and all of it.
    if found.edits:
        assert found.adversarial == "Unhappiness, joy; I didn't feel dirty"
        assert len(found.masked) == len(pieces)


def test_repeated_words_and_pairs_are_edited_in_their_own_place(classifier: TextClassifier) -> None:
    sources = ("dull dull dull", "dull film")
    words = {Word(0, 5, 9, 1.0): "bright", Word(1, 0, 4, 1.0): "great"}
    edits = edits_of(sources, words)
    assert [apply_edits(s, edits, k) for k, s in enumerate(sources)] == ["dull bright dull", "great film"]
    for result in fill(classifier, attacks(classifier, PAIRS), typos(0, 20), "typo"):
        check(classifier, result)
        assert apply_edits(result.pair or "", result.edits, 1) == result.adversarial_pair


def test_a_slot_is_where_its_word_now_stands(classifier: TextClassifier) -> None:
    seen: list[Slot] = []
    longer = {"film": ["moviemoviemovie"], "good": ["great"], "street": [""]}

    def candidates(slots: Sequence[Slot]) -> list[list[str]]:
        seen.extend(slots)
        return fixed(**longer)(slots)

    result = covering(classifier, "the film on the street is good film", "film", "street", "good")
    fill(classifier, [result], candidates, "mlm")
    assert seen and all(slot.word in longer for slot in seen)
    assert all(slot.original == result.text for slot in seen)


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("a good film", "good", "a film"),
        ("a good film", "a", "good film"),
        ("a good film", "film", "a good"),
        ("a good film", "a good", "film"),
        ("a good film", "good film", "a"),
        ("very good, bad", "good", "very, bad"),
        ("(good) film", "good", "() film"),
        ("so  good  film", "good", "so  film"),
        ("éclair naïve 🎬 film", "naïve", "éclair 🎬 film"),
    ],
)
def test_a_word_that_goes_leaves_no_double_blank(text: str, gone: str, left: str) -> None:
    spans = [(s, e) for s, e in word_spans(text) if text[s:e] in gone.split()]
    edits = edits_of((text,), {Word(0, s, e, 0.0): "" for s, e in spans})
    assert apply_edits(text, edits, 0) == left


def test_a_text_is_never_emptied(classifier: TextClassifier, spied: list[list[Text]]) -> None:
    result = covering(classifier, "joy", "joy")
    spied.clear()
    [found] = fill(classifier, [result], delete, "delete")
    assert found.adversarial == "joy" and spied == []


@settings(deadline=None)
@given(st.text(max_size=60), st.data())
def test_edits_change_their_words_alone(text: str, data: st.DataObject) -> None:
    spans = word_spans(text)
    assert apply_edits(text, edits_of((text,), {}), 0) == text
    chosen = {
        Word(0, s, e, 0.0): data.draw(st.text("ab", max_size=4))
        for s, e in data.draw(st.lists(st.sampled_from(spans), unique=True) if spans else st.just([]))
    }
    edits = edits_of((text,), chosen)
    assert all(text[e.start : e.end] == e.before for e in edits)
    assert all(a.end <= b.start for a, b in pairwise(edits))
    edited = apply_edits(text, edits, 0)
    # What is outside the edits stands there still, and inside them only chosen words and blanks did.
    at = moved = 0
    for edit in edits:
        assert edited[at + moved : edit.start + moved] == text[at : edit.start]
        inside = [w for w in chosen if edit.start <= w.start and w.end <= edit.end]
        rest = edit.before
        for word in sorted(inside, key=lambda w: -w.start):
            rest = rest[: word.start - edit.start] + rest[word.end - edit.start :]
        assert inside and not rest.strip()
        moved += len(edit.after) - (edit.end - edit.start)
        at = edit.end
    assert edited[at + moved :] == text[at:]


def test_words_of_other_scripts() -> None:
    assert [text[s:e] for text in ["don't “stop” it's ’tis"] for s, e in word_spans(text)] == [
        "don't",
        "stop",
        "it's",
        "tis",
    ]
    decomposed = "cafe\u0301 noir"
    assert [decomposed[s:e] for s, e in word_spans(decomposed)] == ["cafe\u0301", "noir"]
    assert [t[s:e] for t in ["हिन्दी भाषा"] for s, e in word_spans(t)] == ["हिन्दी", "भाषा"]
    assert word_spans("我很高兴") == []


# --- misspellings


@settings(deadline=None)
@given(st.text("abcdefghijklmnopqrstuvwxyzABC'é", max_size=12))
def test_misspellings_stay_readable(word: str) -> None:
    found = misspelt(word)
    assert len(set(found)) == len(found) and word not in found
    for wrong in found:
        assert abs(len(wrong) - len(word)) <= 1
        assert (wrong[0], wrong[-1]) == (word[0], word[-1])
    if len(word) < 3:
        assert found == []


def test_misspellings_by_kind() -> None:
    found = misspelt("Great")
    assert {"Graet", "Geat", "Grreat", "Grwat"} <= set(found)
    assert "GREAT" not in found and all(word[0] == "G" for word in found)
    assert "GRWAT" in misspelt("GREAT")


def test_the_seed_decides_what_is_drawn() -> None:
    slots = [Slot("a charming film", 2, 10, "a charming film"), Slot("charming", 0, 8, "charming")]
    first = typos(0, 6)(slots)
    assert first == typos(0, 6)(slots) and first[0] == first[1]
    assert first != typos(1, 6)(slots)
    assert len(first[0]) == 6


def test_case_is_kept() -> None:
    assert [like(m, "film") for m in ("Dog", "DOG", "dog", "I", "dOg")] == ["Film", "FILM", "film", "Film", "film"]
    assert like("I", "a") == "A"


# --- synonyms

WORDNET = {
    "adj": {"good": [["full"], ["honorable", "respectable"]], "happy": [["felicitous", "glad"]]},
    "verb": {
        "love": [["adore", "run after"]],
        "stop": [["halt", "quit"]],
        "go": [["move"]],
        "cry": [["weep", "shout"]],
    },
    "noun": {
        "good": [["goodness"]],
        "film": [["movie", "motion picture"]],
        "in": [["indium"]],
        "church": [["box", "city"]],
    },
    "adv": {},
}


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    with gzip.open(tmp_path / TABLE, "wt") as file:
        json.dump(WORDNET, file)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("good", ["full", "goodness", "honorable", "respectable"]),
        ("Films", ["Movies"]),
        ("film", ["movie", "motion picture"]),
        ("loved", ["adored"]),
        ("loving", ["adoring"]),
        ("stopping", ["halting", "quitting"]),
        ("went", ["moved"]),
        ("cries", ["weeps", "shouts"]),
        ("CRIED", ["WEPT", "SHOUTED"]),
        ("happier", ["gladder"]),
        ("churches", ["boxes", "cities"]),
        ("in", []),
        ("unknown", []),
    ],
)
def test_synonyms_in_the_form_of_the_word(resources: Path, word: str, expected: list[str]) -> None:
    assert synonyms(resources, 9)([Slot(word, 0, len(word), word)]) == [expected]
    assert synonyms(resources, 1)([Slot(word, 0, len(word), word)]) == [expected[:1]]


def test_wordnet_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"resources|NLTK"):
        synonyms(tmp_path, 5)
    (tmp_path / TABLE).write_bytes(b"not gzip")
    with pytest.raises(RequestError, match="broken"):
        synonyms(tmp_path, 5)
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)
    with pytest.raises(RequestError, match=r"foveate\[attacks\]"):
        synonyms(None, 5)


def test_wordnet_through_nltk(tmp_path: Path) -> None:
    pytest.importorskip("nltk", reason="needs NLTK")
    zipped = Path(__file__).parents[2] / "shared/data/resources/wordnet_oewn2022_wndb.zip"
    if not zipped.exists():
        pytest.skip("needs a WordNet, which is not in this checkout")
    import zipfile

    with zipfile.ZipFile(zipped) as file:
        file.extractall(tmp_path / "corpora")
    slots = [Slot(word, 0, len(word), word) for word in ("Glad", "movies", "in")]
    glad, movies, closed = synonyms(tmp_path, 20)(slots)
    assert "Happy" in glad and "films" in movies and closed == []


# --- a masked language model


@pytest.fixture(scope="session")
def language_model(tiny: Callable[[str], tuple[Any, Any]]) -> MaskedLanguageModel:
    return tiny_language_model(tiny, "bert")


def tiny_language_model(tiny: Callable[[str], tuple[Any, Any]], family: str) -> MaskedLanguageModel:
    _, tokenizer = tiny(family)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        initializer_range=0.25,
        pad_token_id=tokenizer.pad_token_id,
        **({"max_position_embeddings": 514, "type_vocab_size": 1} if family == "roberta" else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MaskedLanguageModel(AutoModelForMaskedLM.from_config(config), tokenizer)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_words_a_language_model_puts_in(tiny: Callable[[str], tuple[Any, Any]], family: str) -> None:
    model = tiny_language_model(tiny, family)
    text = "the Film is not good , the film"
    slots = [Slot(text, 4, 8, text), Slot(text, 27, 31, text), Slot("joy", 0, 3, "joy")]
    found = model.words(slots, 6)
    assert [len(words) for words in found] == [6, 6, 6]
    vocabulary = {w.lower() for w in model.tokenizer.get_vocab()}
    for slot, words in zip(slots, found, strict=True):
        assert len({w.lower() for w in words}) == 6 and slot.word.lower() not in map(str.lower, words)
        for word in words:
            assert word.replace("'", "").isalpha()
            assert word.lower() in vocabulary or "ġ" + word.lower() in vocabulary
    assert all(word[0].isupper() for word in found[0])
    # In one batch or alone, and the likeliest first: of the whole vocabulary, by hand.
    assert model.words(slots[:1], 6) == found[:1]
    mask = model.tokenizer.mask_token
    ids = model.tokenizer(text[:4] + mask + text[8:], return_tensors="pt").input_ids
    [place] = (ids[0] == model.tokenizer.mask_token_id).nonzero().flatten().tolist()
    order = model.model(ids).logits[0, place].argsort(descending=True).tolist()
    names = [model.tokenizer.convert_ids_to_tokens(i) for i in order]
    plain = [n.removeprefix("Ġ") for n in names if (n[:1] == "Ġ" if family == "roberta" else n[:2] != "##")]
    best = dict.fromkeys(n.lower() for n in plain if n.isalpha() and n.lower() != "film")
    assert [word.lower() for word in found[0]] == list(best)[:6]


def test_a_slot_beyond_what_is_read_has_no_words(language_model: MaskedLanguageModel) -> None:
    text = "! " * 5000 + "good" + " !" * 5000
    [words] = language_model.words([Slot(text, 10000, 10004, text)], 3)
    assert len(words) == 3  # a window around the slot is read
    crowded = "!" * 600 + "good"
    short = MaskedLanguageModel(language_model.model, language_model.tokenizer)
    short._limit = 100
    slot = Slot(crowded, 600, 604, crowded)
    assert short.words([slot], 3) == [[]]
    assert short.surprise([slot]).tolist() == [float("inf")]


def test_surprise_is_that_of_the_word_masked_whole(language_model: MaskedLanguageModel) -> None:
    text = "the film is xyz and good"
    tokenizer = language_model.tokenizer
    ids = tokenizer(text, return_tensors="pt").input_ids
    pieces = [i for i, t in enumerate(tokenizer.convert_ids_to_tokens(ids[0].tolist())) if t in ("x", "##y", "##z")]
    assert len(pieces) == 3
    hidden = ids.clone()
    hidden[0, pieces] = tokenizer.mask_token_id
    logs = language_model.model(hidden).logits[0].log_softmax(-1)
    expected = -logs[pieces, ids[0, pieces]].mean()
    [one, other] = language_model.surprise([Slot(text, 12, 15, text), Slot("so good", 3, 7, "so good")])
    assert one == pytest.approx(expected.item(), rel=1e-4)
    assert other > 0


def test_the_bounds_hold(language_model: MaskedLanguageModel) -> None:
    text = "the film is not good and very bright"
    slots = [Slot(text, 16, 20, text), Slot(text, 30, 36, text)]
    base = likely(language_model, 12)
    everything = base(slots)
    surprises = {
        word: language_model.surprise([Slot(s.filled(word), s.start, s.start + len(word), text)]).exp().item()
        / language_model.surprise([s]).exp().item()
        for s in slots[:1]
        for word in everything[0]
    }
    limit = sorted(surprises.values())[5] * 1.001
    some = fluent(base, language_model, limit)(slots)
    assert some[0] == [word for word in everything[0] if surprises[word] <= limit] and len(some[0]) == 6
    cosines = {word: language_model.similarity([text], [slots[0].filled(word)]).item() for word in everything[0]}
    least = sorted(cosines.values())[6] - 1e-6
    close = similar(base, language_model, least)(slots)
    assert close[0] == [word for word in everything[0] if cosines[word] >= least] and len(close[0]) == 6
    assert language_model.similarity([text], [text]).item() == pytest.approx(1, abs=1e-5)
    # A word taken away has no surprise; its text has a similarity.
    assert fluent(delete, language_model, 1e-9)(slots) == [[""], [""]]
    assert similar(delete, language_model, 0.999999)(slots) == [[], []]


# --- the bounds, on a classifier that has learned something, by a language model of which every score is known

SAID = ["i feel dirty and ashamed for saying that", "i feel happy and loved today", "i was afraid of the dark"]
OFFERED = ["glad", "sad", "furious", "afraid", "table", "quietly", "wonderful", "dark"]


class Known(nn.Module):
    """A token surprises wherever it stands by as much, and its hidden state is a vector of its own."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        scores = 3 * torch.randn(len(tokenizer), generator=rng)
        # All but impossible: beyond what float32 has a perplexity for.
        for word, score in (("table", -300.0), ("dark", -200.0)):
            scores[tokenizer(word, add_special_tokens=False).input_ids] = score
        self.log_p = nn.Parameter(scores.log_softmax(0), requires_grad=False)
        self.vectors = nn.Parameter(torch.randn(len(tokenizer), 8, generator=rng) + 0.7, requires_grad=False)
        self.config = SimpleNamespace(max_position_embeddings=512)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.log_p.expand(*input_ids.shape, -1))

    def base_model(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.vectors[input_ids])


@pytest.fixture(scope="module")
def emotion() -> TextClassifier:
    return TextClassifier.from_pretrained("emotion")


@pytest.fixture(scope="module")
def known(emotion: TextClassifier) -> MaskedLanguageModel:
    return MaskedLanguageModel(Known(emotion.tokenizer), emotion.tokenizer)


def offered(slots: Sequence[Slot]) -> list[list[str]]:
    return [[word for word in OFFERED if word != slot.word] for slot in slots]


def surprise_by_hand(model: MaskedLanguageModel, word: str) -> float:
    ids = model.tokenizer(word, add_special_tokens=False).input_ids
    return -float(model.model.get_parameter("log_p")[ids].double().mean())


def cosine_by_hand(model: MaskedLanguageModel, before: str, after: str) -> float:
    vectors = model.model.get_parameter("vectors").double()
    ids = [model.tokenizer(text, add_special_tokens=False).input_ids for text in (before, after)]
    return float(torch.cosine_similarity(*(vectors[i].mean(0) for i in ids), dim=0))


def slots_of(text: str) -> list[Slot]:
    return [Slot(text, start, end, text) for start, end in word_spans(text)]


@given(st.sampled_from(SAID), st.floats(-250, 250), st.floats(0, 250))
@settings(max_examples=25, deadline=None)
def test_a_tighter_perplexity_bound_lets_less_through(
    known: MaskedLanguageModel, text: str, bound: float, more: float
) -> None:
    slots = slots_of(text)
    tight, loose = (fluent(offered, known, math.exp(log))(slots) for log in (bound, bound + more))
    for slot, words, strict, lax in zip(slots, offered(slots), tight, loose, strict=True):
        assert set(strict) <= set(lax) <= set(words)
        for word in words:
            rise = surprise_by_hand(known, word) - surprise_by_hand(known, slot.word)
            for let, log in ((strict, bound), (lax, bound + more)):
                assert (word in let) == (rise <= log) or abs(rise - log) < 1e-3


@given(st.sampled_from(SAID), st.floats(-1, 1), st.floats(-1, 1))
@settings(max_examples=25, deadline=None)
def test_a_tighter_similarity_bound_lets_less_through(
    known: MaskedLanguageModel, text: str, one: float, other: float
) -> None:
    slots = slots_of(text)
    tight, loose = (similar(offered, known, least)(slots) for least in (max(one, other), min(one, other)))
    for slot, words, strict, lax in zip(slots, offered(slots), tight, loose, strict=True):
        assert set(strict) <= set(lax) <= set(words)
        for word in words:
            cosine = cosine_by_hand(known, text, slot.filled(word))
            for let, least in ((strict, max(one, other)), (lax, min(one, other))):
                assert (word in let) == (cosine >= least) or abs(cosine - least) < 1e-5


@pytest.mark.parametrize(("ratio", "least"), [(1e300, -1.0), (30.0, 0.9), (1.0, 0.8), (1e-3, 0.5), (1e-300, 1.0)])
def test_what_a_bound_refuses_is_never_in_the_text(
    emotion: TextClassifier, known: MaskedLanguageModel, monkeypatch: pytest.MonkeyPatch, ratio: float, least: float
) -> None:
    before = attacks(emotion, SAID)
    rows: list[Text] = []
    predict = emotion.predict

    def spy(encoded: Any, *rest: Any, **named: Any) -> Any:
        rows.extend(encoded.texts)
        return predict(encoded, *rest, **named)

    monkeypatch.setattr(emotion, "predict", spy)
    bounded = similar(fluent(offered, known, ratio), known, least)
    together = fill(emotion, before, bounded, "mlm", budget=20)
    assert len(rows) == sum(a.queries - b.queries for a, b in zip(together, before, strict=True))
    for result, masked, text in zip(together, before, SAID, strict=True):
        rows.clear()
        [alone] = fill(emotion, [masked], bounded, "mlm", budget=20)
        assert (alone.adversarial, alone.queries) == (result.adversarial, result.queries)
        assert alone.queries - masked.queries == len(rows) <= 20
        # No more is put to the classifier than the bounds let through.
        assert all(cosine_by_hand(known, text, str(row)) >= least - 1e-5 for row in rows)
        for edit in alone.edits:
            rise = surprise_by_hand(known, edit.after) - surprise_by_hand(known, edit.before)
            assert rise <= math.log(ratio) + 1e-3
        assert not alone.edits or cosine_by_hand(known, text, alone.adversarial) >= least - 1e-5
        assert alone.adversarial == text or alone.edits
        check(emotion, alone)
    if least in (-1, 1):
        assert all(bool(r.edits) == (least < 1) for r in together)


def test_a_word_that_cannot_be_measured_is_refused(known: MaskedLanguageModel) -> None:
    short = MaskedLanguageModel(known.model, known.tokenizer)
    short._limit = 20
    text = "so " * 30 + "good"
    slot = Slot(text, 90, 94, text)
    assert short.surprise([slot]).tolist() == [math.inf]
    assert fluent(offered, short, 1e300)([slot]) == [[]]
    assert fluent(delete, short, 1e-300)([slot]) == [[""]]


def test_filling_with_a_language_model(classifier: TextClassifier, language_model: MaskedLanguageModel) -> None:
    found = fill(classifier, attacks(classifier, MANY), likely(language_model, 20), "mlm")
    assert any(result.solved for result in found)
    for result in found:
        check(classifier, result)


def test_one_call_from_settings(
    classifier: TextClassifier, language_model: MaskedLanguageModel, resources: Path, tmp_path: Path
) -> None:
    language_model.model.save_pretrained(tmp_path / "mlm")
    language_model.tokenizer.save_pretrained(tmp_path / "mlm")
    before = attacks(classifier, MANY[:4])
    assert filler(FillSettings())(classifier, before) == before
    for kind in ("delete", "mlm", "synonym", "typo"):
        asked = FillSettings(
            fill=kind, mlm=str(tmp_path / "mlm"), resources=resources, max_perplexity_ratio=50.0, min_similarity=0.2
        )
        for result in filler(asked, ["negations"])(classifier, before):
            assert result.fill == kind
            check(classifier, result)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fill": "mlm"}, "--mlm"),
        ({"fill": "typo", "min_similarity": 0.5}, "--mlm"),
        ({"budget": 0}, "budget"),
        ({"candidates": 0}, "candidates"),
        ({"min_similarity": 2.0, "mlm": "x"}, "cosine"),
        ({"max_perplexity_ratio": 0.0, "mlm": "x"}, "above 0"),
    ],
)
def test_settings_that_cannot_be_met(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        FillSettings(**wrong)


def test_a_language_model_that_is_none(tmp_path: Path, tiny: Callable[[str], tuple[Any, Any]]) -> None:
    with pytest.raises(RequestError, match="cannot load a masked language model"):
        MaskedLanguageModel.from_pretrained(tmp_path)
    model, tokenizer = tiny("bert")
    model.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    with pytest.raises(RequestError, match="no masked language model"):
        MaskedLanguageModel.from_pretrained(tmp_path / "classifier")
    with pytest.raises(RequestError, match="mask token"):
        MaskedLanguageModel(*tiny("gpt2"))
