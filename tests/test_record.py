"""The paths that methods record, what they end in, and whether it is minimal."""

from dataclasses import replace

import pytest
import torch
from conftest import PAIRS, TEXTS, WORDS

from foveate.masking.goal import Explain
from foveate.masking.probe import Prediction
from foveate.masking.record import Record
from foveate.text.classifier import TextClassifier
from foveate.text.explained import explained
from foveate.text.explanation import Explanation
from foveate.text.minimality import verify
from foveate.text.probe import Probe


def answer(*probabilities: list[float]) -> Prediction:
    return Prediction(torch.tensor(probabilities).log())


@pytest.fixture
def probe(classifier: TextClassifier) -> Probe:
    """Three texts, each "good" with probability 0.9."""
    probe = Probe(classifier, ["i feel so dirty", "joy", "we love the dog"])
    probe.label[:] = probe.target[:] = 2
    probe.probability[:] = 0.9
    return probe


def play(probe: Probe, *steps: tuple[list[int], float]) -> Explanation:
    """What a path of the first text ends in: the tokens masked at each step, and p(good) then."""
    record = Record(probe, Explain(0.5))
    row = torch.tensor([0])
    for masked, p in steps:
        visible = probe.encoded.real[row].clone()
        visible[0, masked] = False
        record.add(row, [tuple(masked)], visible, answer([1 - p - 0.01, 0.01, p]))
    return explained(probe, record.goal, "test", record.finish(torch.zeros(probe.maskable.shape)))[0]


def test_the_last_mask_that_reached_the_goal_is_kept(probe: Probe) -> None:
    found = play(probe, ([1], 0.6), ([1, 2], 0.05), ([2], 0.3))
    assert found.masked == (2,) and found.solved and found.flipped and found.final_label == "bad"
    assert found.delta_p == pytest.approx(0.6) and len(found.path) == 3
    assert found.mask_rate == 1 / 4
    unmasked_too_much = play(probe, ([1], 0.6), ([1, 2], 0.2), ([2], 0.8))
    assert unmasked_too_much.masked == (1, 2) and unmasked_too_much.solved


def test_without_it_the_lowest_probability_and_then_the_smaller_mask_is_kept(probe: Probe) -> None:
    assert play(probe, ([1], 0.8), ([1, 2, 3], 0.5), ([1, 2], 0.5), ([2], 0.7)).masked == (1, 2)
    found = play(probe, ([1], 0.8), ([1, 2], 0.6))
    assert not found.solved and not found.flipped and found.final_label == "good" and found.delta_p > 0


def test_where_no_step_helped_nothing_is_masked(probe: Probe) -> None:
    for found in (play(probe, ([1], 0.95), ([1, 2], 0.9)), play(probe)):
        assert found.masked == () and found.delta_p == 0.0 and found.mask_rate == 0.0
        assert not found.solved and not found.flipped and found.final_label == "good"


def test_steps_of_many_texts_fall_on_their_own_paths(probe: Probe) -> None:
    record = Record(probe, Explain(0.5))
    visible = probe.encoded.real.clone()
    rows, actions = torch.tensor([2, 0]), torch.tensor([3, 1])
    visible[rows, actions] = False
    reached = record.add(rows, actions, visible[rows], answer([0.1, 0.2, 0.7], [0.8, 0.1, 0.1]))
    assert reached.tolist() == [False, True]
    # What is handed over may change afterwards, and may be trimmed to the texts at play.
    rows.zero_(), actions.zero_()
    visible[2, 1] = False
    record.add(torch.tensor([2]), [(1,)], visible[[2], :5], answer([0.2, 0.6, 0.2]))
    scores = torch.arange(3 * visible.shape[1]).view(3, -1).float() + 1
    first, second, third = explained(probe, record.goal, "test", record.finish(scores))
    assert [s.action for s in first.path] == [(1,)] and [s.masked for s in first.path] == [(1,)]
    assert second.path == () and second.scores[0] == second.scores[-1] == 0.0
    assert [s.action for s in third.path] == [(3,), (1,)] and [s.masked for s in third.path] == [(3,), (1, 3)]
    assert [s.label for s in third.path] == ["good", "neutral"]
    assert third.path[0].probability == pytest.approx(0.7) and third.path[0].delta_p == pytest.approx(0.2)
    assert third.scores == (0.0, *scores[2, 1:5].tolist(), 0.0)
    assert [t.text for t in second.tokens] == ["[CLS]", "joy", "[SEP]"]
    assert [t.special for t in second.tokens] == [True, False, True]


def test_tokens_lie_in_their_own_text(classifier: TextClassifier) -> None:
    probe = Probe(classifier, PAIRS)
    nothing = Record(probe, Explain()).finish(torch.zeros(probe.maskable.shape))
    for found in explained(probe, Explain(), "test", nothing):
        texts = (found.text, found.pair or "")
        assert (found.text, found.pair) in PAIRS
        free = [t for t in found.tokens if not t.special]
        assert {t.segment for t in free} == {0, 1}
        assert all(texts[t.segment][t.start : t.end] == t.text for t in free)


def masked_at_random(probe: Probe, goal: Explain) -> list[Explanation]:
    record, rows = Record(probe, goal), torch.arange(len(probe))
    hidden = probe.maskable & (torch.rand(probe.maskable.shape, generator=torch.Generator().manual_seed(3)) < 0.4)
    actions = [tuple(h.nonzero().squeeze(1).tolist()) for h in hidden]
    visible = probe.encoded.real & ~hidden
    record.add(rows, actions, visible, probe.query(rows, visible))
    return explained(probe, goal, "random", record.finish(torch.zeros(probe.maskable.shape)))


def test_minimal_is_what_asking_one_by_one_says(classifier: TextClassifier) -> None:
    goal = Explain(0.05)
    probe = Probe(classifier, [*TEXTS, *(" ".join(WORDS[i : i + 6]) for i in range(0, 48, 3))])
    found = masked_at_random(probe, goal)
    before = probe.queries.clone()
    verified = verify(probe, found)
    assert torch.equal(probe.queries, before)
    for row, (old, new) in enumerate(zip(found, verified, strict=True)):
        if not old.solved:
            assert new == old and new.minimal is None
            continue
        needed = []
        for token in old.masked:
            visible = probe.encoded.real[[row]].clone()
            visible[0, [k for k in old.masked if k != token]] = False
            p = classifier.predict(probe.encoded, torch.tensor([row]), visible).probabilities[0, probe.target[row]]
            needed.append(bool(old.probability - p < goal.threshold))
        assert new == replace(old, minimal=all(needed), verification_queries=len(needed))
    assert {e.minimal for e in verified} == {None, True, False}
    assert verify(probe, found, goal) == verified


def test_nothing_solved_nothing_asked(classifier: TextClassifier) -> None:
    probe = Probe(classifier, TEXTS)
    nothing = Record(probe, Explain(0.99)).finish(torch.zeros(probe.maskable.shape))
    found = explained(probe, Explain(0.99), "none", nothing)
    assert verify(probe, found) == found
