"""Intervals against scipy and theory; ERASER's measures against a loop written for the reader."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import PAIRS, TEXTS
from scipy import stats

from foveate.bootstrap import bootstrap_means
from foveate.text.classifier import TextClassifier
from foveate.text.metrics import BINS, faithfulness


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_intervals_agree_with_scipy() -> None:
    values = -torch.rand(120, 2, generator=_generator()).log()
    for column, found in zip(values.T, bootstrap_means(values, _generator(1), resamples=20_000), strict=True):
        want = stats.bootstrap(
            (column.double().numpy(),), lambda x, axis: x.mean(axis), n_resamples=20_000, method="percentile", rng=2
        ).confidence_interval
        assert found.mean == pytest.approx(float(column.double().mean()))
        assert found.low == pytest.approx(want.low, abs=0.006)
        assert found.high == pytest.approx(want.high, abs=0.006)


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    draws = torch.rand(60, 400, generator=_generator(3))
    # One column an experiment: all share the drawn rows, which leaves each column's interval its own.
    covered = [i.low <= 0.5 <= i.high for i in bootstrap_means(draws, _generator(4))]
    assert 0.91 <= sum(covered) / len(covered) <= 0.98


def test_the_same_seed_gives_the_same_interval() -> None:
    values = torch.rand(50, 3, generator=_generator(5))
    assert bootstrap_means(values, _generator(6)) == bootstrap_means(values, _generator(6))
    assert bootstrap_means(values, _generator(6)) != bootstrap_means(values, _generator(7))


def test_the_sign_of_an_interval() -> None:
    signs = [
        i.sign for i in bootstrap_means(torch.tensor([[1.0, -1.0, 1.0, 0.0], [2.0, -3.0, -1.0, 0.0]]), _generator())
    ]
    assert signs == [1, -1, 0, 0]


def test_no_texts_have_no_interval() -> None:
    with pytest.raises(ValueError, match="a mean of nothing"):
        bootstrap_means(torch.zeros(0, 2), _generator())


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_faithfulness_equals_a_loop(classifier: TextClassifier, texts: tuple) -> None:
    encoded = classifier.encode(texts)
    target = classifier.predict(encoded).probabilities.argmax(1)
    scores = torch.randn(encoded.input_ids.shape, generator=_generator())
    scores[0] = 0.5  # ties: the first token is on top
    found = faithfulness(classifier, encoded, target, scores)
    for row in range(len(texts)):

        def p(visible: torch.Tensor, row: int = row) -> float:
            one = classifier.predict(encoded, torch.tensor([row]), visible[None])
            return float(one.probabilities[0, target[row]])

        everything = torch.ones(encoded.input_ids.shape[1], dtype=torch.bool)
        tokens = [i for i in range(len(everything)) if encoded.maskable[row, i]]
        order = sorted(tokens, key=lambda i: (-float(scores[row, i]), i))
        comprehensiveness, sufficiency = [], []
        for percent in BINS:
            top = order[: math.ceil(len(tokens) * percent / 100)]
            hidden, shown = everything.clone(), everything.clone()
            hidden[top] = False
            shown[[i for i in tokens if i not in top]] = False
            comprehensiveness.append(p(everything) - p(hidden))
            sufficiency.append(p(everything) - p(shown))
        assert found["comprehensiveness"][row] == pytest.approx(sum(comprehensiveness) / 5, abs=1e-5)
        assert found["sufficiency"][row] == pytest.approx(sum(sufficiency) / 5, abs=1e-5)
    assert found["comprehensiveness"].abs().max() > 0.01, "nothing would differ if the tokens were never hidden"
