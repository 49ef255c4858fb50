"""Does S3TA's network find what is on the screen? The same question to each of its settings, without reinforcement.

    python training/s3ta_probe.py [--updates 200] [--seeds 3]

On MinAtar Breakout it learns to say, from recorded play, on which side of the paddle the ball is: 10 steps of 32 games
an update, cross-entropy, RMSProp 1e-3. What cannot learn this cannot learn to play. Prints the accuracy over the last
50 updates for each setting, with its range over the seeds. (Always "left": about 0.4.)
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import open_environments
from foveate.agents.games import EnvironmentSettings
from foveate.agents.models.interface import AgentInputs

ENV = EnvironmentSettings(env="MinAtar/Breakout-v1")
STEPS, GAMES = 10, 32
SMALL = {"memory": 32, "convolutions": ((3, 1, 16),)}
PADDLE, BALL = 0, 1
"""MinAtar's channels."""

VARIANTS = {
    "to the letter, torch's first weights": ("s3ta-paper", {}, True),
    "to the letter, Sonnet's first weights": ("s3ta-paper", {}, False),
    "and answers normalised": ("s3ta", {"normalise_content": False, "initial_query": 0.0}, False),
    "and keys and values": ("s3ta", {"initial_query": 0.0}, False),
    "and heads that begin with queries: s3ta": ("s3ta", {}, False),
    "the same with 8 heads": ("s3ta", {"heads": 8}, False),
    "with 4, answers not normalised": ("s3ta", {"normalise_answers": False}, False),
    "fixed queries": ("s3ta-fixed-query", {}, False),
    "norms of keys": ("s3ta-l2-keys", {}, False),
}
"""Model, settings, and whether the weights are drawn anew as torch draws them."""

Unroll = tuple[AgentInputs, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    unrolls = record(options.updates)
    print(f"{'S3TA on MinAtar Breakout':42} accuracy (range of {options.seeds} seeds)   entropy of the maps [nat]")
    for name, (model, settings, plain) in VARIANTS.items():
        results = [learn(unrolls, model, settings, plain, seed) for seed in range(options.seeds)]
        accuracies, entropies = zip(*results, strict=True)
        mean, spread = sum(accuracies) / len(accuracies), f"{min(accuracies):.2f}-{max(accuracies):.2f}"
        print(f"{name:42} {mean:.2f} ({spread})   {sum(entropies) / len(entropies):.2f}", flush=True)


def record(updates: int) -> list[Unroll]:
    """Play that is half random and half right, and on which side of the paddle the ball was at every step."""
    games = open_environments(ENV, GAMES)
    random = torch.Generator().manual_seed(0)
    towards = torch.tensor([games.action_names.index(name) for name in ("LEFT", "NOOP", "RIGHT")])
    step, action = games.reset(0), torch.zeros(GAMES, dtype=torch.long)
    unrolls = []
    for _ in range(updates):
        rows = []
        for _ in range(STEPS):
            ball, paddle = (step.observation[:, c].flatten(1).int().argmax(1) % 10 for c in (BALL, PADDLE))
            side = (ball - paddle).sign() + 1
            rows.append((step.observation, step.clipped, action, step.done, side))
            drawn = torch.randint(games.actions, (GAMES,), generator=random)
            action = torch.where(torch.rand(GAMES, generator=random) < 0.5, drawn, towards[side])
            step = games.step(action)
        *inputs, sides = (torch.stack(column) for column in zip(*rows, strict=True))
        unrolls.append((AgentInputs(*inputs), sides))
    return unrolls


def learn(
    unrolls: list[Unroll], model: str, settings: dict[str, object], plain: bool, seed: int
) -> tuple[float, float]:
    """Accuracy over the last 50 updates, and the entropy of the maps after them."""
    torch.manual_seed(seed)
    shape = tuple(unrolls[0][0].observation.shape[2:])
    agent = PlayingAgent(model, shape, 3, {"env": ENV.env}, SMALL | settings)
    if plain:
        agent.apply(_as_torch_draws)
    optimiser = torch.optim.RMSprop(agent.parameters(), lr=1e-3, alpha=0.99, eps=1e-5)
    state, right = agent.initial_state(GAMES), []
    for inputs, sides in unrolls:
        output, state = agent(inputs, state)
        state = {name: part.detach() for name, part in state.items()}
        optimiser.zero_grad()
        F.cross_entropy(output.logits.flatten(0, 1), sides.flatten()).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimiser.step()
        right.append(float((output.logits.argmax(-1) == sides).float().mean()))
    with torch.no_grad():
        attention = agent(unrolls[-1][0], state, True)[0].attention
    assert attention is not None
    entropy = float(torch.special.entr(attention.maps).sum((-2, -1)).mean())
    return sum(right[-50:]) / len(right[-50:]), entropy


def _as_torch_draws(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear | nn.LSTMCell):
        module.reset_parameters()


if __name__ == "__main__":
    main()
