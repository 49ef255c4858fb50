"""Curves and points that have to be told apart."""

from __future__ import annotations

from matplotlib.figure import Figure

from foveate.agents.analysis import drawing
from foveate.bootstrap import Interval
from foveate.viz.panels import colour, marker


def test_no_two_of_many_curves_look_alike() -> None:
    assert len({(colour(n), marker(n)) for n in range(81)}) == 81


def test_more_heads_than_colours_are_drawn() -> None:
    axes = Figure().subplots()
    heads = [f"head {n}" for n in range(16)]
    drawing.dots(axes, ["ball", "paddle"], {head: [Interval(0.1, 0.0, 0.2), None] for head in heads})
    assert axes.get_legend_handles_labels()[1] == heads
