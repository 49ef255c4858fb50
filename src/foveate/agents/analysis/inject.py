"""Inject: something pasted into what the agent sees, from the same state of the emulator with and without it.

S3TA, section 4.2 and Figure 3; Mask A3C, Figures 19 and 20. The game knows nothing of it: only the picture changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import drawing
from foveate.agents.analysis.findings import Findings, Picture, Table
from foveate.agents.analysis.rolled import Rolled, cells_under, elsewhere, roll, source, together
from foveate.agents.analysis.sprites import Sprite, cut, named
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.placement import screen_centres
from foveate.agents.screens import Box
from foveate.agents.trace import Trace
from foveate.bootstrap import Interval, bootstrap_means
from foveate.errors import RequestError
from foveate.viz.panels import Curve, curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARMS = ("without", "with", "patch")
"""As it is; with the sprite; with a patch from elsewhere on the same screen, in the sprite's outline."""


NOTICED = 0.005
"""Share of a map: to have moved by less is not said to be a move, however sure it is."""


@dataclass(frozen=True)
class Settings:
    """Paste something into what the agent sees: does it look there, and does it act otherwise?"""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    recording: Annotated[Recording, tyro.conf.arg(name="")]
    sprite: str | None = None
    """What is pasted: a PNG's path, or one that is drawn by code: fish, oxygen, block; in MinAtar the name of a
    channel. Unless given a fish, and in MinAtar what comes towards the player."""
    from_step: int | None = None
    """Or what stands in --box on the screen of this step of the trace."""
    box: tuple[int, int, int, int] | None = None
    """Top, left, height and width there, in pixels of the screen (MinAtar: cells)."""
    at: tuple[int, int] | None = None
    """Row and column of the screen where its top left corner is pasted; the middle unless given."""
    velocity: tuple[float, float] = (0.0, 0.0)
    """Pixels down and to the right that it moves in a step."""
    starts: int = 20
    """Moments of the trace that it is pasted from, evenly spread."""
    duration: int = 10
    """Steps that it is shown."""
    after: int = 10
    """Steps that are watched when it is gone."""


