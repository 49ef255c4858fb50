"""Saliency: what changes the policy and the value when it is blurred, and whether that is where the agent looks.

S3TA, section 4.7, after Greydanus et al. 2018 ("Visualizing and understanding Atari agents", section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import drawing
from foveate.agents.analysis.blur import ATARI, CUT, MINATAR, Blur, blurred, bump, in_words
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.games import open_game
from foveate.agents.models.grid import Grid, small
from foveate.agents.models.interface import AgentInputs, AgentNetwork, AgentOutput, State
from foveate.agents.placement import screen_centres
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval, bootstrap_means
from foveate.errors import RequestError
from foveate.threads import side_by_side
from foveate.viz.video import between

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTPUTS = ("policy", "value")

TILE = 8
"""Pixels along each side of the tiles that the points are blurred in: those of a tile share the screen around it."""

TOP = 0.1
"""Share of the cells that count as looked at: those with the most attention."""

SHUFFLES = 100
"""Random orders of a map's cells that the agreement is averaged over."""


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


# --- the maps


@dataclass(frozen=True)
class Seen:
    """A step, where the agent looked, and what would have changed its mind."""

    step: int
    screen: UInt8[np.ndarray, "height width 3"]
    maps: Float[Tensor, "heads rows columns"]
    saliency: dict[str, Float[Tensor, "high wide"]]
    """Of the policy and of the value, at every pixel of the observation."""


def examine(trace: Trace, step: int, agent: PlayingAgent, blur: Blur, stride: int) -> Seen:
    """Saliency of one step of a trace, from what the agent remembered then."""
    piece = trace.piece(step)
    row = step - piece.start
    inputs = AgentInputs(*(x[row : row + 1] for x in vars(piece.inputs).values()))
    policy, value = saliency(agent.network, inputs, trace.remembered(step, agent), blur, stride)
    return Seen(step, piece.screen[row].numpy(), piece.maps[row], {"policy": policy, "value": value})


