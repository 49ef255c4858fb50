"""Training: what it writes, what it refuses, and that a killed run goes on as if it had never stopped."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS, WORDS
from safetensors import safe_open
from small_training import CHECKPOINT_EVERY, STEPS, small

from foveate.errors import RequestError
from foveate.masking.dqn import Learner, LearnerSettings
from foveate.masking.goal import Explain
from foveate.masking.learning import ShuffledRows
from foveate.masking.probe import Prediction
from foveate.masking.qnetwork import NetworkSettings
from foveate.run import Run
from foveate.text import training
from foveate.text.agent import Agent
from foveate.text.classifier import Observation, TextClassifier
from foveate.text.encoded import Encoded
from foveate.text.methods.agent import play
from foveate.text.probe import Probe
from foveate.text.training import Trainer, TrainingSettings, paper, train

ANY = ("relative-histograms", "profile", "geometry", "context")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], tuple[Any, Any]]) -> Path:
    """A folder with classifiers (`bert`, `distilbert`, `two-labels`) and texts (`texts.jsonl`)."""
    folder = tmp_path_factory.mktemp("training")
    for family in ("bert", "distilbert"):
        for part in tiny(family):
            part.save_pretrained(folder / family)
    model, tokenizer = tiny("bert")
    config = type(model.config).from_dict(model.config.to_dict() | {"id2label": {0: "no", 1: "yes"}, "label2id": None})
    type(model)(config).save_pretrained(folder / "two-labels")
    tokenizer.save_pretrained(folder / "two-labels")
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 12))) for _ in range(40)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def settings_in(place: Path, run: Path, models: tuple[str, ...] = ("bert",), **changes: Any) -> TrainingSettings:
    data = (str(place / "texts.jsonl"),) * len(models)
    return small(tuple(str(place / model) for model in models), data, str(run), **changes)


def metrics_of(run: Path) -> list[dict[str, float]]:
    """What was measured, but for the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "queries_per_second"} for line in lines]