def analyse(settings: Settings) -> Findings:
    """Both parts: the same actions with something else seen, and the agent left to itself."""
    for name in ("starts", "duration"):
        if getattr(settings, name) < 1:
            raise RequestError(f"--{name} is {getattr(settings, name)}; it must be at least 1")
    if settings.after < 0:
        raise RequestError(f"--after is {settings.after}; it must be at least 0")
    agent = settings.subject.open()
    trace = settings.recording.open(settings.subject, agent)
    rows = 1 + settings.duration + settings.after
    if trace.steps < rows + settings.starts:
        raise RequestError(
            f"the trace has {trace.steps} steps; {settings.starts} starts of {rows} need at least "
            f"{rows + settings.starts}: record more --steps"
        )
    starts = [int((n + 0.5) * (trace.steps - rows) / settings.starts) for n in range(settings.starts)]
    beginning = together(trace, agent, starts)
    sprite = _sprite(settings, trace)
    games = beginning.games
    top, left = settings.at or (
        games.box.top + (games.box.height - sprite.height) // 2,
        games.box.left + (games.box.width - sprite.width) // 2,
    )
    places = [
        (round(top + t * settings.velocity[0]), round(left + t * settings.velocity[1]))
        for t in range(settings.duration)
    ]
    cells = cells_under(agent, games.box, sprite, places)
    if not cells.any():
        seen = games.box
        raise RequestError(
            f"at {top} {left} the sprite is not on what the agent sees: rows {seen.top} to "
            f"{seen.top + seen.height - 1} of the screen, columns {seen.left} to {seen.left + seen.width - 1}"
        )
    rng = np.random.default_rng(settings.subject.seed)
    patches = [elsewhere(trace, start, sprite, (top, left), games.box, rng) for start in starts]
    pasted = {"without": None, "with": [sprite] * len(starts), "patch": patches}
    recorded = trace.column("action")
    forced = torch.stack([recorded[start : start + rows] for start in starts], 1)
    same = {arm: roll(agent, beginning, pasted[arm], places, rows, forced, settings.subject) for arm in ARMS}
    free = {arm: roll(agent, beginning, pasted[arm], places, rows, None, settings.subject) for arm in ARMS}
    games.close()
    shown = slice(1, 1 + settings.duration)
    generator = torch.Generator().manual_seed(settings.subject.seed)
    looks = {
        head: look({arm: mass(rolled.maps[shown, :, n], cells) for arm, rolled in same.items()}, generator)
        for n, head in enumerate(agent.heads)
    }
    acts = act(same, shown, trace.action_names, generator)
    plays = play(free, shown, generator)
    strongest = _strongest(same, shown, cells)
    lit = f", lit by {_drawn_head(agent)}" if agent.heads else ""
    pictures = {
        "strip": Picture(
            draw_strip(agent, same, free, strongest, games.box, shown),
            f"From step {starts[strongest]}, the start where the {sprite.name} changed most: the same actions without "
            f"and with it, and the agent left to itself without and with it{lit}.",
        ),
        "time": Picture(
            draw_time(agent, same, cells, shown),
            f"Before, while (steps 1 to {settings.duration}) and after the {sprite.name} is shown, the same actions: "
            + ("each head's attention on its place, and " if agent.heads else "")
            + "how far the action probabilities are from those without it.",
        ),
    }
    return Findings(
        name="inject",
        title="Injected sprites",
        question=(
            "Does the agent look at something new on its screen, and act upon it? (S3TA, section 4.2; Mask A3C, "
            "Figures 19 and 20)"
        ),
        protocol={
            **settings.subject.protocol(agent),
            **settings.recording.protocol(trace),
            "left_to_itself": "sampled" if settings.subject.sample else "greedy",
            "sprite": sprite.name,
            "sprite_pixels": f"{sprite.height} × {sprite.width}",
            "row_and_column": f"{top} {left}",
            "velocity": f"{settings.velocity[0]:g} {settings.velocity[1]:g}",
            "starts": settings.starts,
            "shown_steps": settings.duration,
            "steps_after": settings.after,
            "control": "a patch from a random other place of the same screen, in the sprite's outline",
            "mass": "share of a map's sum that lies in the cells nearest to the sprite's pixels",
            "intervals": "95%, bootstrap over starts, paired",
        },
        sentences=_sentences(sprite.name, looks, acts, plays),
        numbers={
            "heads": {head: asdict(found) for head, found in looks.items()},
            "actions": asdict(acts),
            "free_play": asdict(plays),
        },
        tables=_tables(sprite.name, looks, acts),
        pictures=pictures,
    )


def _sprite(settings: Settings, trace: Trace) -> Sprite:
    if settings.box is not None or settings.from_step is not None:
        if settings.box is None or settings.from_step is None or settings.sprite is not None:
            raise RequestError("--from-step and --box belong together, and take the place of --sprite")
        return cut(source(trace, settings.from_step), Box(*settings.box), name=f"piece of step {settings.from_step}")
    return named(settings.sprite, trace.environment.env)


# --- measures


@dataclass(frozen=True)
class Look:
    """A head's attention on the sprite's place, the actions being the same."""

    without: Interval
    shown: Interval
    """With the sprite."""
    patch: Interval
    moved: Interval
    """With the sprite, less without it."""
    beyond_patch: Interval
    """With the sprite, less with a patch from elsewhere."""


@dataclass(frozen=True)
class Act:
    """How far the action probabilities are from those without the sprite, the actions taken being the same."""

    variation: Interval
    """Total variation distance, 0 to 1, while it is shown."""
    patch: Interval
    """That of a patch from elsewhere."""
    beyond_patch: Interval
    after: Interval | None
    """When it is gone: what is remembered of it."""
    actions: dict[str, Interval]
    """Change of each action's probability, while it is shown."""


@dataclass(frozen=True)
class Play:
    """The agent left to itself."""

    starts: int
    diverged: int
    """Starts from which it takes another action than without the sprite, while that is shown."""
    diverged_patch: int
    score: Interval
    """Score with the sprite, less that without, until the end of what was watched."""


def mass(
    maps: Float[Tensor, "time starts rows columns"], cells: Bool[Tensor, "time rows columns"]
) -> Float[Tensor, " starts"]:
    """Share of the map's sum on some cells, meaned over the steps that have any."""
    share = (maps * cells[:, None]).sum((2, 3)) / maps.sum((2, 3)).clamp(min=1e-9)
    return share[cells.flatten(1).any(1)].mean(0)


