"""What an analysis found, and the directory that it is kept in: figures, numbers, and a page that a person can read."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape, unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import RequestError
from foveate.run import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; }
body { max-width: 68em; margin: 2em auto; padding: 0 1em; font: 16px/1.5 system-ui, sans-serif;
  background: Canvas; color: CanvasText; }
h1 { font-size: 1.4em; margin: 0 0 .4em; }
h2 { font-size: 1.15em; margin: 2em 0 .4em; }
.question { margin: 0; opacity: .85; }
ul { margin: .5em 0; padding-left: 1.2em; }
table { border-collapse: collapse; margin: .8em 0; font-size: .95em; font-variant-numeric: tabular-nums; }
:is(th, td) { text-align: right; padding: .25em 0 .25em 1.4em; vertical-align: baseline; }
:is(th, td):first-child { text-align: left; padding-left: 0; }
th { font-weight: normal; opacity: .7; border-bottom: 1px solid color-mix(in srgb, currentColor 30%, transparent); }
caption { text-align: left; opacity: .8; font-size: .95em; padding-bottom: .2em; }
.tables { overflow-x: auto; }
figure { margin: 1.2em 0; overflow-x: auto; }
figure img { max-width: 100%; background: white; }
figcaption, .protocol { font-size: .9em; opacity: .8; }
nav a { margin-right: 1em; }
"""


@dataclass(frozen=True)
class Table:
    """Rows of a page's table; numbers are put into words by whoever knows their unit."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A figure, and what it shows."""

    figure: Figure
    caption: str

    @cached_property
    def png(self) -> bytes:
        """Drawn once, for its file and for the page."""
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=130)
        return drawn.getvalue()


@dataclass(frozen=True)
class Findings:
    """The outcome of one analysis of one agent."""

    name: str
    """Of the analysis, as the command has it."""
    title: str
    question: str
    """What it asks of the agent, in a sentence, with its source."""
    protocol: Mapping[str, Any]
    """How it was found out: agent, environment, seed, episodes or steps, whatever changes the numbers. Plain JSON."""
    sentences: Sequence[str]
    """What came out, for a person; the first one is the answer."""
    numbers: Mapping[str, Any]
    """The same for a program. Plain JSON."""
    tables: Sequence[Table] = ()
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    """By file name, without its ending."""

    def write(self, directory: str | Path) -> Path:
        """numbers.json, a PNG and an SVG of each picture, and index.html, which holds all; returns that.

        Raises RequestError where the directory cannot be written to.
        """
        place = Path(directory)
        try:
            place.mkdir(parents=True, exist_ok=True)
            for name, picture in self.pictures.items():
                temporary = place / f"{name}.tmp"
                temporary.write_bytes(picture.png)
                os.replace(temporary, place / f"{name}.png")
                picture.figure.savefig(temporary, format="svg")
                os.replace(temporary, place / f"{name}.svg")
            write_atomically(place / "numbers.json", self.to_json() + "\n")
            write_atomically(place / "index.html", page(self.title, [section(self)]))
        except OSError as error:
            raise RequestError(f"cannot write to {place}: {error.strerror or error}") from error
        return place / "index.html"

    def to_json(self) -> str:
        """Protocol and numbers. Raises ValueError where one is not finite: that is no finding."""
        about = {"analysis": self.name, "protocol": self.protocol, "findings": self.sentences, "numbers": self.numbers}
        return json.dumps(about, indent=1, allow_nan=False)


@dataclass(frozen=True)
class Section:
    """Findings as a part of a page."""

    name: str
    title: str
    html: str


def page(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """One page of some findings, after what leads to them (HTML); nothing is fetched."""
    links = "".join(f'<a href="#{escape(part.name)}">{escape(part.title)}</a>' for part in sections)
    headed = bool(lead) or len(sections) > 1
    body = ""
    for part in sections:
        heading = f"<h2>{escape(part.title)}</h2>" if headed else ""
        body += f'<section id="{escape(part.name)}">{heading}\n{part.html}</section>\n'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>foveate: {escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{lead}{f'<nav>{links}</nav>' if len(sections) > 1 else ''}{body}\n</body>\n</html>\n"
    )


def section(part: Findings) -> Section:
    """Its sentences, tables, pictures and protocol."""
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in part.sentences)
    tables = "".join(_table(table) for table in part.tables)
    pictures = "".join(_picture(picture) for picture in part.pictures.values())
    how = "; ".join(f"{name.replace('_', ' ')} {_word(value)}" for name, value in part.protocol.items())
    return Section(
        part.name,
        part.title,
        f'<p class="question">{escape(part.question)}</p>\n<ul>{said}</ul>\n'
        f'<div class="tables">{tables}</div>{pictures}<p class="protocol">{escape(how)}.</p>',
    )


def read_section(file: Path) -> Section:
    """The one that `Findings.write` put on a page. Raises ValueError where there is none."""
    text = file.read_text(encoding="utf-8")

    def within(before: str, after: str) -> str:
        start = text.index(before) + len(before)
        return text[start : text.index(after, start)]

    name = within('<section id="', '">')
    return Section(unescape(name), unescape(within("<h1>", "</h1>")), within(f'<section id="{name}">\n', "</section>"))


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><caption>{escape(table.caption)}</caption><tr>{head}</tr>{rows}</table>\n"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>\n'
    )


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
