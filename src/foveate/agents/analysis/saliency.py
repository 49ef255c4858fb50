"""Saliency: what changes the policy and the value when it is blurred, and whether that is where the agent looks.

S3TA, section 4.7, after Greydanus et al. 2018 ("Visualizing and understanding Atari agents", section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import tyro

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import drawing
from foveate.agents.analysis.agreement import Agreement, Measure, agreement, concentration
from foveate.agents.analysis.blur import ATARI, MINATAR, in_words
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.saliency_map import Seen, examine, to_cells
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.games import open_game
from foveate.agents.models.grid import Grid, small
from foveate.agents.placement import screen_centres
from foveate.agents.trace import Trace
from foveate.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTPUTS = ("policy", "value")


@dataclass(frozen=True)
class Settings:
    """Blur the screen at every point: does what changes policy and value lie where the agent looks?"""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    recording: Annotated[Recording, tyro.conf.arg(name="")]
    frames: int = 20
    """Steps of the trace that are examined, evenly spread over it."""
    stride: int | None = None
    """Every so many-th pixel along each axis is blurred, and the map goes straight from one to the next; 1 is full
    resolution. Unless given 4, and 1 on screens as small as MinAtar's."""
    drawn: int = 4
    """Of the frames, how many are drawn."""


def analyse(settings: Settings) -> Findings:
    """The maps of some frames, and their agreement with the attention's."""
    if settings.frames < 2:
        raise RequestError(f"--frames is {settings.frames}; it must be at least 2, to compare with another time")
    if settings.stride is not None and settings.stride < 1:
        raise RequestError(f"--stride is {settings.stride}; it must be at least 1")
    agent = settings.subject.open()
    trace = settings.recording.open(settings.subject, agent)
    if trace.steps < settings.frames:
        raise RequestError(f"the trace has {trace.steps} steps; --frames {settings.frames} needs as many")
    blur = MINATAR if small(agent.observation) else ATARI
    stride = settings.stride or (1 if small(agent.observation) else 4)
    steps = [int((n + 0.5) * trace.steps / settings.frames) for n in range(settings.frames)]
    seen = [examine(trace, step, agent, blur, stride) for step in steps]
    cells = {name: torch.stack([to_cells(s.saliency[name], agent.network.grid) for s in seen]) for name in OUTPUTS}
    protocol = {
        **settings.subject.protocol(agent),
        **settings.recording.protocol(trace),
        "frames": settings.frames,
        "stride": stride,
        "blur": in_words(blur),
        "saliency": "half the squared change of the action probabilities, and of the value",
        "compared": "means of the saliency over the pixels nearest to each cell of the maps",
        "intervals": "95%, bootstrap over frames",
    }
    figures = {"saliency": Picture(draw(trace, agent, _spread(seen, settings.drawn)), _caption(agent))}
    title, question = (
        "Saliency",
        ("Does what changes policy and value when it is blurred lie where the agent looks? (S3TA, section 4.7)"),
    )
    if not agent.heads:
        shares = {name: concentration(cells[name].flatten(1)) for name in OUTPUTS}
        said = [
            "This agent has no attention to compare with. "
            + " ".join(
                f"The tenth of the cells with the most {name} saliency holds {share:.0%} of it."
                if share
                else f"Nothing changes the {name}."
                for name, share in shares.items()
            )
        ]
        numbers = {name: {"top_tenth": share and asdict(share)} for name, share in shares.items()}
        return Findings("saliency", title, question, protocol, said, numbers, pictures=figures)
    maps = torch.stack([s.maps for s in seen])
    names = list(agent.heads)
    if len(names) > 1:
        maps, names = torch.cat([maps, maps.mean(1, keepdim=True)], 1), [*names, "all heads"]
    rng = torch.Generator().manual_seed(settings.subject.seed)
    found = {
        output: {head: agreement(maps[:, n], cells[output], rng) for n, head in enumerate(names)} for output in OUTPUTS
    }
    figures["agreement"] = Picture(
        draw_agreement(found),
        "How saliency and attention agree, per head, beside the two controls; bars are 95% intervals.",
    )
    return Findings(
        name="saliency",
        title=title,
        question=question,
        protocol=protocol,
        sentences=_sentences(found, names),
        numbers={o: {head: a and a.numbers() for head, a in heads.items()} for o, heads in found.items()},
        tables=[_table(output, heads) for output, heads in found.items()],
        pictures=figures,
    )


# --- words


