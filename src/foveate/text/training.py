"""`foveate text train`: play, learn, evaluate, checkpoint, log. A killed run goes on as if it had never stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.errors import RequestError
from foveate.masking.dqn import Learner, LearnerSettings
from foveate.masking.game import MaskingGame, Moves
from foveate.masking.goal import Goal, Task, check_threshold, goal_of
from foveate.masking.learning import ShuffledRows, explore
from foveate.masking.qnetwork import NetworkSettings
from foveate.masking.replay import Replay
from foveate.masking.reward import RewardSettings
from foveate.masking.state import State
from foveate.run import Checkpoint, Run, flatten, optimiser_tensors, restore_optimiser, unflatten
from foveate.text.agent import Agent
from foveate.text.blind import Sight, blind
from foveate.text.classifier import Observation, TextClassifier
from foveate.text.features import check_features, token_features
from foveate.text.inputs import read_texts
from foveate.text.methods.agent import play
from foveate.text.probe import Probe


@dataclass(frozen=True)
class TrainingSettings:
    """One training run."""

    model: tuple[str, ...]
    """Classifiers, by directory or hub id; with several, the agent learns to play on all."""
    data: tuple[str, ...]
    """Training texts for each classifier: a JSONL, CSV or TSV file, or a `datasets` hub id."""
    run: str
    """The directory that the run writes to; the trained agent is in RUN/agent."""
    start: str | None = None
    """A trained agent to learn on from, by name or directory, with the same features and network."""
    validation: tuple[str, ...] = ()
    """Texts to evaluate on while training, one file a classifier; none: texts held out from the training data."""
    task: Task = "explain"
    """What the agent learns."""
    threshold: tuple[float, ...] = (0.8,)
    """ε of explaining for each classifier, or one for all."""
    features: tuple[str, ...] = ("relative-histograms", "layers", "hidden", "context", "labels")
    """Groups of features that the agent sees; see foveate.text.features."""
    attention: Sight = "real"
    """The attention that it sees: the classifier's own or, to learn what that is worth, another; foveate.text.blind."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    """The value network."""
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    """How it learns."""
    reward: RewardSettings = field(default_factory=RewardSettings)
    """What a step pays."""
    moves: Moves = "take-back"
    """What may be done to a token; see foveate.masking.game."""
    tolerance: float = 0.5
    """How far a step may lead away from the goal before it is taken back, in log-odds."""
    rounds: int = 1
    """How often every token may be tried, where steps are taken back; see foveate.masking.game."""
    reachable_only: bool = True
    """Learn only from texts whose end can be reached."""
    steps: int = 60_000
    """Queries to play for."""
    games: int = 64
    """Games played at once, shared out among the classifiers."""
    updates: int = 2
    """Updates of the network after every step of all games."""
    warmup: int = 2_000
    """Queries before the first update."""
    greedy: float = 0.7
    """Share of moves that are the agent's best; the others are random."""
    max_steps: int = 100
    """Steps after which a game ends (M)."""
    tokens: int = 48
    """Longer texts are left out of training."""
    min_tokens: int = 0
    """Shorter ones too (SST-2's training set is mostly phrases)."""
    texts: int = 30_000
    """Training texts drawn from the data."""
    seed: int = 0
    """Of everything random."""
    evaluate_every: int = 10_000
    """Queries between evaluations."""
    evaluate_texts: int = 200
    """Validation texts a classifier."""
    checkpoint_every: int = 20_000
    """Queries between checkpoints."""
    threads: int = 0
    """CPU threads; 0 for torch's own choice. Bit-for-bit resuming asks for the same number."""
    wandb: bool = False
    """Track with Weights & Biases too (WANDB_MODE=offline needs no network)."""
    resume: bool = False
    """Go on with the run that is in the directory."""


def paper(settings: TrainingSettings) -> TrainingSettings:
    """The same run as the paper has it, to the letter (sections 3.2, 3.3, 4.1, equations 2, 4 and 5, algorithm 1).

    One game at a time and one update a step; the squared error and priorities' exponents, of which the paper says
    nothing, are the usual ones.
    """
    return replace(
        settings,
        features=("statistics",),
        network=NetworkSettings(kind="paper"),
        learner=LearnerSettings(
            learning_rate=1e-4,
            anneal=False,
            batch_size=256,
            discount=0.9,
            n_step=1,
            target="taken",
            loss="square",
            replace_every=100,
            clip_norm=None,
            capacity=100_000,
        ),
        reward=RewardSettings(kind="paper"),
        moves="toggle",
        reachable_only=False,
        games=1,
        updates=1,
        greedy=0.7,
    )


