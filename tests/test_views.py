"""What a person sees of an explanation: on a terminal, in a page, in a figure."""

import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from conftest import PAIRS, TEXTS
from matplotlib.text import Annotation
from rich.console import Console

from foveate.errors import RequestError
from foveate.masking.goal import Explain
from foveate.masking.record import Record
from foveate.text.agent import Agent
from foveate.text.classifier import TextClassifier
from foveate.text.explained import explained
from foveate.text.explainer import Explainer
from foveate.text.explanation import Explanation, Step, Token
from foveate.text.explanation_files import save
from foveate.text.probe import Probe
from foveate.viz.figures import pareto, pareto_front, plot, replay
from foveate.viz.html import fragment, page
from foveate.viz.marks import action, excerpt, pieces


def explanation(text: str, *spans: tuple[int, int], masked: tuple[int, ...] = (), **changes: object) -> Explanation:
    """Of a text with tokens at `spans`, masked one after another."""
    tokens = tuple(Token(text[a:b], a, b, 0, False) for a, b in spans)
    path = tuple(
        Step((k,), masked[: i + 1], 0.9 - 0.8 * (i + 1) / len(masked), 0.8 * (i + 1) / len(masked), "joy")
        for i, k in enumerate(masked)
    )
    found = Explanation(
        text=text,
        pair=None,
        label="sadness",
        probability=0.9,
        tokens=tokens,
        masked=masked,
        scores=tuple(0.5 - i for i in range(len(tokens))),
        delta_p=0.8,
        solved=True,
        flipped=True,
        final_label="joy",
        queries=len(masked),
        mask_rate=len(masked) / max(1, len(tokens)),
        path=path,
        method="test",
        model="none",
        threshold=0.8,
        truncated=False,
    )
    return replace(found, **changes)


def shown(found: Explanation, width: int = 80, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(found)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def real(classifier: TextClassifier) -> list[Explanation]:
    """Explanations of single texts and of pairs by a classifier: the first tokens masked one after another."""
    found = []
    for texts in (TEXTS, PAIRS):
        probe = Probe(classifier, texts)
        record = Record(probe, Explain(2.0))
        rows, visible = torch.arange(len(probe)), probe.encoded.real.clone()
        for step in range(2):
            token = torch.full_like(rows, 1)
            token[:] = (probe.maskable & visible).float().argmax(1)
            playing = rows[probe.maskable.sum(1) > step]
            visible[playing, token[playing]] = False
            record.add(playing, token[playing], visible[playing], probe.query(playing, visible[playing]))
        found += explained(probe, record.goal, "first", record.finish(torch.rand(visible.shape)))
    return found


def test_pieces_are_the_text(real: list[Explanation]) -> None:
    for found in real:
        assert ["".join(p.text for p in cut) for cut in pieces(found)] == [t for t in (found.text, found.pair) if t]
        numbers = [k for cut in pieces(found) for piece in cut for k in piece.tokens]
        assert numbers == [k for k, t in enumerate(found.tokens) if not t.special]


def test_marks_keep_to_characters() -> None:
    # A byte-level tokenizer: blanks belong to tokens, and the four bytes of an emoji are four tokens on one character.
    found = explanation("so 😀 glad", (0, 2), (2, 4), (3, 4), (3, 4), (4, 9), masked=(2,))
    assert [(p.text, p.tokens) for p in pieces(found)[0]] == [
        ("so", (0,)),
        (" ", ()),
        ("😀", (1, 2, 3)),
        (" ", ()),
        ("glad", (4,)),
    ]
    assert str(found).startswith("so [😀] glad\n")


def test_pieces_of_a_word_are_one_mark_and_a_part_is_shown_in_its_word() -> None:
    both = explanation("a festive day", (0, 1), (2, 6), (6, 9), (10, 13), masked=(1, 2))
    assert str(both).startswith("a [festive] day\n")
    assert [action(both, s) for s in both.path] == ["[fest]ive", "fest[ive]"]
    again = Step((1, 3), (2, 3), 0.5, 0.4, "joy")
    assert action(both, again) == "show “[fest]ive”, day"


def test_a_terminal_marks_by_colour_and_a_pipe_by_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    found = explanation("i feel dirty [bold]", (0, 1), (2, 6), (7, 12), (13, 19), masked=(2,))
    monkeypatch.delenv("NO_COLOR", raising=False)
    colour = shown(found, force_terminal=True, color_system="standard")
    assert "\x1b[1;7mdirty\x1b[0m" in colour and "[dirty]" not in colour
    pipe = shown(found)
    assert pipe.startswith("i feel [dirty] [bold]\n") and "\x1b" not in pipe
    assert "sadness 0.900 → 0.100, now joy · Δp 0.800 · 1 query · 25% masked · test" in pipe
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[dirty]" in shown(found, force_terminal=True)


def test_a_terminal_gets_no_control_characters() -> None:
    found = explanation("a\x1b[31mb\x9b", (0, 1), masked=(0,), label="\x1b]0;x\x07", final_label="[red]joy")
    view = shown(found)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", view)
    assert "␛[31m" in view and "now [red]joy" in view


def test_terminal_keeps_to_its_width_and_to_ascii() -> None:
    found = explanation("word " * 60, *((5 * i, 5 * i + 4) for i in range(60)), masked=tuple(range(60)))
    for width in (40, 60, 120):
        lines = shown(found, width).splitlines()
        assert max(map(len, lines)) <= width
        assert any(re.match(r" +60 +word", line) for line in lines), "the last step is shown"
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=60)
    console.print(found)


