"""Figures (matplotlib, loaded when one is drawn): an explanation step by step, and methods against each other."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.errors import RequestError
from foveate.masking.state import State
from foveate.text.explanation import Explanation
from foveate.text.features import statistics
from foveate.viz.marks import action, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from foveate.text.agent import Agent
    from foveate.text.classifier import TextClassifier

STATES = 9
"""The most states that `plot` draws: nothing masked, and eight steps."""
LABELLED = 48
"""The most tokens that get their label on an axis; of longer texts every second, third ... one."""
LEAST = 0.1
"""Fewer queries than this stand there: a logarithm has no place for 0."""
CHOSEN, PLAIN, FAINT = "#d9480f", "#4c6ef5", "#adb5bd"

Method = tuple[str, float, float, float, Mapping[str, tuple[float, float]] | None]
"""(name, queries, mask rate, fidelity, {"queries": (low, high), "mask_rate": (low, high)} or None)."""


@dataclass(frozen=True)
class Replay:
    """What the classifier and the agent saw along a path: nothing masked, then after each step."""

    attention: Float[Tensor, "states tokens tokens"]
    probabilities: Float[Tensor, "states labels"]
    features: Float[Tensor, "states tokens features"]
    values: Float[Tensor, "states tokens"] | None
    """Q of toggling each token, minus infinity where it may not be; None without an agent."""
    visible: Bool[Tensor, "states tokens"]
    labels: tuple[str, ...]


def replay(
    explanation: Explanation, classifier: TextClassifier, agent: Agent | None = None, states: int = STATES
) -> Replay:
    """Put the first states of the explanation's path to the classifier again; they are no queries of the method.

    Raises RequestError where the classifier reads the text as other tokens than the explanation has.
    """
    e = explanation
    encoded = classifier.encode([e.text if e.pair is None else (e.text, e.pair)])
    spans = [(t.start, t.end, t.segment) for t in e.tokens]
    offsets, segments = encoded.offsets[0].tolist(), encoded.segments[0].tolist()
    if [(*offset, segment) for offset, segment in zip(offsets, segments, strict=True)] != spans:
        raise RequestError(f"this explanation is of {e.model}, which reads other tokens than {classifier.name}")
    # Each state that a step was taken in, and the last: a step that was taken back left the state before it.
    masks = [set(step.masked) ^ set(step.action) for step in e.path] + [set(e.path[-1].masked if e.path else ())]
    masks = masks[:states]
    shown = encoded.real.repeat(len(masks), 1)
    for i, masked in enumerate(masks):
        shown[i, list(masked)] = False
    rows = torch.zeros(len(masks), dtype=torch.long)
    prediction = classifier.predict(encoded, rows, shown, observe=True)
    assert prediction.observation is not None
    attention, real = prediction.observation.attention, encoded.real[rows]
    values = None
    if agent is not None:
        legal = encoded.maskable[rows]
        tried: set[int] = set()
        for i, step in enumerate(e.path[: len(masks) - 1] if agent.moves != "toggle" else ()):
            stood = masks[i + 1] == set(step.masked)
            tried = set(step.action) | (set() if stood else tried)
            legal[i + 1 :, list(step.action)] = False
            if not legal[i + 1].any():
                # The next round: all may be tried once more, but what was since the mask last changed.
                legal[i + 1 :] = encoded.maskable[0]
                legal[i + 1 :, list(tried)] = False
        state = State(
            observation=prediction.observation,
            real=real,
            maskable=encoded.maskable[rows],
            visible=shown,
            legal=legal,
            segments=encoded.segments[rows],
            probabilities=prediction.probabilities,
            target=torch.full_like(rows, classifier.labels.index(e.label)),
            wanted=torch.full((len(rows),), e.goal),
        )
        values = agent.values(state).detach().cpu()
    return Replay(
        attention=attention.cpu(),
        probabilities=prediction.probabilities.cpu(),
        features=statistics(attention, real).cpu(),
        values=values,
        visible=shown.cpu(),
        labels=classifier.labels,
    )


def plot(explanation: Explanation, classifier: TextClassifier | None = None, agent: Agent | None = None) -> Figure:
    """The path, a row a state: attention matrix, label probabilities, features, Q values (AttExplainer, figure 5).

    The next step's token is marked. Without an agent the method's scores stand for Q values; without a classifier,
    which alone knows the attention, only probabilities and scores are drawn, and the title says so. Of a long path
    the first eight steps are drawn. Raises RequestError where the classifier reads other tokens.
    """
    if classifier is None:
        return _plot_alone(explanation)
    e = explanation
    seen = replay(e, classifier, agent)
    states, tokens = seen.visible.shape
    side = min(max(2.2, 0.17 * tokens), 6.5)
    labels_height = min(max(side, 0.24 * len(seen.labels)), 6.5)
    figure = _figure(3 * side + 7, states * (labels_height + 1.1) + 0.8)
    axes = figure.subplots(states, 4, squeeze=False, width_ratios=[side, 2.2, side + 1.5, 0.6 * side + 0.8])
    attention_top, feature_top = float(seen.attention.max()), float(seen.features.max())
    for i, row in enumerate(axes):
        chosen = set(e.path[i].action) if i < len(e.path) else set()
        names = _names(e, seen.visible[i])
        _matrix(row[0], seen.attention[i], attention_top)
        _token_axis(row[0].yaxis, names, chosen)
        _token_axis(row[0].xaxis, names, chosen)
        row[0].tick_params(axis="x", rotation=90)
        _probabilities(row[1], e, seen.probabilities[i], seen.labels)
        _matrix(row[2], seen.features[i], feature_top)
        _token_axis(row[2].yaxis, names, chosen)
        _feature_axis(row[2], seen.features.shape[2])
        values = torch.tensor(e.scores) if seen.values is None else seen.values[i]
        _bars(row[3], values, names, chosen)
        state = "nothing masked" if i == 0 else f"after step {i}"
        _title(row[0], f"{state}: attention")
        row[0].set_xlabel("key", fontsize=8)
        row[0].set_ylabel("query", fontsize=8)
        _title(row[1], "label probabilities")
        _title(row[2], "features")
        what = e.method + " scores" if seen.values is None else "Q values"
        _title(row[3], f"{what}; next: {action(e, e.path[i])}" if i < len(e.path) else what)
    left_out = len(e.path) + 1 - states
    note = f" (the first {states - 1} of {len(e.path)} steps)" if left_out else ""
    _heading(figure, f"{e.label} {e.probability:.3f} → {e.probability - e.delta_p:.3f}, {e.method}{note}")
    return figure


def _plot_alone(e: Explanation) -> Figure:
    tokens = len(e.tokens)
    steps = e.path[: 4 * STATES]
    figure = _figure(11.0, max(3.0, min(0.2 * tokens, 14), 0.28 * (len(steps) + 1)) + 0.8)
    left, right = figure.subplots(1, 2)
    names = ["nothing masked", *(f"{i}: {_cut(action(e, s))}" for i, s in enumerate(steps, 1))]
    heights = [e.probability, *(s.probability for s in steps)]
    colours = [PLAIN, *(CHOSEN if s.masked == e.masked else PLAIN for s in steps)]
    left.barh(range(len(names)), heights, color=colours)
    left.axvline(e.goal, color="black", linestyle=":")
    left.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
    _token_axis(left.yaxis, names, set(), every=1)
    _title(left, f"p({e.label}) after each step; dotted: the end")
    everything = torch.ones(tokens, dtype=torch.bool)
    _bars(right, torch.tensor(e.scores), _names(e, everything), set(e.masked))
    _title(right, f"{e.method} scores; marked: masked")
    note = f"; the first {len(steps)} of {len(e.path)} steps" if len(steps) < len(e.path) else ""
    _heading(figure, f"What the file holds. Attention, features and Q values need plot(explainer=...){note}")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    if "IPython" in sys.modules:
        import matplotlib.pyplot  # noqa: F401  (a notebook draws figures only once this is loaded)
    return Figure(figsize=(width, height), layout="constrained")


def _names(e: Explanation, shown: Bool[Tensor, " tokens"]) -> list[str]:
    """The tokens' labels on an axis; masked ones in brackets."""
    names = []
    for token, seen in zip(e.tokens, shown.tolist(), strict=True):
        name = _cut(" ".join(visible(token.text).split()) or "␣")
        names.append(name if seen else f"[{name}]")
    return names


