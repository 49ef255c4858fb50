"""Agents: what they value, how they are saved, and how they play."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PAIRS, TEXTS
from safetensors.torch import save_file
from torch import Tensor

from foveate.errors import RequestError
from foveate.masking.game import MaskingGame
from foveate.masking.goal import Explain, Task
from foveate.masking.state import State
from foveate.text.agent import Agent, import_attexplainer
from foveate.text.classifier import TextClassifier
from foveate.text.features import statistics, token_features
from foveate.text.methods.agent import play
from foveate.text.probe import Probe

OFFICIAL = Path(__file__).parents[2] / "shared" / "official" / "attexplainer"
PUBLISHED = (
    "emotion_attacker_1M",
    "emotion_explainer_1M",
    "snli_attacker_1M",
    "snli_explainer_300000",
    "sst2_attacker_3M",
    "sst2_explainer_460000",
)
beside = pytest.mark.skipif(not OFFICIAL.exists(), reason="the published weights are not beside the repository")

ANY = ["relative-histograms", "profile", "geometry", "context"]
"""Features that fit any classifier."""


def first_state(classifier: TextClassifier, texts: tuple = TEXTS) -> State:
    state = MaskingGame(Probe(classifier, texts), Explain(0.3), iter(range(len(texts))), slots=len(texts)).state
    assert state is not None
    return state


def new_agent(to_explain: TextClassifier, network: str = "pooled", **more: object) -> Agent:
    torch.manual_seed(0)
    inputs = token_features(first_state(to_explain), ANY).shape[-1]
    return Agent(features=ANY, inputs=inputs, network=network, width=8, **more).eval()


# -- the published networks


@beside
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_gives_its_published_values(name: str) -> None:
    golden = np.load(OFFICIAL / "golden.npz")
    agent = import_attexplainer(OFFICIAL / f"{name}.bin")
    visible, real = torch.tensor(golden["visibility"]).bool(), torch.ones(1, 14, dtype=torch.bool)
    expected = torch.tensor(golden[f"q_{name}"])
    assert visible.sum() == 11
    torch.testing.assert_close(agent(torch.tensor(golden["features"]), visible, real), expected, atol=1e-5, rtol=0)
    # From the attention itself too, and with padding.
    attention = torch.nn.functional.pad(torch.tensor(golden["attentions"]).mean((0, 2)), (0, 3, 0, 3))
    padded = torch.nn.functional.pad(real, (0, 3))
    found = agent(statistics(attention, padded), torch.nn.functional.pad(visible, (0, 3)), padded)
    torch.testing.assert_close(found[:, :14], expected, atol=1e-5, rtol=0)


@beside
def test_a_published_network_plays_on(classifier: TextClassifier, tmp_path: Path) -> None:
    """It may show tokens again, as in the paper, and keeps its values when saved in our form."""
    agent = import_attexplainer(OFFICIAL / "emotion_explainer_1M.bin")
    explanations = play(Probe(classifier, TEXTS), Explain(0.9), agent, max_steps=5)
    assert all(1 <= e.queries <= 5 for e in explanations)
    agent.save_pretrained(tmp_path)
    state = first_state(classifier)
    assert torch.equal(Agent.load(tmp_path).values(state), agent.values(state))


class Malice:
    """Writes a file where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple:
        return (open, (self.place, "w"))


def text_file(path: Path) -> None:
    path.write_text("these are no weights\n")


def empty_file(path: Path) -> None:
    path.touch()


def unrelated_network(path: Path) -> None:
    torch.save(torch.nn.Linear(3, 4).state_dict(), path)


def other_sizes(path: Path) -> None:
    layers = {"layer1": (63, 64), "layer2": (8, 64), "out": (1, 8)}
    shapes = {f"{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, path)


def no_dictionary(path: Path) -> None:
    torch.save([torch.zeros(63, 68)], path)


def half_a_file(path: Path) -> None:
    unrelated_network(path)
    path.write_bytes(path.read_bytes()[:200])


def directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    "make", [text_file, empty_file, unrelated_network, other_sizes, no_dictionary, half_a_file, directory]
)
def test_a_foreign_file_is_refused(make: object, tmp_path: Path) -> None:
    make(tmp_path / "file.bin")
    with pytest.raises(RequestError, match=r"file\.bin is not a value network of AttExplainer") as error:
        import_attexplainer(tmp_path / "file.bin")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        import_attexplainer(tmp_path / "file.bin")


