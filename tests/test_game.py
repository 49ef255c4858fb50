"""The masking game against one text played at a time, and against its own rules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from conftest import PAIRS, TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import RequestError
from foveate.masking.game import MaskingGame, Turn
from foveate.masking.goal import Attack, Explain
from foveate.masking.probe import Prediction
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Text
from foveate.text.probe import Probe


@contextmanager
def counted(classifier: TextClassifier) -> Iterator[list[int]]:
    """The rows of every batch that goes through the model."""
    rows: list[int] = []
    hook = classifier.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        yield rows
    finally:
        hook.remove()


def play_randomly(game: MaskingGame, seed: int, check: object = lambda before, action, turn: None) -> dict:
    """Random legal moves until all games are over; each text's steps: (action, visible, gain, reached, over)."""
    draw = torch.Generator().manual_seed(seed)
    played: dict[int, list[tuple]] = {}
    while len(game):
        before = game.rows.tolist()
        action = torch.multinomial(game.actions.float(), 1, generator=draw).squeeze(1)
        turn = game.step(action)
        check(before, action, turn)
        for i, row in enumerate(turn.rows.tolist()):
            shown = turn.visible[i, : int(game.probe.encoded.lengths[row])].tolist()
            step = (action[i].item(), shown, turn.gain[i].item(), turn.reached[i].item(), turn.over[i].item())
            played.setdefault(row, []).append(step)
    return played


def replay_alone(classifier: TextClassifier, text: Text, actions: list[int], goal: Explain, most: int, moves: str):
    """The game of one text, as the paper tells it, one prediction at a time; and what taking back adds."""
    encoded = classifier.encode([text])
    visible = torch.ones_like(encoded.real)
    first = classifier.predict(encoded).probabilities[0]
    target = int(first.argmax())
    logit = torch.logit
    wanted = logit((first[target] - goal.threshold).clamp(0.01, 0.9999))
    far, tried = (logit(first[target].clamp(1e-4, 0.9999)) - wanted).clamp(min=0), set()
    for step, action in enumerate(actions, 1):
        visible[0, action] = not visible[0, action]
        tried.add(action)
        now = classifier.predict(encoded, visible=visible).probabilities[0, target]
        gain = float(first[target] - now)
        nothing_left = moves != "toggle" and len(tried) == encoded.maskable.sum()
        reached = gain >= goal.threshold
        yield visible[0].tolist(), gain, reached, reached or step == most or nothing_left
        farther = (logit(now.clamp(1e-4, 0.9999)) - wanted).clamp(min=0)
        if moves == "take-back" and farther > far + 0.5:
            visible[0, action] = True
        else:
            far = farther


@given(
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=7),
    st.integers(1, 4),
    st.sampled_from([0.05, 0.3, 0.9]),
    st.sampled_from([1, 3, 20]),
    st.sampled_from(["toggle", "mask", "take-back"]),
    st.integers(0, 2**16),
)
@settings(max_examples=15, deadline=None)
def test_many_games_at_once_are_one_game_at_a_time(
    classifier: TextClassifier, texts: list[str], slots: int, threshold: float, most: int, moves: str, seed: int
) -> None:
    goal = Explain(threshold)
    probe = Probe(classifier, texts)
    played = play_randomly(
        MaskingGame(probe, goal, iter(range(len(texts))), slots=slots, max_steps=most, moves=moves), seed
    )
    assert sorted(played) == list(range(len(texts)))
    for row, steps in played.items():
        alone = replay_alone(classifier, texts[row], [step[0] for step in steps], goal, most, moves)
        for (_, visible, gain, reached, over), (visible_, gain_, reached_, over_) in zip(steps, alone, strict=True):
            assert visible == visible_
            assert math.isclose(gain, gain_, abs_tol=1e-5)
            if abs(gain - threshold) > 1e-5:
                assert (reached, over) == (reached_, over_)
        assert [step[4] for step in steps] == [False] * (len(steps) - 1) + [True]
        assert probe.queries[row] == len(steps)


