"""Opponents: what they change is told exactly, what they ask is counted to the row, and what they lack is named."""

from __future__ import annotations

import gzip
import json
import os
import random
import stat
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PAIRS, TEXTS, WORDS
from hypothesis import given
from hypothesis import strategies as st

from foveate.doctor import examine
from foveate.errors import RequestError
from foveate.text.attack_result import AttackResult, apply_edits
from foveate.text.classifier import TextClassifier
from foveate.text.explanation import Token
from foveate.text.opponents import OPPONENTS, Resources, attack, missing, note, prepare
from foveate.text.opponents.edits import edits_between, touched
from foveate.text.opponents.loading import drawn, nltk_data, textattack
from foveate.text.opponents.resources import generated, table
from foveate.text.probe import Probe

SHARED = Path(__file__).parents[2] / "shared" / "data" / "resources"
installed = pytest.mark.skipif(find_spec("textattack") is None, reason="TextAttack is not installed")
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="there is no ../shared/data/resources beside the project")


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch, tmp_path: Path) -> None:
    """No resource but a test's own is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NLTK_DATA", raising=False)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- what was changed


@given(st.text("ab '.-\n", max_size=30), st.text("ab '.-\n", max_size=30))
def test_edits_make_the_one_text_of_the_other(before: str, after: str) -> None:
    edits = edits_between(before, after)
    assert apply_edits(before, edits, 0) == after
    assert all(before[e.start : e.end] == e.before != e.after for e in edits)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a good film", "a gooood film", [("good", "gooood")]),
        ("a good film", "a film", [("good ", "")]),
        ("a good film", "a very good film", [("", " very")]),
        ("a good film", "a go od film", [("good", "go od")]),
        ("so  good , too", "so good , too", [(" ", "")]),
        ("don't stop", "dоn't stop", [("don", "dоn")]),
        ("the same", "the same", []),
    ],
)
def test_edits_are_of_whole_words(before: str, after: str, expected: list) -> None:
    assert [(e.before, e.after) for e in edits_between(before, after)] == expected


def tokens(*spans: tuple[int, int]) -> list[Token]:
    return [Token("", 0, 0, 0, True), *(Token("", start, end, 0, False) for start, end in spans)]


def test_all_pieces_of_an_edited_word_are_touched() -> None:
    pieces = tokens((0, 1), (2, 4), (4, 7), (8, 12))  # a am|ble film
    assert touched(pieces, edits_between("a amble film", "a abmle film")) == (2, 3)
    assert touched(pieces, edits_between("a amble film", "a amble film", 0)) == ()
    assert touched(pieces, edits_between("a amble film", "a ample film", 1)) == ()  # of the other text


def test_an_insertion_touches_what_it_stands_against() -> None:
    words = tokens((0, 1), (2, 6), (7, 11))
    assert touched(words, edits_between("a good film", "a very good film")) == (1,)


# --- resources


def zipped(folder: Path) -> Path:
    """A resource directory with NLTK's data as zips, as small as it can be."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "nltk_stopwords.zip", "w") as file:
        file.writestr("stopwords/english", "the\na\n")
    with zipfile.ZipFile(folder / "nltk_universal_tagset.zip", "w") as file:
        file.writestr("universal_tagset/en-ptb.map", "NN\tNOUN\n")
    return folder


def test_nltk_data_is_laid_out_for_its_owner_alone(tmp_path: Path) -> None:
    folder, target = zipped(tmp_path / "resources"), tmp_path / "nltk_data"
    before = os.umask(0o002)
    try:
        made = prepare(folder, target)
    finally:
        os.umask(before)
    assert made == [target / "corpora/stopwords", target / "taggers/universal_tagset"]
    assert (target / "corpora/stopwords/english").read_text() == "the\na\n"
    assert not any(p.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) for p in (target, *target.rglob("*")))
    assert sorted(p.name for p in target.rglob("*") if p.name.startswith(".")) == []