@dataclass
class Corpus:
    """A classifier, its training texts in an endless shuffled order, and the games played on them."""

    probe: Probe
    goal: Goal
    game: MaskingGame
    order: ShuffledRows
    validation: Probe


def train(settings: TrainingSettings, also: Callable[[Trainer], Mapping[str, float]] = lambda trainer: {}) -> Path:
    """Train an agent; returns its directory. `also` gives more to be logged at every evaluation.

    Raises RequestError for settings that do not fit together, unreadable data, or a loss that is not a number (the
    last checkpoint stays as it was).
    """
    _check(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    run = Run(
        settings.run, replace(settings, resume=False), resume=settings.resume, wandb=settings.wandb, free=("run",)
    )
    # Before the run begins, so that data which cannot be read leaves no run behind that says so for ever.
    trainer = Trainer(settings)
    checkpoint = run.begin()
    if checkpoint is not None:
        trainer.restore(checkpoint)
    try:
        for metrics in trainer.play(run):
            run.log(trainer.step, {**metrics, **also(trainer)})
    finally:
        run.close()
    directory = Path(settings.run) / "agent"
    trainer.agent.save_pretrained(directory)
    return directory


def _check(settings: TrainingSettings) -> None:
    """Raises RequestError for settings that cannot be, before anything is loaded."""
    count = len(settings.model)
    if len(settings.data) != count or len(settings.validation) not in (0, count):
        raise RequestError(f"{count} classifiers need as many --data, and as many --validation or none")
    if len(settings.threshold) not in (1, count):
        raise RequestError(f"{count} classifiers need as many --threshold, or one for all")
    for threshold in settings.threshold:
        check_threshold(threshold)
    if settings.games < count:
        raise RequestError(f"--games {settings.games} is not one for each of {count} classifiers; raise it")
    check_features(settings.features)
    for name in ("steps", "games", "max_steps", "tokens", "texts", "evaluate_every", "checkpoint_every"):
        if getattr(settings, name) < 1:
            raise RequestError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; it must be at least 1")


class Trainer:
    """The state of a run, and the loop that moves it on."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.corpora = _corpora(settings)
        features = self._example_features()
        self.agent = Agent(
            features=list(settings.features),
            inputs=features,
            network=settings.network.kind,
            width=settings.network.width,
            layers=settings.network.layers,
            moves=settings.moves,
            tolerance=settings.tolerance,
            rounds=settings.rounds,
            classifier=Path(settings.model[0]).name if len(settings.model) == 1 else None,
            threshold=settings.threshold[0],
            task=settings.task,
        )
        if settings.start is not None:
            _start_from(self.agent, settings.start)
        self.learner = Learner(self.agent, settings.learner)
        self.replay = Replay(
            settings.learner.capacity,
            sum(c.game.slots for c in self.corpora),
            settings.tokens,
            features,
            discount=settings.learner.discount,
            n_step=settings.learner.n_step,
            exponent=settings.learner.priority_exponent,
        )
        self.step = 0
        """Queries played so far."""
        self.losses: list[float] = []
        self.gains: list[float] = []
        """Mean rewards; these and the losses since the last evaluation."""

    def play(self, run: Run) -> Iterator[dict[str, float]]:
        """Play and learn until the steps are done; gives metrics at every evaluation, and saves checkpoints."""
        settings = self.settings
        started, start = time.monotonic(), self.step
        progress = _Progress(settings.steps, start)
        while self.step < settings.steps:
            self.gains.append(self._play_step())
            self.learner.anneal(self.step / settings.steps)
            if self.step >= settings.warmup and len(self.replay):
                self.losses += [self._learn() for _ in range(settings.updates)]
            progress.show(self.step)
            if self._passed(settings.evaluate_every) or self.step >= settings.steps:
                rate = (self.step - start) / (time.monotonic() - started)
                metrics = {"queries_per_second": rate, "reward": sum(self.gains) / len(self.gains)}
                if self.losses:
                    metrics["loss"] = sum(self.losses) / len(self.losses)
                metrics |= self._evaluate()
                progress.say(self.step, metrics)
                yield metrics
                self.losses, self.gains = [], []
            if self._passed(settings.checkpoint_every) or self.step >= settings.steps:
                run.save(self.checkpoint())
        progress.close()

    def _passed(self, every: int) -> bool:
        """Whether the last step of all games passed a multiple of `every`."""
        return self.step // every > (self.step - self.replay.games) // every

    def _play_step(self) -> float:
        """One step of every game, stored for replay; returns the mean reward."""
        s = self.settings
        parts = [explore(c.game, self.agent, s.greedy, s.reward, self.generator) for c in self.corpora]
        whole = {name: _stack([part[name] for part in parts]) for name in parts[0]}
        self.replay.add(**whole)
        self.step += self.replay.games
        return float(whole["reward"].mean())

    def _learn(self) -> float:
        learner = self.settings.learner
        batch = self.replay.sample(learner.batch_size, learner.importance_exponent, self.generator)
        loss, error = self.learner.learn(batch)
        if not loss < float("inf"):
            raise RequestError(
                f"the loss is {loss} at step {self.step}; lower --learner.learning-rate and start anew (the last "
                "checkpoint is as it was)"
            )
        self.replay.update(batch.index, error)
        return loss

    def _evaluate(self) -> dict[str, float]:
        """What `evaluate` says of each classifier's validation texts."""
        metrics: dict[str, float] = {}
        for number, corpus in enumerate(self.corpora):
            prefix = f"{number}/" if len(self.corpora) > 1 else ""
            values = evaluate(corpus.validation, corpus.goal, self.agent, self.settings.max_steps)
            metrics |= {prefix + name: value for name, value in values.items()}
        return metrics

    def _example_features(self) -> int:
        widths = {token_features(c.game.state, self.settings.features).shape[-1] for c in self.corpora if c.game.state}
        if len(widths) != 1:
            raise RequestError(
                f"the features {', '.join(self.settings.features)} have another width on each classifier; for several "
                "classifiers take features that fit any: --features relative-histograms profile geometry context"
            )
        return widths.pop()

    def checkpoint(self) -> Checkpoint:
        tensors = (
            flatten("network", self.agent.state_dict())
            | flatten("target", self.learner.target.state_dict())
            | flatten("optimiser", optimiser_tensors(self.learner.optimiser))
            | flatten("replay", self.replay.state_dict())
            | {"generator": self.generator.get_state()}
        )
        for number, corpus in enumerate(self.corpora):
            tensors |= flatten(f"corpus{number}", _corpus_tensors(corpus))
        numbers = {
            "step": self.step,
            "updates": self.learner.updates,
            "losses": self.losses,
            "gains": self.gains,
            "drawn": [corpus.order.drawn for corpus in self.corpora],
        }
        return Checkpoint(tensors, numbers)

    def restore(self, checkpoint: Checkpoint) -> None:
        tensors, numbers = checkpoint.tensors, checkpoint.numbers
        self.agent.load_state_dict(unflatten("network", tensors))
        self.learner.target.load_state_dict(unflatten("target", tensors))
        restore_optimiser(self.learner.optimiser, unflatten("optimiser", tensors))
        self.replay.load_state_dict(unflatten("replay", tensors))
        self.generator.set_state(tensors["generator"])
        self.step, self.learner.updates = numbers["step"], numbers["updates"]
        self.losses, self.gains = numbers["losses"], numbers["gains"]
        for number, corpus in enumerate(self.corpora):
            _restore_corpus(corpus, unflatten(f"corpus{number}", tensors))
            corpus.order.drawn = numbers["drawn"][number]


def evaluate(probe: Probe, goal: Goal, agent: Agent, max_steps: int) -> dict[str, float]:
    """The paper's measures, on the texts that can be explained (or attacked)."""
    probe.queries.zero_()
    able = [e for e in play(probe, goal, agent, max_steps=max_steps) if e.reachable]
    values = {
        "fidelity": [float(e.flipped) for e in able],
        "solved": [float(e.solved) for e in able],
        "queries": [float(e.queries) for e in able],
        "mask_rate": [e.mask_rate for e in able],
        "delta_p": [e.delta_p for e in able],
    }
    return {name: sum(value) / max(len(value), 1) for name, value in values.items()}


def _start_from(agent: Agent, name: str) -> None:
    """Take over a trained agent's weights. Raises RequestError where they do not fit."""
    trained = Agent.load(name)
    try:
        if trained.features != agent.features:
            raise RuntimeError(f"it sees {', '.join(trained.features)}")
        agent.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RequestError(f"cannot go on from the agent {name}, it is of other features or sizes: {reason}") from error


def _corpora(settings: TrainingSettings) -> list[Corpus]:
    count = len(settings.model)
    thresholds = settings.threshold if len(settings.threshold) == count else settings.threshold * count
    slots = [settings.games // count + (i < settings.games % count) for i in range(count)]
    return [
        _corpus(settings, number, goal_of(settings.task, thresholds[number]), slots[number]) for number in range(count)
    ]


def _corpus(settings: TrainingSettings, number: int, goal: Goal, slots: int) -> Corpus:
    classifier = blind(TextClassifier.from_pretrained(settings.model[number]), settings.attention, settings.seed)
    texts = read_texts(settings.data[number])
    shuffle = torch.Generator().manual_seed(settings.seed)
    texts = [texts[i] for i in torch.randperm(len(texts), generator=shuffle).tolist()]
    encoded = classifier.encode(texts[: settings.texts])
    fits = (encoded.lengths <= settings.tokens) & (encoded.lengths >= settings.min_tokens) & encoded.maskable.any(1)
    rows = fits.nonzero().squeeze(1)
    held_out = 0 if settings.validation else settings.evaluate_texts
    if len(rows) <= held_out:
        raise RequestError(
            f"{len(rows)} texts of {settings.data[number]} have {settings.min_tokens} to {settings.tokens} tokens, and "
            f"{held_out} are held out; change --min-tokens, --tokens or --evaluate-texts"
        )
    if settings.validation:
        validation = classifier.encode(read_texts(settings.validation[number])[: settings.evaluate_texts])
    else:
        validation = encoded.select(rows[:held_out])
    probe = Probe(classifier, encoded.select(rows[held_out:]), opened=False)
    order = ShuffledRows(len(probe), settings.seed)
    game = MaskingGame(
        probe,
        goal,
        order,
        slots=slots,
        max_steps=settings.max_steps,
        moves=settings.moves,
        tolerance=settings.tolerance,
        rounds=settings.rounds,
        reachable_only=settings.reachable_only,
    )
    return Corpus(probe, goal, game, order, Probe(classifier, validation))


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """Games of several classifiers in one batch, padded to the longest."""
    width = max(p.shape[1] for p in parts) if parts[0].dim() > 1 else 0
    if width:
        parts = [torch.nn.functional.pad(p, [0, 0] * (p.dim() - 2) + [0, width - p.shape[1]]) for p in parts]
    return torch.cat(list(parts))


def _corpus_tensors(corpus: Corpus) -> dict[str, Tensor]:
    game, probe = corpus.game, corpus.probe
    assert game.state is not None
    state = {f.name: getattr(game.state, f.name) for f in fields(State) if f.name != "observation"}
    seen = {f.name: getattr(game.state.observation, f.name) for f in fields(Observation)}
    return (
        {"label": probe.label, "target": probe.target, "probability": probe.probability}
        | {"rows": game.rows, "steps": game.steps, "round": game.round, "distance": game.distance}
        | {"stale": game.stale}
        | flatten("state", state)
        | flatten("observation", seen)
    )


def _restore_corpus(corpus: Corpus, tensors: dict[str, Tensor]) -> None:
    game, probe = corpus.game, corpus.probe
    probe.label, probe.target, probe.probability = tensors["label"], tensors["target"], tensors["probability"]
    game.rows, game.steps, game.round = tensors["rows"], tensors["steps"], tensors["round"]
    game.distance = tensors["distance"]
    # Runs from before it was kept take nothing for stale.
    game.stale = tensors.get("stale", torch.zeros(len(game.rows), probe.real.shape[1], dtype=torch.bool))
    seen: Any = unflatten("observation", tensors)
    state: Any = unflatten("state", tensors)
    game.state = State(observation=Observation(**seen), **state)


class _Progress:
    """A bar on a terminal; a line an evaluation elsewhere."""

    def __init__(self, total: int, start: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=total, initial=start, unit="query", disable=not sys.stderr.isatty())

    def show(self, step: int) -> None:
        self.bar.update(step - self.bar.n)

    def say(self, step: int, metrics: dict[str, float]) -> None:
        from tqdm import tqdm

        tqdm.write(f"{step}  " + "  ".join(f"{k} {v:.3f}" for k, v in metrics.items()), file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
