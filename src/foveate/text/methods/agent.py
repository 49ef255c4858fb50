"""The trained agent plays the masking game (AttExplainer, algorithm 1, without learning)."""

from __future__ import annotations

from foveate.masking import play as masking
from foveate.masking.goal import Goal
from foveate.text.agent import Agent
from foveate.text.explained import explained
from foveate.text.explanation import Explanation
from foveate.text.probe import Probe


def play(
    probe: Probe, goal: Goal, agent: Agent, *, max_steps: int = 100, slots: int = 32, method: str = "agent"
) -> list[Explanation]:
    """Explain every text of `probe` by the agent's best moves, `slots` games at a time, long texts first."""
    return explained(probe, goal, method, masking.play(probe, goal, agent, max_steps=max_steps, slots=slots))
