"""Does S3TA's network find what is on the screen? The same question to each of its settings, without reinforcement.

    python training/s3ta_probe.py [--game minatar-breakout|breakout|pong] [--updates 200] [--seeds 3] [--only NAME ...]

It learns to say, from recorded play, on which side of the paddle the ball is: 10 steps of 32 games an update,
cross-entropy, RMSProp. What cannot learn this cannot learn to play. Prints the accuracy over the last 50 updates for
each setting, with its range over the seeds. (Always "left": about 0.4.) On Atari the screens are grey, 84 × 84.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import open_environments
from foveate.agents.games import EnvironmentSettings
from foveate.agents.models.interface import AgentInputs
from foveate.agents.whitening import whiten

STEPS, GAMES = 10, 32
UNKNOWN = -100
"""Where there is no ball to be seen."""

Screens = UInt8[Tensor, "games channels height width"]
Distance = Float[Tensor, " games"]


@dataclass(frozen=True)
class Game:
    """What the question is asked of."""

    environment: EnvironmentSettings
    network: Mapping[str, object]
    """Settings of a small network for it."""
    learning_rate: float
    ball: Callable[[Screens], Distance]
    """How far the ball is to the right of the paddle's middle, or below it; not a number where one is unseen."""
    towards: tuple[str, str, str]
    """What to press where the ball is before the paddle, at it, behind it."""
    near: float
    """Distances up to this are none."""


def minatar(screens: Screens) -> Distance:
    ball, paddle = (screens[:, channel].flatten(1).int().argmax(1) % 10 for channel in (1, 0))
    return (ball - paddle).float()


def breakout(screens: Screens) -> Distance:
    lit = screens[:, 0, :, 4:80] > 20
    return _middle(lit[:, 39:74].any(1)) - _middle(lit[:, 75:78].any(1))


def pong(screens: Screens) -> Distance:
    field = screens[:, 0, 14:77].int()
    lit = (field - field.flatten(1).mode(1).values[:, None, None]).abs() > 20
    return _middle(lit[:, :, 14:71].any(2)) - _middle(lit[:, :, 72:76].any(2))


def _middle(lit: Tensor) -> Distance:
    places = torch.arange(float(lit.shape[1]))
    return (lit * places).sum(1) / lit.sum(1)


LARGE = {"query_units": (256, 128), "answer_units": (512, 256), "core": 256, "output": 128}
"""The paper's, on a small screen too."""
ATARI = {"memory": 32, "convolutions": ((8, 4, 16), (4, 2, 32))}
GAMES_BY_NAME = {
    "minatar-breakout": Game(
        EnvironmentSettings(env="MinAtar/Breakout-v1"),
        {"memory": 32, "convolutions": ((3, 1, 16),), **LARGE},
        1e-3,
        minatar,
        ("LEFT", "NOOP", "RIGHT"),
        0,
    ),
    "breakout": Game(
        EnvironmentSettings(env="ALE/Breakout-v5", screen="grey"), ATARI, 5e-4, breakout, ("LEFT", "NOOP", "RIGHT"), 2
    ),
    "pong": Game(
        EnvironmentSettings(env="ALE/Pong-v5", screen="grey"), ATARI, 5e-4, pong, ("RIGHT", "NOOP", "LEFT"), 2
    ),
}

A3C = {"memory": 32, "convolutions": (32, 32, 64)}
ANSWERS = {"normalise_answers": True}


class Variant(NamedTuple):
    """What is asked."""

    model: str
    settings: Mapping[str, object] = {}
    plain: bool = False
    """Draw the weights anew, as torch draws them."""
    whiten: bool = False


VARIANTS: Mapping[str, Variant] = {
    "to the letter, torch's first weights": Variant("s3ta-paper", plain=True),
    "to the letter, Sonnet's first weights": Variant("s3ta-paper"),
    "and answers normalised": Variant("s3ta", ANSWERS | {"normalise_content": False, "initial_query": 0.0}),
    "and keys and values": Variant("s3ta", ANSWERS | {"initial_query": 0.0}),
    "and heads that begin with queries": Variant("s3ta", ANSWERS),
    "the same with 8 heads": Variant("s3ta", ANSWERS | {"heads": 8}),
    "with 4, answers not normalised: s3ta": Variant("s3ta"),
    "and screens whitened": Variant("s3ta", whiten=True),
    "to the letter, screens whitened": Variant("s3ta-paper", whiten=True),
    "fixed queries": Variant("s3ta-fixed-query", ANSWERS),
    "norms of keys": Variant("s3ta-l2-keys", ANSWERS),
    "no attention: a3c": Variant("a3c"),
    "no attention, screens whitened": Variant("a3c", whiten=True),
}