def test_what_is_laid_out_already_stays(tmp_path: Path) -> None:
    folder, target = zipped(tmp_path / "resources"), tmp_path / "nltk_data"
    (target / "corpora/stopwords").mkdir(parents=True)
    (target / "corpora/stopwords/english").write_text("mine\n")
    assert prepare(folder, target) == [target / "taggers/universal_tagset"]
    assert (target / "corpora/stopwords/english").read_text() == "mine\n"
    assert prepare(folder, target) == []


def test_zips_are_laid_out_in_the_cache_when_they_are_needed(tmp_path: Path) -> None:
    resources = Resources(zipped(tmp_path / "resources"))
    assert resources.has("stopwords")
    assert resources.nltk_data(("stopwords", "tagset")) == [str(tmp_path / "cache/foveate/nltk_data")]


def test_nltk_data_may_stay_packed(tmp_path: Path, monkeypatch) -> None:
    corpora = tmp_path / "nltk_data/corpora"
    corpora.mkdir(parents=True)
    (corpora / "wordnet.zip").write_bytes(b"")
    for path in (tmp_path / "nltk_data", corpora / "wordnet.zip"):
        path.chmod(0o755)
    assert Resources(tmp_path).has("wordnet") and not Resources(tmp_path).has("stopwords")


def test_what_others_can_write_is_not_taken(tmp_path: Path) -> None:
    place = tmp_path / "resources/nltk_data/corpora/stopwords"
    place.mkdir(parents=True)
    place.chmod(0o755)
    (tmp_path / "resources/nltk_data").chmod(0o755)
    assert Resources(tmp_path / "resources").has("stopwords")
    place.chmod(0o775)
    assert not Resources(tmp_path / "resources").has("stopwords")


def test_nltk_data_is_found_where_nltk_looks(tmp_path: Path, monkeypatch) -> None:
    prepare(zipped(tmp_path / "resources"), tmp_path / "elsewhere")
    assert not Resources().has("stopwords")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "elsewhere"))
    assert Resources().has("stopwords")


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff"])
def test_a_broken_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(RequestError, match=r"t\.json"):
        table(tmp_path / "t.json")


def test_a_broken_gzip_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(b"{}")[:8])
    with pytest.raises(RequestError, match=r"t\.json"):
        table(tmp_path / "t.json.gz")


def test_random_states_are_put_back() -> None:
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist()
    draws = []
    for _ in range(2):
        with drawn() as seed:
            seed(7)
            draws.append((random.random(), np.random.rand()))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert draws[0] == draws[1]


# --- the registry


def test_table_3_is_whole() -> None:
    assert set(OPPONENTS) == {
        *("pwws", "genetic", "scpn", "hotflip", "gan", "deepwordbug", "textbugger", "pso", "bert-attack")
    }
    assert note("deepwordbug") == "" != note("textbugger")
    assert "hypothesis alone" in note("pso")


def test_an_unknown_opponent_is_a_wrong_request(classifier: TextClassifier) -> None:
    with pytest.raises(RequestError, match=r"unknown opponent 'nobody'.*pwws"):
        attack("nobody", Probe(classifier, TEXTS[:1]), rng(), Resources())


@pytest.mark.parametrize("name", OPPONENTS)
def test_what_is_missing_is_named_in_one_line(classifier: TextClassifier, name: str, tmp_path: Path) -> None:
    probe = Probe(classifier, TEXTS[:1])
    with pytest.raises(RequestError, match=f"^{name} needs ") as raised:
        attack(name, probe, rng(), Resources(tmp_path))
    assert "\n" not in str(raised.value) and str(raised.value) == missing(name, Resources(tmp_path))
    assert probe.queries.tolist() == [0]


def test_the_doctor_says_what_an_opponent_needs_and_where_it_goes() -> None:
    found = {finding.name: finding for finding in examine()}
    assert "textattack" in found
    for name in ("scpn", "gan"):
        finding = found[f"attack {name}"]
        assert finding.state.startswith("not run: needs") and f"{name}_candidates.jsonl" in finding.state
        assert "--resources" in finding.mend and finding.sound


# --- generators


def with_candidates(folder: Path, name: str, lines: list[dict]) -> Resources:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    generated.cache_clear()
    return Resources(folder)


