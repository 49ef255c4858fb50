"""The methods, held to naive references on classifiers whose answer is known, and to the models of the tests."""

from __future__ import annotations

import copy
import importlib.util
import itertools
from collections.abc import Callable

import pytest
import torch
from conftest import PAIRS, TEXTS, _tiny
from torch import Tensor

from foveate.errors import RequestError
from foveate.masking import exact, search
from foveate.masking.goal import Explain
from foveate.masking.probe import Prediction
from foveate.text import methods
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Encoded
from foveate.text.explained import explained
from foveate.text.explanation import Explanation
from foveate.text.probe import Probe

needs_captum = pytest.mark.skipif(not importlib.util.find_spec("captum"), reason="captum is not installed")
needs_lime = pytest.mark.skipif(not importlib.util.find_spec("lime"), reason="lime is not installed")
PERTURBING = [
    pytest.param(name, marks=needs_lime if name == "lime" else needs_captum)
    for name in ("feature-ablation", "occlusion", "kernel-shap", "shapley-5", "lime")
]


class Known(TextClassifier):
    """Two labels, and p of the first as `probability(ids, hidden)` says, row by row; counts the rows it is asked."""

    def __init__(self, probability: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(*_tiny("bert"))
        self.probability = probability
        self.asked = 0

    def predict(
        self, encoded: Encoded, rows: Tensor | None = None, visible: Tensor | None = None, observe: bool = False
    ) -> Prediction:
        assert rows is None
        hidden = torch.zeros_like(encoded.real)
        if visible is not None:
            self.asked += len(encoded)
            hidden = ~visible & encoded.real
            assert not (hidden & ~encoded.maskable).any(), "a special token was masked"
        p = self.probability(encoded.input_ids, hidden)
        return Prediction(torch.stack([p, 1 - p], 1).log())


def weights(ids: Tensor) -> Tensor:
    """A weight a token, of either sign, that depends on the token and its place: words twice in a text differ."""
    place = torch.arange(ids.shape[1])
    return ((ids * 37 + place * 101) % 64 - 24).float() / 1000


def additive(ids: Tensor, hidden: Tensor) -> Tensor:
    return 0.6 - (weights(ids) * hidden).sum(1)


def tangled(ids: Tensor, hidden: Tensor) -> Tensor:
    """High with nothing hidden; else scattered over (0.05, 0.95), as if by chance: there is nothing but trying."""
    place = torch.arange(ids.shape[1]).double()
    mixed = (hidden * ((place + 3) * 0.7236).sin()).sum(1) * 971.31 + (ids * hidden).sum(1) * 0.317
    return torch.where(hidden.any(1), 0.05 + 0.9 * mixed.sin().abs().sqrt(), 0.95).float()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def results(explanations: list[Explanation]) -> list[tuple[object, ...]]:
    return [(e.text, e.masked, e.queries, e.solved, [s.action for s in e.path]) for e in explanations]


def target_probability(probe: Probe, text: int, hidden: tuple[int, ...] | list[int]) -> float:
    """Of one text with some of its tokens hidden, asked past the counter."""
    visible = probe.encoded.real[[text]].clone()
    visible[0, list(hidden)] = False
    rows = torch.tensor([text])
    width = int(probe.encoded.lengths[text])
    answer = probe.classifier.predict(probe.encoded.select(rows), None, visible[:, :width])
    return probe.target_probability(rows, answer).item()


def maskable(probe: Probe, text: int) -> list[int]:
    return probe.maskable[text].nonzero().squeeze(1).tolist()


# Protocols


def test_mask_in_order_equals_a_loop_over_texts() -> None:
    probe, goal = Probe(Known(additive), TEXTS), Explain(0.05)
    scores = torch.rand(probe.maskable.shape, generator=generator())
    found = methods.mask_in_order(probe, goal, scores, "any", max_steps=6)
    for text, e in enumerate(found):
        hidden: list[int] = []
        for token in sorted(maskable(probe, text), key=lambda k: -scores[text, k])[:6]:
            hidden.append(token)
            if 0.6 - target_probability(probe, text, hidden) >= 0.05:
                break
        assert [s.action for s in e.path] == [(token,) for token in hidden]
        assert e.queries == len(hidden)
    assert {e.solved for e in found} == {True, False}


def test_mask_positive_masks_all_of_them_in_one_query() -> None:
    probe, goal = Probe(Known(additive), TEXTS), Explain(0.05)
    scores = weights(probe.encoded.input_ids)
    scores[3] = -1.0
    found = methods.mask_positive(probe, goal, scores, "any")
    for text, e in enumerate(found):
        positive = tuple(k for k in maskable(probe, text) if scores[text, k] > 0)
        assert e.masked == positive and e.queries == bool(positive)
        assert e.scores == pytest.approx(
            [scores[text, k].item() * (k in maskable(probe, text)) for k in range(len(e.tokens))]
        )
    assert found[3].masked == () and found[3].path == () and not found[3].solved


def test_a_fork_counts_for_itself() -> None:
    probe, goal = Probe(Known(additive), TEXTS), Explain(0.5)
    scores = weights(probe.encoded.input_ids)
    probe.query(torch.tensor([0, 0, 1]), probe.encoded.real[[0, 0, 1]])
    forks = [methods.fork(probe), methods.fork(probe)]
    methods.mask_positive(forks[0], goal, scores, "any")
    methods.mask_in_order(forks[1], goal, scores, "any")
    assert probe.queries.tolist() == [2, 1, 0, 0, 0]
    assert forks[0].queries.tolist() == [3, 2, 1, 1, 1]
    assert forks[1].queries.tolist() == (probe.queries + probe.maskable.sum(1)).tolist()


# What every method must do


@pytest.mark.parametrize("name", ["random", "greedy", "beam", "exact", *PERTURBING])
def test_what_is_sent_is_what_is_counted(name: str) -> None:
    classifier = Known(tangled)
    probe = Probe(classifier, TEXTS)
    found = methods.run(name, probe, Explain(0.85), generator())
    assert classifier.asked == probe.queries.sum() == sum(e.queries for e in found) > 0
    assert all(e.method.partition(":")[0] == name for e in found)


@pytest.mark.parametrize("name", ["random", "greedy", "beam", "exact", *PERTURBING])
def test_one_text_at_a_time_gives_the_same(name: str) -> None:
    goal, rng = Explain(0.1), generator()
    together = methods.run(name, Probe(Known(additive), TEXTS), goal, generator())
    alone = [methods.run(name, Probe(Known(additive), [text]), goal, rng)[0] for text in TEXTS]
    assert results(together) == results(alone)
    assert [e.scores for e in together] == [pytest.approx(e.scores, abs=1e-5) for e in alone]


@pytest.mark.parametrize("name", ["random", *PERTURBING])
def test_both_protocols_share_the_attribution(name: str) -> None:
    goal = Explain(0.1)
    probe = Probe(Known(additive), TEXTS)
    scores = methods.attribute(name, probe, goal, generator())
    assert (scores[~probe.maskable] == 0).all()
    for suffix, protocol in (("", methods.mask_in_order), (":positive", methods.mask_positive)):
        shared = protocol(methods.fork(probe), goal, scores, name + suffix)
        assert shared == methods.run(name + suffix, Probe(Known(additive), TEXTS), goal, generator())


@pytest.mark.parametrize("name", ["greedy", "beam", "exact"])
def test_the_scores_of_a_search_begin_with_what_it_masked(name: str) -> None:
    probe = Probe(Known(tangled), TEXTS)
    for e in methods.run(name, probe, Explain(0.85), generator()):
        ranked = sorted(range(len(e.scores)), key=lambda k: -e.scores[k])
        if e.solved:
            assert set(ranked[: len(e.masked)]) == set(e.masked)
        if name != "exact":
            assert ranked[: len(e.path)] == [s.action[0] for s in e.path]


@pytest.mark.parametrize("name", ["greedy", "beam", "exact"])
def test_the_other_scores_of_a_search_are_gains_alone(name: str) -> None:
    """Also where one token is enough, and those that are not enough were never chosen from."""
    probe = Probe(Known(tangled), TEXTS)
    found = methods.run(name, probe, Explain(0.4), generator())
    assert any(len(e.masked) == 1 and len(maskable(probe, text)) > 1 for text, e in enumerate(found))
    for text, e in enumerate(found):
        start = target_probability(probe, text, [])
        for k in set(maskable(probe, text)) - set(e.masked):
            assert e.scores[k] == pytest.approx(start - target_probability(probe, text, [k]), abs=1e-6)


@pytest.mark.parametrize("name", [n for n in methods.METHODS if n.partition(":")[0] in ("attention", "random", "beam")])
def test_pairs_and_texts_of_nothing(name: str) -> None:
    classifier = TextClassifier.from_pretrained(_tiny("bert"))
    for texts in (PAIRS, ("", "joy")):
        found = methods.run(name, Probe(classifier, texts), Explain(0.2), generator())
        assert [e.text for e in found] == [t if isinstance(t, str) else t[0] for t in texts]
    assert found[0].masked == () and found[0].queries == 0 and found[0].mask_rate == 0


def test_unknown_names_are_refused() -> None:
    probe = Probe(Known(additive), TEXTS[:1])
    for name in ("grad", "greedy:positive", "attention:negative"):
        with pytest.raises(RequestError, match=r"unknown method .*attention-cls"):
            methods.run(name, probe, Explain(), generator())
    with pytest.raises(RequestError, match="unknown method"):
        methods.attribute("greedy", probe, Explain(), generator())
    with pytest.raises(RequestError, match="needs an agent"):
        methods.run("agent", probe, Explain(), generator())


# Attention


def test_attention_is_the_first_pass_and_free(classifier: TextClassifier) -> None:
    probe, goal = Probe(classifier, TEXTS), Explain(0.2)
    received = methods.attribute("attention", probe, goal, generator())
    pooled = methods.attribute("attention-cls", probe, goal, generator())
    assert probe.queries.sum() == 0
    encoded = classifier.encode(TEXTS)
    model = copy.deepcopy(classifier.model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(input_ids=encoded.input_ids, attention_mask=encoded.real.long(), output_attentions=True)
    layers = torch.stack(output.attentions).mean(2)
    for text, length in enumerate(encoded.lengths.tolist()):
        real = layers[:, text, :length, :length]
        torch.testing.assert_close(received[text, :length], real.mean(0).sum(0))
        torch.testing.assert_close(pooled[text, :length], real[-1, 0])


# captum and LIME


@needs_captum
def test_feature_ablation_is_leave_one_out() -> None:
    probe = Probe(Known(tangled), TEXTS)
    scores = methods.attribute("feature-ablation", probe, Explain(), generator())
    assert probe.queries.tolist() == probe.maskable.sum(1).tolist()
    for text in range(len(TEXTS)):
        for token in maskable(probe, text):
            drop = probe.probability[text].item() - target_probability(probe, text, [token])
            assert scores[text, token].item() == pytest.approx(drop, abs=1e-6)


@needs_captum
def test_occlusion_is_the_mean_over_windows_of_three() -> None:
    probe = Probe(Known(tangled), TEXTS)
    scores = methods.attribute("occlusion", probe, Explain(), generator())
    for text in range(len(TEXTS)):
        tokens = maskable(probe, text)
        size = min(3, len(tokens))
        windows = [tokens[k : k + size] for k in range(len(tokens) - size + 1)]
        drops = [probe.probability[text].item() - target_probability(probe, text, w) for w in windows]
        for token in tokens:
            over = [d for w, d in zip(windows, drops, strict=True) if token in w]
            assert scores[text, token].item() == pytest.approx(sum(over) / len(over), abs=1e-6)


@pytest.mark.parametrize("name", [p for p in PERTURBING if p.values != ("occlusion",)])
def test_additive_importance_is_found(name: str) -> None:
    probe = Probe(Known(additive), TEXTS)
    scores = methods.attribute(name, probe, Explain(), generator())
    sign = torch.where(probe.target == 0, 1.0, -1.0)[:, None]
    known = (weights(probe.encoded.input_ids) * sign).where(probe.maskable, 0)
    for text in range(len(TEXTS)):
        tokens = maskable(probe, text)
        if name == "lime":
            # A ridge regression shrinks the weights, and not all by the same factor.
            both = torch.stack([scores[text, tokens], known[text, tokens]])
            assert len(tokens) == 1 or both.corrcoef()[0, 1] > 0.97
        else:
            torch.testing.assert_close(scores[text], known[text], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", PERTURBING)
def test_randomness_comes_from_the_generator_alone(name: str) -> None:
    probe = Probe(Known(tangled), TEXTS[:2])
    torch.manual_seed(5)
    first = methods.attribute(name, probe, Explain(), generator(1))
    after = torch.rand(())
    torch.manual_seed(5)
    assert torch.rand(()) == after
    assert torch.equal(first, methods.attribute(name, probe, Explain(), generator(1)))


@pytest.mark.parametrize(("name", "module"), [("shapley-5", "captum"), ("lime", "lime")])
def test_a_missing_extra_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (module, "captum.attr", "lime.lime_text"):
        monkeypatch.setitem(__import__("sys").modules, part, None)
    with pytest.raises(RequestError, match=rf"pip install 'foveate\[{module}\]'"):
        methods.attribute(name, Probe(Known(additive), TEXTS[:1]), Explain(), generator())


# Search


def naive_greedy(probe: Probe, goal: Explain, text: int) -> list[int]:
    hidden: list[int] = []
    start = target_probability(probe, text, [])
    while left := [k for k in maskable(probe, text) if k not in hidden]:
        drops = [start - target_probability(probe, text, [*hidden, k]) for k in left]
        hidden.append(left[drops.index(max(drops))])
        if max(drops) >= goal.threshold:
            break
    return hidden


@pytest.mark.parametrize("threshold", [0.7, 0.89])
def test_greedy_equals_a_naive_one(threshold: float) -> None:
    probe, goal = Probe(Known(tangled), TEXTS), Explain(threshold)
    for text, e in enumerate(methods.run("greedy", probe, goal, generator())):
        order = naive_greedy(methods.fork(probe), goal, text)
        assert [s.action for s in e.path] == [(k,) for k in order]
        count = len(maskable(probe, text))
        assert e.queries == sum(count - k for k in range(len(order)))


def naive_beam(probe: Probe, goal: Explain, text: int, width: int) -> tuple[float, int, int]:
    """The best Δp, the size of its mask, and the queries."""
    start, queries = target_probability(probe, text, []), 0
    beams: list[frozenset[int]] = [frozenset()]
    best = (-1.0, 0)
    while beams:
        grown = list(dict.fromkeys(b | {k} for b in beams for k in maskable(probe, text) if k not in b))
        drops = {b: start - target_probability(probe, text, sorted(b)) for b in grown}
        queries += len(grown)
        beams = sorted(grown, key=lambda b: -drops[b])[:width]
        if beams and drops[beams[0]] > best[0]:
            best = (drops[beams[0]], len(beams[0]))
        if best[0] >= goal.threshold:
            break
    return *best, queries


@pytest.mark.parametrize("threshold", [0.7, 0.89])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_beam_equals_a_naive_one(width: int, threshold: float) -> None:
    probe, goal = Probe(Known(tangled), TEXTS), Explain(threshold)
    for text, e in enumerate(explained(probe, goal, "beam", search.beam(probe, goal, width=width))):
        drop, size, queries = naive_beam(methods.fork(probe), goal, text, width)
        assert (e.delta_p, len(e.masked), e.queries) == (pytest.approx(drop, abs=1e-6), size, queries)
        for before, step in itertools.pairwise(e.path):
            assert set(step.masked) == {*before.masked, *step.action}
        assert not e.path or e.path[-1].masked == e.masked


def test_searches_end_after_max_steps() -> None:
    probe, goal = Probe(Known(additive), TEXTS), Explain(0.9)
    for name in ("greedy", "beam"):
        assert {len(e.path) for e in methods.run(name, methods.fork(probe), goal, generator(), max_steps=3)} == {1, 3}


def smallest(probe: Probe, goal: Explain, text: int) -> int | None:
    """The size of the smallest set that reaches the goal, of all there are."""
    tokens = maskable(probe, text)
    start = target_probability(probe, text, [])
    for size in range(1, len(tokens) + 1):
        for hidden in itertools.combinations(tokens, size):
            if start - target_probability(probe, text, hidden) >= goal.threshold:
                return size
    return None


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8])
def test_exact_equals_brute_force(threshold: float) -> None:
    probe, goal = Probe(Known(tangled), [*TEXTS[1:4], "the dog runs", "a cat sleeps outside"]), Explain(threshold)
    sizes = []
    for text, e in enumerate(methods.run("exact", probe, goal, generator())):
        sizes.append(smallest(methods.fork(probe), goal, text))
        assert (len(e.masked) if e.solved else None) == sizes[-1]
        assert (e.method, e.minimal) == ("exact", True if e.solved else None)
        if e.solved:
            assert e.path[-1].masked == e.masked
            assert e.delta_p == pytest.approx(0.95 - target_probability(probe, text, e.masked), abs=1e-6)
    assert len(set(sizes)) > 1


def test_exact_finds_less_than_greedy_and_says_when_it_had_to_stop() -> None:
    probe, goal = Probe(Known(tangled), TEXTS), Explain(0.8)
    greedy = methods.run("greedy", methods.fork(probe), goal, generator())
    found = explained(probe, goal, "exact", exact.exact(methods.fork(probe), goal, budget=3000))
    short = explained(probe, goal, "exact", exact.exact(methods.fork(probe), goal, budget=60))
    assert any(e.solved and (not g.solved or len(e.masked) < len(g.masked)) for e, g in zip(found, greedy, strict=True))
    for e, g, s in zip(found, greedy, short, strict=True):
        assert e.queries <= max(3000, g.queries) and s.queries <= max(60, g.queries)
        if s.method == "exact:unproven":
            assert s.masked == g.masked and s.minimal is None
    assert {s.method for s in short} == {"exact", "exact:unproven"}


def test_sets_come_by_size_and_strong_tokens_first() -> None:
    sets = list(exact.smaller_sets([7, 5, 9, 2], 4))
    assert sets[:3] == [(7, 5), (7, 9), (5, 9)]
    assert [len(s) for s in sets] == [2] * 6 + [3] * 4
    assert {frozenset(s) for s in sets} == {
        frozenset(s) for size in (2, 3) for s in itertools.combinations((2, 5, 7, 9), size)
    }
    assert list(exact.smaller_sets([7, 5, 9, 2], 2)) == []


# Gradients


@pytest.mark.parametrize("name", ["gradient-x-input", "integrated-gradients"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
def test_gradients_batched_are_those_of_one_text(family: str, name: str) -> None:
    classifier = TextClassifier.from_pretrained(_tiny(family))
    probe = Probe(classifier, TEXTS)
    scores = methods.attribute(name, probe, Explain(), generator())
    assert probe.queries.tolist() == [{"gradient-x-input": 1, "integrated-gradients": 20}[name]] * len(TEXTS)
    assert (scores[~probe.maskable] == 0).all()
    for text, row in zip(TEXTS, scores, strict=True):
        alone = methods.attribute(name, Probe(classifier, [text]), Explain(), generator())[0]
        torch.testing.assert_close(row[: len(alone)], alone, atol=1e-5, rtol=1e-3)


def test_gradient_x_input_is_the_derivative_along_the_way_to_the_mask(classifier: TextClassifier) -> None:
    probe = Probe(classifier, TEXTS)
    scores = methods.attribute("gradient-x-input", probe, Explain(), generator())
    encoded = probe.encoded
    whole, hidden = classifier.embed(encoded), classifier.embed(encoded, None, ~encoded.maskable)
    for text in range(len(TEXTS)):
        for token in maskable(probe, text):
            nudged = []
            for step in (-1e-2, 1e-2):
                given = whole.clone()
                given[text, token] += step * (whole - hidden)[text, token]
                answer = Prediction(classifier.from_embeddings(given, encoded))
                nudged.append(probe.target_probability(torch.arange(len(probe)), answer)[text])
            assert scores[text, token].item() == pytest.approx(((nudged[1] - nudged[0]) / 2e-2).item(), abs=2e-3)


def test_integrated_gradients_add_up_to_masking_everything(classifier: TextClassifier) -> None:
    probe = Probe(classifier, TEXTS)
    scores = methods.attribute("integrated-gradients", probe, Explain(), generator())
    for text in range(len(TEXTS)):
        drop = probe.probability[text].item() - target_probability(probe, text, maskable(probe, text))
        assert scores[text].sum().item() == pytest.approx(drop, abs=0.05)


def test_rollout_is_read_where_the_classifier_reads() -> None:
    for family, place in (("bert", 0), ("gpt2", -1)):
        classifier = TextClassifier.from_pretrained(_tiny(family))
        probe = Probe(classifier, TEXTS)
        scores = methods.attribute("attention-rollout", probe, Explain(), generator())
        assert probe.queries.sum() == 0
        for text, row in zip(TEXTS, scores, strict=True):
            encoded = classifier.encode([text])
            torch.testing.assert_close(row[: encoded.real.shape[1]], classifier.rollout(encoded)[0, place])
