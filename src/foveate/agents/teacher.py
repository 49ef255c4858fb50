"""Kickstarting: while an agent learns to play, a trained one says what it would do (Schmitt et al. 2018, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate.agents.agent import PlayingAgent
from foveate.agents.games import EnvironmentSettings, atari_name
from foveate.agents.models.interface import State
from foveate.agents.rollout import Autocast, Unroll
from foveate.errors import RequestError


@dataclass(frozen=True)
class TeacherSettings:
    """Learn from a trained agent's policy at first, and from the game ever more."""

    agent: str | None = None
    """An agent that plays the same game and sees the same screens: a directory, an embedded one's name, a hub id."""
    cost: float = 1.0
    """Weight of the cross-entropy to its policy when the run begins."""
    steps: int = 500_000
    """Steps of the run after which it is silent; until then its weight falls to 0 in a straight line."""
    temperature: float = 1.0
    """Of its policy: below 1 it says more firmly what it would do (Rusu et al. 2016 took 0.01)."""

    def weight(self, step: int) -> float:
        """After so many steps of the run."""
        return self.cost * max(0.0, 1 - step / self.steps)


class Teacher:
    """An agent that looks on: it is shown the steps that another plays, and remembers them as its own."""

    def __init__(self, settings: TeacherSettings, student: PlayingAgent, *, envs: int, autocast: Autocast) -> None:
        """Raises RequestError where there is no such agent, or it plays or sees something else than the student."""
        if settings.cost < 0 or settings.steps < 1 or settings.temperature <= 0:
            raise RequestError(
                f"--teacher.cost is {settings.cost}, --teacher.steps {settings.steps} and --teacher.temperature "
                f"{settings.temperature}; they must be at least 0, at least 1 and above 0"
            )
        self.settings = settings
        self.autocast = autocast
        self.agent = PlayingAgent.load(settings.agent or "")
        taught, own = student.environment, self.agent.environment
        self.agent.check(student.observation, student.actions, taught.env)
        if differ := [name for name, value in _seen(taught).items() if _seen(own)[name] != value]:
            raise RequestError(
                f"the teacher {settings.agent} learned with another {', '.join(differ)} "
                f"({'; '.join(f'{n} {_seen(own)[n]}, not {_seen(taught)[n]}' for n in differ)}); train with its "
                "settings, or take another teacher"
            )
        self.agent.to(next(student.parameters()).device)
        self.state: State = self.agent.initial_state(envs)

    @torch.no_grad()
    def advise(self, unroll: Unroll, step: int) -> Unroll:
        """The unroll with its advice: what it would do, times what its word weighs at that step of the run."""
        weight = self.settings.weight(step)
        if not weight:
            return unroll
        with self.autocast():
            output, self.state = self.agent(unroll.inputs.until(-1), self.state)
        return replace(unroll, advice=weight * (output.logits / self.settings.temperature).softmax(-1))

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.state)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        self.state = {name: tensors[name].to(part.device) for name, part in self.state.items()}


def _seen(settings: EnvironmentSettings) -> dict[str, object]:
    """What a screen and an action mean to an agent; how games begin and end may differ."""
    return {
        "env": atari_name(settings.env) or settings.env,
        **{name: getattr(settings, name) for name in ("screen", "size", "stack", "repeat", "max_pool")},
    }
