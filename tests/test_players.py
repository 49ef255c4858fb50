"""The players in the package: they are there, they play, and not by chance."""

from __future__ import annotations

import pytest

pytest.importorskip("minatar", reason="needs the extra `agents`")

from foveate.agents.agent import EMBEDDED, PlayingAgent, embedded_players
from foveate.agents.evaluation import EvaluationSettings, evaluate_agent

LEAST = {
    "MinAtar/Asterix-v1": 0.9,
    "MinAtar/Breakout-v1": 0.8,
    "MinAtar/Freeway-v1": 0.4,
    "MinAtar/SpaceInvaders-v1": 8.4,
    "Breakout": 3.4,
    "Pong": 0.0,
}
"""What must be scored within 300 steps: twice what random play scores in whole games (a thousand of MinAtar's; the
table of human-normalised scores has Atari's). In Pong random play is behind by then."""


def test_both_kinds_are_there_for_atari_and_minatar() -> None:
    players = [PlayingAgent.load(name) for name in embedded_players()]
    games = {model: {p.environment.env for p in players if p.model == model} for model in ("s3ta", "mask-a3c")}
    assert games["s3ta"] == set(LEAST) and games["mask-a3c"] == {"MinAtar/SpaceInvaders-v1", "Breakout"}


@pytest.mark.parametrize("name", embedded_players())
def test_it_plays_far_better_than_chance(name: str) -> None:
    agent = PlayingAgent.load(name)
    games = 16
    if not agent.environment.env.startswith("MinAtar/"):
        pytest.importorskip("ale_py", reason="needs the extra `agents`")
        games = 4  # its screens take long, and its scores are far from chance
    settings = EvaluationSettings(agent=name, episodes=games, parallel=games, max_steps=300, seed=5)
    assert evaluate_agent(agent, settings).interval.low > LEAST[agent.environment.env]


@pytest.mark.parametrize("name", embedded_players())
def test_it_has_a_card_with_what_made_it(name: str) -> None:
    card = (EMBEDDED / name / "README.md").read_text(encoding="utf-8")
    assert all(f"**{word}**" in card for word in ("Data", "Command", "Steps", "Scores", "Limits"))
    steps = (EMBEDDED / name / "curve.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")[0]
    assert int(steps) == PlayingAgent.load(name).steps
