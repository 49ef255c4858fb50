"""Who is analysed, at play in what: the settings and the opening that every analysis begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.agents.agent import PlayingAgent
from foveate.agents.evaluation import chosen
from foveate.agents.games import EnvironmentSettings, atari_name
from foveate.agents.trace import Trace, record
from foveate.errors import RequestError


@dataclass(frozen=True)
class Subject:
    """The agent that an analysis is of."""

    agent: str
    """An agent: an embedded one's name, a directory, or a hub id."""
    output: Path
    """The directory for the figures (PNG and SVG), numbers.json and the page index.html."""
    env: str | None = None
    """What it plays; the agent's own environment unless given."""
    sample: bool = False
    """Draw actions from the policy; without it the likeliest is taken."""
    sticky: float | None = None
    """Probability that a frame takes the last action instead; as the agent was trained unless given."""
    threads: int = 0
    """CPU threads; 0 for torch's own choice."""
    seed: int = 0
    """Of everything random."""

    def open(self) -> PlayingAgent:
        """The agent. Raises RequestError where there is none."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return PlayingAgent.load(self.agent)

    def open_attentive(self) -> PlayingAgent:
        """The agent. Raises RequestError where there is none, or it has no attention."""
        agent = self.open()
        if not agent.heads:
            raise RequestError(f"{self.agent} ({agent.model}) has no attention; take an S3TA or a masked A3C")
        return agent

    def environment(self, agent: PlayingAgent) -> EnvironmentSettings:
        """What it plays."""
        return chosen(agent, self.env, self.sticky)

    def protocol(self, agent: PlayingAgent) -> dict[str, Any]:
        """The part that all analyses share."""
        environment = self.environment(agent)
        return {
            "agent": self.agent,
            "model": agent.model,
            "trained_steps": agent.steps,
            "environment": environment.env,
            "actions": "sampled" if self.sample else "greedy",
            "sticky": environment.sticky,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Recording:
    """The play that an analysis looks at."""

    trace: Path | None = None
    """A directory with a recorded trace of the agent; without it one is recorded, to OUTPUT/trace."""
    steps: int = 1_000
    """Agent steps that are recorded."""

    def open(self, subject: Subject, agent: PlayingAgent) -> Trace:
        """The trace. Raises RequestError where it is of another agent than this one, or of another environment than
        was asked for, or cannot be recorded."""
        if self.trace is not None:
            trace = Trace(self.trace)
            if trace.about["fingerprint"] != agent.fingerprint():
                raise RequestError(
                    f"{self.trace} was played by another agent ({trace.about['agent']}, {trace.about['model']}) than "
                    f"{subject.agent} ({agent.model}) is now; leave out --trace, or name that agent"
                )
            played, asked = trace.environment, subject.environment(agent)
            if subject.env is not None and _game(played) != _game(asked):
                raise RequestError(f"{self.trace} is of {played.env}, not of {asked.env}; leave out --env, or --trace")
            if subject.sticky is not None and played.sticky != asked.sticky:
                raise RequestError(
                    f"{self.trace} was played with --sticky {played.sticky:g}, not {asked.sticky:g}; leave out "
                    "--sticky, or --trace"
                )
            return trace
        return record(
            agent,
            subject.output / "trace",
            steps=self.steps,
            environment=subject.environment(agent),
            sample=subject.sample,
            seed=subject.seed,
            name=subject.agent,
        )

    def protocol(self, trace: Trace) -> dict[str, Any]:
        """How much was looked at, and how it was played, which a trace of its own may not tell as the subject does."""
        return {
            "environment": trace.environment.env,
            "actions": "sampled" if trace.about["sampled"] else "greedy",
            "sticky": trace.environment.sticky,
            "steps": trace.steps,
            "finished_games": trace.about["finished"],
            "trace_seed": trace.about["seed"],
        }


def _game(environment: EnvironmentSettings) -> str:
    """One name for each game, of those that Atari's go by."""
    return atari_name(environment.env) or environment.env