def _cut(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _token_axis(axis: Any, names: Sequence[str], chosen: set[int], every: int | None = None) -> None:
    every = every or -(-len(names) // LABELLED)
    places = [i for i in range(len(names)) if i % every == 0 or i in chosen]
    axis.set_ticks(places, [names[i] for i in places])
    for place, label in zip(places, axis.get_ticklabels(), strict=True):
        label.set(fontsize=8, parse_math=False)  # a text's dollars are no formula
        if place in chosen:
            label.set(color=CHOSEN, fontweight="bold")


def _matrix(axes: Axes, values: Tensor, top: float) -> None:
    from matplotlib.colors import PowerNorm

    # Most entries are about 1/n, a few near 1; a root shows both.
    axes.imshow(values.numpy(), norm=PowerNorm(0.4, 0.0, max(top, 1e-6)), cmap="viridis", aspect="auto")


def _feature_axis(axes: Axes, count: int) -> None:
    bins = (count - 4) // 2
    for edge in (bins, 2 * bins):
        axes.axvline(edge - 0.5, color="white", linewidth=1)
    axes.set_xticks([bins / 2, 1.5 * bins, 2 * bins + 1.5], ["column histogram", "row histogram", "μ, σ"], fontsize=8)


def _probabilities(axes: Axes, e: Explanation, values: Float[Tensor, " labels"], labels: Sequence[str]) -> None:
    order = range(len(labels))
    if len(labels) > 12:
        order = sorted(values.argsort(descending=True)[:12].tolist())  # type: ignore[assignment]
    heights = [float(values[i]) for i in order]
    axes.barh(range(len(heights)), heights, color=[CHOSEN if labels[i] == e.label else PLAIN for i in order])
    axes.axvline(e.goal, color="black", linestyle=":")
    axes.set(xlim=(0, 1), ylim=(len(heights) - 0.5, -0.5))
    _token_axis(axes.yaxis, [_cut(visible(labels[i])) for i in order], set(), every=1)
    axes.tick_params(axis="x", labelsize=8)


def _bars(axes: Axes, values: Float[Tensor, " tokens"], names: Sequence[str], chosen: set[int]) -> None:
    """Horizontal bars, a token each; those that may not be toggled have none."""
    heights = values.masked_fill(~values.isfinite(), 0.0).tolist()
    axes.barh(range(len(names)), heights, color=[CHOSEN if i in chosen else PLAIN for i in range(len(names))])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axvline(0, color="black", linewidth=0.5)
    _token_axis(axes.yaxis, names, chosen)
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=4)


def _title(axes: Axes, title: str) -> None:
    axes.set_title(_cut(visible(title), 60), fontsize=9, loc="left", parse_math=False)


def _heading(figure: Figure, title: str) -> None:
    figure.suptitle(visible(title), fontsize=11, parse_math=False)


def pareto(
    methods: Sequence[Method], title: str = "", fidelity_is: str = "fidelity", masked_is: str = "masked"
) -> Figure:
    """Queries (logarithmic) against masked rate, a point a method, coloured by fidelity: low and left is best.

    `methods` are (name, queries, mask rate, fidelity, intervals) tuples; the intervals, a mapping from "queries" and
    "mask_rate" to (low, high), become error bars. Ringed and in bold: the Pareto front in all three measures, that
    is the methods that no other beats or equals in queries, masked rate and fidelity at once (a method that gives
    up early is cheap, and shows so by its fidelity). Of attacks, fidelity is success, and masked modified.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = _figure(10.5, 7.0)
    axes = figure.subplots()
    front = pareto_front(methods)
    fidelity = [m[3] for m in methods]
    colours = ScalarMappable(Normalize(min([*fidelity, 0.9]), 1.0), "viridis")
    axes.set_xscale("log")
    for i, (_, queries, rate, faithful, intervals) in enumerate(methods):
        x, colour = max(queries, LEAST), colours.to_rgba(faithful)  # type: ignore[arg-type]
        if intervals and "queries" in intervals:
            low, high = intervals["queries"]
            axes.hlines(rate, max(low, LEAST), max(high, LEAST), color=colour, linewidth=1)
        if intervals and "mask_rate" in intervals:
            axes.vlines(x, *intervals["mask_rate"], color=colour, linewidth=1)
        edge, width, size = (CHOSEN, 2.5, 110) if i in front else ("white", 1.0, 60)
        axes.scatter([x], [rate], size, [colour], zorder=3, edgecolors=edge, linewidths=width)
    axes.set_xlabel("queries a text")
    axes.set_ylabel(f"tokens {masked_is}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.25, which="both")
    axes.set_axisbelow(True)
    axes.margins(0.12)
    axes.set_ylim(bottom=0)
    figure.colorbar(colours, ax=axes, label=fidelity_is, shrink=0.6)
    what = f"ringed: no other method is as good in queries, {masked_is} rate and {fidelity_is} at once"
    axes.set_title(f"{title} ({what})" if title else what, fontsize=10, loc="left", parse_math=False)
    points = [(max(m[1], LEAST), m[2]) for m in methods]
    _label_points(axes, points, [m[0] for m in methods], front)
    return figure


def pareto_front(methods: Sequence[Method]) -> set[int]:
    """The numbers of the methods that no other equals or beats in queries, masked rate and fidelity at once."""

    def beaten(i: int, j: int) -> bool:
        a, b = methods[i], methods[j]
        no_worse = b[1] <= a[1] and b[2] <= a[2] and b[3] >= a[3]
        return no_worse and (b[1], b[2], b[3]) != (a[1], a[2], a[3])

    return {i for i in range(len(methods)) if not any(beaten(i, j) for j in range(len(methods)))}


def _label_points(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], bold: set[int]) -> None:
    """Names beside their points, each moved outwards until it covers no other name and no point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    canvas = FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]
    canvas.draw()  # settles the layout, so that places on the axes are places on the page
    renderer = canvas.get_renderer()
    places = [axes.transData.transform(p) for p in points]
    taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in places]
    frame = axes.get_window_extent(renderer)
    # The front is what the picture is about: its names get the best places.
    for i in sorted(range(len(points)), key=lambda i: (i not in bold, points[i])):
        label = axes.annotate(
            names[i],
            points[i],
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            fontweight="bold" if i in bold else "normal",
            parse_math=False,
            zorder=4,
        )
        box = label.get_window_extent(renderer)
        best: tuple[float, tuple[float, float], Bbox] | None = None
        for distance in (11, 20, 32, 48, 70, 100, 140):
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                left = dx * distance - (box.width if dx < 0 else box.width / 2 if dx == 0 else 0)
                low = dy * distance - box.height / 2
                moved = Bbox.from_bounds(places[i][0] + left, places[i][1] + low, box.width, box.height)
                others = [t for j, t in enumerate(taken) if j != i]
                cost = sum(_overlap(moved, t) for t in others) + (box.width * box.height - _overlap(moved, frame)) * 3
                cost += distance * 0.5
                if best is None or cost < best[0]:
                    best = (cost, (left, low), moved)
        assert best is not None
        points_a_pixel = 72 / canvas.figure.dpi
        label.set_position((best[1][0] * points_a_pixel, best[1][1] * points_a_pixel))
        if max(abs(best[1][1]), abs(best[1][0] + (box.width if best[1][0] < 0 else 0))) > 25:
            x, y = places[i]
            nearest = (min(max(x, best[2].x0), best[2].x1), min(max(y, best[2].y0), best[2].y1))
            ends = axes.transData.inverted().transform([(x, y), nearest])
            axes.plot(ends[:, 0], ends[:, 1], color=FAINT, linewidth=0.7, zorder=1, scalex=False, scaley=False)
        taken.append(best[2].padded(1))


def _overlap(a: Any, b: Any) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(0.0, width) * max(0.0, height))
