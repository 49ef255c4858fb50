"""Readable adversarial texts: an attack's masked positions are filled with words, until the label changes again."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from foveate.text.attack_result import AttackResult, Edit, apply_edits
from foveate.text.candidates import Candidates, Slot, delete, typos, word_spans
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Text
from foveate.text.filling import Fill, FillSettings
from foveate.text.protect import matches, pattern

Filler = Callable[[TextClassifier, Sequence[AttackResult]], list[AttackResult]]


def filler(settings: FillSettings, keep: Sequence[str] = ()) -> Filler:
    """`fill` as the settings have it, with its models and tables loaded; `mask` leaves results as they are.

    Raises RequestError where one of them is missing.
    """
    kind = settings.fill
    if kind == "mask":
        return lambda classifier, results: list(results)
    from foveate.text.masked_language_model import MaskedLanguageModel, fluent, likely, similar
    from foveate.text.synonyms import synonyms

    model = None if settings.mlm is None else MaskedLanguageModel.from_pretrained(settings.mlm)
    candidates: Candidates
    if kind == "mlm" and model is not None:
        candidates = likely(model, settings.candidates)
    elif kind == "synonym":
        candidates = synonyms(settings.resources, settings.candidates)
    elif kind == "typo":
        candidates = typos(settings.seed, settings.candidates)
    else:
        candidates = delete
    if model is not None and settings.max_perplexity_ratio is not None:
        candidates = fluent(candidates, model, settings.max_perplexity_ratio)
    if model is not None and settings.min_similarity is not None:
        candidates = similar(candidates, model, settings.min_similarity)
    return lambda classifier, results: fill(classifier, results, candidates, kind, budget=settings.budget, keep=keep)


def fill(
    classifier: TextClassifier,
    results: Sequence[AttackResult],
    candidates: Candidates,
    name: Fill,
    *,
    budget: int = 50,
    keep: Sequence[str] = (),
) -> list[AttackResult]:
    """Put words in the place of the tokens that each attack masked, until the classifier, reading the text afresh,
    predicts another label.

    The words that the masked tokens belong to are taken one after another, the highest score first. In the place of
    each, its candidates are tried in order; one that changes the label ends the search, otherwise the one that lowers
    p(label) most stays (the word itself, where none lowers it). Each text classified is one more of the result's
    `queries`, at most `budget`. Where no text changes the label, the last one kept is returned, and `solved` is False.

    Results whose masks changed no label are filled all the same, since words may do what masks did not. Skipped
    results come back as they are. A word that matches `keep` is neither replaced nor put in (see `protect.pattern`).
    `masked`, `mask_rate`, `edits`, `delta_p` and the labels speak of the filled text; `path` stays that of the masking.
    Texts are worked on together: one row of each in a batch. Raises RequestError as `pattern` does.
    """
    kept = pattern(keep)
    found: dict[int, AttackResult] = {}
    searches = {i: _search(result, kept, name, budget) for i, result in enumerate(results) if not result.skipped}
    answers: Mapping[int, list[str] | _Answer | None] = dict.fromkeys(searches)
    while answers:
        asked: dict[int, Text] = {}
        # Every text is brought to its next question to the classifier, so that those of all go in one batch.
        while answers:
            slots: dict[int, Slot] = {}
            for i, answer in answers.items():
                try:
                    ask = searches[i].send(answer)
                except StopIteration as end:
                    found[i] = end.value
                    continue
                if isinstance(ask, Slot):
                    slots[i] = ask
                else:
                    asked[i] = ask
            answers = dict(zip(slots, candidates(list(slots.values())), strict=True)) if slots else {}
        classified = _classify(classifier, list(asked.values()), [results[i].label for i in asked])
        answers = dict(zip(asked, classified, strict=True))
    return [found.get(i, result) for i, result in enumerate(results)]


@dataclass(frozen=True)
class _Answer:
    label: str
    probability: float
    """Of the label that is attacked."""


@dataclass(frozen=True)
class Word:
    """A word of the original text that masked tokens belong to."""

    segment: int
    start: int
    end: int
    score: float
    """The highest of its masked tokens."""


def _classify(classifier: TextClassifier, texts: Sequence[Text], labels: Sequence[str]) -> list[_Answer]:
    if not texts:
        return []
    prediction = classifier.predict(classifier.encode(texts))
    attacked = [classifier.labels.index(label) for label in labels]
    return [
        _Answer(classifier.labels[best], float(row[label]))
        for best, row, label in zip(
            prediction.logits.argmax(1).tolist(), prediction.probabilities, attacked, strict=True
        )
    ]


def words_of(result: AttackResult) -> list[Word]:
    """The words that the masked tokens belong to, the highest score first (of equals the first first)."""
    spans = [word_spans(text) for text in (result.text, result.pair or "")]
    best: dict[tuple[int, int, int], float] = {}
    for i in result.masked:
        token = result.tokens[i]
        if token.end == token.start:
            continue
        held = [span for span in spans[token.segment] if span[0] < token.end and span[1] > token.start]
        # What belongs to no word, as punctuation, stands for itself.
        for start, end in held or [(token.start, token.end)]:
            key = (token.segment, start, end)
            best[key] = max(best.get(key, -float("inf")), result.scores[i])
    # A piece without a word may lie within another piece's, where a tokenizer cuts characters in two.
    apart: list[Word] = []
    for (segment, start, end), score in sorted(best.items()):
        if not apart or apart[-1].segment != segment or start >= apart[-1].end:
            apart.append(Word(segment, start, end, score))
    return sorted(apart, key=lambda word: -word.score)


def _search(
    result: AttackResult, kept: re.Pattern[str], name: Fill, budget: int
) -> Generator[Slot | Text, list[str] | _Answer | None, AttackResult]:
    """One text's search: it asks for a slot's candidates, and for the classification of a text, and is sent each."""
    sources = (result.text,) if result.pair is None else (result.text, result.pair)
    chosen: dict[Word, str] = {}
    now = _Answer(result.label, result.probability)
    spent = 0
    for word in words_of(result):
        if spent == budget:
            break
        if any(start < word.end and end > word.start for start, end in matches(kept, sources[word.segment])):
            continue
        options = yield _slot(sources[word.segment], word, edits_of(sources, chosen))
        assert isinstance(options, list)
        best, choice = now, None
        for option in options:
            if spent == budget:
                break
            if matches(kept, option):
                continue
            trial = edits_of(sources, {**chosen, word: option})
            texts = tuple(apply_edits(text, trial, segment) for segment, text in enumerate(sources))
            # A classifier is not asked about nothing.
            if not all(text.strip() for text in texts):
                continue
            spent += 1
            answer = yield texts[0] if len(texts) == 1 else (texts[0], texts[1])
            assert isinstance(answer, _Answer)
            if answer.label != result.label:
                return _filled(result, trial, answer, name, spent)
            if answer.probability < best.probability:
                best, choice = answer, option
        if choice is not None:
            now, chosen = best, {**chosen, word: choice}
    return _filled(result, edits_of(sources, chosen), now, name, spent)


def _slot(text: str, word: Word, edits: Sequence[Edit]) -> Slot:
    """Where the word stands now that the text has been edited elsewhere."""
    moved = sum(len(e.after) - (e.end - e.start) for e in edits if e.segment == word.segment and e.start < word.start)
    return Slot(apply_edits(text, edits, word.segment), word.start + moved, word.end + moved, text)


def edits_of(texts: Sequence[str], chosen: Mapping[Word, str]) -> tuple[Edit, ...]:
    """The edits that put each word's choice in its place, in the order of the text.

    Neighbouring words that go are one edit, which takes the blanks after them along, or, where none are after them or
    nothing else is, those before.
    """
    spans: list[tuple[int, int, int, str]] = []
    for word in sorted(chosen, key=lambda w: (w.segment, w.start)):
        segment, start, choice = word.segment, word.start, chosen[word]
        if not choice and spans and spans[-1][0] == segment and not spans[-1][3]:
            before = spans[-1]
            if not texts[segment][before[2] : start].strip():
                start = before[1]
                spans.pop()
        spans.append((segment, start, word.end, choice))
    edits = []
    for segment, start, end, choice in spans:
        text = texts[segment]
        if not choice:
            following = len(text) - len(text[end:].lstrip())
            if end < following < len(text):
                end = following
            else:
                start = len(text[:start].rstrip())
        edits.append(Edit(segment, start, end, text[start:end], choice))
    return tuple(edits)


def _filled(result: AttackResult, edits: tuple[Edit, ...], answer: _Answer, name: Fill, queries: int) -> AttackResult:
    touched = tuple(
        i
        for i, token in enumerate(result.tokens)
        if not token.special
        and any(e.segment == token.segment and e.start < token.end and e.end > token.start for e in edits)
    )
    maskable = sum(not token.special for token in result.tokens)
    changed = answer.label != result.label
    return replace(
        result,
        masked=touched,
        mask_rate=len(touched) / maskable if maskable else 0.0,
        edits=edits,
        adversarial=apply_edits(result.text, edits, 0),
        adversarial_pair=None if result.pair is None else apply_edits(result.pair, edits, 1),
        final_label=answer.label,
        final_probability=answer.probability,
        delta_p=result.probability - answer.probability,
        solved=changed,
        flipped=changed,
        minimal=None,
        queries=result.queries + queries,
        fill=name,
    )
