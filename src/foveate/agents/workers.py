"""A3C's asynchronous workers: processes that share weights and optimiser, and change them without waiting for another.

Each plays a few steps with a copy of the weights, and gives its gradient to the shared optimiser, unlocked (Mnih et al.
2016, algorithm S3; the published Mask-A3C does the same). Nothing here can be repeated bit for bit.
"""

from __future__ import annotations

import copy
import queue
import signal
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import multiprocessing as mp

from foveate.agents.a3c import A3CSettings, a3c_optimiser
from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import open_environments
from foveate.agents.games import EnvironmentSettings
from foveate.agents.learner import NotANumber, backward, learning_rate
from foveate.agents.report import Report
from foveate.agents.rollout import Actor


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    environment: EnvironmentSettings
    learning: A3CSettings
    envs: int
    seed: int
    steps: int
    """Of the whole run, by which the learning rate is annealed."""


def asynchronous_updates(
    agent: PlayingAgent,
    optimiser: torch.optim.Optimizer,
    environment: EnvironmentSettings,
    learning: A3CSettings,
    *,
    workers: int,
    envs: int,
    seed: int,
    played: int,
    steps: int,
) -> Generator[Report, None, None]:
    """Start the workers; gives a report of every update that one has made, until the iterator is closed.

    `agent` and `optimiser` are changed all the while. Raises NotANumber where a worker's loss is not finite, and
    RuntimeError where a worker has died.
    """
    agent.share_memory()
    moments = _shared_moments(agent, optimiser, learning)
    context: SpawnContext = mp.get_context("spawn")
    reports: Any = context.Queue()
    enough: Any = context.Event()
    count: Any = context.Value("q", played)
    seeds = np.random.SeedSequence([seed, played]).generate_state(workers)
    processes = []
    for number in range(workers):
        share = envs // workers + (number < envs % workers)
        job = Job(environment, learning, share, int(seeds[number]), steps)
        process: Any = context.Process(target=_work, args=(job, agent, moments, reports, enough, count), daemon=True)
        process.start()
        processes.append(process)
    try:
        while True:
            try:
                report = reports.get(timeout=2)
            except queue.Empty:
                if not all(process.is_alive() for process in processes):
                    raise RuntimeError("a worker has died; its last words are above") from None
                continue
            if isinstance(report, str):
                raise NotANumber(report)
            yield report
    finally:
        enough.set()
        for process in processes:
            process.join(timeout=30)
            process.terminate()


def _shared_moments(
    agent: PlayingAgent, optimiser: torch.optim.Optimizer, learning: A3CSettings
) -> list[dict[str, Tensor]]:
    """Adam's state of every parameter, in memory that the workers share; from nothing where it has none yet."""
    names = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if learning.amsgrad else []))
    shared = []
    for parameter in agent.network.parameters():
        state = optimiser.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state.update({name: torch.zeros_like(parameter, requires_grad=False) for name in names})
        for tensor in state.values():
            tensor.share_memory_()
        shared.append(dict(state))
    return shared


def _work(
    job: Job, agent: PlayingAgent, moments: Sequence[dict[str, Tensor]], reports: Any, enough: Any, count: Any
) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's own process says when it is enough
    torch.set_num_threads(1)
    optimiser = a3c_optimiser(agent.network.parameters(), job.learning)
    for parameter, state in zip(agent.network.parameters(), moments, strict=True):
        optimiser.state[parameter] = state
    local = copy.deepcopy(agent)
    environments = open_environments(job.environment, job.envs, threads=1)
    actor = Actor(local, environments, steps=job.learning.unroll, seed=job.seed)
    while not enough.is_set():
        local.load_state_dict(agent.state_dict())
        unroll = actor.unroll()
        try:
            told = backward(local.network, unroll, job.learning, nullcontext)
        except NotANumber as error:
            reports.put(str(error))
            break
        for shared, own in zip(agent.network.parameters(), local.network.parameters(), strict=True):
            shared.grad = own.grad
        with count.get_lock():
            count.value += unroll.steps
            share = min(count.value / job.steps, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(job.learning, share)
        optimiser.step()
        reports.put(Report(unroll.scores.tolist(), unroll.lengths.tolist(), unroll.steps, told))
    environments.close()
    # Nobody reads any more: do not wait for what is still in the pipe.
    reports.cancel_join_thread()