@torch.inference_mode()
def saliency(
    network: AgentNetwork, inputs: AgentInputs, state: State, blur: Blur, stride: int = 1
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    """How much a blur at each pixel changes the policy and the value: S = ||out(X') - out(X)||² / 2.

    The policy is the softmax of the logits, as in S3TA's section 4.7. One step of one environment (T = B = 1). With a
    stride, the pixels between the blurred ones are interpolated.
    """
    frame = inputs.observation[0, 0]
    size = (frame.shape[1], frame.shape[2])
    points = [torch.arange(0, n, stride) for n in size]
    before = network(inputs, state)[0]
    what_if = network.what_if(inputs, state)

    @torch.inference_mode()
    def of(down: Tensor) -> Tensor:
        changes = torch.zeros(2, len(down), len(points[1]))
        for rows, columns, patches, top, left in patches_of(frame, [down, points[1]], blur):
            changes[:, rows, columns] = torch.stack(change(what_if(patches, top, left), before))
        return changes

    maps = torch.cat(side_by_side(of, [points[0][place] for place in _tiles(points[0])]), 1)
    if stride > 1:
        down, across = (torch.from_numpy(between(p.numpy(), n)) for p, n in zip(points, size, strict=True))
        maps = down @ maps @ across.T
    return maps[0], maps[1]


def patches_of(
    frame: UInt8[Tensor, "channels height width"], points: Sequence[Shaped[Tensor, " _"]], blur: Blur
) -> Iterator[tuple[Tensor, Tensor, UInt8[Tensor, "n channels high wide"], int, int]]:
    """The frame blurred at each point: places of the points in `points` (rows and columns), the part of the frame that
    is not the same any more, and where that begins.

    Patches are bytes, as agents are shown; so the bumps end where they change no byte, and points whose blur changes
    nothing at all (on plain ground) are left out.
    """
    _, height, width = frame.shape
    plain = frame.float()
    other = blurred(plain, blur.width) - plain
    reach = math.ceil(CUT * blur.bump)
    rows_of, columns_of = (_tiles(p) for p in points)
    for rows in rows_of:
        for columns in columns_of:
            at, beside = points[0][rows], points[1][columns]
            down = slice(max(int(at[0]) - reach, 0), min(int(at[-1]) + reach + 1, height))
            across = slice(max(int(beside[0]) - reach, 0), min(int(beside[-1]) + reach + 1, width))
            bumps = (
                bump(at, torch.arange(height)[down], blur.bump)[:, None, :, None]
                * bump(beside, torch.arange(width)[across], blur.bump)[None, :, None, :]
            ).flatten(0, 1)
            part = plain[:, down, across]
            patches = (part + bumps[:, None] * other[:, down, across]).round_().clamp_(0, 255).to(torch.uint8)
            differ = (patches != frame[:, down, across]).any(1)
            some = differ.any(2).any(1).nonzero().squeeze(1)
            if len(some):
                high, wide = (_extent(differ.any(0).any(1 - axis)) for axis in (0, 1))
                patches = patches[some, :, high, wide]
                yield (
                    rows[some // len(columns)],
                    columns[some % len(columns)],
                    patches,
                    down.start + high.start,
                    across.start + wide.start,
                )


def _tiles(points: Shaped[Tensor, " n"]) -> list[Tensor]:
    """Places of the points that share a tile, along one axis."""
    return [(points // TILE == tile).nonzero().squeeze(1) for tile in (points // TILE).unique()]


def _extent(some: Bool[Tensor, " pixels"]) -> slice:
    """From the first to the last that is so."""
    places = some.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1)


def change(after: AgentOutput, before: AgentOutput) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """S of the policy and of the value. What float32 cannot tell from nothing is nothing."""

    def half_square(new: Tensor, old: Tensor) -> Tensor:
        differ = (new - old).double()
        differ = differ * (differ.abs() > 4e-6 * (1 + old.abs()))
        return (differ**2).sum(-1).float() / 2

    return (
        half_square(after.logits[0].softmax(-1), before.logits[0].softmax(-1)),
        half_square(after.value[0, :, None], before.value[0, :, None]),
    )


def to_cells(saliency: Float[Tensor, "height width"], grid: Grid) -> Float[Tensor, "rows columns"]:
    """The mean over the pixels that lie nearest to each cell's centre."""

    def nearest(size: int, cells: int, first: float, step: float) -> Tensor:
        centres = first + step * torch.arange(cells)
        mine = (torch.arange(size)[:, None] - centres).abs().argmin(1)
        pixels = F.one_hot(mine, cells).float()
        return pixels / pixels.sum(0).clamp(min=1)

    height, width = saliency.shape
    down = nearest(height, grid.height, grid.row, grid.row_step)
    across = nearest(width, grid.width, grid.column, grid.column_step)
    return down.T @ saliency @ across


# --- the agreement


@dataclass(frozen=True)
class Measure:
    """One number of a head: as it is, against its controls, and the paired differences."""

    actual: Interval
    shuffled: Interval
    """The map's cells in random order."""
    other_time: Interval
    """The same head's maps of the other frames: what a head shows that looks where it looks on average."""
    above_shuffled: Interval
    above_other_time: Interval


@dataclass(frozen=True)
class Agreement:
    """Of one head's attention with one saliency, over the frames that have any of that."""

    rank_correlation: Measure
    """Spearman's, over the cells of a map."""
    share_inside: Measure
    """Share of the saliency that lies in the tenth of the cells with the most attention."""
    share_near: Measure
    """The same of those cells and the ones beside them: a cell's features come from its neighbours too."""
    frames: int

    def numbers(self) -> dict[str, Any]:
        return asdict(self)


def agreement(
    maps: Float[Tensor, "frames rows columns"], saliency: Float[Tensor, "frames rows columns"], rng: torch.Generator
) -> Agreement | None:
    """How attention and saliency agree; None where fewer than two frames have any saliency."""
    some = saliency.sum((1, 2)) > 0
    shape = maps.shape[1:]
    maps, saliency = maps[some].flatten(1), saliency[some].flatten(1)
    frames = len(maps)
    if frames < 2:
        return None
    # Of each frame its own, or one unlucky order would tell of all frames alike.
    orders = torch.rand(frames, SHUFFLES, maps.shape[1], generator=rng).argsort(2)

    def beside(cells: Float[Tensor, "*n cells"]) -> Float[Tensor, "*n cells"]:
        return F.max_pool2d(cells.reshape(-1, 1, *shape), 3, 1, 1).view(cells.shape)

    def measure(looked: Tensor, salient: Tensor, widened: Callable[[Tensor], Tensor] = lambda x: x) -> Measure:
        all_pairs = salient @ widened(looked).T
        actual = all_pairs.diagonal()
        other = (all_pairs.sum(1) - actual) / (frames - 1)
        mixed = looked[:, None].expand_as(orders).gather(2, orders)
        shuffled = torch.einsum("fc,fsc->fs", salient, widened(mixed)).mean(1)
        values = torch.stack([actual, shuffled, other, actual - shuffled, actual - other], 1)
        return Measure(*bootstrap_means(values.float(), rng))

    share, tops = saliency.double() / saliency.double().sum(1, keepdim=True), top_cells(maps)
    return Agreement(
        rank_correlation=measure(standard_ranks(maps), standard_ranks(saliency)),
        share_inside=measure(tops, share),
        share_near=measure(tops, share, beside),
        frames=frames,
    )


def standard_ranks(values: Float[Tensor, "n cells"]) -> Float[Tensor, "n cells"]:
    """Ranks, ties sharing their mean, less their mean and divided by their norm: Spearman's correlation is the product
    of two. Zeros where all are the same, which ranks nothing: the correlation is 0."""
    below = (values[:, None, :] < values[:, :, None]).sum(2)
    same = (values[:, None, :] == values[:, :, None]).sum(2)
    ranks = below.double() + same / 2
    ranks = ranks - ranks.mean(1, keepdim=True)
    return ranks / ranks.norm(dim=1, keepdim=True).clamp(min=1e-9)


def top_cells(values: Float[Tensor, "n cells"]) -> Float[Tensor, "n cells"]:
    """1 for the tenth of the cells with the highest values; those that share the last places share what is left."""
    count = math.ceil(TOP * values.shape[1])
    last = values.topk(count, 1).values[:, -1:]
    above, tied = (values > last).double(), (values == last).double()
    return above + tied * (count - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)


def concentration(saliency: Float[Tensor, "frames cells"]) -> Interval | None:
    """Share of the saliency in the tenth of the cells that have the most of it; None where there is none."""
    saliency = saliency[saliency.sum(1) > 0].double()
    if not len(saliency):
        return None
    shares = (top_cells(saliency) * saliency).sum(1) / saliency.sum(1)
    return bootstrap_means(shares[:, None].float(), torch.Generator().manual_seed(0))[0]


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
