"""Explanations as HTML: one page for any number of them, or a fragment for a notebook. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from foveate.text.explanation import Explanation
from foveate.text.explanation_files import TextWriter
from foveate.viz.marks import Piece, action, kept, marked, pieces, rewritten, skipped, visible

# All colours are mixed from the text's own colour and two accents, so that light and dark need no second set, and
# a notebook's theme is followed whatever it says of itself.
STYLE = """
.fv { --hot: #f76707; --cold: #228be6; max-width: 60em; margin: 0; line-height: 1.5; }
.fv * { box-sizing: border-box; }
.fv .text { font-size: 1.15em; line-height: 1.9; margin: .3em 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.fv .t { padding: .1em 0; border-radius: .2em;
  background: color-mix(in srgb, var(--hot) calc(var(--s, 0) * 75%), transparent); }
.fv .t.cold { background: color-mix(in srgb, var(--cold) calc(var(--s, 0) * 75%), transparent); }
.fv .m, .fv-short .m { text-decoration: line-through 1px; outline: 1.5px solid currentColor; outline-offset: -1px;
  border-radius: .2em; padding: .1em .15em; }
.fv .to { font-style: italic; }
.fv .facts { margin: .3em 0; opacity: .85; }
.fv .steps { max-height: 26em; overflow: auto; }
.fv table { border-collapse: collapse; margin: .5em 0; font-size: .92em; font-variant-numeric: tabular-nums; }
.fv :is(th, td) { text-align: left; padding: .15em .9em .15em 0; border: 0; background: none;
  vertical-align: baseline; }
.fv th { font-weight: normal; opacity: .7; }
.fv :is(th, td).r { text-align: right; }
.fv td.w { max-width: 22em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.fv tbody tr { cursor: pointer; }
.fv tr:has(:checked) { background: color-mix(in srgb, currentColor 9%, transparent); }
.fv .kept { font-weight: bold; }
.fv .bar { display: inline-block; width: 9em; height: .75em; margin-left: .6em; position: relative; border-radius: .2em;
  background: linear-gradient(90deg, var(--cold) var(--p),
    color-mix(in srgb, currentColor 15%, transparent) var(--p)); }
.fv .bar::after { content: ""; position: absolute; left: var(--goal); top: -.15em; bottom: -.15em; width: 2px;
  background: currentColor; }
"""

PAGE_STYLE = """
:root { color-scheme: light dark; }
body { display: flex; flex-direction: column; max-width: 64em; margin: 2em auto; padding: 0 1em;
  font: 16px/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText; }
header, footer { order: -1; }
h1 { font-size: 1.3em; margin: 0; }
footer { margin: .2em 0 1em; opacity: .85; }
input[type=search] { font: inherit; width: 100%; padding: .3em .6em; margin: .6em 0; }
details { content-visibility: auto; contain-intrinsic-size: auto 2.4em; padding: .35em .6em; margin: .15em 0;
  border-left: 4px solid #f59f00; background: color-mix(in srgb, currentColor 4%, transparent); }
details.solved { border-left-color: #37b24d; }
details[hidden] { display: none; }
summary { cursor: pointer; display: flex; gap: .8em; align-items: baseline; }
summary .n { opacity: .6; min-width: 2em; text-align: right; font-variant-numeric: tabular-nums; }
summary .to { opacity: .85; white-space: nowrap; margin-left: auto; }
.fv-short { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.fv-short .m { outline-offset: -3px; }
details[open] .fv-short { visibility: hidden; }
details > .fv { margin: .4em 0 .6em 2.8em; }
.key .m { margin: 0 .2em; }
"""

# A chosen row of the path marks its own tokens in the text above it.
SCRIPT = """
document.addEventListener('change', event => {
  const row = event.target.closest('.fv tr');
  if (!row) return;
  const masked = new Set(row.dataset.m.split(' '));
  for (const t of row.closest('.fv').querySelectorAll('.t'))
    t.classList.toggle('m', t.dataset.k.split(' ').some(k => masked.has(k)));
});
document.addEventListener('click', event => {
  const row = event.target.closest('.fv tbody tr');
  if (row && event.target.type !== 'radio') row.querySelector('input').click();
});
"""

PAGE_SCRIPT = """
document.querySelector('input[type=search]').addEventListener('input', event => {
  const wanted = event.target.value.toLowerCase();
  for (const d of document.querySelectorAll('details'))
    d.hidden = !d.firstElementChild.textContent.toLowerCase().includes(wanted);
});
"""

_HEAD = f"""<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>foveate: explanations</title>
<style>{STYLE}{PAGE_STYLE}</style>
</head>
<body>
<header>
<h1>What the classifier looked at</h1>
<div class="fv key">Masking the <span class="m">struck</span> tokens takes the decision away; the warmer a token, the
higher its score (<span class="t" style="--s:.3">low</span> <span class="t" style="--s:1">high</span>
<span class="t cold" style="--s:.6">negative</span>). Choose a step of the path to see what was masked then; the upright
mark on each bar is the probability to get under.</div>
<input type="search" placeholder="Show only texts and labels that contain ..." aria-label="Filter">
</header>
"""


def fragment(explanation: Explanation) -> str:
    """The explanation for a notebook: the text with its heat and masks, the verdict, and the path."""
    return f"<style>{STYLE}</style>{_body(explanation)}<script>{SCRIPT}</script>"


def page(explanations: Iterable[Explanation]) -> str:
    """A whole page: a list of texts that open one by one."""
    items = list(explanations)
    return "".join([_HEAD, *(_item(e, i) for i, e in enumerate(items, 1)), _foot(len(items), _sums(items))])


class HtmlWriter(TextWriter):
    """The page of `page`, written as explanations come in."""

    def _open(self) -> None:
        super()._open()
        self._file.write(_HEAD)
        self._total = (0, 0, 0.0)

    def _write(self, explanation: Explanation) -> None:
        self._file.write(_item(explanation, self.count + 1))
        solved, queries, rate = _sums([explanation])
        self._total = (self._total[0] + solved, self._total[1] + queries, self._total[2] + rate)

    def _close(self) -> None:
        self._file.write(_foot(self.count, self._total))
        super()._close()


def _sums(explanations: Iterable[Explanation]) -> tuple[int, int, float]:
    items = list(explanations)
    return sum(e.solved for e in items), sum(e.queries for e in items), sum(e.mask_rate for e in items)


def _foot(count: int, total: tuple[int, int, float]) -> str:
    solved, queries, rate = total
    text = f"{count} text{'' if count == 1 else 's'}"
    if count:
        text += f", {solved} solved; {queries / count:.2f} queries and {rate / count:.1%} masked on average"
    return f"<footer>{text}</footer>\n<script>{SCRIPT}{PAGE_SCRIPT}</script>\n</body>\n</html>\n"


def _item(explanation: Explanation, number: int) -> str:
    e = explanation
    short = " ⁄ ".join(_runs(cut, e.masked) for cut in pieces(e))
    to = f" → {_text(e.final_label)}" if e.flipped else f" {e.probability:.2f} → {e.probability - e.delta_p:.2f}"
    return (
        f"<details{' class=solved' if e.solved else ''}{' open' if number == 1 else ''}>"
        f'<summary><span class="n">{number}</span><span class="fv-short" dir="auto">{short}</span>'
        f'<span class="to">{_text(e.label)}{to}</span></summary>{_body(e)}</details>\n'
    )


def _runs(cut: list[Piece], masked: Iterable[int]) -> str:
    return "".join(f'<span class="m">{_text(run)}</span>' if on else _text(run) for run, on in marked(cut, set(masked)))


def _body(explanation: Explanation) -> str:
    e = explanation
    top = max((abs(s) for s in e.scores), default=0.0) or 1.0
    chosen = set(e.masked)
    lines = []
    for cut in pieces(e):
        spans = []
        for piece in cut:
            if not piece.tokens:
                spans.append(_text(piece.text))
                continue
            score = max((e.scores[k] for k in piece.tokens), key=abs)
            classes = "t" + (" cold" if score < 0 else "") + ("" if chosen.isdisjoint(piece.tokens) else " m")
            numbers = " ".join(map(str, piece.tokens))
            spans.append(
                f'<span class="{classes}" data-k="{numbers}" style="--s:{abs(score) / top:.2f}" title="{score:.4g}">'
                f"{_text(piece.text)}</span>"
            )
        lines.append(f'<p class="text" dir="auto">{"".join(spans)}</p>')
    lines += [f'<p class="text to" dir="auto">→ {_text(text)}</p>' for text in rewritten(e)]
    return f'<form class="fv" onsubmit="return false">{"".join(lines)}{_facts(e)}{_path(e)}</form>'


def _facts(e: Explanation) -> str:
    facts = [
        f"<b>{_text(e.label)}</b> {e.probability:.3f} → {e.probability - e.delta_p:.3f}"
        + (f", now <b>{_text(e.final_label)}</b>" if e.flipped else ""),
        f"Δp {e.delta_p:.3f}{'' if e.solved or e.threshold is None else f' (wanted: {e.threshold:g})'}",
        "1 query" if e.queries == 1 else f"{e.queries} queries",
        f"{e.mask_rate:.0%} masked",
        _text(e.method),
    ]
    if skipped(e):
        facts.append("skipped, wrong from the start")
    if e.minimal is not None:
        facts.append("minimal" if e.minimal else "not minimal")
    if e.truncated:
        facts.append("longer than the model reads; its end was not looked at")
    return f'<p class="facts">{" · ".join(facts)}</p>'


def _path(e: Explanation) -> str:
    best = kept(e)
    first = f"<td></td><td class=w>nothing masked</td>{_numbers(e, e.probability, 0.0)}<td></td>"
    rows = [_row("", 0, first, best is None)]
    for number, step in enumerate(e.path):
        cells = (
            f"<td class=r>{number + 1}</td><td class=w dir=auto>{_text(action(e, step))}</td>"
            f"{_numbers(e, step.probability, step.delta_p)}<td>{_text(step.label)}</td>"
        )
        rows.append(_row(" ".join(map(str, step.masked)), number + 1, cells, number == best))
    return (
        '<div class="steps"><table><thead><tr><th></th><th class=r>step</th><th>masked</th>'
        f"<th>p({_text(e.label)})</th><th class=r>Δp</th><th>label</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(masked: str, number: int, cells: str, best: bool) -> str:
    radio = f'<input type="radio" name="step" aria-label="step {number}"{" checked" if best else ""}>'
    return f'<tr data-m="{masked}"{" class=kept" if best else ""}><td>{radio}</td>{cells}</tr>'


def _numbers(e: Explanation, probability: float, delta: float) -> str:
    bar = f'<span class="bar" style="--p:{probability:.1%};--goal:{e.goal:.1%}"></span>'
    return f"<td>{probability:.3f}{bar}</td><td class=r>{round(delta, 3) + 0.0:.3f}</td>"


def _text(text: str) -> str:
    return escape(visible(text))
