"""Where does an agent of MinAtar's Asterix or Space Invaders die? It says what a low score is for want of.

    python training/where_it_ends.py AGENT [--steps 1500] [--games 64] [--greedy]

It plays, and looks at the last screen of each game: in which column the player was, and what was about to hit it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import closing

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import open_environments
from foveate.agents.player import Player

COLUMNS = 10

PLAYER, ALIENS, BULLETS = 0, 1, 5
"""Channels of the screen; those below the player's are Space Invaders'."""


def column(screen: Bool[Tensor, "channels 10 10"]) -> int:
    return int(screen[PLAYER].any(0).int().argmax())


def ending(screen: Bool[Tensor, "channels 10 10"]) -> str:
    """What is about to end a game of Space Invaders."""
    aliens = screen[ALIENS]
    if aliens[-2:].any():
        return f"{int(aliens.sum())} aliens landing" if aliens.sum() > 2 else "the last one or two aliens landing"
    near = slice(max(0, column(screen) - 1), column(screen) + 2)
    return "a bullet" if screen[BULLETS, -2:, near].any() else "other"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--games", type=int, default=64)
    parser.add_argument("--greedy", action="store_true")
    options = parser.parse_args()
    agent = PlayingAgent.load(options.agent)
    game = agent.environment.env.removeprefix("MinAtar/").partition("-")[0]
    if game not in ("Asterix", "SpaceInvaders"):
        parser.error(f"it knows MinAtar's Asterix and Space Invaders, not {agent.environment.env}")
    player = Player(agent, options.games, sample=not options.greedy, seed=0)
    been, died, ends, returns = torch.zeros(COLUMNS), Counter[int](), Counter[str](), list[Tensor]()
    with closing(open_environments(agent.environment, options.games)) as games:
        step = games.reset(0)
        for _ in range(options.steps):
            screens = step.observation > 0
            been += screens[:, PLAYER].any(1).sum(0)
            step = games.step(player.act(step)[0])
            returns.append(step.episode_return[step.over])
            for screen in screens[step.done]:
                died[column(screen)] += 1
                if game == "SpaceInvaders":
                    ends[ending(screen)] += 1
    scores = torch.cat(returns)
    print(f"{len(scores)} games, mean return {float(scores.mean()):.1f}")
    print("column  time  ends")
    for n, share in enumerate((been / been.sum()).tolist()):
        print(f"{n:6}  {share:4.0%}  {died[n] / len(scores):4.0%}")
    for what, count in ends.most_common():
        print(f"{count / len(scores):4.0%}  {what}")


if __name__ == "__main__":
    main()
