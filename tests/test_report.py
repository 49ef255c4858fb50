"""Explainer and attacker side by side: their overlap, what chance would give, parts of speech, and the page."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PAIRS, TEXTS

from foveate.errors import RequestError
from foveate.text.agent import Agent
from foveate.text.attack_result import masked_result
from foveate.text.attacker import Attacker
from foveate.text.classifier import TextClassifier
from foveate.text.explainer import Explainer
from foveate.text.explanation import Explanation, Token
from foveate.text.probe import Probe
from foveate.text.report import Failure, Report, Settings, chance_overlap, compare, report
from foveate.text.tagging import nltk_tagger
from foveate.viz.report import page

RESOURCES = Path(__file__).parents[2] / "shared" / "data" / "resources"
WORDS = "i feel un|happy and <sad> today"


def _found(masked: Sequence[int], *, solved: bool = True, threshold: float | None = 0.8) -> Explanation:
    """Of seven tokens between two special ones; the third word is of two tokens, and a word looks like HTML."""
    text = WORDS.replace("|", "")
    tokens, at = [Token("[CLS]", 0, 0, 0, True)], 0
    for word in WORDS.split():
        for part in word.split("|"):
            tokens.append(Token(part, at, at + len(part), 0, False))
            at += len(part)
        at += 1
    tokens.append(Token("[SEP]", 0, 0, 0, True))
    return Explanation(
        text=text,
        pair=None,
        label="sadness",
        probability=0.9,
        tokens=tuple(tokens),
        masked=tuple(masked),
        scores=(0.0,) * len(tokens),
        delta_p=0.85 if solved else 0.1,
        solved=solved,
        flipped=solved,
        final_label="joy" if solved else "sadness",
        queries=3,
        mask_rate=len(masked) / 7,
        path=(),
        method="agent",
        model="x",
        threshold=threshold,
        truncated=False,
    )


def _report(*cases: tuple[Sequence[int], Sequence[int]], skipped: bool = False, tagger: Any = None) -> Report:
    explanations = [_found(mine) for mine, _ in cases]
    attacks = [
        masked_result(
            _found(theirs, threshold=None, solved=not skipped),
            "[MASK]",
            "joy" if skipped else "sadness",
            skipped=skipped,
        )
        for _, theirs in cases
    ]
    return compare("x", explanations, attacks, tagger)


def _tagger(text: str) -> list[tuple[int, int, str]]:
    """Nouns are long words."""
    spans, at = [], 0
    for word in text.split(" "):
        spans.append((at, at + len(word), "NOUN" if len(word) > 4 else "X"))
        at += len(word) + 1
    return spans


def test_overlap_of_two_sets() -> None:
    (case,) = _report(([3, 4, 6], [4])).cases
    assert (case.jaccard, case.shared) == (pytest.approx(1 / 3), 1.0)
    report = _report(([3, 4], [4]), ([1], [2]))
    assert report.means["jaccard"].mean == pytest.approx((0.5 + 0) / 2)
    assert report.means["explainer"].mean == 1.5
    assert report.means["difference"].mean == pytest.approx(
        report.means["jaccard"].mean - (chance_overlap(7, 2, 1) + chance_overlap(7, 1, 1)) / 2
    )


@pytest.mark.parametrize("tokens, first, second", [(7, 3, 2), (5, 4, 3), (4, 4, 1), (6, 1, 1)])
def test_the_overlap_of_random_sets(tokens: int, first: int, second: int) -> None:
    draw = random.Random(0)
    sums = 0.0
    for _ in range(4000):
        one, other = (set(draw.sample(range(tokens), size)) for size in (first, second))
        sums += len(one & other) / len(one | other)
    assert chance_overlap(tokens, first, second) == pytest.approx(sums / 4000, abs=0.02)


def test_only_texts_that_both_solved_are_compared() -> None:
    report = _report(([3], [3]), skipped=True)
    assert (report.compared, dict(report.means)) == (0, {})
    assert "1 not attacked as the classifier gets them wrong" in report.sentences[0]
    assert "nothing is compared" in report.sentences[1]
    assert "wrong at first" in report.to_markdown(5) and "wrong at first" in page(report, 5)


def test_parts_of_speech_count_words_once() -> None:
    report = _report(([3, 4, 2], [5]), tagger=_tagger)
    assert report.tags == {"explainer": {"NOUN": 1, "X": 1}, "attacker": {"X": 1}, "all": {"X": 3, "NOUN": 3}}
    rows = dict(report.tag_rows)
    assert rows["NOUN"] == ["1 (50%)", "0 (0%)", "3 (50%)"]
    assert "| NOUN | 1 (50%) | 0 (0%) | 3 (50%) |" in report.to_markdown(5)
    untagged = _report(([3], [5]))
    assert not untagged.tag_rows and "no tagger was named" in page(untagged, 5)


def test_marks_in_markdown_and_on_the_page() -> None:
    report = _report(([3, 4, 6], [4, 5]))
    assert "i feel <b>un</b><b><s>happy</s></b> <s>and</s> <b>&lt;sad&gt;</b> today" in report.to_markdown(5)
    html = page(report, 5)
    for span in ('"e">un<', '"e a">happy<', '"a">and<', '"e">&lt;sad&gt;<'):
        assert f"<span class={span}/span>" in html, span

    stack: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in ("meta", "img", "!doctype"):
                stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert stack.pop() == tag

    parser = Balanced()
    parser.feed(html)
    assert not stack and "http" not in html
    assert "1 more texts are in report.json" in page(_report(([3], [4]), ([3], [4])), 1)


# The command


@pytest.fixture(scope="module")
def place(tiny: Callable[[str], tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier, untrained agents, and labelled texts of which one is wrong."""
    folder = tmp_path_factory.mktemp("report")
    for part in tiny("bert"):
        part.save_pretrained(folder / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in ("explainer", "attacker"):
            Agent(["profile", "context"], 23, width=8, layers=1).save_pretrained(folder / name)
    labels = Probe(TextClassifier.from_pretrained(folder / "model"), list(TEXTS)).label.tolist()
    labels[1] = (labels[1] + 1) % 3
    rows = (json.dumps({"text": text, "label": label}) for text, label in zip(TEXTS, labels, strict=True))
    (folder / "texts.jsonl").write_text("\n".join(rows))
    return folder


def _settings(place: Path, output: Path, **changes: Any) -> Settings:
    agents = {name: str(place / name) for name in ("explainer", "attacker")}
    return Settings(output=output, model=str(place / "model"), threshold=0.2, plots=0, **agents, **changes)


def test_a_report_of_a_file(place: Path, tmp_path: Path) -> None:
    result = report(_settings(place, tmp_path / "out", input=str(place / "texts.jsonl")))
    assert [case.explanation.text for case in result.cases] == list(TEXTS)
    assert [case.attack.skipped for case in result.cases] == [False, True, False, False, False]
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert values["compared"] == result.compared == sum(c["jaccard"] is not None for c in values["cases"])
    assert Explanation.from_dict(values["cases"][0]["attack"]) == result.cases[0].attack
    assert (tmp_path / "out" / "report.md").read_text() == result.to_markdown(50)
    assert all(text in (tmp_path / "out" / "report.html").read_text() for text in ("Highlighted", "true: <b>"))


def test_a_text_that_cannot_be_worked_on_stops_no_other(place: Path, tmp_path: Path) -> None:
    result = report(_settings(place, tmp_path / "out", texts=(TEXTS[0], "[CLS] [SEP]", TEXTS[2])))
    assert [case.explanation.text for case in result.cases] == [TEXTS[0], TEXTS[2]]
    reason = "the text has no token that can be masked; give words"
    assert result.failures == (Failure("[CLS] [SEP]", reason),)
    assert result.sentences[0].startswith("2 texts: ") and result.sentences[0].endswith("; 1 more cannot be worked on.")
    assert f"| \\[CLS\\] \\[SEP\\] | | | {reason} | | |" in (tmp_path / "out" / "report.md").read_text()
    html = (tmp_path / "out" / "report.html").read_text()
    assert f'[CLS] [SEP]</p><p class="facts">{reason}</p>' in html
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert values["failures"] == [{"text": "[CLS] [SEP]", "reason": reason}]
    with pytest.raises(RequestError, match="none of the texts can be worked on; the first: the text is empty"):
        report(_settings(place, tmp_path / "none", texts=(" ", "[CLS] [SEP]")))


@pytest.mark.parametrize(
    ("limit", "left"),
    [(0, 10), (2, 8), (5, 6), (9, 2)],
    ids=["at once", "explaining", "before it attacks", "in its last texts"],
)
def test_an_interrupted_report_goes_on_where_it_stopped(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, left: int
) -> None:
    monkeypatch.setattr("foveate.text.explainer.WIDE", 2)  # texts at once, of an explainer and of an attacker
    texts = (*TEXTS[:4], " ")
    whole = report(_settings(place, tmp_path / "whole", texts=texts))
    worked: list[str] = []
    for kind in (Explainer, Attacker):

        def attempt(self: Any, chunk: Sequence[str], *rest: Any, kept: Any = kind.attempt, **options: Any) -> Any:
            worked.extend(chunk)
            if len(worked) > limit:
                raise KeyboardInterrupt
            return kept(self, chunk, *rest, **options)

        monkeypatch.setattr(kind, "attempt", attempt)
    settings = _settings(place, tmp_path / "out", texts=texts)
    with pytest.raises(KeyboardInterrupt, match=r"what was found is in .*out, add --resume"):
        report(settings)
    assert not (tmp_path / "out" / "report.json").exists()
    with pytest.raises(RequestError, match="holds a run already; add --resume"):
        report(settings)
    for changed in ({"threshold": 0.3}, {"texts": TEXTS}, {"attacker": None}):
        with pytest.raises(RequestError, match="other settings"):
            report(replace(settings, resume=True, **changed))
    worked, limit = [], 100
    assert report(replace(settings, resume=True)) == whole
    # Of what was done, only the text that was refused is tried again.
    assert len(worked) == left
    for name in ("report.json", "report.md", "report.html", "explanations.jsonl", "attacks.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_pair_drawn_step_by_step(place: Path, tmp_path: Path) -> None:
    settings = _settings(place, tmp_path / "out", texts=(PAIRS[0][0],), pair=PAIRS[0][1])
    (case,) = report(Settings(**{**vars(settings), "plots": 1})).cases
    assert (case.explanation.text, case.explanation.pair) == PAIRS[0]
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2 and html.count('class="text"') == 2
    assert (tmp_path / "out" / "steps-1-attack.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "asked, said",
    [
        ({}, "name texts, or a file"),
        ({"texts": ("a",), "input": "x.jsonl"}, "and not both"),
        ({"texts": ("a", "b"), "pair": "c"}, "--pair goes with one text"),
        ({"texts": ("a",), "tagger": "nltk", "resources": Path("nowhere")}, "--tagger nltk needs"),
    ],
)
def test_wrong_requests(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], said: str
) -> None:
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RequestError, match=said):
        report(_settings(place, tmp_path / "out", **asked))
    assert not (tmp_path / "out").exists()


def test_nltk_tells_parts_of_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nltk")
    if not RESOURCES.is_dir():
        pytest.skip("NLTK's data is in ../shared/data/resources, which is not here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = 'the dog doesn\'t "run" home.'
    tagged = nltk_tagger(RESOURCES)(text)
    assert [(text[start:end], tag) for start, end, tag in tagged if tag in ("DET", "NOUN", ".")][:2] == [
        ("the", "DET"),
        ("dog", "NOUN"),
    ]
    assert tagged[-1] == (len(text) - 1, len(text), ".")