def test_batches_are_full_while_texts_last(classifier: TextClassifier) -> None:
    """A finished game's place goes to the next text; the others stay where they are."""
    texts = list(TEXTS) * 3
    source = iter(range(len(texts)))
    game = MaskingGame(Probe(classifier, texts), Explain(0.3), source, slots=4, max_steps=5)
    left = list(range(4, len(texts)))
    batches = []

    def check(before: list[int], action: torch.Tensor, turn: Turn) -> None:
        batches.append(len(before))
        expected = []
        for row, over in zip(before, turn.over.tolist(), strict=True):
            if not over:
                expected.append(row)
            elif left:
                expected.append(left.pop(0))
        assert game.rows.tolist() == expected

    play_randomly(game, seed=1, check=check)
    assert not left and batches.count(4) > len(batches) / 2
    assert batches == sorted(batches, reverse=True)
    assert sorted(batches, reverse=True) == batches


@pytest.mark.parametrize("texts", [TEXTS, PAIRS])
@pytest.mark.parametrize("moves", ["toggle", "mask", "take-back"])
def test_special_tokens_are_never_toggled(classifier: TextClassifier, texts: tuple[Text, ...], moves: str) -> None:
    game = MaskingGame(
        Probe(classifier, texts), Explain(2.0), iter(range(len(texts))), slots=3, moves=moves, max_steps=12
    )
    for step in play_randomly(game, seed=2).values():
        for action, visible, *_ in step:
            assert visible[0] and visible[-1] and 0 < action < len(visible) - 1


@pytest.mark.parametrize("moves", ["toggle", "mask", "take-back"])
def test_what_may_not_be_toggled_is_refused(classifier: TextClassifier, moves: str) -> None:
    probe = Probe(classifier, ["joy", "a charming and great journey"])
    game = MaskingGame(probe, Explain(2.0), iter(range(2)), slots=2, moves=moves)
    for action in ([0, 1], [2, 1], [5, 1]):  # [CLS], [SEP] and padding of the first
        with pytest.raises(ValueError, match="may not be toggled"):
            game.step(torch.tensor(action))
    assert probe.queries.tolist() == [0, 0]


def test_a_masked_token_is_shown_again_only_where_toggling_is_on(classifier: TextClassifier) -> None:
    text = TEXTS[0]
    toggling = MaskingGame(Probe(classifier, [text]), Explain(2.0), iter([0]), slots=1, moves="toggle")
    toggling.step(torch.tensor([3]))
    turn = toggling.step(torch.tensor([3]))
    assert turn.visible.all() and turn.gain.abs().item() < 1e-6
    masking = MaskingGame(Probe(classifier, [text]), Explain(2.0), iter([0]), slots=1)
    masking.step(torch.tensor([3]))
    assert not masking.actions[0, 3]
    with pytest.raises(ValueError, match="may not be toggled"):
        masking.step(torch.tensor([3]))


def test_a_game_ends_when_everything_is_masked(classifier: TextClassifier) -> None:
    probe = Probe(classifier, TEXTS)
    played = play_randomly(MaskingGame(probe, Explain(2.0), iter(range(len(TEXTS))), slots=3), seed=3)
    assert [len(played[row]) for row in range(len(TEXTS))] == probe.maskable.sum(1).tolist()


def test_a_game_ends_after_its_steps(classifier: TextClassifier) -> None:
    game = MaskingGame(Probe(classifier, TEXTS), Explain(2.0), iter([0, 4, 0]), slots=2, max_steps=4, moves="toggle")
    played = play_randomly(game, seed=4)
    assert (len(played[0]), len(played[4])) == (8, 4)


def test_texts_that_cannot_be_explained_are_passed_over(classifier: TextClassifier) -> None:
    probabilities = Probe(classifier, TEXTS).probability
    threshold = float(probabilities.sort().values[1:3].mean())
    played = {}
    for only in (False, True):
        probe = Probe(classifier, TEXTS, opened=False)
        game = MaskingGame(
            probe, Explain(threshold), iter(range(len(TEXTS))), slots=2, max_steps=2, reachable_only=only
        )
        played[only] = set(play_randomly(game, seed=5))
        assert probe.queries[[row not in played[only] for row in range(len(TEXTS))]].sum() == 0
    assert played[False] == set(range(len(TEXTS)))
    assert played[True] == set((probabilities >= threshold).nonzero().squeeze(1).tolist())