def look(masses: dict[str, Float[Tensor, " starts"]], rng: torch.Generator) -> Look:
    """The mass of each arm, and the paired differences."""
    without, shown, patch = (masses[arm] for arm in ARMS)
    return Look(*bootstrap_means(torch.stack([without, shown, patch, shown - without, shown - patch], 1), rng))


def variation(p: Float[Tensor, "*steps actions"], q: Float[Tensor, "*steps actions"]) -> Float[Tensor, "*steps"]:
    """Total variation distance: the largest difference that the probability of any set of actions can have."""
    return (p - q).abs().sum(-1) / 2


def act(rolled: dict[str, Rolled], shown: slice, names: Sequence[str], rng: torch.Generator) -> Act:
    """Probabilities with the sprite and with the patch against those without either."""
    plain, sprite, patch = (rolled[arm].probabilities for arm in ARMS)
    away = {"with": variation(sprite, plain), "patch": variation(patch, plain)}
    during = [away[arm][shown].mean(0) for arm in ("with", "patch")]
    whole, control, beyond = bootstrap_means(torch.stack([*during, during[0] - during[1]], 1), rng)
    gone = away["with"][shown.stop :]
    return Act(
        variation=whole,
        patch=control,
        beyond_patch=beyond,
        after=bootstrap_means(gone.mean(0)[:, None], rng)[0] if len(gone) else None,
        actions=dict(zip(names, bootstrap_means((sprite - plain)[shown].mean(0), rng), strict=True)),
    )


def play(rolled: dict[str, Rolled], shown: slice, rng: torch.Generator) -> Play:
    """What the agent did, and what it came to."""
    plain, sprite, patch = (rolled[arm] for arm in ARMS)

    def diverged(other: Rolled) -> int:
        return int((other.action[shown] != plain.action[shown]).any(0).sum())

    score = (sprite.reward - plain.reward).sum(0)
    return Play(
        starts=plain.action.shape[1],
        diverged=diverged(sprite),
        diverged_patch=diverged(patch),
        score=bootstrap_means(score[:, None].float(), rng)[0],
    )


def _strongest(rolled: dict[str, Rolled], shown: slice, cells: Tensor) -> int:
    """The start where the attention moved most; without attention, where the probabilities did."""
    if rolled["with"].maps.shape[2]:
        moved = sum(
            mass(rolled["with"].maps[shown, :, n], cells) - mass(rolled["without"].maps[shown, :, n], cells)
            for n in range(rolled["with"].maps.shape[2])
        )
        assert isinstance(moved, Tensor)
        return int(moved.argmax())
    return int(variation(rolled["with"].probabilities, rolled["without"].probabilities)[shown].mean(0).argmax())


# --- words


def _sentences(sprite: str, looks: dict[str, Look], acts: Act, plays: Play) -> list[str]:
    said = []
    drawn = {head: found for head, found in looks.items() if found.moved.low > 0 and found.moved.mean >= NOTICED}
    if drawn:
        most = max(drawn, key=lambda head: drawn[head].moved.mean)
        found = drawn[most]
        said.append(
            f"Attention goes to the {sprite} ({', '.join(drawn)}): most that of {most}, whose share on its place is "
            f"{found.shown.mean:.1%}, against {found.without.mean:.1%} on the same place without it, a difference of "
            f"{found.moved:.1%}."
        )
        beyond = [head for head in drawn if drawn[head].beyond_patch.sign > 0]
        said.append(
            f"It draws more than a patch from elsewhere does for {', '.join(beyond)} ({most}: "
            f"{found.beyond_patch:.1%} more)."
            if beyond
            else "It is not shown to draw more than a patch from elsewhere of the same outline "
            f"({most}: {found.beyond_patch:.1%})."
        )
    elif looks:
        said.append(
            f"No head's attention is shown to go to the {sprite}: differences on its place are "
            + ", ".join(f"{head} {found.moved:.1%}" for head, found in looks.items())
            + "."
        )
        if gone := [head for head, found in looks.items() if found.moved.sign < 0]:
            said.append(f"There is less of it on its place than without it: {', '.join(gone)}.")
    strongest = max(acts.actions, key=lambda name: abs(acts.actions[name].mean))
    than = {1: "more than", 0: "not shown to be more than", -1: "less than"}[acts.beyond_patch.sign]
    said.append(
        f"The action probabilities change by a total variation of {acts.variation:.3f} while it is shown, {than} for "
        f"the patch ({acts.patch.mean:.3f}; difference {acts.beyond_patch:+.3f}); {strongest} changes most, "
        f"{acts.actions[strongest]:+.3f}."
    )
    said.append(
        f"Left to itself, the agent does something else than without it from {plays.diverged} of {plays.starts} starts "
        f"while it is shown, {plays.diverged_patch} with the patch; the score changes by {plays.score:+.2f}."
    )
    return said


