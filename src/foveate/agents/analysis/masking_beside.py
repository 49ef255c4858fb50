"""The sets of cells that a masking game has found, beside the attention: is it on them?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import drawing
from foveate.agents.analysis.findings import Table
from foveate.bootstrap import Interval, bootstrap_means

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Share:
    """How much of the attention to all cells that could be masked lies inside the sets, and the controls."""

    inside: Interval
    random: Interval
    """Inside a set of the same size drawn from those cells, on average."""
    other: Interval
    """Of the head's maps of the other moments: what a head shows that looks where it looks on average."""
    above_random: Interval
    above_other: Interval


@dataclass(frozen=True)
class Beside:
    """The smallest sets beside one head's map, over the moments that have one."""

    moments: int
    on: Share
    near: Share
    """The same with each cell's attention spread over it and the cells beside it: a cell's features come from its
    neighbours too."""
    rank: Interval
    """Place of the set's cells in the order of attention, 0 the most attended, 1 the least, ties sharing theirs; of
    random cells it is 0.5."""


def compare(
    maps: Float[Tensor, "moments rows columns"],
    sets: Bool[Tensor, "moments cells"],
    maskable: Bool[Tensor, "moments cells"],
    rng: torch.Generator,
) -> Beside | None:
    """How attention lies on the sets found; None where fewer than two moments have one."""
    some = sets.any(1)
    maps, inside, free = maps[some].double(), sets[some].double(), maskable[some].double()
    count = len(maps)
    if count < 2:
        return None

    def share(looked: Float[Tensor, "moments rows columns"]) -> Share:
        # Of the maps of all moments (columns), over the cells and the set of each (rows).
        every = (inside @ looked.flatten(1).T) / (free @ looked.flatten(1).T).clamp(min=1e-12)
        own = every.diagonal()
        other = (every.sum(1) - own) / (count - 1)
        chance = inside.sum(1) / free.sum(1)
        values = torch.stack([own, chance, other, own - chance, own - other], 1)
        return Share(*bootstrap_means(values.float(), rng))

    spread = F.avg_pool2d(maps[:, None], 3, stride=1, padding=1, count_include_pad=False).squeeze(1)
    (rank,) = bootstrap_means(ranks(maps.flatten(1), inside, free)[:, None].float(), rng)
    return Beside(count, share(maps), share(spread), rank)


def ranks(
    maps: Float[Tensor, "moments cells"], inside: Float[Tensor, "moments cells"], free: Float[Tensor, "moments cells"]
) -> Float[Tensor, " moments"]:
    """Mean place of the cells `inside` among those that are `free`, from 0, the highest, to 1."""
    higher = ((maps[:, None, :] > maps[:, :, None]) * free[:, None, :]).sum(2)
    same = ((maps[:, None, :] == maps[:, :, None]) * free[:, None, :]).sum(2) - free
    place = (higher + same / 2) / (free.sum(1, keepdim=True) - 1).clamp(min=1)
    return (place * inside).sum(1) / inside.sum(1)


def attention_shares(
    agent: PlayingAgent, maps: Float[Tensor, "moments heads cells"]
) -> tuple[list[str], Float[Tensor, "moments all_heads cells"]]:
    """The heads and, where there are several, their mean; each map summing to one."""
    shares = maps / maps.sum(2, keepdim=True).clamp(min=1e-12)
    names = list(agent.heads)
    if len(names) > 1:
        shares, names = torch.cat([shares, shares.mean(1, keepdim=True)], 1), [*names, "all heads"]
    return names, shares


def beside_table(beside: Mapping[str, Beside | None]) -> Table:
    """A row a head."""
    columns = ["random set", "another moment", "less random", "less another moment"]
    return Table(
        "attention inside the smallest sets found; the differences are paired",
        ["head", "on them", *columns, "or beside them", *columns, "place"],
        [[name, *_shares(b.on), *_shares(b.near), f"{b.rank:.2f}"] for name, b in beside.items() if b is not None],
    )


def _shares(s: Share) -> list[str]:
    controls = [f"{control.mean:.1%}" for control in (s.random, s.other)]
    return [f"{s.inside:.1%}", *controls, f"{s.above_random:.1%}", f"{s.above_other:.1%}"]


def draw_beside(beside: Mapping[str, Beside | None]) -> Figure:
    """Dots with intervals, a row a head: the share of attention inside the sets, and the controls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.4 + 0.7 * len(beside)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    kinds = {"inside": "the set found", "other": "of another moment's map", "random": "a random set"}
    for axis, part, title in ((axes[0], "on", "inside"), (axes[1], "near", "inside, spread over the cells beside")):
        series = {
            label: [getattr(getattr(b, part), kind) if b else None for b in beside.values()]
            for kind, label in kinds.items()
        }
        drawing.dots(axis, list(beside), series)
        axis.set_title(f"share of attention {title}", fontsize=10, loc="left")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure
