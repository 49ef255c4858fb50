"""What an agent sees: against the published code's numbers, a naive version, and what must not change."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from foveate.masking.state import ITEM_AXES, State
from foveate.text.classifier import Observation, TextClassifier
from foveate.text.features import FEATURES, moments, statistics, token_features

GOLDEN = Path(__file__).parents[2] / "shared" / "official" / "attexplainer" / "golden.npz"


def softmax_attention(games: int, tokens: int, seed: int) -> Tensor:
    """Attention of one-row softmaxes, sharp enough for entries all over [0, 1]."""
    return (torch.randn(games, tokens, tokens, generator=torch.Generator().manual_seed(seed)) * 3).softmax(2)


def naive(attention: np.ndarray, bins: int = 32) -> np.ndarray:
    """The paper's matrix F of one sequence, token by token (AttExplainer, section 3.3)."""
    n = len(attention)
    rows = []
    for token in range(n):
        column, row = attention[:, token], attention[token, :]
        rows.append(
            [
                *np.histogram(column, bins, range=(0, 1))[0] / n,
                *np.histogram(row, bins, range=(0, 1))[0] / n,
                row.mean(),
                row.std(ddof=1) if n > 1 else 0.0,
                column.mean(),
                column.std(ddof=1) if n > 1 else 0.0,
            ]
        )
    return np.array(rows)


def random_state(lengths: list[int], seed: int = 0, *, width: int | None = None) -> State:
    """Games of these lengths with everything random, zero on padding."""
    draw = torch.Generator().manual_seed(seed)
    games, tokens = len(lengths), width or max(lengths)
    real = torch.arange(tokens) < torch.tensor(lengths)[:, None]

    def rows(*shape: int) -> Tensor:
        scores = torch.randn(games, *shape, tokens, generator=draw) * 2
        return scores.masked_fill(~real.view(games, *[1] * len(shape), tokens), -torch.inf).softmax(-1)

    special = torch.zeros_like(real)
    special[:, 0] = True
    maskable = real & ~special
    visible = real & ~(maskable & (torch.rand(games, tokens, generator=draw) < 0.3))
    return State(
        observation=Observation(
            attention=rows(tokens) * real[:, :, None],
            received=rows(4),
            pooled=rows(4),
            hidden=torch.randn(games, tokens, 6, generator=draw) * real[:, :, None],
            summary=torch.randn(games, 6, generator=draw),
        ),
        real=real,
        maskable=maskable,
        visible=visible,
        legal=maskable & visible,
        segments=((torch.arange(tokens) > 3) & real).long(),
        probabilities=torch.randn(games, 3, generator=draw).softmax(1),
        target=torch.randint(3, (games,), generator=draw),
        wanted=torch.rand(games, generator=draw) - 0.8,
    )


def change(state: State, change_game: object, change_token: object) -> State:
    """The state with a function applied to every tensor, given the axes that run over tokens."""

    def each(name: str, value: Tensor) -> Tensor:
        value = change_game(value)
        for axis in {**ITEM_AXES, **Observation.item_axes}.get(name, ()):
            value = change_token(value, axis)
        return value

    o = state.observation
    observation = Observation(**{f.name: each(f.name, getattr(o, f.name)) for f in fields(Observation)})
    rest = {f.name: getattr(state, f.name) for f in fields(State) if f.name not in ("observation", "threshold")}
    return replace(state, observation=observation, **{name: each(name, value) for name, value in rest.items()})


def pad(state: State, width: int) -> State:
    def grow(value: Tensor, axis: int) -> Tensor:
        return F.pad(value, [0, 0] * (value.dim() - 1 - axis) + [0, width - value.shape[axis]])

    return change(state, lambda value: value, grow)


def alone(state: State, game: int) -> State:
    """One game of the batch, without its padding."""
    length = int(state.real[game].sum())
    return change(state, lambda value: value[game : game + 1], lambda value, axis: value.narrow(axis, 0, length))