def test_a_pair_is_two_lines(real: list[Explanation]) -> None:
    found = next(e for e in real if e.pair is not None)
    lines = shown(found, 200).splitlines()
    assert [line.translate({91: None, 93: None}) for line in lines[:2]] == [found.text, found.pair]
    assert "not solved" in lines[2]


def test_a_long_path_is_cut_but_keeps_its_result() -> None:
    masked = tuple(range(40))
    found = explanation("x" * 40, *((i, i + 1) for i in masked), masked=masked)
    assert excerpt(found, 50) == list(range(40))
    best = replace(found, masked=found.path[20].masked)
    assert excerpt(best, 12) == [0, 1, 2, 3, 4, 5, 6, 7, None, 20, None, 39]
    assert excerpt(found, 12) == [0, 1, 2, 3, 4, 5, 6, 7, 8, None, 39]
    assert re.search(r"^ *\*21 ", shown(best), re.MULTILINE)


class Reader(HTMLParser):
    """Collects the elements of a page, and checks that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


NASTY = "</p></script><script>alert('x')</script> & \"quoted\" 😀"


def test_a_page_shows_any_text_as_it_is() -> None:
    found = explanation(NASTY, (0, 4), (5, 30), masked=(1,), label="<i>", final_label="'&\"", method="<b>")
    for html in (page([found] * 3), found.to_html(), fragment(found), found._repr_html_()):
        reader = Reader(html)
        tags = [tag for tag, _ in reader.elements]
        assert "i" not in tags and tags.count("script") == 1
        assert "alert('x')" not in html
        spans = [a for tag, a in reader.elements if tag == "span" and "data-k" in a]
        assert {a["class"] for a in spans} == {"t", "t cold m"}
        assert not re.search(r"https?://|src=|href=|@import|url\(", html), "nothing is fetched"
    text = re.search(r'<p class="text".*?</p>', fragment(found), re.DOTALL)
    assert text and unescape(re.sub(r"<[^>]*>", "", text.group())) == NASTY


def test_a_page_has_every_step_of_every_text(real: list[Explanation], tmp_path: Path) -> None:
    save(real, tmp_path / "e.html")
    html = (tmp_path / "e.html").read_text("utf-8")
    assert html == page(real)
    elements = Reader(html).elements
    assert sum(tag == "details" for tag, _ in elements) == len(real)
    rows = [a["data-m"] for tag, a in elements if tag == "tr" and "data-m" in a]
    assert rows == [m for e in real for m in ["", *(" ".join(map(str, s.masked)) for s in e.path)]]
    assert sum(tag == "input" and "checked" in a for tag, a in elements) == len(real)
    assert f"{len(real)} texts, 0 solved" in html


def test_a_figure_shows_what_was_seen_at_each_step(classifier: TextClassifier, real: list[Explanation]) -> None:
    agent = Agent(features=["statistics"], inputs=68, network="paper").eval()
    for found in (real[0], real[-1]):
        seen = replay(found, classifier, agent)
        assert seen.values is not None and seen.attention.shape[0] == len(found.path) + 1
        target = classifier.labels.index(found.label)
        expected = torch.tensor([found.probability, *(s.probability for s in found.path)])
        torch.testing.assert_close(seen.probabilities[:, target], expected)
        forbidden = torch.tensor([t.special for t in found.tokens]) | ~seen.visible
        assert torch.equal(seen.values.isinf(), forbidden)
        figure = plot(found, classifier, agent)
        assert len(figure.axes) == 4 * (len(found.path) + 1)
        matrix, probabilities, features, values = figure.axes[:4]
        drawn = torch.from_numpy(matrix.images[0].get_array().data)
        torch.testing.assert_close(drawn, seen.attention[0], check_dtype=False)
        assert [t.get_text() for t in matrix.get_yticklabels()] == [t.text for t in found.tokens]
        assert [t.get_text() for t in probabilities.get_yticklabels()] == list(classifier.labels)
        assert features.images[0].get_array().shape == (len(found.tokens), 68)
        assert "Q values" in values.get_title(loc="left")
    figure.savefig(io.BytesIO(), dpi=30)


def test_the_best_value_of_a_figure_is_the_step_that_was_taken(classifier: TextClassifier) -> None:
    """In later rounds too, where what was tried since the mask last changed may not be chosen."""
    torch.manual_seed(1)
    agent = Agent(features=["context"], inputs=9, width=8, layers=1, tolerance=0.0, rounds=3).eval()
    explainer = Explainer(classifier, agent=agent, threshold=1.0)
    later = 0
    for found in explainer(list(TEXTS)):
        values = replay(found, classifier, agent, states=1000).values
        assert values is not None
        assert values[: len(found.path)].argmax(1).tolist() == [item for step in found.path for item in step.action]
        later += len(found.path) > sum(not token.special for token in found.tokens)
    assert later


def test_an_explanation_draws_itself_with_what_it_has(classifier: TextClassifier, real: list[Explanation]) -> None:
    class Explainer:
        agent = None

        def __init__(self) -> None:
            self.classifier = classifier

    assert len(replace(real[0], explainer=Explainer()).plot().axes) == len(real[0].plot(Explainer()).axes) == 12
    alone = real[0].plot()
    assert len(alone.axes) == 2 and "explainer=" in alone.get_suptitle()
    other = replace(real[0], tokens=real[0].tokens[:-1])
    with pytest.raises(RequestError, match="other tokens"):
        other.plot(Explainer())


def test_long_paths_and_dollars_can_be_drawn(classifier: TextClassifier) -> None:
    text = "$ so $ so $ " * 4
    probe = Probe(classifier, [text])
    record, row, visible = Record(probe, Explain(2.0)), torch.tensor([0]), probe.encoded.real.clone()
    for token in range(1, 15):
        visible[0, token] = False
        record.add(row, torch.tensor([token]), visible, probe.query(row, visible))
    found = explained(probe, record.goal, "first", record.finish(torch.zeros(visible.shape)))
    figure = plot(found[0], classifier)
    assert len(figure.axes) == 4 * 9 and "the first 8 of 14 steps" in figure.get_suptitle()
    assert not any(label.get_parse_math() for a in figure.axes for label in a.get_yticklabels())


METHODS = [
    ("random", 11.6, 0.617, 0.913, None),
    ("attention", 2.78, 0.170, 0.989, {"queries": (2.4, 3.2), "mask_rate": (0.15, 0.19)}),
    ("agent", 2.5, 0.142, 0.993, {"queries": (2.2, 2.8), "mask_rate": (0.13, 0.155)}),
    ("greedy", 36.8, 0.140, 0.996, None),
    ("beam", 92.0, 0.135, 0.996, None),
    ("gives up", 0.0, 0.0, 0.1, None),
    *((f"method {i} ($)", 100.0 + i, 0.2 + i / 500, 0.9, None) for i in range(10)),
]


def test_the_front_is_of_methods_that_no_other_beats() -> None:
    assert {METHODS[i][0] for i in pareto_front(METHODS)} == {"agent", "greedy", "beam", "gives up"}
    assert pareto_front(METHODS[:1] * 2) == {0, 1}


def test_methods_in_a_figure_can_be_told_apart() -> None:
    figure = pareto(METHODS, "Emotion")
    figure.savefig(io.BytesIO(), dpi=50)
    (axes, _) = figure.axes
    labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
    assert [label.get_text() for label in labels if label.get_fontweight() == "bold"] != []
    assert {label.get_text() for label in labels} == {m[0] for m in METHODS}
    boxes = [label.get_window_extent() for label in labels]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert width <= 2 or height <= 2, "names overlap"
