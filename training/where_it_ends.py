"""Where does an agent of MinAtar's Asterix or Space Invaders die? It says what a low score is for want of.

    python training/where_it_ends.py AGENT [--steps 1500] [--games 64] [--greedy]

It plays, and looks at the last screen of each game: in which column the player was, and what was about to hit it.
Games that go on when it stops are not counted, so short ones count for more; scores are `foveate agent evaluate`'s.
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
from foveate.agents.objects import channel_names
from foveate.agents.player import Player

COLUMNS = 10


def ending(aliens: Bool[Tensor, "10 10"], bullets: Bool[Tensor, "10 10"], column: int) -> str:
    """What is about to end a game of Space Invaders: aliens in the two lowest rows, else a bullet at the cannon."""
    if aliens[-2:].any():
        return f"{int(aliens.sum())} aliens landing" if aliens.sum() > 2 else "the last one or two aliens landing"
    return "a bullet" if bullets[-2:, max(0, column - 1) : column + 2].any() else "other"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--games", type=int, default=64)
    parser.add_argument("--greedy", action="store_true")
    options = parser.parse_args()
    agent = PlayingAgent.load(options.agent)
    invaders = agent.environment.env.startswith("MinAtar/SpaceInvaders")
    if not invaders and not agent.environment.env.startswith("MinAtar/Asterix"):
        parser.error(f"it knows MinAtar's Asterix and Space Invaders, not {agent.environment.env}")
    player = Player(agent, options.games, sample=not options.greedy, seed=0)
    channel = {name: n for n, name in enumerate(channel_names(agent.environment))}
    been, died, ends = torch.zeros(COLUMNS), Counter[int](), Counter[str]()
    with closing(open_environments(agent.environment, options.games)) as games:
        step = games.reset(0)
        for _ in range(options.steps):
            screens = step.observation > 0
            player_at = screens[:, channel["cannon" if invaders else "player"]].any(1)
            been += player_at.sum(0)
            step = games.step(player.act(step)[0])
            for screen, column in zip(screens[step.over], player_at[step.over].int().argmax(1).tolist(), strict=True):
                died[column] += 1
                if invaders:
                    ends[ending(screen[channel["alien"]], screen[channel["enemy bullet"]], column)] += 1
    played = died.total()
    print(f"{played} games")
    print("column  time  ends")
    for n, share in enumerate((been / been.sum()).tolist()):
        print(f"{n:6}  {share:4.0%}  {died[n] / played:4.0%}")
    for what, count in ends.most_common():
        print(f"{count / played:4.0%}  {what}")


if __name__ == "__main__":
    main()
