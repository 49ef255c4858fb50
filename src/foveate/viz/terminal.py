"""An explanation on a terminal, or in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from foveate.text.explanation import Explanation
from foveate.viz.marks import action, excerpt, kept, marked, pieces, rewritten, skipped, visible

MASKED = "reverse bold"
ROWS = 12
"""The most steps that the table of the path shows."""
BAR = 12
"""Width of the bar of a probability."""


@dataclass(frozen=True)
class View:
    """A renderable for rich: the text with its masked tokens marked, the verdict, and the path as a table.

    Tokens are marked by colour; where the console shows none (a pipe, NO_COLOR), by [brackets].
    """

    explanation: Explanation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text | Table]:
        colour = console.color_system is not None and not console.no_color
        yield from _lines(self.explanation, colour)
        yield from _rewritten(self.explanation, options.ascii_only)
        yield _verdict(self.explanation, options.ascii_only)
        if self.explanation.path:
            yield _table(self.explanation, options)
        if self.explanation.truncated:
            yield Text("The text is longer than the model reads; its end was not looked at.", style="yellow")


def plain(explanation: Explanation) -> str:
    """The text with its masked tokens in [brackets], and the verdict, as a plain string."""
    lines = [*_lines(explanation, False), *_rewritten(explanation, False), _verdict(explanation, False)]
    return "\n".join(line.plain for line in lines)


def _lines(explanation: Explanation, colour: bool) -> Iterator[Text]:
    """The text, or a line for each of a pair."""
    for cut in pieces(explanation):
        line = Text()
        for run, masked in marked(cut, explanation.masked):
            run = visible(run)
            line.append(f"[{run}]" if masked and not colour else run, MASKED if masked else "")
        yield line


def _rewritten(explanation: Explanation, ascii_only: bool) -> Iterator[Text]:
    """What an attack made of the text, where it put words in the place of the tokens."""
    for text in rewritten(explanation):
        yield Text(f"{'->' if ascii_only else '→'} {visible(text)}", style="italic")


def _verdict(explanation: Explanation, ascii_only: bool) -> Text:
    e = explanation
    after = e.probability - e.delta_p
    line = Text()
    line.append(f"{visible(e.label)} {e.probability:.3f}", "bold")
    line.append(" -> " if ascii_only else " → ")
    line.append(f"{after:.3f}", "bold green" if e.solved else "bold yellow")
    if e.flipped:
        line.append(f", now {visible(e.final_label)}", "bold")
    queries = "1 query" if e.queries == 1 else f"{e.queries} queries"
    facts = [f"{'dp' if ascii_only else 'Δp'} {e.delta_p:.3f}", queries, f"{e.mask_rate:.0%} masked", e.method]
    if skipped(e):
        facts.append("skipped, wrong from the start")
    elif not e.solved:
        facts.append("not solved")
    if e.minimal is not None:
        facts.append("minimal" if e.minimal else "not minimal")
    line.append("".join(f"{' | ' if ascii_only else ' · '}{fact}" for fact in facts), "dim")
    return line


def _table(explanation: Explanation, options: ConsoleOptions) -> Table:
    e = explanation
    ascii_only = options.ascii_only
    bar = BAR if options.max_width >= 60 else 0
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("step", justify="right", no_wrap=True, min_width=4)
    table.add_column("masked", no_wrap=True, overflow="ellipsis")
    table.add_column(Text(f"p({visible(e.label)})"), no_wrap=True)
    table.add_column("dp" if ascii_only else "Δp", justify="right", no_wrap=True)
    table.add_column("label", no_wrap=True, overflow="ellipsis")
    best = kept(e)
    before = -1
    numbers = excerpt(e, ROWS)
    for place, number in enumerate(numbers):
        if number is None:
            after = numbers[place + 1]
            assert after is not None
            table.add_row("...", f"{after - before - 1} left out", style="dim")
            continue
        before = number
        step = e.path[number]
        # Where the best mask is not the last one, a reader must see which it is.
        name = f"*{number + 1}" if number == best and best != len(e.path) - 1 else str(number + 1)
        cells = (
            name,
            action(e, step),
            f"{step.probability:.3f} {_bar(step.probability, bar, ascii_only)}".rstrip(),
            f"{round(step.delta_p, 3) + 0.0:.3f}",  # + 0.0, for there is no -0.000 to a reader
            visible(step.label),
        )
        # As Text, since rich reads [brackets] in a string as its markup.
        table.add_row(*map(Text, cells), style="bold" if number == best else "")
    return table


def _bar(share: float, width: int, ascii_only: bool) -> str:
    full = round(share * width)
    return ("#" if ascii_only else "█") * full + ("." if ascii_only else "░") * (width - full)
