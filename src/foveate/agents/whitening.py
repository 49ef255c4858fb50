"""What each pixel usually is: measured in random play, before an agent learns."""

from __future__ import annotations

from contextlib import closing

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import VectorEnvironment, open_environments
from foveate.agents.games import EnvironmentSettings
from foveate.agents.models.scaling import Scaled, Whitened

STEPS = 8_192
"""Of all environments together."""


def whiten(agent: PlayingAgent, environment: EnvironmentSettings, *, envs: int, seed: int, threads: int = 0) -> None:
    """Let an agent that was made to be whitened know what its screens usually are."""
    assert isinstance(agent.network.scale, Whitened)
    with closing(open_environments(environment, envs, threads=threads)) as games:
        agent.network.scale.measure(*usual(games, seed=seed))


def usual(
    games: VectorEnvironment, *, seed: int
) -> tuple[Float[Tensor, "channels height width"], Float[Tensor, "channels height width"]]:
    """Mean and deviation of each pixel, in [0, 1], over STEPS of random play."""
    scaled, generator = Scaled(), torch.Generator().manual_seed(seed)
    count, total, squares = 0, torch.zeros(games.observation_shape), torch.zeros(games.observation_shape)
    step = games.reset(seed)
    while count < STEPS:
        screens = scaled(step.observation)
        count += len(screens)
        total += screens.sum(0)
        squares += screens.square().sum(0)
        step = games.step(torch.randint(games.actions, (games.envs,), generator=generator))
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()
