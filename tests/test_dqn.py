"""The learner against equation 5 written out, one transition at a time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from foveate.masking.dqn import Learner, LearnerSettings
from foveate.masking.qnetwork import NetworkSettings, PaperNetwork, build_network
from foveate.masking.replay import Batch

FEATURES = 3


def random_batch(size: int = 6, tokens: int = 5, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    real = torch.arange(tokens) < torch.randint(2, tokens + 1, (size, 1), generator=draw)
    real[0] = True
    legal = real & (torch.rand(size, tokens, generator=draw) < 0.6)
    legal[:, 0] = True
    return Batch(
        index=torch.arange(size),
        weight=torch.rand(size, generator=draw),
        features=torch.randn(size, tokens, FEATURES, generator=draw),
        visible=torch.rand(size, tokens, generator=draw) < 0.5,
        real=real,
        action=(torch.rand(size, generator=draw) * real.sum(1)).long(),
        reward=torch.randn(size, generator=draw),
        discount=torch.tensor([0.9, 0.0] * (size // 2)),
        next_features=torch.randn(size, tokens, FEATURES, generator=draw),
        next_visible=torch.rand(size, tokens, generator=draw) < 0.5,
        next_real=real,
        next_legal=legal,
    )


def two_networks(kind: str = "paper") -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return tuple(build_network(NetworkSettings(kind=kind, width=8), FEATURES) for _ in range(2))


def learner(**changes: object) -> Learner:
    """A learner whose two networks differ."""
    online, target = two_networks()
    made = Learner(online, LearnerSettings(**changes))
    made.target.load_state_dict(target.state_dict())
    return made


def naive_target(target: str, online: nn.Module, other: nn.Module, batch: Batch, i: int) -> float:
    """r + γ (1 − d) Q'(s', a') of one transition, tokens compared one by one (AttExplainer, equation 5)."""
    now = batch.next_features[i : i + 1], batch.next_visible[i : i + 1], batch.next_real[i : i + 1]
    later, judged = other(*now)[0].tolist(), online(*now)[0].tolist()
    legal = [token for token, allowed in enumerate(batch.next_legal[i].tolist()) if allowed]
    action = {
        "taken": int(batch.action[i]),
        "max": max(legal, key=lambda token: later[token]),
        "double": max(legal, key=lambda token: judged[token]),
    }[target]
    return float(batch.reward[i]) + float(batch.discount[i]) * later[action]