@pytest.mark.parametrize("save", [lambda value, path: torch.save(value, path), None])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_code_of_a_file_is_run(save: object, tmp_path: Path) -> None:
    file, trace = tmp_path / "file.bin", tmp_path / "trace"
    if save:
        save({"layer1.weight": Malice(trace)}, file)
    else:
        file.write_bytes(pickle.dumps({"layer1.weight": Malice(trace)}))
    pickle.loads(pickle.dumps(Malice(tmp_path / "control"))).close()
    assert (tmp_path / "control").exists()  # it would be, if it were read so
    with pytest.raises(RequestError):
        import_attexplainer(file)
    assert not trace.exists()


# -- saving and loading


@pytest.mark.parametrize("network", ["paper", "pooled", "attention"])
def test_a_saved_agent_is_the_same_to_the_bit(
    network: str, classifier: TextClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = new_agent(classifier, network=network, moves="toggle" if network == "paper" else "mask", classifier="tiny")
    agent.save_pretrained(tmp_path)
    loaded = Agent.load(tmp_path)
    state = first_state(classifier)
    assert torch.equal(loaded.values(state), agent.values(state))
    assert (loaded.features, loaded.moves, loaded.classifier) == (agent.features, agent.moves, "tiny")
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["features"] == ANY and config["network"] == network and config["inputs"] == agent.inputs
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors", ".md"}
    assert capsys.readouterr().out == ""  # standard output belongs to --json


def test_from_pretrained_is_the_ecosystems(classifier: TextClassifier, tmp_path: Path) -> None:
    agent = new_agent(classifier)
    agent.save_pretrained(tmp_path)
    state = first_state(classifier)
    assert torch.equal(Agent.from_pretrained(str(tmp_path)).values(state), agent.values(state))


def of_another_library(path: Path) -> None:
    (path / "config.json").write_text('{"architectures": ["BertForSequenceClassification"], "hidden_size": 32}')
    save_file({"a": torch.zeros(2)}, path / "model.safetensors")


def without_config(path: Path) -> None:
    (path / "config.json").unlink()


def without_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def with_other_weights(path: Path) -> None:
    save_file({"something.else": torch.zeros(2)}, path / "model.safetensors")


def with_a_weight_too_few(path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(path / "model.safetensors")
    weights.popitem()
    save_file(weights, path / "model.safetensors")


def with_broken_weights(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def with_broken_config(path: Path) -> None:
    (path / "config.json").write_text('{"features": [')


def with_unknown_features(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"features": ["clairvoyance"]}))


def with_unknown_network(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"network": "perceptive"}))


@pytest.mark.parametrize(
    "spoil",
    [
        of_another_library,
        without_config,
        without_weights,
        with_other_weights,
        with_a_weight_too_few,
        with_broken_weights,
        with_broken_config,
        with_unknown_features,
        with_unknown_network,
    ],
)
def test_a_directory_that_holds_no_agent_is_refused(spoil: object, classifier: TextClassifier, tmp_path: Path) -> None:
    new_agent(classifier).save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(RequestError, match="no agent at") as error:
        Agent.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_name_that_is_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("/no/such/directory", "no such agent"):
        with pytest.raises(RequestError, match="no agent at"):
            Agent.load(name)


# -- values


@pytest.mark.parametrize("moves", ["toggle", "mask", "take-back"])
def test_what_may_not_be_toggled_has_no_value(moves: str, classifier: TextClassifier) -> None:
    agent = new_agent(classifier, moves=moves)
    game = MaskingGame(Probe(classifier, TEXTS), Explain(2.0), iter(range(5)), slots=5, moves=moves)
    game.step(torch.ones(5, dtype=torch.long))
    assert game.state is not None
    assert torch.equal(agent.values(game.state).isfinite(), game.actions)
    assert len(game) == 5 - (moves != "toggle")  # "joy" has one token, and all of it is masked


