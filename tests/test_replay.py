"""Prioritised replay against a list that is searched from front to back."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foveate.masking.replay import Batch, Replay, SumTree

PRIORITIES = st.floats(0, 1e6, allow_subnormal=False)


class NaiveReplay:
    """Every step of every game in a list; what a transition is, is found by walking on from it."""

    def __init__(self, times: int, games: int, discount: float, n_step: int) -> None:
        self.times, self.games, self.discount, self.n_step = times, games, discount, n_step
        self.steps: list[dict[str, Tensor]] = []

    def add(self, **step: Tensor) -> None:
        self.steps.append(step)

    def ready(self) -> list[tuple[int, int]]:
        """(time, game) of each transition that is still held and whose successor is known."""
        oldest = max(0, len(self.steps) - self.times)
        return list(itertools.product(range(oldest, len(self.steps) - self.n_step), range(self.games)))

    def transition(self, time: int, game: int) -> tuple[float, float, int]:
        """Discounted reward, the discount of the successor's value, the successor's time."""
        reward, discount = 0.0, 1.0
        for ahead in range(self.n_step):
            step = self.steps[time + ahead]
            reward += discount * float(step["reward"][game])
            discount *= self.discount
            if step["over"][game]:
                return reward, 0.0, time + self.n_step
        return reward, discount, time + self.n_step


def random_step(games: int, tokens: int, features: int, draw: torch.Generator) -> dict[str, Tensor]:
    """One time step of games of different lengths, as wide as the longest."""
    lengths = torch.randint(1, tokens + 1, (games,), generator=draw)
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    return {
        "features": torch.randn(*real.shape, features, generator=draw) * real[:, :, None],
        "visible": real & (torch.rand(real.shape, generator=draw) < 0.7),
        "real": real,
        "legal": real & (torch.rand(real.shape, generator=draw) < 0.8),
        "action": (torch.rand(games, generator=draw) * lengths).long(),
        "reward": torch.randn(games, generator=draw),
        "over": torch.rand(games, generator=draw) < 0.3,
    }


def filled(steps: int, *, times: int = 7, games: int = 3, n_step: int = 1, tokens: int = 5, discount: float = 0.9):
    replay = Replay(times * games, games, tokens, 2, discount=discount, n_step=n_step, exponent=0.6)
    naive = NaiveReplay(times, games, discount, n_step)
    draw = torch.Generator().manual_seed(steps * 100 + n_step)
    for _ in range(steps):
        step = random_step(games, tokens, 2, draw)
        replay.add(**step)
        naive.add(**step)
    return replay, naive


def same(batch: Batch, place: int, now: dict[str, Tensor], later: dict[str, Tensor], game: int) -> None:
    """Row `place` of the batch is the transition from `now` to `later`, in half precision, zero beyond its length."""
    for name, found in {
        "features": batch.features,
        "visible": batch.visible,
        "real": batch.real,
    }.items():
        assert_row(found[place], now[name][game])
    for name, found in {
        "features": batch.next_features,
        "visible": batch.next_visible,
        "real": batch.next_real,
        "legal": batch.next_legal,
    }.items():
        assert_row(found[place], later[name][game])
    assert batch.action[place] == now["action"][game]


def assert_row(found: Tensor, stored: Tensor) -> None:
    width = min(len(found), len(stored))
    expected = stored.half().float() if stored.is_floating_point() else stored
    assert torch.equal(found[:width], expected[:width])
    assert not found[width:].any() and not stored[width:].any()


@given(st.lists(st.lists(st.tuples(st.integers(0, 12), PRIORITIES), min_size=1, max_size=9), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_every_node_is_the_sum_of_its_leaves(writes: list[list[tuple[int, float]]]) -> None:
    tree, leaves = SumTree(13), [0.0] * 13
    for write in writes:
        last = dict(write)  # of a leaf named twice one value counts; here every leaf is named once
        tree[torch.tensor(list(last))] = torch.tensor(list(last.values()), dtype=torch.float64)
        for leaf, priority in last.items():
            leaves[leaf] = priority
    assert tree[torch.arange(13)].tolist() == leaves
    assert math.isclose(tree.total, math.fsum(leaves), rel_tol=1e-12, abs_tol=1e-300)
    for node in range(1, tree.size):
        assert tree.nodes[node] == tree.nodes[2 * node] + tree.nodes[2 * node + 1]


@given(st.lists(PRIORITIES, min_size=1, max_size=20), st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_find_walks_the_running_sum(priorities: list[float], shares: list[float]) -> None:
    tree = SumTree(len(priorities))
    tree[torch.arange(len(priorities))] = torch.tensor(priorities, dtype=torch.float64)
    if not tree.total:
        return
    mass = torch.tensor(shares, dtype=torch.float64) * tree.total
    sums = list(itertools.accumulate(priorities))
    for leaf, wanted in zip(tree.find(mass).tolist(), mass.tolist(), strict=True):
        assert priorities[leaf] > 0  # whatever the rounding, and at the very end too
        before = sums[leaf] - priorities[leaf]
        assert before <= wanted * (1 + 1e-9) + 1e-9 * tree.total
        assert wanted <= sums[leaf] * (1 + 1e-9) + 1e-9 * tree.total


def test_a_leaf_named_twice_keeps_one_of_its_values_and_the_sums_agree() -> None:
    tree = SumTree(6)
    tree[torch.tensor([2, 4, 2])] = torch.tensor([1.0, 5.0, 3.0])
    kept = tree[torch.tensor([2])].item()
    assert kept in (1.0, 3.0) and tree.total == 5 + kept


@pytest.mark.parametrize("capacity", [1, 2, 3, 8, 9])
def test_any_capacity_has_a_leaf_for_each(capacity: int) -> None:
    tree = SumTree(capacity)
    for leaf in range(capacity):
        tree[torch.tensor([leaf])] = 1.0
    assert tree.total == capacity
    assert tree.find(torch.arange(capacity).double()).tolist() == list(range(capacity))


def test_leaves_are_drawn_in_proportion_to_their_priorities() -> None:
    priorities = torch.tensor([5.0, 0.0, 1.0, 3.0, 0.0, 7.0])
    tree = SumTree(6)
    tree[torch.arange(6)] = priorities
    drawn = tree.sample(16_000, torch.Generator().manual_seed(0)).bincount(minlength=6)
    torch.testing.assert_close(drawn / 16_000, priorities / 16, atol=1e-3, rtol=0)


def test_draws_are_spread_over_equal_shares() -> None:
    """Stratified: with equal priorities and as many draws as leaves, each leaf comes once."""
    tree = SumTree(8)
    tree[torch.arange(8)] = 1.0
    assert tree.sample(8, torch.Generator().manual_seed(3)).tolist() == list(range(8))


@pytest.mark.parametrize("n_step", [1, 2, 3])
@pytest.mark.parametrize("steps", [2, 4, 7, 8, 12, 23])
def test_transitions_equal_those_of_a_list(steps: int, n_step: int) -> None:
    """Before and after the ring has come round: what is drawn, its return across ends, its successor."""
    replay, naive = filled(steps, n_step=n_step)
    ready = naive.ready()
    assert len(replay) == len(ready)
    if not ready:
        assert replay.tree.total == 0
        return
    # A list of all transitions, as leaves: with priorities alike, as many draws as transitions take each once.
    batch = replay.sample(len(ready), 0.4, torch.Generator().manual_seed(0))
    leaves = {(time % naive.times) * naive.games + game: (time, game) for time, game in ready}
    assert set(batch.index.tolist()) == set(leaves)
    for place, leaf in enumerate(batch.index.tolist()):
        time, game = leaves[leaf]
        reward, discount, successor = naive.transition(time, game)
        assert batch.reward[place].item() == pytest.approx(reward, abs=1e-5)
        assert batch.discount[place].item() == pytest.approx(discount, abs=1e-6)
        same(batch, place, naive.steps[time], naive.steps[successor], game)


def test_the_batch_is_as_wide_as_its_longest() -> None:
    replay, _ = filled(7, tokens=30)
    batch = replay.sample(2, 0.4, torch.Generator().manual_seed(0))
    assert batch.features.shape[1] == batch.real.sum(1).max()
    assert batch.next_features.shape[1] == batch.next_real.sum(1).max()


@given(st.lists(st.floats(0, 50), min_size=18, max_size=18), st.floats(0, 1), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_importance_weights_undo_the_preference(errors: list[float], beta: float, seed: int) -> None:
    """w = (N · P)^−β over the largest (Schaul et al. 2016, section 3.4), with P = p / Σp, p = (|δ| + 0.01)^0.6."""
    replay, naive = filled(7)
    order = [(time % naive.times) * naive.games + game for time, game in naive.ready()]
    replay.update(torch.tensor(order), torch.tensor(errors) * torch.tensor([1.0, -1.0] * 9))
    priority = {leaf: (error + 0.01) ** 0.6 for leaf, error in zip(order, errors, strict=True)}
    batch = replay.sample(6, beta, torch.Generator().manual_seed(seed))
    drawn = [priority[leaf] / sum(priority.values()) for leaf in batch.index.tolist()]
    weights = [(len(order) * p) ** -beta for p in drawn]
    expected = torch.tensor([w / max(weights) for w in weights])
    torch.testing.assert_close(batch.weight, expected, atol=1e-4, rtol=1e-4)


def test_sampling_follows_the_errors() -> None:
    replay, naive = filled(9)
    order = [(time % naive.times) * naive.games + game for time, game in naive.ready()]
    errors = torch.linspace(0, 4, len(order))
    replay.update(torch.tensor(order), errors)
    expected = (errors + 0.01) ** 0.6
    drawn = replay.sample(30_000, 0.4, torch.Generator().manual_seed(0)).index.bincount(minlength=21)[order]
    torch.testing.assert_close(drawn / 30_000, expected / expected.sum(), atol=1e-3, rtol=0)


def test_new_transitions_come_with_the_highest_priority_so_far() -> None:
    replay, naive = filled(3)
    assert replay.tree[torch.arange(6)].tolist() == [1.0] * 6
    replay.update(torch.tensor([1, 4]), torch.tensor([-80.0, 0.5]))
    step = random_step(3, 5, 2, torch.Generator().manual_seed(9))
    replay.add(**step)
    naive.add(**step)
    assert replay.tree[torch.tensor([6, 7, 8])].tolist() == pytest.approx([80.01**0.6] * 3)


def test_what_is_overwritten_is_never_drawn() -> None:
    replay, _ = filled(7)
    replay.update(torch.arange(18), torch.full((18,), 1e6))
    replay.add(**random_step(3, 5, 2, torch.Generator().manual_seed(1)))
    assert replay.tree[torch.arange(3)].tolist() == [0.0] * 3
    drawn = replay.sample(500, 0.4, torch.Generator().manual_seed(0)).index
    assert not (drawn < 3).any()


@pytest.mark.parametrize("steps", [5, 12])
def test_a_restored_replay_goes_on_as_the_first(steps: int) -> None:
    first, _ = filled(steps, n_step=2)
    first.update(torch.tensor([3, 4]), torch.tensor([9.0, 0.0]))
    second, _ = filled(0, n_step=2)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    draw = torch.Generator().manual_seed(4)
    for _ in range(4):
        step = random_step(3, 5, 2, draw)
        first.add(**step)
        second.add(**step)
    one, two = (r.sample(16, 0.4, torch.Generator().manual_seed(1)) for r in (first, second))
    for name in Batch.__dataclass_fields__:
        assert torch.equal(getattr(one, name), getattr(two, name))
