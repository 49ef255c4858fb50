"""The page of a report: explainer and attacker side by side. Nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.viz.marks import pieces, visible

if TYPE_CHECKING:
    from foveate.text.attack_result import AttackResult
    from foveate.text.report import Case, Failure, Report

STYLE = """
:root { color-scheme: light dark; --attack: #e03131; }
body { max-width: 68em; margin: 2em auto; padding: 0 1em; font: 16px/1.5 system-ui, sans-serif;
  background: Canvas; color: CanvasText; }
h1 { font-size: 1.4em; margin: 0 0 .4em; }
h2 { font-size: 1.1em; margin: 1.8em 0 .5em; }
ul { margin: .3em 0; padding-left: 1.2em; }
table { border-collapse: collapse; font-size: .95em; font-variant-numeric: tabular-nums; }
:is(th, td) { text-align: left; padding: .25em 1.2em .25em 0; vertical-align: baseline; }
th { font-weight: normal; opacity: .7; border-bottom: 1px solid color-mix(in srgb, currentColor 30%, transparent); }
tr.sum td { border-top: 1px solid color-mix(in srgb, currentColor 30%, transparent); }
:is(th, td).r { text-align: right; }
.case { padding: .6em .9em; margin: .5em 0; border-radius: .3em;
  background: color-mix(in srgb, currentColor 4%, transparent); }
.text { font-size: 1.1em; line-height: 1.8; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.facts { margin: .25em 0 0; font-size: .9em; opacity: .8; }
.e { background: color-mix(in srgb, #fab005 55%, transparent); border-radius: .2em; padding: .1em .12em; }
.a { color: var(--attack); font-weight: 600; text-decoration: underline wavy 1px; text-underline-offset: .2em; }
@media (prefers-color-scheme: dark) { :root { --attack: #ff8787; } }
figure { margin: 1em 0; overflow-x: auto; }
figure img { max-width: 100%; background: white; }
figcaption { font-size: .9em; opacity: .8; }
"""


def page(report: Report, shown: int, pictures: Sequence[Path] = ()) -> str:
    """The whole page, with the first `shown` texts; the pictures are put into it."""
    from foveate.text.report import attacked, overlap

    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in report.sentences)
    cases = "".join(_case(case, attacked(case), overlap(case)) for case in report.cases[:shown])
    cases += "".join(_failure(failure) for failure in report.failures[:shown])
    left = len(report.cases) - shown
    more = f"<p>{left} more texts are in report.json.</p>" if left > 0 else ""
    figures = "".join(_figure(picture) for picture in pictures)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>foveate: explainer and attacker</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Explainer and attacker: {escape(Path(report.model).name)}</h1>\n<ul>{said}</ul>\n{_tags(report)}"
        '<h2>Texts</h2>\n<p><span class="e">Highlighted</span>: found by the explainer; with them masked the decision '
        'falls. <span class="a">Red</span>: masked by the attacker; with them masked the label is another. '
        '<span class="e"><span class="a">Both</span></span>.</p>\n'
        f"{cases}{more}{'<h2>Step by step</h2>' if figures else ''}{figures}\n</body>\n</html>\n"
    )


def _tags(report: Report) -> str:
    if not report.tag_rows:
        return "<p>Parts of speech are left out, as no tagger was named (--tagger nltk).</p>\n"
    *rows, content = report.tag_rows
    lines = [(name, cells, "") for name, cells in rows] + [(*content, ' class="sum"')]
    body = "".join(
        f"<tr{kind}><td>{escape(name)}</td>" + "".join(f'<td class="r">{cell}</td>' for cell in cells) + "</tr>"
        for name, cells, kind in lines
    )
    head = "".join(f'<th class="r">{name}</th>' for name in ("explainer", "attacker", "all words"))
    return (
        "<h2>Words by part of speech, texts that both solved</h2>\n"
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>\n"
    )


def _case(case: Case, attacked: str, overlap: str) -> str:
    e, a = case.explanation, case.attack
    explained, struck = set(e.masked), set(a.masked)
    lines = []
    for cut in pieces(e):
        spans = []
        for piece in cut:
            classes = [
                name for name, chosen in (("e", explained), ("a", struck)) if not chosen.isdisjoint(piece.tokens)
            ]
            text = escape(visible(piece.text))
            spans.append(f'<span class="{" ".join(classes)}">{text}</span>' if classes else text)
        lines.append(f'<p class="text" dir="auto">{"".join(spans)}</p>')
    facts = [
        *([f"true: <b>{escape(a.truth)}</b>"] if a.truth else []),
        f"predicted: <b>{escape(e.label)}</b> {e.probability:.3f}",
        f"explained: Δp {e.delta_p:.3f}{'' if e.solved else f', short of {e.threshold:g}'}, {_queries(e.queries)}",
        escape(attacked) if a.skipped else _attack(attacked, a),
        *([f"overlap {overlap}"] if overlap else []),
    ]
    return f'<div class="case">{"".join(lines)}<p class="facts">{" · ".join(facts)}</p></div>\n'


def _failure(failure: Failure) -> str:
    lines = "".join(f'<p class="text" dir="auto">{escape(visible(text))}</p>' for text in failure.parts)
    return f'<div class="case">{lines}<p class="facts">{escape(failure.reason)}</p></div>\n'


def _attack(attacked: str, a: AttackResult) -> str:
    what = f"attacked: <b>{escape(attacked)}</b>" if a.solved else escape(attacked)
    return f"{what}, Δp {a.delta_p:.3f}, {_queries(a.queries)}"


def _queries(count: int) -> str:
    return "1 query" if count == 1 else f"{count} queries"


def _figure(picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    _, number, what = picture.stem.split("-")
    caption = f"Text {number}, {what}: attention, label probabilities, features and Q values of every state."
    return f'<figure><figcaption>{caption}</figcaption><img alt="" src="data:image/png;base64,{data}"></figure>\n'