def other(classifier: TextClassifier, text) -> str:
    """A text of another label than `text` has."""
    label = Probe(classifier, [text]).label
    return next(t for t in (*WORDS, *TEXTS) if Probe(classifier, [t]).label != label)


def test_generated_texts_are_tried_until_the_label_changes(classifier: TextClassifier, tmp_path: Path) -> None:
    text, flip = TEXTS[0], other(classifier, TEXTS[0])
    lines = [{"text": text, "pair": None, "candidates": [text + " so", flip, "joy"]}]
    probe = Probe(classifier, [text])
    same = Probe(classifier, [text + " so"]).label.item() == probe.label.item()
    [result] = attack("scpn", probe, rng(), with_candidates(tmp_path, "scpn", lines))
    assert result.solved and result.queries == probe.queries.item() == 1 + same
    assert result.adversarial == (flip if same else text + " so")


def test_a_budget_ends_generated_texts_and_the_nearest_is_kept(classifier: TextClassifier, tmp_path: Path) -> None:
    text = TEXTS[0]
    label = Probe(classifier, [text]).label
    same = [t for t in (f"{text} {w}" for w in WORDS) if Probe(classifier, [t]).label == label][:6]
    result = attack(
        "gan",
        Probe(classifier, [text]),
        rng(),
        with_candidates(tmp_path, "gan", [{"text": text, "candidates": same}]),
        max_queries=4,
    )[0]
    asked = Probe(classifier, same[:4], target=label.expand(4)).probability.tolist()
    assert not result.solved and result.queries == 4
    assert result.final_probability == pytest.approx(min(result.probability, *asked), abs=1e-6)
    sound(result, classifier)


