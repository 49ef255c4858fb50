"""`foveate agent train`: act, learn, log, checkpoint. A killed run goes on as if it had never stopped."""

from __future__ import annotations

import copy
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from foveate.agents.a3c import A3CSettings
from foveate.agents.agent import PlayingAgent
from foveate.agents.curve import write_curve
from foveate.agents.envs import open_environments
from foveate.agents.games import EnvironmentSettings, parse_options
from foveate.agents.impala import ImpalaSettings
from foveate.agents.learner import Algorithm, AlgorithmSettings, learning_rate, optimiser_of, update
from foveate.agents.models.grid import small
from foveate.agents.player import NotANumber
from foveate.agents.report import Progress, Report, Tally
from foveate.agents.rollout import Actor, Autocast, Unroll
from foveate.agents.teacher import Teacher, TeacherSettings
from foveate.agents.whitening import whiten
from foveate.agents.workers import Workers
from foveate.errors import RequestError
from foveate.run import Checkpoint, Run, flatten, optimiser_tensors, restore_optimiser, unflatten


@dataclass(frozen=True)
class TrainSettings:
    """Train an agent to play.

    `--preset minatar` changes the defaults below to what learns MinAtar's Breakout in half an hour on a core, `--preset
    atari` to what learns Atari's, `--preset paper` to the papers' learners.
    """

    run: str
    """The directory that the run writes to; the agent is in RUN/agent, the learning curve in RUN/curve.csv and .png."""
    environment: Annotated[EnvironmentSettings, tyro.conf.arg(name="")]
    """What is played."""
    model: str = "s3ta"
    """The network; see foveate.agents.models."""
    network: tuple[str, ...] = ()
    """NAME=VALUE, in JSON, of the network's settings that are to differ from their defaults: memory=32."""
    whiten: bool = False
    """Show the network each pixel as its distance from what it is in random play, in deviations: things that move stand
    out, which attention finds things by where the ground is bright or they are small, as on Atari."""
    start: str | None = None
    """A trained agent to learn on from: a name, directory or hub id, with the same network for screens of that size."""
    algorithm: Algorithm = "impala"
    """How it learns; the settings of the other are not read."""
    impala: ImpalaSettings = field(default_factory=ImpalaSettings)
    a3c: A3CSettings = field(default_factory=A3CSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    steps: int = 1_000_000
    """Steps of all environments together; on Atari each is `repeat` frames. May be raised on resuming."""
    envs: int = 16
    """Environments played side by side (B)."""
    overlap: bool = False
    """Play the next unroll, with the weights before, while the last one is learned from. It keeps a GPU busy; on a CPU
    it costs a second look at what was played. A resumed run goes on, but not bit for bit."""
    workers: int = 0
    """Of A3C: processes that share weights and update them whenever they are ready, the environments dealt out among
    them; 0: one batched learner, which alone resumes bit for bit."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; `auto`: a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What networks compute in. `auto`: bfloat16 on hardware that multiplies it (GPUs, CPUs with AMX) and screens that
    are not tiny, else float32. Weights are kept in float32."""
    threads: int = 0
    """CPU threads; 0 for torch's own choice. Bit-for-bit resuming asks for the same number."""
    seed: int = 0
    """Of everything random."""
    log_every: int = 10_000
    """Steps between lines of metrics."""
    checkpoint_every: int = 100_000
    """Steps between checkpoints."""
    wandb: bool = False
    """Track with Weights & Biases too (WANDB_MODE=offline needs no network)."""
    resume: bool = False
    """Go on with the run that is in the directory."""

    @property
    def learning(self) -> AlgorithmSettings:
        """Of the algorithm that is used."""
        return self.impala if self.algorithm == "impala" else self.a3c


CHANGEABLE = frozenset(
    {"run", "steps", "overlap", "workers", "device", "precision", "threads", "log_every", "checkpoint_every", "wandb"}
)
"""What may differ on resuming: how long and where a run runs, not what it learns."""


def train(settings: TrainSettings) -> Path:
    """Train an agent; returns its directory.

    Raises RequestError for settings that do not fit together, an environment or model that there is not, or a loss
    that is not a number (the last checkpoint stays as it was); KeyboardInterrupt, after a checkpoint, where the
    run was told to stop.
    """
    _check(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    run = Run(
        settings.run, replace(settings, resume=False), resume=settings.resume, wandb=settings.wandb, free=CHANGEABLE
    )
    # Before the run begins, so that a game or a model that there is not leaves no run behind.
    trainer = Trainer(settings)
    checkpoint = run.begin()
    if checkpoint is None:
        trainer.begin()
    else:
        trainer.restore(checkpoint)
    stop = Stop()
    try:
        with stop:
            for metrics in trainer.play(run, stop):
                run.log(trainer.step, metrics)
    finally:
        trainer.close()
        run.close()
    if stop.asked:
        raise KeyboardInterrupt(f"stopped at step {trainer.step}; a checkpoint is saved, --resume goes on from it")
    return run.directory / "agent"


def _check(settings: TrainSettings) -> None:
    """Raises RequestError for settings that cannot be, before anything is loaded."""
    counts = {name: getattr(settings, name) for name in ("steps", "envs", "log_every", "checkpoint_every")}
    for name, value in (counts | {f"{settings.algorithm}.unroll": settings.learning.unroll}).items():
        if value < 1:
            raise RequestError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
    if settings.workers:
        if settings.algorithm != "a3c":
            raise RequestError("--workers are A3C's; add --algorithm a3c, or leave them out")
        if settings.workers < 0 or settings.workers > settings.envs:
            raise RequestError(f"--workers {settings.workers} cannot share {settings.envs} environments; raise --envs")
        if settings.overlap or settings.device not in ("auto", "cpu"):
            raise RequestError("--workers act and learn on the CPU, each by itself; leave out --overlap and --device")
        if settings.teacher.agent:
            raise RequestError("--workers have no teacher; leave out --workers or --teacher.agent")


class Stop:
    """Turns the first Ctrl-C (or SIGTERM) into a wish, granted between two updates; the second acts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        with suppress(ValueError):  # not in the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        self.__exit__()


class Trainer:
    """The state of a run, and the loop that moves it on."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.device = _device(settings)
        environments = open_environments(
            settings.environment,
            1 if settings.workers else settings.envs,  # workers open their own
            threads=settings.threads,
            exact=not settings.overlap,
        )
        torch.manual_seed(settings.seed)  # first weights are drawn from torch's own generator
        self.agent = PlayingAgent(
            model=settings.model,
            observation=environments.observation_shape,
            actions=environments.actions,
            environment=asdict(settings.environment),
            settings=parse_options(settings.network),
            whiten=settings.whiten,
        ).to(self.device)
        if settings.start is not None:
            _start_from(self.agent, settings.start)
        self.autocast = _autocast(settings.precision, self.device, self.agent.observation)
        self.optimiser = optimiser_of(self.agent.network, settings.learning)
        self.teacher: Teacher | None = None
        if settings.teacher.agent:
            self.teacher = Teacher(settings.teacher, self.agent, envs=settings.envs, autocast=self.autocast)
        self.actor = Actor(
            copy.deepcopy(self.agent) if settings.overlap else self.agent,
            environments,
            steps=settings.learning.unroll,
            seed=settings.seed,
            device=self.device,
            autocast=self.autocast,
            # On a GPU one look at a whole unroll costs less than its steps' backward passes one by one.
            gradients=self.device.type == "cpu" and not settings.overlap,
        )
        self.step = 0
        """Steps played and learned from."""
        self.updates = 0
        self.saved = 0
        """The step of the last checkpoint."""
        self.tally = Tally()
        self.latest: Unroll | None = None
        """What was learned from last."""
        self._thread = ThreadPoolExecutor(1) if settings.overlap else None
        self._coming: Future[Unroll] | None = None

    def begin(self) -> None:
        """What there is to do before the first step of a run that is not resumed."""
        x = self.settings
        if x.whiten and x.start is None:
            whiten(self.agent, x.environment, envs=x.envs, seed=x.seed, threads=x.threads)
            self.actor.agent.load_state_dict(self.agent.state_dict())

    def play(self, run: Run, stop: Stop | None = None) -> Iterator[dict[str, float]]:
        """Act and learn until the steps are done; gives metrics every so often, and saves checkpoints."""
        settings = self.settings
        started, start = time.monotonic(), self.step
        progress = Progress(settings.steps, start)

        def stopped() -> bool:
            return stop is not None and stop.asked

        def metrics() -> dict[str, float]:
            rate = (self.step - start) / (time.monotonic() - started)
            means = self.tally.means() | self._looks() | {"steps_per_second": rate}
            progress.say(self.step, means)
            self.tally.clear()
            return means

        with self._learners() as updates, closing(progress):
            while self.step < settings.steps and not stopped():
                # From checkpoint to checkpoint: where the updates of a stretch end, nothing is in flight.
                until = min((self.step // settings.checkpoint_every + 1) * settings.checkpoint_every, settings.steps)
                for report in updates(until, stopped):
                    self.tally.add(report)
                    self.step += report.steps
                    self.updates += 1
                    progress.show(self.step, self.tally)
                    if self.step // settings.log_every > (self.step - report.steps) // settings.log_every:
                        yield metrics()
                if self.step >= settings.steps and self.tally.updates:
                    yield metrics()
                self.save(run)

    def _unroll(self) -> Unroll:
        """The next to learn from. Overlapped, it was played with the weights before; the one after it is begun."""
        if self._thread is None:
            return self.actor.unroll()
        unroll = self.actor.unroll() if self._coming is None else self._coming.result()
        self.actor.agent.load_state_dict(self.agent.state_dict())
        self._coming = self._thread.submit(self.actor.unroll)
        return unroll

    @contextmanager
    def _learners(self) -> Iterator[Callable[[int, Callable[[], bool]], Iterator[Report]]]:
        """Who gives a report of every update up to so many steps, or until told to stop."""
        settings = self.settings
        try:
            if not settings.workers:
                yield self._synchronous
                return
            workers = Workers(
                self.agent,
                self.optimiser,
                settings.environment,
                settings.a3c,
                workers=settings.workers,
                envs=settings.envs,
                seed=settings.seed,
                played=self.step,
                steps=settings.steps,
            )
            with closing(workers):
                yield workers.updates
        except NotANumber as error:
            raise self._diverged(str(error)) from error

    def _synchronous(self, until: int, stop: Callable[[], bool]) -> Iterator[Report]:
        learning = self.settings.learning
        while self.step < until and not stop():
            unroll = self.latest = self._unroll().to(self.device)
            if self.teacher is not None:
                unroll = self.teacher.advise(unroll, self.step)
            told = update(
                self.agent.network,
                self.optimiser,
                unroll,
                learning,
                rate=learning_rate(learning, self.step / self.settings.steps),
                autocast=self.autocast,
            )
            yield Report(unroll.scores.tolist(), unroll.lengths.tolist(), unroll.steps, told)

    def _diverged(self, what: str) -> RequestError:
        kept = (
            f"the last checkpoint, of step {self.saved}, is as it was" if self.saved else "there is no checkpoint yet"
        )
        return RequestError(
            f"{what} at step {self.step} (update {self.updates + 1}); {kept}; lower "
            f"--{self.settings.algorithm}.learning-rate or its clip-norm, and start anew in another --run"
        )

    @torch.no_grad()
    def _looks(self) -> dict[str, float]:
        """How spread out the maps are where the last unroll begins: look at it first where attention does not learn."""
        unroll = self.latest
        if unroll is None or not self.agent.heads:
            return {}
        output, _ = self.agent(unroll.inputs.until(1), unroll.state, True)
        assert output.attention is not None
        maps = output.attention.maps.float()
        if not torch.allclose(maps.sum((-2, -1)), maps.new_ones(()), atol=1e-3):
            return {"mask_open": float(maps.mean())}
        return {"map_entropy": float(torch.special.entr(maps).sum((-2, -1)).mean())}

    def save(self, run: Run) -> None:
        """Checkpoint, agent, learning curve. Raises RequestError, and writes nothing, where a weight is not finite."""
        if self._coming is not None:
            self._coming.result()
        for name, weight in self.agent.named_parameters():
            if not bool(weight.isfinite().all()):
                raise self._diverged(f"{name} is not finite")
        run.save(self.checkpoint())
        self.saved = self.step
        self.agent.steps = self.step
        save_agent(self.agent, run.directory)
        write_curve(run.directory)

    def checkpoint(self) -> Checkpoint:
        tensors = (
            flatten("network", self.agent.network.state_dict())
            | flatten("optimiser", optimiser_tensors(self.optimiser))
            | flatten("actor", self.actor.state_dict())
            | flatten("teacher", {} if self.teacher is None else self.teacher.state_dict())
        )
        numbers = {"step": self.step, "updates": self.updates, "tally": self.tally.to_json()}
        return Checkpoint({name: tensor.cpu() for name, tensor in tensors.items()}, numbers)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from there. Raises RequestError where it is of another network."""
        tensors, numbers = checkpoint.tensors, checkpoint.numbers
        try:
            self.agent.network.load_state_dict(unflatten("network", tensors))
        except RuntimeError as error:
            raise RequestError(
                f"the checkpoint in {self.settings.run} is not of this run's {self.settings.model} for "
                f"{self.settings.environment.env}; put the run's own there, or start anew in another --run"
            ) from error
        restore_optimiser(self.optimiser, unflatten("optimiser", tensors))
        self.actor.agent.load_state_dict(self.agent.state_dict())
        actor = unflatten("actor", tensors)
        self.actor.load_state_dict(actor)
        if "action" not in actor and not (self.settings.overlap or self.settings.workers):
            logging.getLogger("foveate").warning(
                "the state of %s could not be taken: the run goes on with new games, so not bit for bit",
                self.settings.environment.env,
            )
        if self.teacher is not None:
            self.teacher.load_state_dict(unflatten("teacher", tensors))
        self.step = self.saved = numbers["step"]
        self.updates = numbers["updates"]
        self.tally = Tally.of_json(numbers["tally"])

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        self.actor.environments.close()


def _start_from(agent: PlayingAgent, name: str) -> None:
    """Take over a trained agent's weights, and what it knows of its screens. Raises RequestError where they are of
    another network."""
    trained = PlayingAgent.load(name)
    theirs, ours = _network(trained), _network(agent)
    if differ := [f"{part} {value}, not {ours.get(part)}" for part, value in theirs.items() if ours.get(part) != value]:
        if trained.model != agent.model:
            del differ[1:]  # other settings, too, then, which say nothing
        raise RequestError(
            f"cannot go on from the agent {name}: it has {'; '.join(differ)}; give its --env, --model, --network and "
            "--whiten, or take another agent"
        )
    agent.load_state_dict(trained.state_dict())


def _network(agent: PlayingAgent) -> dict[str, Any]:
    """What weights must have in common to be exchanged."""
    about = agent.config()
    return {name: about[name] for name in ("model", "observation", "actions", "whiten")} | about["settings"]


def save_agent(agent: PlayingAgent, directory: Path) -> None:
    """Put the agent in `directory`/agent, file by file atomically: it may be watched while it learns."""
    temporary, place = directory / "agent.tmp", directory / "agent"
    agent.save_pretrained(temporary)
    place.mkdir(exist_ok=True)
    for file in temporary.iterdir():
        os.replace(file, place / file.name)
    temporary.rmdir()


def _device(settings: TrainSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and not settings.workers else "cpu")
    try:
        device = torch.device(settings.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        known = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise RequestError(f"there is no device {settings.device!r} here; there is {known}") from error
    return device


def _autocast(precision: str, device: torch.device, observation: tuple[int, int, int]) -> Autocast:
    # PyTorch has no public word for AMX.
    fast = device.type == "cuda" or bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
    half = precision == "bfloat16" or (precision == "auto" and fast and not small(observation))
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=half)
