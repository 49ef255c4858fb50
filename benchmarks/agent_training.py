"""Training steps a second of playing agents, as a share of the slower of what nobody can do without.

    python benchmarks/agent_training.py [--quick] [--games s3ta-atari mask-a3c-atari s3ta-minatar] [--envs 1 4 16 64]
                                        [--devices cpu cuda] [--precisions float32 bfloat16] [--unroll 20] [--rounds 3]
                                        [--threads N]

What nobody can do without are the bare environments, stepped with random actions, and the network's bare forward and
backward pass over the same unrolls. The aim is a ratio of at least 0.8. The three take turns, and the fastest round of
each counts. Every row is a process of its own, whose peak memory is that of training: the process's on a CPU, the
tensors' on a GPU. `apart` is the most that a probability of the policy differs from the one in float32, for the same
weights and unroll; more than 0.02 is an error. --quick measures few rows of short unrolls, in about a minute.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from foveate.agents.a3c import A3CSettings
from foveate.agents.games import EnvironmentSettings
from foveate.agents.impala import ImpalaSettings
from foveate.agents.training import Trainer, TrainSettings

TOLERANCE = 0.02
GAMES: dict[str, dict[str, Any]] = {
    "s3ta-atari": {"environment": EnvironmentSettings("ALE/Breakout-v5")},
    "mask-a3c-atari": {
        "environment": EnvironmentSettings("ALE/Breakout-v5", screen="mask-a3c"),
        "model": "mask-a3c",
        "algorithm": "a3c",
    },
    "s3ta-minatar": {"environment": EnvironmentSettings("MinAtar/Breakout-v1")},
}


@dataclass(frozen=True)
class Row:
    """What is measured, in steps a second."""

    training: float
    environment: float
    network: float
    memory: float
    """MiB."""
    apart: float

    @property
    def ratio(self) -> float:
        return self.training / min(self.environment, self.network)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--games", nargs="+", default=[*GAMES], choices=[*GAMES])
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--unroll", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    unroll, rounds = (4, 2) if options.quick else (options.unroll, options.rounds)
    print(
        f"{'agent':15} {'device':6} {'precision':9} {'envs':>4} {'training':>9} {'environment':>12} {'network':>9} "
        f"{'ratio':>6} {'MiB':>6} {'apart':>6}   (steps/s, unrolls of {unroll}, {options.threads} threads)"
    )
    wrong = False
    for name, device, precision in itertools.product(options.games, options.devices, options.precisions):
        for envs in options.envs:
            if options.quick and envs not in ((16,) if name == "s3ta-minatar" else (4,)):
                continue
            learner = {"impala": ImpalaSettings(unroll=unroll), "a3c": A3CSettings(unroll=unroll)}
            settings = TrainSettings(
                run="",
                **GAMES[name],
                **learner,
                envs=envs,
                device=device,
                precision=precision,
                threads=options.threads,
                overlap=device != "cpu",
            )
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                row = process.submit(measure, settings, rounds).result()
            print(
                f"{name:15} {device:6} {precision:9} {envs:4} {row.training:9.1f} {row.environment:12.1f} "
                f"{row.network:9.1f} {row.ratio:6.2f} {row.memory:6.0f} {row.apart:6.3f}",
                flush=True,
            )
            wrong |= row.apart > TOLERANCE
    if wrong:
        sys.exit(f"policies differ by more than {TOLERANCE} between precisions")


def measure(settings: TrainSettings, rounds: int) -> Row:
    torch.set_num_threads(settings.threads)
    trainer = Trainer(settings)
    network, environments = trainer.agent.network, trainer.actor.environments
    updates = trainer._synchronous(sys.maxsize, lambda: False)
    next(updates)
    assert trainer.latest is not None
    unroll = trainer.latest.to(trainer.device)
    apart = _apart(trainer)

    # Overlapped, as many unrolls are played as are learned from; only the last is waited for.
    repeat = 5 if settings.overlap else 1

    def train() -> None:
        for _ in range(repeat):
            next(updates)

    def step() -> None:
        for actions in torch.randint(environments.actions, tuple(unroll.learn.shape)):
            environments.step(actions)

    def bare() -> None:
        network.zero_grad()
        with trainer.autocast():
            output, _ = network(unroll.inputs, unroll.state)
        (output.logits.sum() + output.value.sum()).backward()

    def seconds(what: Callable[[], None]) -> float:
        _wait(trainer)
        begun = time.perf_counter()
        what()
        _wait(trainer)
        return (time.perf_counter() - begun) / (repeat if what is train else 1)

    train()
    memory = _peak(trainer.device)
    best = {what: min(seconds(what) for _ in range(rounds)) for what in (train, step, bare)}
    trainer.close()
    training, environment, bare_network = (unroll.steps / best[what] for what in (train, step, bare))
    return Row(training, environment, bare_network, memory, apart)


def _apart(trainer: Trainer) -> float:
    """How far the policy is from that in float32."""
    assert trainer.latest is not None
    unroll = trainer.latest.to(trainer.device)
    with torch.no_grad():
        exact, _ = trainer.agent(unroll.inputs, unroll.state)
        with trainer.autocast():
            other, _ = trainer.agent(unroll.inputs, unroll.state)
    return float((exact.logits.softmax(-1) - other.logits.softmax(-1)).abs().max())


def _wait(trainer: Trainer) -> None:
    """For everything that was begun."""
    if trainer._coming is not None:
        trainer._coming.result()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