def checkpoint_of(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(run / "checkpoint.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["numbers"])  # noqa: SIM118


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights, the same everything that will ever be drawn, the same measurements; bit for bit."""
    assert (one / "agent" / "model.safetensors").read_bytes() == (other / "agent" / "model.safetensors").read_bytes()
    (tensors, numbers), (tensors_, numbers_) = checkpoint_of(one), checkpoint_of(other)
    assert numbers == numbers_ and tensors.keys() == tensors_.keys()
    different = [name for name in tensors if not torch.equal(tensors[name], tensors_[name])]
    assert not different
    assert metrics_of(one) == metrics_of(other)


# -- what a run writes


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A run in this process, with every shape and type checked."""
    train(settings_in(place, place / "finished"))
    return place / "finished"


def test_a_run_leaves_an_agent_metrics_and_a_checkpoint(finished: Path, place: Path) -> None:
    agent = Agent.load(finished / "agent")
    assert agent.features == ("profile", "context") and agent.classifier == "bert"
    explanations = play(Probe(TextClassifier.from_pretrained(place / "bert"), TEXTS), Explain(0.2), agent)
    assert all(e.queries >= 1 for e in explanations)
    metrics = metrics_of(finished)
    assert [line["step"] for line in metrics] == [20, 40, 60, 64]
    expected = {"step", "reward", "loss", "fidelity", "solved", "queries", "mask_rate", "delta_p"}
    assert all(line.keys() == expected for line in metrics)
    assert all(0 <= line["fidelity"] <= 1 and 0 <= line["mask_rate"] <= 1 for line in metrics)
    assert checkpoint_of(finished)[1]["step"] == STEPS
    assert json.loads((finished / "settings.json").read_text())["seed"] == 0
    assert list(finished.glob("events.out.tfevents.*"))
    assert not list(finished.glob("*.tmp"))


def test_the_weights_have_moved(finished: Path, place: Path) -> None:
    start = Trainer(settings_in(place, place / "nowhere")).agent
    trained = Agent.load(finished / "agent")
    assert not any(torch.equal(a, b) for a, b in zip(start.parameters(), trained.parameters(), strict=True) if a.any())


def test_the_same_seed_gives_the_same_run_and_another_another(finished: Path, place: Path, tmp_path: Path) -> None:
    train(settings_in(place, tmp_path / "same"))
    assert_same_run(tmp_path / "same", finished)
    train(settings_in(place, tmp_path / "other", seed=1))
    assert checkpoint_of(tmp_path / "other")[1]["drawn"] != [] and metrics_of(tmp_path / "other") != metrics_of(
        finished
    )


def test_evaluating_changes_nothing(finished: Path, place: Path, tmp_path: Path) -> None:
    train(settings_in(place, tmp_path / "run", evaluate_every=1000))
    for name, tensor in checkpoint_of(tmp_path / "run")[0].items():
        assert torch.equal(tensor, checkpoint_of(finished)[0][name]), name


def test_texts_that_are_evaluated_on_are_not_trained_on(place: Path, tmp_path: Path) -> None:
    corpus = Trainer(settings_in(place, tmp_path)).corpora[0]
    training_texts, held_out = set(corpus.probe.encoded.texts), set(corpus.validation.encoded.texts)
    assert len(held_out) == 4 and not training_texts & held_out and len(training_texts | held_out) == 40
    shorter = Trainer(settings_in(place, tmp_path, tokens=8, min_tokens=6)).corpora[0]
    assert {int(n) for n in shorter.probe.encoded.lengths} <= {6, 7, 8}


def test_named_validation_texts_are_evaluated_on(place: Path, tmp_path: Path) -> None:
    (tmp_path / "validation.csv").write_text("text\n" + "\n".join(TEXTS[1:2] * 3) + "\n")
    corpus = Trainer(settings_in(place, tmp_path, validation=(str(tmp_path / "validation.csv"),))).corpora[0]
    assert corpus.validation.encoded.texts == TEXTS[1:2] * 3 and len(corpus.probe) == 40


# -- killed and resumed


class Nursery:
    """Runs in processes of their own, which can be killed; see small_training.py."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("small_training.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        assert self._read() == "ready"

    def run(self, name: str, *, kill: tuple[str, int] | None = None, after: float | None = None) -> int:
        """Start or resume the run `name`; its exit status. Killed at a place, or `after` seconds."""
        run = self.place / name
        request = {"model": [str(self.place / "bert")], "data": [str(self.place / "texts.jsonl")]}
        request |= {"run": str(run), "resume": run.exists(), "kill": kill}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        child = int(self._read())
        if after is not None:
            time.sleep(after)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return int(self._read())

    def _read(self) -> str:
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def nursery(place: Path) -> Iterator[Nursery]:
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    made = Nursery(place)
    assert made.run("undisturbed") == 0
    yield made
    made.close()


@pytest.mark.parametrize(
    "kills",
    [
        [("beginning", 1)],
        [("playing", 1)],
        [("learning", 2), ("playing", 3)],
        [("half written", 1)],
        [("half written", 2), ("half written", 1)],
        [("written", 2)],
        [("renamed", 1), ("renamed", 1), ("restored", 1)],
        [("logging", 2)],
        [("logged", 1), ("logged", 2)],
        [("evaluating", 3)],
        [("half written", 3), ("agent unsaved", 1)],
        [("agent saved", 1)],
        [("playing", 5), ("playing", 5), ("playing", 5), ("learning", 4)],
    ],
    ids=lambda kills: ", ".join(f"{place} {count}" for place, count in kills),
)
def test_a_run_that_was_killed_ends_as_one_left_alone(kills: list[tuple[str, int]], nursery: Nursery) -> None:
    name = " ".join(f"{place}{count}" for place, count in kills)
    for kill in kills:
        assert nursery.run(name, kill=kill) == -signal.SIGKILL
    assert nursery.run(name) == 0
    assert_same_run(nursery.place / name, nursery.place / "undisturbed")


@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_any_moment_ends_as_one_left_alone(seed: int, nursery: Nursery) -> None:
    """Whenever the signal comes: between two checkpoints, in the middle of one, at the start, at the end."""
    draw, name = random.Random(seed), f"random{seed}"
    started = time.monotonic()
    assert nursery.run(f"timed{seed}") == 0
    takes = time.monotonic() - started
    statuses = [nursery.run(name, after=draw.uniform(0.3, 1) * takes) for _ in range(4)]
    assert set(statuses) <= {0, -signal.SIGKILL}
    assert nursery.run(name) == 0
    assert_same_run(nursery.place / name, nursery.place / "undisturbed")


def test_a_run_here_and_one_in_its_own_process_are_the_same(nursery: Nursery, finished: Path) -> None:
    here, there = (Agent.load(run / "agent") for run in (finished, nursery.place / "undisturbed"))
    for mine, theirs in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(finished: Path, place: Path) -> None:
    before = (finished / "agent" / "model.safetensors").read_bytes()
    train(settings_in(place, finished, resume=True))
    assert (finished / "agent" / "model.safetensors").read_bytes() == before
    assert [line["step"] for line in metrics_of(finished)] == [20, 40, 60, 64]


def test_a_run_that_was_moved_goes_on(finished: Path, place: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    train(settings_in(place, moved, resume=True))
    assert [line["step"] for line in metrics_of(moved)] == [20, 40, 60, 64]


# -- what is refused


def test_a_run_is_not_written_over(finished: Path, place: Path) -> None:
    before = (finished / "checkpoint.safetensors").read_bytes()
    with pytest.raises(RequestError, match="add --resume"):
        train(settings_in(place, finished))
    assert (finished / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 5}, "seed"),
        ({"games": 8, "steps": 80}, "games, steps"),
        ({"learner": LearnerSettings(batch_size=4)}, "learner"),
    ],
)
def test_a_run_is_resumed_with_the_settings_it_has(changes: dict, named: str, finished: Path, place: Path) -> None:
    before = (finished / "checkpoint.safetensors").read_bytes()
    with pytest.raises(RequestError, match=rf"other settings \({named}\)"):
        train(settings_in(place, finished, resume=True, **changes))
    assert (finished / "checkpoint.safetensors").read_bytes() == before


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint(place: Path, tmp_path: Path) -> None:
    """A step size far too large; the first update comes after the first checkpoint."""
    settings = settings_in(
        place,
        tmp_path / "run",
        warmup=28,
        updates=3,
        learner=LearnerSettings(learning_rate=1e30, loss="square", batch_size=8, capacity=40, clip_norm=None),
    )
    with pytest.raises(RequestError, match=r"the loss is (nan|inf) at step 28; lower --learner\.learning-rate"):
        train(settings)
    checkpoint = Run(tmp_path / "run", replace(settings, resume=False), resume=True).begin()
    assert checkpoint is not None and checkpoint.numbers["step"] == CHECKPOINT_EVERY
    network = [t for name, t in checkpoint.tensors.items() if name.startswith(("network.", "target."))]
    assert network and all(tensor.isfinite().all() for tensor in network)
    assert not (tmp_path / "run" / "agent").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": ("nowhere.jsonl",)}, "nowhere.jsonl"),
        ({"data": ()}, "1 classifiers need as many --data"),
        ({"validation": ("a.jsonl", "b.jsonl")}, "as many --validation or none"),
        ({"threshold": (0.2, 0.3)}, "as many --threshold"),
        ({"threshold": ()}, "as many --threshold"),
        ({"threshold": (1.5,)}, "above 0 and at most 1, not 1.5"),
        ({"threshold": (1.0,), "reachable_only": True}, "threshold, 1.0; lower it"),
        ({"games": 0}, "--games"),
        ({"evaluate_every": 0}, "--evaluate-every is 0; it must be at least 1"),
        ({"features": ("clairvoyance",)}, "no features are called clairvoyance"),
        ({"evaluate_texts": 40}, "40 are held out"),
        ({"tokens": 3}, "--tokens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused_and_takes_no_directory(
    changes: dict, said: str, place: Path, tmp_path: Path
) -> None:
    """The mended command can use the same directory."""
    with pytest.raises(RequestError) as error:
        train(replace(settings_in(place, tmp_path / "run"), **changes))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_learning_waits_for_something_to_learn_from(place: Path, tmp_path: Path) -> None:
    """--warmup 0: a transition is known only once its successor is."""
    train(settings_in(place, tmp_path / "run", warmup=0, steps=16))
    assert (
        checkpoint_of(tmp_path / "run")[1]["updates"] == 2
    )  # n_step 2: the first of four steps that is ready is the third


# -- several classifiers, presets


def test_several_classifiers_at_once(place: Path, tmp_path: Path) -> None:
    settings = settings_in(place, tmp_path / "run", ("bert", "two-labels"), games=5, steps=40, features=ANY)
    agent = Agent.load(train(settings))
    assert agent.classifier is None
    names = metrics_of(tmp_path / "run")[0].keys()
    assert {f"{number}/{name}" for number in range(2) for name in ("queries", "solved")} <= names
    # It plays on what it was not trained on, too.
    assert play(Probe(TextClassifier.from_pretrained(place / "distilbert"), TEXTS), Explain(0.2), agent)
    finished = (tmp_path / "run" / "agent" / "model.safetensors").read_bytes()
    train(replace(settings, resume=True))
    assert (tmp_path / "run" / "agent" / "model.safetensors").read_bytes() == finished


def test_each_classifier_has_its_threshold_and_its_texts(place: Path, tmp_path: Path) -> None:
    (tmp_path / "others.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 2))
    settings = replace(
        settings_in(place, tmp_path, ("bert", "distilbert"), threshold=(0.2, 0.3), features=ANY),
        data=(str(place / "texts.jsonl"), str(tmp_path / "others.jsonl")),
    )
    first, second = Trainer(replace(settings, games=5)).corpora
    assert (first.game.slots, second.game.slots) == (3, 2)
    assert (first.goal.threshold, second.goal.threshold) == (0.2, 0.3)
    assert set(second.probe.encoded.texts) <= set(TEXTS) and not set(first.probe.encoded.texts) & set(TEXTS)


def test_features_that_differ_between_classifiers_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="another width on each classifier"):
        train(settings_in(place, tmp_path / "run", ("bert", "two-labels"), features=("context", "labels")))


def test_the_papers_preset_is_the_papers(place: Path, tmp_path: Path) -> None:
    """Sections 3.2, 3.3 and 4.1, equations 2, 4 and 5; whatever else is set stays."""
    settings = paper(settings_in(place, tmp_path / "run", steps=32))
    assert (settings.steps, settings.games, settings.updates) == (32, 1, 1)
    assert (settings.features, settings.network.kind, settings.moves) == (("statistics",), "paper", "toggle")
    learner = asdict(settings.learner)
    expected = {"learning_rate": 1e-4, "batch_size": 256, "discount": 0.9, "target": "taken", "n_step": 1}
    expected |= {"capacity": 100_000, "replace_every": 100, "loss": "square", "clip_norm": None, "anneal": False}
    assert {name: learner[name] for name in expected} == expected
    assert (settings.reward.kind, settings.reward.completion, settings.reward.time) == ("paper", 10.0, 0.2)
    assert settings.greedy == 0.7 and not settings.reachable_only
    assert TrainingSettings(model=(), data=(), run="").max_steps == 100
    agent = Agent.load(train(settings))
    assert agent.inputs == 68 and agent.moves == "toggle"
    assert [tuple(p.shape) for p in agent.parameters() if p.dim() == 2] == [(63, 68), (8, 64), (1, 8)]


@pytest.mark.parametrize("moves", ["toggle", "mask"])
def test_other_moves_train_too(moves: str, place: Path, tmp_path: Path) -> None:
    agent = Agent.load(
        train(settings_in(place, tmp_path / "run", moves=moves, steps=32, network=NetworkSettings("attention", 8, 1)))
    )
    assert agent.moves == moves


class OneWord(TextClassifier):
    """Says `good` where "joy" can be read, and shows in the hidden state which word each token is."""

    def predict(self, encoded: Encoded, rows=None, visible=None, observe: bool = False) -> Prediction:
        rows = torch.arange(len(encoded)) if rows is None else rows
        ids, real = encoded.input_ids[rows], encoded.real[rows]
        joy = (ids == self.tokenizer.convert_tokens_to_ids("joy")) & (real if visible is None else visible)
        sure = joy.any(1).float() * 6 - 3
        uniform = (real / real.sum(1, keepdim=True))[:, None]
        seen = Observation(
            attention=uniform.expand(-1, ids.shape[1], -1) * real[:, :, None],
            received=uniform,
            pooled=uniform,
            hidden=(hidden := torch.sin(ids[:, :, None] * torch.tensor([0.1, 0.37, 1.3, 5.1])) * real[:, :, None]),
            summary=hidden[:, 0],
        )
        return Prediction(torch.stack([-sure, torch.zeros_like(sure), sure], 1), seen if observe else None)


def test_an_agent_learns_the_word_that_decides(
    place: Path, tmp_path: Path, tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole loop: played, stored, learned and evaluated, it comes to mask that word at once."""
    classifier = OneWord(*tiny("bert"))
    monkeypatch.setattr(training.TextClassifier, "from_pretrained", lambda name: classifier)
    draw, words = random.Random(1), [word for word in WORDS if word != "joy"]
    texts = [" ".join(draw.sample([*draw.sample(words, 8), "joy"], 9)) for _ in range(120)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = small(
        ("one word",),
        (str(tmp_path / "texts.jsonl"),),
        str(tmp_path / "run"),
        threshold=(0.8,),
        features=("hidden", "context"),
        network=NetworkSettings(width=16, layers=1),
        learner=LearnerSettings(learning_rate=1e-2, batch_size=64, capacity=2000, replace_every=20),
        steps=800,
        games=16,
        warmup=64,
        max_steps=20,
        updates=2,
        evaluate_every=800,
        evaluate_texts=30,
        checkpoint_every=800,
    )
    trainer = Trainer(settings)
    before = trainer._evaluate()
    train(settings)
    after = metrics_of(tmp_path / "run")[-1]
    assert before["queries"] > 3
    assert after["queries"] < 1.2 and after["solved"] == 1 and after["mask_rate"] < 1.3 / 9


# -- parts


def test_what_is_stored_is_what_was_played(place: Path, tmp_path: Path) -> None:
    """A state's successor in the ring is the state after its action, but where the game was over."""
    trainer = Trainer(settings_in(place, tmp_path, moves="mask", threshold=(0.4,)))
    rewards = [trainer._play_step() for _ in range(10)]
    stored = trainer.replay.tensors
    assert rewards == pytest.approx(stored["reward"].mean(1).tolist(), abs=1e-6)
    going_on = 0
    for time_, game in itertools.product(range(9), range(4)):
        action = stored["action"][time_, game]
        assert stored["legal"][time_, game, action]
        if not stored["over"][time_, game]:
            going_on += 1
            hidden = stored["visible"][time_, game] ^ stored["visible"][time_ + 1, game]
            assert hidden.nonzero().tolist() == [[int(action)]]
            assert torch.equal(stored["real"][time_, game], stored["real"][time_ + 1, game])
        else:
            new, real = time_ + 1, stored["real"][time_ + 1, game]
            assert torch.equal(stored["visible"][new, game], real)
    assert 0 < going_on < 36


def test_an_attacker_learns_on_from_an_explainer(finished: Path, place: Path, tmp_path: Path) -> None:
    train(settings_in(place, tmp_path / "run", task="attack", start=str(finished / "agent"), steps=4, warmup=100))
    before, after = Agent.load(finished / "agent"), Agent.load(tmp_path / "run" / "agent")
    assert (before.task, after.task, after.rounds) == ("explain", "attack", 2)
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name]), name
    train(settings_in(place, tmp_path / "more", task="attack", start=str(finished / "agent")))
    assert any(
        (w != before.state_dict()[n]).any() for n, w in Agent.load(tmp_path / "more" / "agent").state_dict().items()
    )
    [last] = [m for m in metrics_of(tmp_path / "more") if m["step"] == STEPS]
    assert last["solved"] == last["fidelity"]


@pytest.mark.parametrize("changes", [{"network": NetworkSettings(width=4, layers=1)}, {"features": ("statistics",)}])
def test_an_agent_of_other_sizes_is_nothing_to_go_on_from(
    changes: dict, finished: Path, place: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="cannot go on from the agent"):
        train(settings_in(place, tmp_path / "run", start=str(finished / "agent"), **changes))
    assert not (tmp_path / "run").exists()


def test_shuffled_rows_are_epochs() -> None:
    rows = ShuffledRows(7, seed=3)
    drawn = [next(rows) for _ in range(35)]
    epochs = [drawn[i : i + 7] for i in range(0, 35, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 1
    for stopped in (0, 3, 7, 20):
        resumed = ShuffledRows(7, seed=3)
        resumed.drawn = stopped
        assert [next(resumed) for _ in range(35 - stopped)] == drawn[stopped:]
    other = ShuffledRows(7, seed=4)
    assert [next(other) for _ in range(35)] != drawn


def test_stacking_games_of_several_classifiers_pads_with_nothing() -> None:
    one, other = torch.ones(2, 3, 4), torch.full((1, 5, 4), 2.0)
    stacked = training._stack([one, other])
    assert stacked.shape == (3, 5, 4)
    assert torch.equal(stacked[:2, :3], one) and not stacked[:2, 3:].any() and torch.equal(stacked[2], other[0])
    flags = training._stack([torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)])
    assert flags.tolist() == [[True, True, False], [True, True, True]]
    assert training._stack([torch.tensor([1, 2]), torch.tensor([3])]).tolist() == [1, 2, 3]


def test_the_step_size_falls_in_a_straight_line_to_a_twentieth() -> None:
    learner = Learner(torch.nn.Linear(2, 1), LearnerSettings(learning_rate=0.2))
    rates = []
    for done in (0.0, 0.5, 0.95, 1.0):
        learner.anneal(done)
        rates.append(learner.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2, 0.1, 0.01, 0.01])
    fixed = Learner(torch.nn.Linear(2, 1), LearnerSettings(learning_rate=0.2, anneal=False))
    fixed.anneal(0.5)
    assert fixed.optimiser.param_groups[0]["lr"] == 0.2