Unroll = tuple[AgentInputs, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=GAMES_BY_NAME, default="minatar-breakout")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    options = parser.parse_args()
    game = GAMES_BY_NAME[options.game]
    unrolls, actions = record(game, options.updates)
    print(f"{options.game:42} accuracy (range of {options.seeds} seeds)   entropy of the maps [nat]")
    for name in options.only:
        results = [learn(game, unrolls, actions, VARIANTS[name], seed) for seed in range(options.seeds)]
        accuracies, entropies = zip(*results, strict=True)
        mean, spread = sum(accuracies) / len(accuracies), f"{min(accuracies):.2f}-{max(accuracies):.2f}"
        print(f"{name:42} {mean:.2f} ({spread})   {sum(entropies) / len(entropies):.2f}", flush=True)


def record(game: Game, updates: int) -> tuple[list[Unroll], int]:
    """Play that is half random and half right, and on which side of the paddle the ball was at every step; and how many
    actions there are."""
    games = open_environments(game.environment, GAMES)
    random = torch.Generator().manual_seed(0)
    towards = torch.tensor([games.action_names.index(name) for name in game.towards])
    step, action = games.reset(0), torch.zeros(GAMES, dtype=torch.long)
    unrolls = []
    for _ in range(updates):
        rows = []
        for _ in range(STEPS):
            distance = game.ball(step.observation)
            side = torch.where(distance.abs() > game.near, distance.sign(), 0).nan_to_num(0).long() + 1
            rows.append((step.observation, step.clipped, action, step.done, side.where(~distance.isnan(), UNKNOWN)))
            drawn = torch.randint(games.actions, (GAMES,), generator=random)
            action = torch.where(torch.rand(GAMES, generator=random) < 0.5, drawn, towards[side])
            step = games.step(action)
        *inputs, sides = (torch.stack(column) for column in zip(*rows, strict=True))
        unrolls.append((AgentInputs(*inputs), sides))
    return unrolls, games.actions


def learn(game: Game, unrolls: list[Unroll], actions: int, variant: Variant, seed: int) -> tuple[float, float]:
    """Accuracy over the last 50 updates, and the entropy of the maps after them (0 without attention)."""
    torch.manual_seed(seed)
    small = {**game.network, **variant.settings} if variant.model.startswith("s3ta") else A3C
    shape = tuple(unrolls[0][0].observation.shape[2:])
    agent = PlayingAgent(variant.model, shape, actions, {"env": game.environment.env}, small, whiten=variant.whiten)
    if variant.whiten:
        whiten(agent, game.environment, envs=GAMES, seed=0)
    if variant.plain:
        agent.apply(_as_torch_draws)
    optimiser = torch.optim.RMSprop(agent.parameters(), lr=game.learning_rate, alpha=0.99, eps=1e-5)
    state, right = agent.initial_state(GAMES), []
    for inputs, sides in unrolls:
        output, state = agent(inputs, state)
        state = {name: part.detach() for name, part in state.items()}
        optimiser.zero_grad()
        F.cross_entropy(output.logits.flatten(0, 1), sides.flatten(), ignore_index=UNKNOWN).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimiser.step()
        known = sides != UNKNOWN
        right.append(float((output.logits.argmax(-1) == sides)[known].float().mean()))
    with torch.no_grad():
        attention = agent(unrolls[-1][0], state, True)[0].attention
    entropy = float(torch.special.entr(attention.maps).sum((-2, -1)).mean()) if attention else 0.0
    return sum(right[-50:]) / len(right[-50:]), entropy


def _as_torch_draws(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear | nn.LSTMCell):
        module.reset_parameters()


if __name__ == "__main__":
    main()