def _tables(sprite: str, looks: dict[str, Look], acts: Act) -> list[Table]:
    tables = []
    if looks:
        rows = [
            [head, *(f"{i:.1%}" for i in (f.without, f.shown, f.patch, f.moved, f.beyond_patch))]
            for head, f in looks.items()
        ]
        columns = ["head", "without", f"with the {sprite}", "with a patch", "moved", "beyond the patch"]
        tables.append(Table("Attention on the place, the same actions", columns, rows))
    rows = [[name, f"{interval:+.3f}"] for name, interval in acts.actions.items()]
    tables.append(Table(f"Probabilities with the {sprite}, less those without", ["action", "change"], rows))
    return tables


# --- pictures


def _drawn_head(agent: PlayingAgent) -> str:
    return "the policy mask" if "policy" in agent.heads else "the heads' mean attention"


def draw_strip(
    agent: PlayingAgent,
    same: dict[str, Rolled],
    free: dict[str, Rolled],
    start: int,
    box: Box,
    shown: slice,
    columns: int = 6,
) -> Figure:
    """Screens from one start: rows without and with the sprite, first with the same actions, then left to itself."""
    last = len(same["with"].screens) - 1
    times = np.unique(np.linspace(0, min(shown.stop, last), columns).round().astype(int)).tolist()
    centres = screen_centres(agent.network.grid, agent.observation, box)

    def picture(rolled: Rolled, t: int) -> UInt8[np.ndarray, "_ _ 3"]:
        screen, maps = rolled.screens[t][start], rolled.maps[t, start]
        if not len(maps):
            zoom = drawing.zoom_of(screen)
            return screen.repeat(zoom, 0).repeat(zoom, 1)
        weights = maps[agent.heads.index("policy")] if "policy" in agent.heads else maps.mean(0)
        return drawing.lit(screen, weights.numpy(), *centres)

    rows = [
        (f"{kind}\n{arm}", [picture(rolled[arm], t) for t in times])
        for kind, rolled in (("same actions", same), ("free play", free))
        for arm in ("without", "with")
    ]
    return drawing.sheet([f"+{t}" for t in times], rows)


def draw_time(
    agent: PlayingAgent, rolled: dict[str, Rolled], cells: Bool[Tensor, "time rows columns"], shown: slice
) -> Figure:
    """Each head's mass on the place over time, and the total variation; means over starts with their intervals."""
    time = len(rolled["with"].probabilities)
    # Before it comes its first place is watched, and when it is gone its last.
    watched = torch.stack([cells[min(max(t - shown.start, 0), len(cells) - 1)] for t in range(time)])
    rng = torch.Generator().manual_seed(0)

    def curve(values: Float[Tensor, "time starts"]) -> Curve:
        return [(float(t), i) for t, i in enumerate(bootstrap_means(values.T, rng))]

    labels = {"without": "without", "with": "with it", "patch": "with a patch"}
    panels = [
        (
            f"share on its place: {head}",
            "step",
            {
                labels[arm]: curve((r.maps[:, :, n] * watched[:, None]).sum((2, 3)) / r.maps[:, :, n].sum((2, 3)))
                for arm, r in rolled.items()
            },
        )
        for n, head in enumerate(agent.heads)
    ]
    plain = rolled["without"].probabilities
    panels.append(
        (
            "total variation",
            "step",
            {labels[arm]: curve(variation(rolled[arm].probabilities, plain)) for arm in ("with", "patch")},
        )
    )
    return curves(panels, list(labels.values()))
