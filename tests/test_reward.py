"""Rewards: equation 2 by hand, and a distance that adds up."""

from __future__ import annotations

import pytest
import torch
from conftest import TEXTS

from foveate.masking.game import MaskingGame, Turn
from foveate.masking.goal import Explain
from foveate.masking.probe import Prediction
from foveate.masking.reward import RewardSettings, reward
from foveate.text.classifier import TextClassifier
from foveate.text.probe import Probe


def turn(gain: float, reached: bool, closer: float = 0.0) -> Turn:
    return Turn(
        rows=torch.tensor([0]),
        visible=torch.ones(1, 4, dtype=torch.bool),
        prediction=Prediction(torch.zeros(1, 2)),
        gain=torch.tensor([gain]),
        closer=torch.tensor([closer]),
        reached=torch.tensor([reached]),
        over=torch.tensor([reached]),
    )


@pytest.mark.parametrize(
    ("gain", "reached", "length", "masked", "expected"),
    [
        (0.3, False, 10, 2, 0.3 - 0.2),
        (-0.1, False, 10, 5, -0.1 - 0.2),
        (0.85, True, 10, 2, 0.85 + 10 * 0.8 - 0.2),
        (0.9, True, 4, 1, 0.9 + 10 * 0.75 - 0.2),
    ],
)
def test_the_papers_reward(gain: float, reached: bool, length: int, masked: int, expected: float) -> None:
    """Δp + α·d·(1 − m) − β with α = 10, β = 0.2 (equation 2)."""
    found = reward(RewardSettings(kind="paper"), turn(gain, reached), torch.tensor([length]), torch.tensor([masked]))
    assert found.item() == pytest.approx(expected)


def test_alpha_and_beta_are_settings() -> None:
    settings = RewardSettings(kind="paper", completion=4.0, time=0.5)
    found = reward(settings, turn(0.8, True), torch.tensor([8]), torch.tensor([2]))
    assert found.item() == pytest.approx(0.8 + 4 * 0.75 - 0.5)


def test_every_query_costs_one_and_the_way_is_paid() -> None:
    settings = RewardSettings(kind="distance", shaping=0.5)
    found = reward(settings, turn(0.8, True, closer=3.0), torch.tensor([8]), torch.tensor([2]))
    assert found.item() == pytest.approx(0.5 * 3 - 1)


@pytest.mark.parametrize("moves", ["toggle", "mask", "take-back"])
def test_the_distance_of_an_episode_adds_up(moves: str, classifier: TextClassifier) -> None:
    """What the steps took off is the way from the whole text to the last mask that was kept, whatever came between."""
    texts = list(TEXTS) * 2
    goal, probe = Explain(0.5), Probe(classifier, texts)
    start = goal.distance(probe, torch.arange(len(texts)), classifier.predict(probe.encoded))
    game = MaskingGame(probe, goal, iter(range(len(texts))), slots=3, max_steps=6, moves=moves, tolerance=0.0)
    draw = torch.Generator().manual_seed(0)
    gone, now, back = torch.zeros(len(texts)), start.clone(), 0
    while len(game):
        taken = game.step(torch.multinomial(game.actions.float(), 1, generator=draw).squeeze(1))
        after = goal.distance(probe, taken.rows, taken.prediction)
        for i, row in enumerate(taken.rows.tolist()):
            gone[row] += taken.closer[i]
            if moves == "take-back" and after[i] > now[row] + 1e-4:
                back += 1
                assert taken.closer[i] == 0
            elif moves != "take-back" or after[i] < now[row] - 1e-4:
                now[row] = after[i]
        assert (after[taken.reached] <= 1e-4).all()
    assert (back > 0) == (moves == "take-back")
    torch.testing.assert_close(gone, start - now, atol=2e-3, rtol=1e-3)