def _sentences(found: dict[str, dict[str, Agreement | None]], names: Sequence[str]) -> list[str]:
    said = []
    for output in OUTPUTS:
        # Mask-A3C has a mask for each; of heads that are for all, their mean stands for the agent's attention.
        main = output if output in names else names[-1]
        if (whole := found[output][main]) is None:
            said.append(f"No blur changes the {output}, so there is nothing that attention could agree with.")
            continue
        attention = f"the {main} mask" if main == output else "attention"
        ranks, share = whole.rank_correlation, whole.share_inside
        said.append(
            f"{_verdict(attention, output, whole)}: rank correlation {ranks.actual:.2f}, against "
            f"{ranks.shuffled.mean:.2f} for the map shuffled and {ranks.other_time.mean:.2f} for the map of another "
            f"time; the tenth of the cells with the most attention holds {share.actual:.0%} of the saliency, "
            f"against {share.shuffled.mean:.0%} and {share.other_time.mean:.0%}; with the cells beside those it is "
            f"{whole.share_near.actual.mean:.0%}, against {whole.share_near.shuffled.mean:.0%} and "
            f"{whole.share_near.other_time.mean:.0%}."
        )
        if main != output and len(names) > 1:
            heads = {n: a for n, a in found[output].items() if a is not None and n != main}
            best = max(heads, key=lambda name: heads[name].share_inside.actual.mean)
            said.append(
                f"Of the heads, {best} has the most {output} saliency in its top tenth: "
                f"{heads[best].share_inside.actual:.0%}."
            )
    return said


def _verdict(attention: str, output: str, found: Agreement) -> str:
    measures = (found.rank_correlation, found.share_inside)
    if not all(m.above_shuffled.sign > 0 for m in measures):
        return f"It is not shown that {attention} is where {output} saliency is"
    if all(m.above_other_time.sign > 0 for m in measures):
        return f"{attention.capitalize()} is where {output} saliency is, and follows it from frame to frame"
    return f"{attention.capitalize()} is where {output} saliency is on average, and is not shown to follow it"


def _table(output: str, heads: dict[str, Agreement | None]) -> Table:
    beside = ["shuffled", "another time", "difference"]
    rows = [
        [
            head,
            *_cells(found.rank_correlation, ".2f"),
            *_cells(found.share_inside, ".0%"),
            *_cells(found.share_near, ".0%"),
        ]
        for head, found in heads.items()
        if found is not None
    ]
    return Table(
        f"{output} saliency and attention; the difference is from another time's map",
        ["head", "rank correlation", *beside, "share in the top tenth", *beside, "or beside it", *beside],
        rows,
    )


def _cells(m: Measure, how: str) -> list[str]:
    """A measure beside its controls, whose intervals are in the numbers."""
    controls = [f"{control.mean:{how}}" for control in (m.shuffled, m.other_time)]
    return [f"{m.actual:{how}}", *controls, f"{m.above_other_time:{how}}"]


def _caption(agent: PlayingAgent) -> str:
    maps = "; attention lights the screen up, each head by itself" if agent.heads else ""
    return f"Saliency of policy and value in green, each map by its own maximum{maps}."


# --- pictures


def _spread(seen: Sequence[Seen], count: int) -> list[Seen]:
    places = np.linspace(0, len(seen) - 1, min(max(count, 1), len(seen))).round().astype(int)
    return [seen[place] for place in places]


def draw(trace: Trace, agent: PlayingAgent, seen: Sequence[Seen]) -> Figure:
    """A row a frame: what changes policy and value, and where each head looked."""
    game = open_game(trace.environment)
    pixels = screen_centres(Grid(*agent.observation[1:]), agent.observation, game.box)
    cells = screen_centres(agent.network.grid, agent.observation, game.box)
    game.close()
    rows = [
        (
            f"step {s.step}",
            [drawing.tinted(s.screen, s.saliency[name].numpy(), *pixels) for name in OUTPUTS]
            + [drawing.lit(s.screen, weights.numpy(), *cells) for weights in s.maps],
        )
        for s in seen
    ]
    columns = [*(f"{name} saliency" for name in OUTPUTS), *(f"attention: {head}" for head in agent.heads)]
    return drawing.sheet(columns, rows)


def draw_agreement(found: dict[str, dict[str, Agreement | None]]) -> Figure:
    """Dots with intervals: a panel for each saliency and measure, a row a head."""
    from matplotlib.figure import Figure

    measures = {"rank_correlation": "rank correlation", "share_inside": "share in the top tenth of attention"}
    names = list(next(iter(found.values())))
    figure = Figure(figsize=(9, 1.6 + 0.75 * len(names) * 2), layout="constrained")
    axes = figure.subplots(2, 2, sharey=True, squeeze=False)
    for line, (output, heads) in zip(axes, found.items(), strict=True):
        for axis, (measure, heading) in zip(line, measures.items(), strict=True):
            drawing.dots(
                axis,
                names,
                {
                    label: [getattr(getattr(a, measure), kind) if a else None for a in heads.values()]
                    for kind, label in (
                        ("actual", "attention"),
                        ("other_time", "of another time"),
                        ("shuffled", "shuffled"),
                    )
                },
            )
            axis.set_title(f"{output} saliency: {heading}", fontsize=10, loc="left")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure
