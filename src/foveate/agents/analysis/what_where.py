"""What and where: does a head look at a place for what is there, or for where it is?

S3TA, sections 4.6 and A.5: equations 8 to 11, Figure 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import drawing
from foveate.agents.analysis.blocks import IN_WORDS, over_blocks
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.models import settings_of
from foveate.agents.models.interface import Attention
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval
from foveate.errors import RequestError
from foveate.viz.panels import colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = math.log(10)
"""Where one part makes a cell ten times as heavy as the other does, it counts as all of it (equation 10)."""

FRAMES = 10
"""Drawn: as many as in Figure 6."""

EVERY = 3
"""Steps from one of them to the next."""


@dataclass(frozen=True)
class Settings:
    """Does a head look at a place for what is there (content), or for where it is (position)?"""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    recording: Annotated[Recording, tyro.conf.arg(name="")]
    start: int | None = None
    """Step of the first frame that is drawn; the middle of the trace unless given."""


@dataclass(frozen=True)
class Shares:
    """How much of a head's attention is "what"; the rest is "where". 1/2 is as much of one as of the other."""

    looked: Interval | None
    """At the cells, weighted by the attention."""
    screen: Interval | None
    """The control: of all cells alike."""
    centred: Interval | None
    """Weighted by the attention, with each part less its mean over the screen."""


def analyse(settings: Settings) -> Findings:
    """Show the agent a trace again, and take its attention apart."""
    agent = settings.subject.open()
    if settings_of(agent.network).get("queries", "l2-keys") == "l2-keys":
        raise RequestError(
            f"{settings.subject.agent} ({agent.model}) asks no queries, and only those have a what and a where; take "
            "an S3TA with queries"
        )
    trace = settings.recording.open(settings.subject, agent)
    start = drawing.start(settings.start, trace.steps // 2, (FRAMES - 1) * EVERY + 1, trace)
    rng = torch.Generator().manual_seed(settings.subject.seed)
    looked, screen, centred = (torch.cat(x) for x in zip(*_measured(trace, agent), strict=True))
    heads = trace.heads
    means = over_blocks(torch.cat([looked, screen, centred], 1), None, rng)
    shares = {
        head: Shares(*(means.interval(part * len(heads) + n) for part in range(3))) for n, head in enumerate(heads)
    }
    return Findings(
        name="what-where",
        title="What and where",
        question="Does a head look at a place for what is there, or for where it is? S3TA, sections 4.6 and A.5.",
        protocol={
            **settings.subject.protocol(agent),
            **settings.recording.protocol(trace),
            "maps": "C of equation 11, from equations 8 to 10",
            "share_of_what": "mean of D / (2 log 10) + 1/2 over the cells, weighted by attention; the rest is where",
            "control": "the same of all cells alike",
            "centred": "the same with what and where each less its mean over the screen: a softmax does not see what "
            "is added to all cells, but equation 10 does",
            "intervals": IN_WORDS,
        },
        sentences=sentences(shares),
        numbers={"heads": {head: asdict(s) for head, s in shares.items()}},
        tables=[table(shares)],
        pictures={
            "maps": Picture(
                draw_maps(trace, agent, start),
                "What (red) and where (blue) of each head, frame by frame; white: as much of one as of the other, or "
                "not looked at. Each head by its own greatest.",
            ),
            "over-time": Picture(
                draw_over_time(looked, heads), "The share of what at each step, weighted by the attention."
            ),
        },
    )


def _measured(trace: Trace, agent: PlayingAgent) -> list[tuple[Tensor, Tensor, Tensor]]:
    found = []
    for piece in trace.pieces():
        what, where, maps = parts(trace.attention(piece, agent))
        level = torch.full_like(maps, 1 / maps[0, 0].numel())
        found.append(
            (
                share_of_what(what, where, maps),
                share_of_what(what, where, level),
                share_of_what(centred(what), centred(where), maps),
            )
        )
    return found


# --- the numbers

Maps = Float[Tensor, "time heads rows columns"]


def parts(attention: Attention) -> tuple[Maps, Maps, Maps]:
    """What, where and the maps of one environment."""
    assert attention.what is not None and attention.where is not None
    return attention.what[:, 0], attention.where[:, 0], attention.maps[:, 0]


def dominance(what: Maps, where: Maps) -> Maps:
    """D: by how much what outweighs where, cut off at ten times (equation 10)."""
    return (what - where).clamp(-LIMIT, LIMIT)


def relative(what: Maps, where: Maps, maps: Maps) -> Maps:
    """C: that, weighted by the attention (equation 11)."""
    return dominance(what, where) * maps


def share_of_what(what: Maps, where: Maps, maps: Maps) -> Float[Tensor, "time heads"]:
    """D brought to [0, 1], and its mean over the cells, weighted by the maps (which sum to one)."""
    return relative(what, where, maps).sum((2, 3)) / (2 * LIMIT) + 0.5


def centred(part: Maps) -> Maps:
    """Less its mean over the screen, of which a softmax sees nothing."""
    return part - part.mean((2, 3), keepdim=True)


# --- in words


def sentences(shares: Mapping[str, Shares]) -> list[str]:
    """What came out."""
    known = {head: s for head, s in shares.items() if s.looked and s.centred and s.screen}
    if not known:
        return ["The trace is too short to say anything."]
    said = [
        "By equation 10 the share of what is "
        + "; ".join(f"{head} {_show(s.looked)} ({_side(s.looked)})" for head, s in known.items())
        + "."
    ]
    said.append(
        "With what is common to all cells taken away, which no softmax sees: "
        + "; ".join(f"{head} {_show(s.centred)} ({_side(s.centred)})" for head, s in known.items())
        + "."
    )
    turned = [h for h, s in known.items() if _side(s.looked) != _side(s.centred)]
    if turned:
        said.append(
            f"The two do not agree on {', '.join(turned)}: what equation 10 says of these is partly said of a constant "
            "that moves no attention."
        )
    chosen = [h for h, s in known.items() if s.looked and s.screen and s.looked.low > s.screen.high]
    placed = [h for h, s in known.items() if s.looked and s.screen and s.looked.high < s.screen.low]
    said.append(
        "Where it looks, what outweighs where by more than over the whole screen: "
        f"{', '.join(chosen) or 'no head'}; by less: {', '.join(placed) or 'no head'}."
    )
    return said


def _side(share: Interval | None) -> str:
    if share is None or share.low <= 0.5 <= share.high:
        return "neither"
    return "what" if share.low > 0.5 else "where"


def table(shares: Mapping[str, Shares]) -> Table:
    """A row a head."""
    return Table(
        "Share of what, mean over the steps with its 95% interval; where has the rest",
        ("head", "where it looks", "over the whole screen", "where it looks, centred"),
        [[head, _show(s.looked), _show(s.screen), _show(s.centred)] for head, s in shares.items()],
    )


def _show(interval: Interval | None) -> str:
    return "too short" if interval is None else f"{interval:.0%}"


# --- in pictures


def draw_maps(trace: Trace, agent: PlayingAgent, start: int) -> Figure:
    """A row a head, a column a step, below the screens (Figure 6)."""
    rows, columns = drawing.centres(agent, trace)
    steps = [step for step in range(start, start + FRAMES * EVERY, EVERY) if step < trace.steps]
    screens, maps = [], []
    for step in steps:
        piece = trace.piece(step)
        row = step - piece.start
        screens.append(piece.screen[row].numpy())
        maps.append(relative(*parts(trace.attention(piece, agent)))[row].numpy())
    most = np.abs(np.stack(maps)).max((0, 2, 3)).clip(1e-9)
    zoom = drawing.zoom_of(screens[0])
    lines = [("screen", [s.repeat(zoom, 0).repeat(zoom, 1) for s in screens])]
    for n, head in enumerate(trace.heads):
        pictures = [drawing.signed(s, m[n] / most[n], rows, columns) for s, m in zip(screens, maps, strict=True)]
        lines.append((head, pictures))
    return drawing.strips([str(step) for step in steps], lines, FRAMES)


def draw_over_time(shares: Float[Tensor, "time heads"], heads: Sequence[str]) -> Figure:
    """A line a head."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    for n, head in enumerate(heads):
        axes.plot(shares[:, n].numpy(), color=colour(n), linewidth=0.8, label=head)
    axes.axhline(0.5, color="#868e96", linewidth=0.8)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1], ["all where", "both", "all what"])
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside upper right", ncols=len(heads), fontsize=9)
    return figure
