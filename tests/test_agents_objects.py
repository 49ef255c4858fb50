"""Where the things of a game are said to be, there they must be drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ale_py", reason="needs the extra `agents`")
pytest.importorskip("minatar", reason="needs the extra `agents`")

from test_agents_trace import agent_of

from foveate.agents.games import EnvironmentSettings, open_game
from foveate.agents.objects import ATARI, Track, channel_names, minatar, tracks
from foveate.agents.trace import record
from foveate.errors import RequestError

# The colours of sprites, and the share of steps at which they must be seen: not drawn are the cannon and the submarine
# while a new one is waited for, and whatever explodes.
EDIBLE = (66, 114, 194)
SPRITES = {
    "breakout": {"paddle": (0.99, (200, 72, 72)), "ball": (0.99, (200, 72, 72))},
    "pong": {"bat": (0.99, (92, 186, 92)), "opponent": (0.9, (213, 130, 74)), "ball": (0.99, (236, 236, 236))},
    "ms_pacman": {
        "ms pacman": (0.95, (210, 164, 74)),
        "blinky": (0.9, (200, 72, 72), EDIBLE),
        "pinky": (0.9, (198, 89, 179), EDIBLE),
        "inky": (0.9, (84, 184, 153), EDIBLE),
        "sue": (0.9, (180, 122, 48), EDIBLE),
    },
    "space_invaders": {
        "cannon": (0.85, (50, 132, 50)),
        "invaders": (0.95, (134, 134, 29)),
        "shot": (0.95, (142, 142, 142)),
        "bombs": (0.95, (142, 142, 142)),
    },
    "seaquest": {
        "submarine": (0.6, (187, 187, 53)),
        "enemies": (0.9, (92, 186, 92)),
        "divers": (0.9, (66, 72, 200)),
        "missile": (0.9, (187, 187, 53)),
    },
}


def play(env: str, frames: int) -> tuple[np.ndarray, torch.Tensor]:
    game = open_game(EnvironmentSettings(env=env, repeat=1))
    game.reset(1)
    rng = np.random.default_rng(0)
    screens, memory, action = [], [], 0
    for frame in range(frames):
        action = int(rng.integers(game.actions)) if frame % 16 == 0 else action
        if game.step(action).over:
            game.reset()
        screens.append(game.screen().copy())
        memory.append(game.ram().copy())  # type: ignore[attr-defined]
    return np.stack(screens), torch.from_numpy(np.stack(memory)).long()


def drawn(screens: np.ndarray, track: Track, colours: tuple, moved: int = 0) -> tuple[float, int]:
    """How often one of the colours is within a pixel of the place, and of how many places; sprites flicker, so one of
    four frames is enough."""
    seen = []
    places = track.seen[3:].nonzero()
    for t, thing in places[:: max(len(places) // 150, 1)].tolist():
        t += 3
        near = []
        for before in range(4):
            row, column = (round(float(x[t - before, thing])) + moved for x in (track.rows, track.columns))
            part = screens[t - before, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(-1, 3)
            near.append((part[:, None] == np.array(colours)).all(-1).any())
        seen.append(any(near))
    return float(np.mean(seen)), len(seen)


@pytest.mark.parametrize(
    ("env", "name"), [(f"ALE/{''.join(w.capitalize() for w in name.split('_'))}-v5", name) for name in ATARI]
)
def test_the_pixel_at_the_place_is_the_sprites(env: str, name: str) -> None:
    screens, memory = play(env, 1000)
    found = ATARI[name](memory)
    assert found.keys() - {"fruit"} == SPRITES[name].keys()
    for thing, (least, *colours) in SPRITES[name].items():
        share, places = drawn(screens, found[thing], tuple(colours))
        assert places >= 10, (thing, places)
        assert share >= least, (thing, share)
        # and elsewhere it is not: the check can fail
        assert drawn(screens, found[thing], tuple(colours), moved=11)[0] < 0.35, thing


def test_a_thing_that_is_not_there_is_not_seen() -> None:
    memory = torch.zeros(2, 128, dtype=torch.long)
    memory[1, 101], memory[1, 99] = 100, 100
    ball = ATARI["breakout"](memory)["ball"]
    assert ball.seen.tolist() == [[False], [True]]
    assert (float(ball.rows[1]), float(ball.columns[1])) == (110.5, 51.5)


def test_invaders_are_counted_as_the_console_counts_them() -> None:
    _, memory = play("ALE/SpaceInvaders-v5", 600)
    assert torch.equal(ATARI["space_invaders"](memory)["invaders"].seen.sum(1), memory[:, 17])
    assert len(memory[:, 17].unique()) > 1


def test_minatars_channels_have_names_and_places(tmp_path: Path) -> None:
    trace = record(agent_of("MinAtar/Breakout-v1"), tmp_path, steps=20)
    found = tracks(trace)
    assert list(found) == ["paddle", "ball", "trail", "brick"]
    assert found["brick"].seen[0].sum() == 30
    ball = found["ball"]
    observation = trace.column("observation")
    for t in range(20):
        (place,) = ball.seen[t].nonzero().flatten().tolist()
        assert observation[t, 1, int(ball.rows[t, place]), int(ball.columns[t, place])] > 0
    assert channel_names(EnvironmentSettings("MinAtar/Seaquest-v1"))[:3] == ("sub front", "sub back", "friendly bullet")
    # Rows are rows.
    one = torch.zeros(1, 1, 4, 5, dtype=torch.uint8)
    one[0, 0, 3, 1] = 255
    track = minatar(one, ("x",))["x"]
    assert track.rows[track.seen].tolist() == [3] and track.columns[track.seen].tolist() == [1]


def test_of_other_games_nothing_is_known(tmp_path: Path) -> None:
    trace = record(agent_of("ALE/Freeway-v5"), tmp_path, steps=2)
    with pytest.raises(RequestError, match="not known; it is for breakout, pong"):
        tracks(trace)