def test_an_endless_source_without_such_texts_is_told(classifier: TextClassifier) -> None:
    def forever() -> Iterator[int]:
        while True:
            yield from range(len(TEXTS))

    with pytest.raises(RequestError, match="threshold"):
        MaskingGame(Probe(classifier, TEXTS, opened=False), Explain(1.0), forever(), slots=2, reachable_only=True)


def test_no_texts_no_games(classifier: TextClassifier) -> None:
    assert len(MaskingGame(Probe(classifier, TEXTS), Explain(), iter([]), slots=3)) == 0


def test_every_row_sent_is_a_query_or_a_first_prediction(classifier: TextClassifier) -> None:
    with counted(classifier) as rows:
        probe = Probe(classifier, TEXTS, opened=False)
        played = play_randomly(MaskingGame(probe, Explain(0.2), iter(range(len(TEXTS))), slots=2), seed=6)
    assert sum(rows) == len(TEXTS) + int(probe.queries.sum())
    assert [len(played[row]) for row in range(len(TEXTS))] == probe.queries.tolist()


def test_queries_of_a_text_that_is_asked_twice_at_once(classifier: TextClassifier) -> None:
    probe = Probe(classifier, TEXTS)
    rows = torch.tensor([1, 3, 1])
    with counted(classifier) as sent:
        prediction = probe.query(rows, probe.encoded.real[rows])
    assert sum(sent) == 3 and probe.queries.tolist() == [0, 2, 0, 1, 0]
    torch.testing.assert_close(probe.target_probability(rows, prediction), probe.probability[rows], atol=1e-5, rtol=0)


def test_an_asked_target_is_kept(classifier: TextClassifier) -> None:
    target = torch.tensor([0, 1, 2, 0, 1])
    probe = Probe(classifier, TEXTS, target=target)
    expected = classifier.predict(probe.encoded).probabilities.gather(1, target[:, None]).squeeze(1)
    assert probe.target.tolist() == target.tolist()
    torch.testing.assert_close(probe.probability, expected, atol=1e-5, rtol=0)
    game = MaskingGame(probe, Explain(2.0), iter(range(5)), slots=5)
    assert game.state is not None
    turn = game.step(torch.ones(5, dtype=torch.long))
    now = turn.prediction.probabilities.gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(turn.gain, expected - now, atol=1e-5, rtol=0)