@pytest.mark.parametrize("target", ["taken", "max", "double"])
@pytest.mark.parametrize("seed", range(5))
def test_targets(target: str, seed: int) -> None:
    batch, made = random_batch(seed=seed), learner(target=target)
    expected = [naive_target(target, made.network, made.target, batch, i) for i in range(6)]
    torch.testing.assert_close(made.wanted(batch), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_the_three_targets_differ() -> None:
    """Were they the same on these batches, the test above could not tell them apart."""
    for one, other in (("taken", "max"), ("max", "double"), ("taken", "double")):
        assert any(
            not learner(target=one).wanted(b).allclose(learner(target=other).wanted(b))
            for b in (random_batch(seed=seed) for seed in range(5))
        )


def test_a_taken_action_beyond_the_next_text_is_no_matter() -> None:
    """The game was over, a shorter text follows, and its discount is 0."""
    batch = random_batch()
    shorter = replace(
        batch,
        discount=torch.zeros(6),
        action=torch.full((6,), 4),
        **{name: getattr(batch, name)[:, :2] for name in ("next_features", "next_visible", "next_real", "next_legal")},
    )
    torch.testing.assert_close(learner(target="taken").wanted(shorter), batch.reward)


@pytest.mark.parametrize("loss", ["square", "huber"])
def test_the_loss_weighs_each_element_by_its_own_importance(loss: str) -> None:
    batch, made = random_batch(), learner(loss=loss, target="max")
    values = made.network(batch.features, batch.visible, batch.real)
    total = 0.0
    errors = []
    for i in range(6):
        error = naive_target("max", made.network, made.target, batch, i) - values[i, batch.action[i]].item()
        each = error**2 / 2 if loss == "square" or abs(error) < 1 else abs(error) - 0.5
        total += float(batch.weight[i]) * each
        errors.append(error)
    found, found_errors = made.learn(batch)
    assert found == pytest.approx(total / 6, rel=1e-4)
    torch.testing.assert_close(found_errors, torch.tensor(errors), atol=1e-5, rtol=1e-4)


def test_an_element_of_weight_zero_moves_nothing() -> None:
    batch = random_batch()
    one = replace(batch, weight=torch.tensor([1.0, 0, 0, 0, 0, 0]))
    other = replace(one, reward=torch.cat([batch.reward[:1], batch.reward[1:] + 100]))
    first, second = learner(), learner()
    first.learn(one)
    second.learn(other)
    assert equal(first.network, second.network)


def test_the_step_is_adams_on_the_naive_gradient() -> None:
    """The gradient stops at the target: equation 5's Q' is a constant."""
    batch = random_batch()
    made = learner(loss="square", clip_norm=None, target="double", learning_rate=1e-3)
    twin = copy.deepcopy(made.network)
    optimiser = torch.optim.Adam(twin.parameters(), lr=1e-3)
    loss = torch.zeros(())
    for i in range(6):
        wanted = naive_target("double", twin, made.target, batch, i)
        value = twin(batch.features[i : i + 1], batch.visible[i : i + 1], batch.real[i : i + 1])[0, batch.action[i]]
        loss = loss + batch.weight[i] * (wanted - value) ** 2 / 2
    (loss / 6).backward()
    optimiser.step()
    made.learn(batch)
    for mine, theirs in zip(made.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=0)


def test_the_gradient_is_clipped() -> None:
    batch = replace(random_batch(), reward=torch.full((6,), 1e4))
    made = learner(loss="square", clip_norm=0.5)
    made.learn(batch)
    norm = torch.stack([p.grad.norm() for p in made.network.parameters()]).norm()
    assert norm.item() == pytest.approx(0.5, rel=1e-3)


def test_the_target_network_is_replaced_every_so_many_updates() -> None:
    made = learner(replace_every=3, learning_rate=1e-2)
    first = copy.deepcopy(made.target)
    for update in range(1, 8):
        made.learn(random_batch(seed=update))
        assert equal(made.target, made.network) == (update % 3 == 0)
        assert equal(made.target, first) == (update < 3)
    assert all(p.grad is None and not p.requires_grad for p in made.target.parameters())


@pytest.mark.parametrize("kind", ["paper", "pooled", "attention"])
def test_a_small_problem_is_learned(kind: str) -> None:
    """One state, two actions, one pays: the values become the rewards."""
    torch.manual_seed(0)
    batch = random_batch(2, 3)
    paid = replace(
        batch,
        weight=torch.ones(2),
        features=torch.randn(1, 3, FEATURES).expand(2, 3, FEATURES),
        visible=torch.ones(2, 3, dtype=torch.bool),
        real=torch.ones(2, 3, dtype=torch.bool),
        action=torch.tensor([0, 2]),
        reward=torch.tensor([1.0, -1.0]),
        discount=torch.zeros(2),
    )
    made = Learner(build_network(NetworkSettings(kind=kind, width=8), FEATURES), LearnerSettings(learning_rate=1e-2))
    losses = [made.learn(paid)[0] for _ in range(150)]
    assert losses[-1] < losses[0] / 50
    values = made.network(paid.features, paid.visible, paid.real)[0]
    torch.testing.assert_close(values[[0, 2]], torch.tensor([1.0, -1.0]), atol=0.15, rtol=0)


def test_the_papers_network_is_equation_4() -> None:
    """Each token by itself: OutputLayer([HiddenLayer(F), e]), in sizes 68 → 63, 64 → 8 → 1."""
    torch.manual_seed(0)
    network = PaperNetwork(68)
    assert [tuple(p.shape) for p in network.parameters() if p.dim() == 2] == [(63, 68), (8, 64), (1, 8)]
    features, visible = torch.randn(1, 4, 68), torch.tensor([[True, False, True, False]])
    found = network(features, visible, torch.ones(1, 4, dtype=torch.bool))[0]
    first, last = network.output[0], network.output[2]
    for token in range(4):
        hidden = (network.hidden.weight @ features[0, token] + network.hidden.bias).clamp(min=0)
        joined = torch.cat([hidden, visible[0, token].float()[None]])
        value = last.weight @ (first.weight @ joined + first.bias).clamp(min=0) + last.bias
        assert found[token].item() == pytest.approx(value.item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["paper", "pooled", "attention"])
def test_padding_and_company_do_not_change_a_value(kind: str) -> None:
    network = two_networks(kind)[0].eval()
    draw = torch.Generator().manual_seed(1)
    real = torch.arange(6) < torch.tensor([[4], [6]])
    features = torch.randn(2, 6, FEATURES, generator=draw) * real[:, :, None]
    visible = real & (torch.rand(2, 6, generator=draw) < 0.5)
    together = network(features, visible, real)
    alone = network(features[:1, :4], visible[:1, :4], real[:1, :4])
    torch.testing.assert_close(together[:1, :4], alone, atol=1e-5, rtol=1e-5)
    # Not even where the padding holds something.
    other = network(torch.where(real[:, :, None], features, 7.0), visible | ~real, real)
    torch.testing.assert_close(other[0, :4], together[0, :4], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "alone"), [("paper", True), ("pooled", False), ("attention", False)])
def test_only_the_papers_network_sees_each_token_alone(kind: str, alone: bool) -> None:
    network = two_networks(kind)[0]
    features = torch.randn(1, 4, FEATURES, generator=torch.Generator().manual_seed(2))
    real = torch.ones(1, 4, dtype=torch.bool)
    before = network(features, real, real)
    features[0, 3] += 1
    assert torch.equal(network(features, real, real)[0, :3], before[0, :3]) == alone


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs: list[tuple[Tensor, Tensor]] = list(zip(one.parameters(), other.parameters(), strict=True))
    return all(torch.equal(a, b) for a, b in pairs)