@pytest.mark.parametrize(("task", "other"), [("explain", "general"), ("attack", "general-attack")])
def test_features_of_another_width_are_refused(classifier: TextClassifier, task: Task, other: str) -> None:
    torch.manual_seed(0)
    agent = Agent(features=["hidden"], inputs=384, network="paper", classifier="a wider one", task=task)
    says = rf"trained for another classifier \(a wider one: 384 features .* use --agent {other}, or train"
    with pytest.raises(RequestError, match=says):
        play(Probe(classifier, TEXTS), Explain(), agent)


# -- playing


@pytest.mark.parametrize("texts", [TEXTS, PAIRS])
@pytest.mark.parametrize("moves", ["toggle", "mask", "take-back"])
def test_play_ends_and_counts(texts: tuple, moves: str, classifier: TextClassifier) -> None:
    probe = Probe(classifier, texts)
    explanations = play(probe, Explain(0.3), new_agent(classifier, moves=moves), max_steps=6, slots=2)
    assert len(explanations) == len(texts)
    for row, e in enumerate(explanations):
        given = e.text if e.pair is None else (e.text, e.pair)
        assert given == texts[row] and e.method == "agent"
        assert e.queries == len(e.path) == int(probe.queries[row]) <= 6
        tried, able = {step.action[0] for step in e.path}, {i for i, t in enumerate(e.tokens) if not t.special}
        assert e.solved or e.queries == 6 or tried == able
        assert not any(step.delta_p >= 0.3 for step in e.path[:-1])
        for step in e.path:
            assert not e.tokens[step.action[0]].special
        # The delta of the masks found is that of the classifier, asked again.
        visible = torch.ones(1, len(e.tokens), dtype=torch.bool)
        visible[0, list(e.masked)] = False
        again = classifier.predict(classifier.encode([given]), visible=visible).probabilities[0]
        assert e.probability - again[classifier.labels.index(e.label)].item() == pytest.approx(e.delta_p, abs=1e-5)


def test_a_text_alone_is_explained_as_in_a_batch(classifier: TextClassifier) -> None:
    agent = new_agent(classifier)
    together = play(Probe(classifier, TEXTS), Explain(0.3), agent, slots=2)
    for text, one in zip(TEXTS, together, strict=True):
        alone = play(Probe(classifier, [text]), Explain(0.3), agent)[0]
        assert (alone.masked, alone.queries, alone.solved) == (one.masked, one.queries, one.solved)
        assert [s.action for s in alone.path] == [s.action for s in one.path]
        assert alone.scores == pytest.approx(one.scores, abs=1e-3)
        assert alone.delta_p == pytest.approx(one.delta_p, abs=1e-5)


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.95])
@pytest.mark.parametrize("moves", ["toggle", "mask", "take-back"])
def test_scores_rank_masked_tokens_first(threshold: float, moves: str, classifier: TextClassifier) -> None:
    """Then those that were tried and shown again, then the others; the earlier tried, the higher."""
    agent = new_agent(classifier, moves=moves)
    for e in play(Probe(classifier, TEXTS), Explain(threshold), agent, max_steps=4):
        tried = list(dict.fromkeys(step.action[0] for step in e.path))
        found = [i for i in tried if i in e.masked]
        assert set(e.masked) == set(found)
        order = [*found, *(i for i in tried if i not in found)]
        scores = [e.scores[i] for i in order]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(scores)
        assert min(scores) > max((score for i, score in enumerate(e.scores) if i not in tried), default=0.0)
        assert all(e.scores[i] == 0 for i, token in enumerate(e.tokens) if token.special)


def test_a_token_that_was_taken_back_ranks_below_those_found(classifier: TextClassifier) -> None:
    """Were none taken back, the test above would not show it."""
    played = play(Probe(classifier, TEXTS), Explain(0.95), new_agent(classifier), max_steps=9)
    tried = [{step.action[0] for step in e.path} - set(e.masked) for e in played]
    assert any(
        e.masked and back and max(e.scores[i] for i in back) < min(e.scores[i] for i in e.masked)
        for e, back in zip(played, tried, strict=True)
    )


def test_the_first_move_is_the_highest_value(classifier: TextClassifier) -> None:
    agent = new_agent(classifier)
    values: Tensor = agent.values(first_state(classifier))
    for e, best in zip(play(Probe(classifier, TEXTS), Explain(0.3), agent), values.argmax(1).tolist(), strict=True):
        assert e.path[0].action == (best,)
