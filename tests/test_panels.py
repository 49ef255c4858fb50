"""Curves and points that have to be told apart."""

from __future__ import annotations

from matplotlib.figure import Figure

from foveate.agents.analysis import drawing
from foveate.bootstrap import Interval
from foveate.viz.panels import colour, curves, marker


def test_no_two_of_many_curves_look_alike() -> None:
    assert len({(colour(n), marker(n)) for n in range(81)}) == 81


def test_more_heads_than_colours_are_drawn() -> None:
    axes = Figure().subplots()
    heads = [f"head {n}" for n in range(16)]
    drawing.dots(axes, ["ball", "paddle"], {head: [Interval(0.1, 0.0, 0.2), None] for head in heads})
    assert axes.get_legend_handles_labels()[1] == heads


def test_no_panel_of_many_is_lost() -> None:
    line = {"a": [(0.0, Interval(0.0, 0.0, 1.0)), (1.0, Interval(1.0, 0.0, 1.0))]}
    for count in (1, 5, 7):
        names = [f"panel {n}" for n in range(count)]
        axes = curves([(name, "x", line) for name in names], ["a"]).axes
        assert [a.get_title("left") for a in axes] == names


def test_what_rounds_to_zero_has_no_sign() -> None:
    interval = Interval(-0.00001, -0.2, 0.0004)
    assert f"{interval:.1%}" == "0.0% (-20.0% to 0.0%)"
    assert f"{interval:+.2f}" == "+0.00 (-0.20 to +0.00)"