def test_a_text_that_nothing_was_generated_for_is_named(classifier: TextClassifier, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has nothing for the text 'i feel"):
        attack("gan", Probe(classifier, TEXTS[:1]), rng(), with_candidates(tmp_path, "gan", []))


def test_a_generated_pair_is_a_pair(classifier: TextClassifier, tmp_path: Path) -> None:
    lines = [{"text": PAIRS[0][0], "pair": PAIRS[0][1], "candidates": [[PAIRS[0][0], w] for w in WORDS]}]
    [result] = attack("scpn", Probe(classifier, PAIRS[:1]), rng(), with_candidates(tmp_path, "scpn", lines))
    assert result.pair == PAIRS[0][1] and result.adversarial == PAIRS[0][0]
    assert {e.segment for e in result.edits} <= {1}
    sound(result, classifier)


def test_a_text_that_was_wrong_is_skipped(classifier: TextClassifier, tmp_path: Path) -> None:
    probe = Probe(classifier, TEXTS[:2])
    truths = [(int(probe.label[0]) + 1) % 3, int(probe.label[1])]
    resources = with_candidates(tmp_path, "gan", [{"text": TEXTS[1], "candidates": WORDS}])
    first, second = attack("gan", probe, rng(), resources, truths=truths)
    assert first.skipped and first.correct is False and first.queries == 0 and not first.solved
    assert first.adversarial == TEXTS[0] and first.edits == () and first.mask_rate == 0
    assert second.correct and not second.skipped and second.queries > 0


# --- TextAttack


def sound(result: AttackResult, classifier: TextClassifier) -> None:
    """What a result says of itself is so."""
    assert AttackResult.from_json(result.to_json()) == result
    assert apply_edits(result.text, result.edits, 0) == result.adversarial
    end = result.adversarial
    if result.pair is not None:
        assert apply_edits(result.pair, result.edits, 1) == result.adversarial_pair
        end = (end, result.adversarial_pair)
    final = Probe(classifier, [end])
    assert result.final_label == classifier.labels[int(final.label)]
    assert result.solved == (result.final_label != result.label)
    assert result.fill == "words" and result.threshold is None
    if result.edits:
        assert result.masked
    maskable = sum(not t.special for t in result.tokens)
    assert result.mask_rate == pytest.approx(len(result.masked) / maskable)


@pytest.fixture(scope="session")
def full(tmp_path_factory) -> Resources:
    """Tables of the tiny vocabulary, NLTK's data in small, and a tiny masked language model."""
    folder = tmp_path_factory.mktemp("resources")
    words = {word: [o for o in WORDS if o != word and len(o) > 2][i % 7 :: 7] for i, word in enumerate(WORDS)}
    (folder / "counterfitted_neighbors.json").write_text(json.dumps(words))
    parts = {w: dict.fromkeys(("noun", "verb", "adj", "adv"), others) for w, others in words.items()}
    with gzip.open(folder / "sememe_candidates.json.gz", "wt") as file:
        json.dump(parts, file)
    data = folder / "nltk_data"
    for place, text in {
        "corpora/stopwords/english": "the\na\ni\n",
        "taggers/universal_tagset/en-ptb.map": "NN\tNOUN\nJJ\tADJ\n",
        "taggers/averaged_perceptron_tagger_eng/averaged_perceptron_tagger_eng.weights.json": "{}",
        "taggers/averaged_perceptron_tagger_eng/averaged_perceptron_tagger_eng.tagdict.json": json.dumps(
            dict.fromkeys(WORDS, "JJ")
        ),
        "taggers/averaged_perceptron_tagger_eng/averaged_perceptron_tagger_eng.classes.json": '["JJ", "NN"]',
    }.items():
        (data / place).parent.mkdir(parents=True, exist_ok=True)
        (data / place).write_text(text)
    wordnet(data / "corpora/wordnet")
    for path in (data, *data.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Resources(folder, language_model(folder / "mlm"))


def wordnet(folder: Path) -> None:
    """A WordNet of one synset: all words of the tiny vocabulary are synonyms, as nouns."""
    folder.mkdir(parents=True)
    words = sorted(w for w in WORDS if len(w) > 2)
    lemmas = " ".join(f"{w} 0" for w in words)
    (folder / "data.noun").write_text(f"00000000 03 n {len(words):02x} {lemmas} 000 | gloss  \n")
    (folder / "index.noun").write_text("".join(f"{w} n 1 0 1 0 00000000  \n" for w in words))
    (folder / "index.sense").write_text("".join(f"{w}%1:03:00:: 00000000 1 0\n" for w in words))
    (folder / "lexnames").write_text("00\tadj.all\t3\n01\tadj.pert\t3\n02\tadv.all\t4\n03\tnoun.Tops\t1\n")
    for part in ("verb", "adj", "adv"):
        (folder / f"data.{part}").write_text("")
        (folder / f"index.{part}").write_text("")
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"{part}.exc").write_text("")
    (folder / "cntlist.rev").write_text("")


def language_model(folder: Path) -> Path:
    from conftest import _tiny
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = _tiny("bert")[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                initializer_range=0.25,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


RECIPES = ("pwws", "deepwordbug", "hotflip", "genetic", "pso", "textbugger", "bert-attack")


@installed
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_and_every_row_is_counted(
    classifier: TextClassifier, full: Resources, name: str, monkeypatch
) -> None:
    texts = [TEXTS[0], PAIRS[1], TEXTS[4]]
    probe = Probe(classifier, texts)
    rows = {"asked": 0}
    predict, differentiate = TextClassifier.predict, TextClassifier.from_embeddings

    def spy(self, encoded, *args, **kwargs):
        rows["asked"] += len(encoded)
        return predict(self, encoded, *args, **kwargs)

    def spy_gradient(self, embeddings, *args, **kwargs):
        rows["asked"] += len(embeddings)
        return differentiate(self, embeddings, *args, **kwargs)

    monkeypatch.setattr(TextClassifier, "predict", spy)
    monkeypatch.setattr(TextClassifier, "from_embeddings", spy_gradient)
    truths = [int(probe.label[0]), int(probe.label[1]), (int(probe.label[2]) + 1) % 3]
    found = attack(name, probe, rng(), full, truths=truths, max_queries=60)
    monkeypatch.undo()
    # Not counted: the first prediction of the two texts attacked, and what their ends are.
    free = 2 + sum(bool(r.edits) for r in found)
    assert sum(r.queries for r in found) == rows["asked"] - free == int(probe.queries.sum())
    assert all(0 < r.queries <= 60 for r in found[:2])
    assert found[2].skipped and found[2].queries == 0
    for result in found:
        sound(result, classifier)
    assert any(r.edits for r in found[:2])
    if OPPONENTS[name].column == "the hypothesis":
        assert {e.segment for e in found[1].edits} <= {1}


@installed
def test_attacks_are_the_same_again_and_leave_random_states_alone(
    classifier: TextClassifier, full: Resources, capfd
) -> None:
    np.random.seed(3)
    state, environment = np.random.get_state()[1].tolist(), dict(os.environ)
    first = attack("textbugger", Probe(classifier, TEXTS), rng(), full)
    again = attack("textbugger", Probe(classifier, TEXTS), rng(), full)
    assert first == again
    assert np.random.get_state()[1].tolist() == state
    assert dict(os.environ) == environment
    assert "ownload" not in "".join(capfd.readouterr())


@installed
def test_corpora_are_read_once_and_left_as_they_were(full: Resources) -> None:
    from nltk.corpus import wordnet

    places = full.nltk_data(("wordnet",))
    before = type(wordnet), dict(vars(wordnet))
    with nltk_data(places):
        assert wordnet.synsets("joy")
        files = wordnet._data_file_map
    assert (type(wordnet), dict(vars(wordnet))) == before
    with nltk_data(places):
        assert wordnet._data_file_map is files
        assert wordnet.synsets("joy")
    with pytest.raises(RequestError, match=r"NLTK cannot read its data in .*'?stopwords"), nltk_data(["nowhere"]):
        from nltk.corpus import stopwords

        stopwords.words("english")


@installed
def test_a_remembered_answer_is_no_query(classifier: TextClassifier, full: Resources) -> None:
    with nltk_data(full.nltk_data(("stopwords",))):
        harness = textattack()
    probe = Probe(classifier, TEXTS[:1])
    goal = harness.Goal(harness.Victim(probe, 2))
    goal.start(0)
    first = harness.AttackedText(TEXTS[0])
    goal.init_attack_example(first, int(probe.label[0]))
    assert probe.queries.tolist() == [0]
    goal.get_results([first])
    assert probe.queries.tolist() == [0]
    changed = [first.replace_word_at_index(i, "joy") for i in range(3)]
    goal.get_results(changed[:1])
    goal.get_results(changed[:1])
    assert probe.queries.tolist() == [1]
    with pytest.raises(harness.Exhausted):
        goal.get_results([*changed, first])
    assert probe.queries.tolist() == [2]
    assert goal.best is not None


@installed
@pytest.mark.parametrize("text", ["...", "joy", "joy\n\tjoy  joy ", "é 😀 joy", "a joy\u00a0joy", "I'm joy-joy"])
def test_odd_texts_are_attacked_too(classifier: TextClassifier, full: Resources, text: str) -> None:
    for name in ("deepwordbug", "hotflip"):
        sound(attack(name, Probe(classifier, [text]), rng(), full)[0], classifier)


@installed
def test_a_text_that_textattack_would_divide_is_named(classifier: TextClassifier, full: Resources) -> None:
    with pytest.raises(RequestError, match="divides texts at <SPLIT>"):
        attack("deepwordbug", Probe(classifier, ["<SPLIT> joy"]), rng(), full)


@installed
def test_ctrl_c_passes_through(classifier: TextClassifier, full: Resources, monkeypatch) -> None:
    probe = Probe(classifier, TEXTS[:1])

    def interrupt(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(TextClassifier, "predict", interrupt)
    with pytest.raises(KeyboardInterrupt):
        attack("deepwordbug", probe, rng(), full)


@installed
@shared
def test_the_shared_resources_serve_every_recipe_but_the_language_model(classifier: TextClassifier) -> None:
    resources = Resources(SHARED)
    assert [name for name in RECIPES if missing(name, resources)] == ["bert-attack"]
    [result] = attack("pwws", Probe(classifier, ["a charming and awful film"]), rng(), resources)
    assert result.queries > 5
    sound(result, classifier)