@pytest.mark.skipif(not GOLDEN.exists(), reason="the published golden values are not beside the repository")
def test_statistics_meet_the_published_values() -> None:
    golden = np.load(GOLDEN)
    attention = torch.tensor(golden["attentions"]).mean((0, 2))
    found = statistics(attention, torch.ones(1, 14, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor(golden["features"]), atol=1e-5, rtol=0)


@given(st.lists(st.integers(1, 13), min_size=1, max_size=4), st.integers(0, 2**16), st.sampled_from([4, 32]))
@settings(max_examples=30, deadline=None)
def test_statistics_equal_numpy_histograms(lengths: list[int], seed: int, bins: int) -> None:
    widest = max(lengths) + 2
    attention = torch.zeros(len(lengths), widest, widest)
    real = torch.arange(widest) < torch.tensor(lengths)[:, None]
    for game, n in enumerate(lengths):
        attention[game, :n, :n] = softmax_attention(1, n, seed + game)[0]
    found = statistics(attention, real, bins)
    for game, n in enumerate(lengths):
        np.testing.assert_allclose(found[game, :n], naive(attention[game, :n, :n].double().numpy(), bins), atol=1e-5)
        assert (found[game, n:] == 0).all()


def test_entries_on_an_edge_fall_where_numpy_puts_them() -> None:
    """0, 1 and every edge between bins; a token that attends to itself alone has an entry of exactly 1."""
    attention = torch.cat([torch.eye(8)[:4], torch.arange(32).view(4, 8) / 32])[None]
    found = statistics(attention, torch.ones(1, 8, dtype=torch.bool))
    np.testing.assert_allclose(found[0], naive(attention[0].numpy()), atol=1e-6)
    assert found[0, 0, 63] == 1 / 8


def test_moments_of_one_token_are_finite() -> None:
    mean, deviation = moments(torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    assert mean.item() == 1 and deviation.item() == 0


@pytest.mark.parametrize("name", FEATURES)
def test_padding_changes_nothing(name: str) -> None:
    state = random_state([7])
    torch.testing.assert_close(token_features(pad(state, 12), [name])[:, :7], token_features(state, [name]))
    assert (token_features(pad(state, 12), [name])[:, 7:] == 0).all()


@pytest.mark.parametrize("name", FEATURES)
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=4), seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_batching_changes_nothing(name: str, lengths: list[int], seed: int) -> None:
    state = random_state(lengths, seed)
    batched = token_features(state, [name])
    assert batched.isfinite().all()
    for game, length in enumerate(lengths):
        torch.testing.assert_close(batched[game : game + 1, :length], token_features(alone(state, game), [name]))


@pytest.mark.parametrize("name", FEATURES)
def test_the_order_of_tokens_and_games_is_kept(name: str) -> None:
    """Nothing is read as another axis: games moved about give the same features, moved about."""
    state = random_state([6, 6, 6, 6])
    order = torch.tensor([2, 0, 3, 1])
    moved = change(state, lambda value: value[order], lambda value, axis: value)
    torch.testing.assert_close(token_features(moved, [name]), token_features(state, [name])[order])


@pytest.mark.parametrize("name", sorted(set(FEATURES) - {"context"}))
def test_features_follow_their_token(name: str) -> None:
    """Tokens 1 and 4 change places, and so do their features; only `context` knows the place itself."""
    state = random_state([6], seed=3)
    order = torch.tensor([0, 4, 2, 3, 1, 5])
    moved = change(state, lambda value: value, lambda value, axis: value.index_select(axis, order))
    torch.testing.assert_close(token_features(moved, [name]), token_features(state, [name])[:, order])


def test_groups_stand_side_by_side_in_the_order_asked() -> None:
    state = random_state([5, 3])
    both = token_features(state, ["labels", "profile"])
    parts = [token_features(state, [name]) for name in ("labels", "profile")]
    torch.testing.assert_close(both, torch.cat(parts, 2))


def test_context_says_how_the_game_stands() -> None:
    state = replace(
        random_state([4]),
        visible=torch.tensor([[True, False, True, True]]),
        legal=torch.tensor([[False, False, True, True]]),
        probabilities=torch.tensor([[0.2, 0.5, 0.3]]),
        target=torch.tensor([1]),
        wanted=torch.tensor([0.1]),
    )
    expected = torch.tensor([0.5, 0.0, np.log(0.1 / 0.9) / 4, 0.3, 1 / 3, 2 / 4], dtype=torch.float32)
    found = token_features(state, ["context"])[0]
    torch.testing.assert_close(found[2, :6], expected, atol=1e-5, rtol=0)
    assert found[2, 6] == 0.5 and (found[:, 8] == torch.tensor([0.0, 0, 1, 1])).all()


def test_labels_name_the_target() -> None:
    state = random_state([4, 3])
    found = token_features(state, ["labels"])
    assert (found[0, :, 3:].argmax(1) == state.target[0]).all()
    torch.testing.assert_close(found[1, 0, :3], state.probabilities[1])


def test_received_and_pooled_of_a_real_classifier(classifier: TextClassifier) -> None:
    """A batch of real texts: the same features alone and together, group by group."""
    from foveate.masking.game import MaskingGame
    from foveate.masking.goal import Explain
    from foveate.text.probe import Probe

    texts = ["joy", "i feel so dirty and ashamed for saying that", "a charming and great journey"]
    together = MaskingGame(Probe(classifier, texts), Explain(0.1), iter(range(3)), slots=3).state
    assert together is not None
    for row, text in enumerate(texts):
        state = MaskingGame(Probe(classifier, [text]), Explain(0.1), iter([0]), slots=1).state
        assert state is not None
        for name in sorted(set(FEATURES) - {"statistics", "relative-histograms", "profile"}):
            found = token_features(together, [name])[row : row + 1, : state.real.shape[1]]
            torch.testing.assert_close(found, token_features(state, [name]), atol=1e-4, rtol=1e-4)
        # Counts may move by one where an entry lies on a bin's edge to the last bit, so they are compared by their sum.
        for name in ("statistics", "relative-histograms", "profile"):
            found = token_features(together, [name])[row, : state.real.shape[1]]
            close = (found - token_features(state, [name])[0]).abs() < 1e-4
            assert close.float().mean() > 0.99
