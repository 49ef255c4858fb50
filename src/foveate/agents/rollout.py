"""Unrolls: T steps of B environments, played with one policy, in the form that every learner takes.

Whoever learns from an unroll does not know where it was played: here, in a thread, or on another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.envs import VectorEnvironment, VectorStep
from foveate.agents.models.interface import AgentInputs, AgentOutput, State
from foveate.agents.player import choose
from foveate.errors import RequestError
from foveate.run import flatten, unflatten


@dataclass(frozen=True)
class Unroll:
    """T transitions of B environments.

    `inputs` has T + 1 steps: transition t leads from step t to step t + 1, which holds its action and reward and
    whether the episode ended. The last step's value is what the return goes on with, and the step is the first of the
    next unroll.
    """

    inputs: AgentInputs
    learn: Bool[Tensor, "transitions envs"]
    """False where the transition must not be learned from; see VectorStep."""
    behaviour: Float[Tensor, "transitions envs actions"]
    """Logits of the policy that played."""
    state: Mapping[str, Tensor]
    """What the network remembered before the first step."""
    scores: Float[Tensor, " ended"]
    """Of the games that ended, in no order that matters; unclipped."""
    lengths: Int64[Tensor, " ended"]
    """Theirs in steps."""
    said: AgentOutput | None = None
    """What the network that is to learn said of all T + 1 steps, with gradients, where it played them itself."""
    advice: Float[Tensor, "transitions envs actions"] | None = None
    """A teacher's policy, times what its word weighs."""

    @property
    def steps(self) -> int:
        """Steps of agents that it holds: T · B."""
        return self.learn.numel()

    def to(self, device: torch.device) -> Unroll:
        """The same on another device."""
        inputs = AgentInputs(**{f.name: getattr(self.inputs, f.name).to(device) for f in fields(AgentInputs)})
        state = {name: part.to(device) for name, part in self.state.items()}
        return replace(
            self, inputs=inputs, learn=self.learn.to(device), behaviour=self.behaviour.to(device), state=state
        )


Autocast = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a network computes."""


class Actor:
    """Plays some environments without end, an unroll at a time; the network sees all of them in one batch."""

    def __init__(
        self,
        agent: PlayingAgent,
        environments: VectorEnvironment,
        *,
        steps: int,
        seed: int,
        device: torch.device | None = None,
        autocast: Autocast = nullcontext,
        gradients: bool = False,
    ) -> None:
        """`steps` is T. `seed` makes the games and the drawn actions. `gradients` keeps what a backward pass needs, for
        a learner that has the agent itself learn before it plays on: it need not look again."""
        self.agent = agent
        self.environments = environments
        self.steps = steps
        self.device = device or torch.device("cpu")
        self.autocast = autocast
        self.gradients = gradients
        self.generator = torch.Generator().manual_seed(seed)
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """New games, and nothing remembered."""
        self.step = self.environments.reset(seed)
        self.state: State = self.agent.initial_state(self.environments.envs)
        self.action: Int64[Tensor, " envs"] = torch.zeros(self.environments.envs, dtype=torch.long)

    def unroll(self) -> Unroll:
        """Play T steps on from where the last unroll ended."""
        with torch.set_grad_enabled(self.gradients):
            return self._unroll()

    def _unroll(self) -> Unroll:
        begin, envs = self.state, self.environments.envs
        seen = torch.empty(self.steps + 1, *self.step.observation.shape, dtype=torch.uint8)
        reward = torch.empty(self.steps + 1, envs)
        action = torch.empty(self.steps + 1, envs, dtype=torch.long)
        done = torch.empty(self.steps + 1, envs, dtype=torch.bool)
        said, behaviour, learn, scores, lengths = [], [], [], [], []
        for t in range(self.steps + 1):
            now = (self.step.observation, self.step.clipped, self.action, self.step.done)
            seen[t], reward[t], action[t], done[t] = now
            if t == self.steps and not self.gradients:
                break
            inputs = AgentInputs(*(x[None].to(self.device) for x in now))
            with self.autocast():
                output, after = self.agent(inputs, self.state)
            said.append(output)
            if t == self.steps:
                break
            self.state = after
            logits = output.logits[0].detach().cpu()
            self.action = choose(logits, self.generator)
            self.step = self.environments.step(self.action)
            behaviour.append(logits)
            learn.append(self.step.learn)
            scores.append(self.step.episode_return[self.step.over])
            lengths.append(self.step.episode_length[self.step.over])
        self.state = {name: part.detach() for name, part in self.state.items()}
        logits, value = (torch.cat([getattr(output, name) for output in said]) for name in ("logits", "value"))
        return Unroll(
            inputs=AgentInputs(seen, reward, action, done),
            learn=torch.stack(learn),
            behaviour=torch.stack(behaviour),
            state=begin,
            scores=torch.cat(scores),
            lengths=torch.cat(lengths),
            said=AgentOutput(logits, value) if self.gradients else None,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All that its future depends on but the weights; no games, where their state cannot be taken."""
        tensors = {"generator": self.generator.get_state()}
        try:
            pieces = self.environments.snapshot()
        except RequestError:
            return tensors
        tensors |= {
            f"environment.{n}": torch.from_numpy(np.frombuffer(p, np.uint8).copy()) for n, p in enumerate(pieces)
        }
        tensors |= flatten("step", {f.name: getattr(self.step, f.name) for f in fields(VectorStep)})
        return tensors | flatten("state", self.state) | {"action": self.action}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there; with new games, where the old ones' state was not taken."""
        self.generator.set_state(tensors["generator"])
        pieces = unflatten("environment", tensors)
        if not pieces:
            # Other games than the first ones, or every resumed run would see those again.
            self.begin(int(torch.randint(2**31, (), generator=self.generator)))
            return
        self.environments.restore([pieces[str(n)].numpy().tobytes() for n in range(len(pieces))])
        self.step = VectorStep(**unflatten("step", tensors))
        self.state = {name: part.to(self.device) for name, part in unflatten("state", tensors).items()}
        self.action = tensors["action"]
