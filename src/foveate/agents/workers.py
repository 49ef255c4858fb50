"""A3C's asynchronous workers: processes that share weights and optimiser, and change them without waiting for another.

Each plays a few steps with a copy of the weights, and gives its gradient to the shared optimiser, unlocked (Mnih et al.
2016, algorithm S3; the published Mask-A3C does the same). Nothing here can be repeated bit for bit. They stand still
only where a checkpoint is due: a worker takes steps from a budget before it plays them, and waits where that is spent.
"""

from __future__ import annotations

import copy
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
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
from foveate.agents.learner import backward, learning_rate
from foveate.agents.player import NotANumber
from foveate.agents.report import Report
from foveate.agents.rollout import Actor

LOOK = 2.0
"""Seconds between looks whether the other processes are still there."""


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    environment: EnvironmentSettings
    learning: A3CSettings
    envs: int
    seed: int
    steps: int
    """Of the whole run, by which the learning rate is annealed."""


class Budget:
    """The steps that workers may still take, shared by all processes."""

    def __init__(self, context: SpawnContext, taken: int) -> None:
        self._changed: Any = context.Condition()
        self._taken: Any = context.Value("q", taken, lock=False)
        self._until: Any = context.Value("q", taken, lock=False)
        self._over: Any = context.Value("b", False, lock=False)

    def allow(self, until: int) -> None:
        """Up to so many steps of the run; fewer than were taken: no more."""
        with self._changed:
            self._until.value = until
            self._changed.notify_all()

    def end(self) -> None:
        """Workers go home."""
        with self._changed:
            self._over.value = True
            self._changed.notify_all()

    def take(self, steps: int) -> int | None:
        """Wait until there are any left, and take so many; gives how many the run has taken then, None at its end."""
        run = mp.parent_process()
        with self._changed:
            # A killed run tells nobody that it is over.
            while not self._over.value and (run is None or run.is_alive()):
                if self._taken.value < self._until.value:
                    self._taken.value += steps
                    return int(self._taken.value)
                self._changed.wait(LOOK)
        return None

    def spent(self, told: int) -> bool:
        """Whether every step that may be taken was, and all of them are among the `told` ones: the workers wait."""
        with self._changed:
            return bool(self._until.value <= self._taken.value == told)


class Workers:
    """The processes of a run. `agent` and `optimiser` are changed while `updates` is read, and at no other time."""

    def __init__(
        self,
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
    ) -> None:
        agent.share_memory()
        moments = _shared_moments(agent, optimiser, learning)
        context: SpawnContext = mp.get_context("spawn")
        self._reports: Any = context.Queue()
        self._budget = Budget(context, played)
        self._told = played
        self._processes = []
        seeds = np.random.SeedSequence([seed, played]).generate_state(workers)
        for number in range(workers):
            share = envs // workers + (number < envs % workers)
            job = Job(environment, learning, share, int(seeds[number]), steps)
            process: Any = context.Process(
                target=_work, args=(job, agent, moments, self._reports, self._budget), daemon=True
            )
            process.start()
            self._processes.append(process)

    def updates(self, until: int, stop: Callable[[], bool]) -> Iterator[Report]:
        """A report of every update up to so many steps of the run, or until told to stop; then all workers wait.

        Raises NotANumber where a worker's loss or policy is not finite, and RuntimeError where a worker has died.
        """
        self._budget.allow(until)
        while not self._budget.spent(self._told):
            if stop():
                self._budget.allow(0)
            try:
                report = self._reports.get(timeout=LOOK)
            except queue.Empty:
                if not all(process.is_alive() for process in self._processes):
                    raise RuntimeError("a worker has died; its last words are above") from None
                continue
            if isinstance(report, str):
                raise NotANumber(report)
            self._told += report.steps
            yield report

    def close(self) -> None:
        self._budget.end()
        for process in self._processes:
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


def _work(job: Job, agent: PlayingAgent, moments: Sequence[dict[str, Tensor]], reports: Any, budget: Budget) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's own process says when it is enough
    torch.set_num_threads(1)
    optimiser = a3c_optimiser(agent.network.parameters(), job.learning)
    for parameter, state in zip(agent.network.parameters(), moments, strict=True):
        optimiser.state[parameter] = state
    local = copy.deepcopy(agent)
    environments = open_environments(job.environment, job.envs, threads=1)
    actor = Actor(local, environments, steps=job.learning.unroll, seed=job.seed, gradients=True)
    while (taken := budget.take(job.envs * job.learning.unroll)) is not None:
        local.load_state_dict(agent.state_dict())
        try:
            unroll = actor.unroll()
            told = backward(local.network, unroll, job.learning, nullcontext)
        except NotANumber as error:
            reports.put(str(error))
            break
        for shared, own in zip(agent.network.parameters(), local.network.parameters(), strict=True):
            shared.grad = own.grad
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(job.learning, min(taken / job.steps, 1.0))
        optimiser.step()
        reports.put(Report(unroll.scores.tolist(), unroll.lengths.tolist(), unroll.steps, told))
    else:
        # Nobody reads any more: do not wait for what is still in the pipe.
        reports.cancel_join_thread()
    environments.close()
