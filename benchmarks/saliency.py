"""Saliency of Atari frames at full resolution: seconds a frame, against the bare forward pass on as many screens.

    python benchmarks/saliency.py [--models s3ta mask-a3c] [--games MsPacman Pong] [--frames 1] [--threads 2]

Every pixel of the agent's screen is blurred once: 210 × 160 of S3TA's in colour, 80 × 80 of Mask-A3C's. Points whose
blur changes no byte of the screen (on plain ground) need no forward pass, and S3TA is computed only where a blur
reaches; the ratio says what both are worth. CPU seconds are given too: on a busy machine they say more.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

import torch

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.blur import ATARI
from foveate.agents.analysis.saliency_map import saliency
from foveate.agents.games import EnvironmentSettings, open_game, published_mask_a3c
from foveate.agents.models.interface import AgentInputs, State, repeated

STEPS = 60
"""Random ones, before the frame that is examined."""

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["s3ta", "mask-a3c"])
    parser.add_argument("--games", nargs="+", default=["MsPacman", "Pong"])
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(
        f"{'model':10} {'game':10} {'points':>7} {'s/frame':>8} {'CPU s':>7} {'bare s':>8} {'CPU s':>7} {'ratio':>6}   "
        f"({torch.get_num_threads()} threads; ratio of CPU seconds)"
    )
    for model in options.models:
        for game in options.games:
            print(measure(model, game, options.frames), flush=True)


def measure(model: str, game: str, frames: int) -> str:
    """A line of the table."""
    env = f"ALE/{game}-v5"
    settings = published_mask_a3c(env) if "a3c" in model else EnvironmentSettings(env=env)
    opened = open_game(settings)
    torch.manual_seed(0)
    agent = PlayingAgent(model, opened.observation_shape, opened.actions, asdict(settings)).eval()
    observation = opened.reset(0)
    for _ in range(STEPS):
        observation = opened.step(int(torch.randint(opened.actions, ()))).observation
    one = torch.zeros(1, 1)
    inputs = AgentInputs(torch.from_numpy(observation.copy())[None, None], one, one.long(), one.bool())
    with torch.inference_mode():
        state = agent(inputs, agent.initial_state(1))[1]
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(frames):
            saliency(agent.network, inputs, state, ATARI)
        wall, cpu = (time.perf_counter() - wall) / frames, (time.process_time() - cpu) / frames
        bare_wall, bare_cpu = bare(agent, inputs, state)
    points = observation.shape[1] * observation.shape[2]
    bare_wall, bare_cpu = points * bare_wall, points * bare_cpu
    return (
        f"{model:10} {game:10} {points:7} {wall:8.1f} {cpu:7.1f} {bare_wall:8.1f} {bare_cpu:7.1f} {cpu / bare_cpu:6.3f}"
    )


def bare(agent: PlayingAgent, inputs: AgentInputs, state: State) -> tuple[float, float]:
    """Seconds and CPU seconds of a screen, in batches."""
    many = repeated(inputs, inputs.observation.repeat(1, BATCH, 1, 1, 1))
    remembered = {name: part.expand(BATCH, *part.shape[1:]).contiguous() for name, part in state.items()}
    agent(many, remembered)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(2):
        agent(many, remembered)
    return (time.perf_counter() - wall) / 2 / BATCH, (time.process_time() - cpu) / 2 / BATCH


if __name__ == "__main__":
    main()
