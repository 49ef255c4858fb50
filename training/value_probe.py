"""Does an agent's value know what is to come? Long before returns rise, this says whether it sees the game at all.

    python training/value_probe.py AGENT [--steps 300] [--games 8]

It plays, sampled, and compares its value at every step with the discounted sum of the clipped rewards that came.
"""

from __future__ import annotations

import argparse
from contextlib import closing

import torch

from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import open_environments
from foveate.agents.player import Player

DISCOUNT = 0.99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--games", type=int, default=8)
    options = parser.parse_args()
    agent = PlayingAgent.load(options.agent)
    player, said, rewards, done = Player(agent, options.games, sample=True, seed=0), [], [], []
    with closing(open_environments(agent.environment, options.games)) as games:
        step = games.reset(0)
        for _ in range(options.steps):
            action, output = player.act(step)
            step = games.step(action)
            said.append(output.value[0])
            rewards.append(step.clipped)
            done.append(step.done)
    value, came = torch.stack(said), torch.zeros(options.steps, options.games)
    after = value[-1]
    for t in reversed(range(options.steps)):
        came[t] = after = rewards[t] + DISCOUNT * after * ~done[t]
    correlation = float(torch.corrcoef(torch.stack([value.flatten(), came.flatten()]))[0, 1])
    print(
        f"value {float(value.mean()):.3f}, deviation over {value.numel():,} moments {float(value.std()):.3f}, "
        f"correlation with what came {correlation:.2f}"
    )


if __name__ == "__main__":
    main()