def test_the_state_belongs_to_its_text_after_every_step(classifier: TextClassifier) -> None:
    """After games have come and gone, each state is what its text's own forward pass shows."""
    texts = [*TEXTS, *TEXTS[::-1]]
    probe = Probe(classifier, texts)
    game = MaskingGame(probe, Explain(0.4), iter(range(len(texts))), slots=3, max_steps=4)

    def check(before: list[int], action: torch.Tensor, turn: Turn) -> None:
        state = game.state
        assert state is not None
        for i, row in enumerate(game.rows.tolist()):
            n = int(probe.encoded.lengths[row])
            encoded = classifier.encode([texts[row]])
            seen = classifier.predict(encoded, visible=state.visible[i : i + 1, :n], observe=True)
            assert seen.observation is not None
            o = state.observation
            torch.testing.assert_close(o.attention[i, :n, :n], seen.observation.attention[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(o.hidden[i, :n], seen.observation.hidden[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(o.received[i, :, :n], seen.observation.received[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(o.pooled[i, :, :n], seen.observation.pooled[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(state.probabilities[i], seen.probabilities[0], atol=1e-5, rtol=0)
            assert torch.equal(state.maskable[i, :n], encoded.maskable[0]) and not state.real[i, n:].any()
            assert state.target[i] == probe.label[row]
            assert state.wanted[i] == probe.probability[row] - game.goal.threshold
            assert not o.attention[i, n:].any() and not o.hidden[i, n:].any() and not o.received[i, :, n:].any()
            assert not state.maskable[i, n:].any() and not state.visible[i, n:].any()

    play_randomly(game, seed=7, check=check)


def test_distance_is_what_is_missing_in_log_odds(classifier: TextClassifier) -> None:
    probe = Probe(classifier, TEXTS)
    rows = torch.arange(len(TEXTS))
    prediction = classifier.predict(probe.encoded)
    goal = Explain(0.2)
    for row, distance in enumerate(goal.distance(probe, rows, prediction).tolist()):
        p = min(max(float(probe.probability[row]), 1e-4), 1 - 1e-4)
        wanted = min(max(float(probe.probability[row]) - 0.2, 1e-2), 1 - 1e-4)
        assert math.isclose(distance, max(0.0, math.log(p / (1 - p)) - math.log(wanted / (1 - wanted))), rel_tol=1e-3)


@dataclass(frozen=True)
class Nothing:
    """An observation that shows nothing."""

    item_axes: ClassVar[dict[str, tuple[int, ...]]] = {}


class Landscape:
    """Cases whose first logit is a random quadratic function of what is masked, always above the second's 0."""

    def __init__(self, sizes: list[int], seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        width = max(sizes) + 1
        self.slope = torch.randn(len(sizes), width, generator=draw)
        self.bend = torch.randn(len(sizes), width, width, generator=draw)
        self.real = torch.arange(width) <= torch.tensor(sizes)[:, None]
        self.maskable = self.real & (torch.arange(width) > 0)
        self.segments = torch.zeros(self.real.shape, dtype=torch.long)
        self.label = self.target = torch.zeros(len(sizes), dtype=torch.long)
        self.probability = torch.ones(len(sizes))
        self.queries = torch.zeros(len(sizes), dtype=torch.long)

    def __len__(self) -> int:
        return len(self.queries)

    def open(self, rows: torch.Tensor, observe: bool = False) -> Prediction:
        return self.query(rows, self.real[rows])

    def query(self, rows: torch.Tensor, visible: torch.Tensor, observe: bool = False) -> Prediction:
        masked = torch.zeros(len(rows), self.real.shape[1])
        masked[:, : visible.shape[1]] = (self.maskable[rows, : visible.shape[1]] & ~visible).float()
        height = (masked * self.slope[rows]).sum(1) + torch.einsum("gi,gij,gj->g", masked, self.bend[rows], masked)
        return Prediction(torch.stack([100 + height, torch.zeros_like(height)], 1), Nothing())

    def target_probability(self, rows: torch.Tensor, prediction: Prediction) -> torch.Tensor:
        return prediction.probabilities[:, 0]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_nothing_is_asked_twice_of_a_mask_that_stands(sizes: list[int], slots: int, seed: int) -> None:
    """With rounds to spare, a game ends where every single toggle was asked and leads away, and not before."""
    probe = Landscape(sizes, seed)
    source = iter(range(len(sizes)))
    game = MaskingGame(probe, Attack(), source, slots=slots, max_steps=10_000, tolerance=0.0, rounds=10_000)
    draw = torch.Generator().manual_seed(seed)
    asked: dict[tuple[int, tuple[bool, ...]], set[int]] = {}
    ended: set[int] = set()
    while len(game):
        assert game.state is not None
        standing = [
            tuple(shown[: sizes[row] + 1])
            for row, shown in zip(game.rows.tolist(), game.state.visible.tolist(), strict=True)
        ]
        action = torch.multinomial(game.actions.float(), 1, generator=draw).squeeze(1)
        turn = game.step(action)
        for i, (row, shown, item) in enumerate(zip(turn.rows.tolist(), standing, action.tolist(), strict=True)):
            tried = asked.setdefault((row, shown), set())
            assert item not in tried
            tried.add(item)
            if turn.over[i]:
                ended.add(row)
                here = torch.tensor(shown)
                here[item] ^= turn.closer[i] > 0
                around = torch.eye(len(shown), dtype=torch.bool)[1:] ^ here
                rows = torch.full((len(around) + 1,), row)
                height = probe.query(rows, torch.cat([here[None], around])).logits[:, 0]
                assert (height[1:] > height[0]).all()
    assert ended == set(range(len(sizes)))
