"""A training run that takes a second; and, as a program, a nursery of such runs that die where they are told to.

The program reads one JSON object a line ({"model", "data", "run", "resume", "kill"}), forks a child that trains, and
prints the child's process number and then its exit status. Forking spares each child the seconds that imports take.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS, CHECKPOINT_EVERY = 64, 24


def small(model: tuple[str, ...], data: tuple[str, ...], run: str, **changes: Any) -> Any:
    """Settings in which everything happens: the ring comes round, targets are replaced, checkpoints fall between
    evaluations and evaluations between checkpoints."""
    from foveate.masking.dqn import LearnerSettings
    from foveate.masking.qnetwork import NetworkSettings
    from foveate.text.training import TrainingSettings

    values = {
        "threshold": (0.2,),
        "features": ("profile", "context"),
        "network": NetworkSettings(width=8, layers=1),
        "learner": LearnerSettings(batch_size=8, n_step=2, capacity=40, replace_every=5),
        "steps": STEPS,
        "games": 4,
        "updates": 1,
        "warmup": 8,
        "max_steps": 5,
        "rounds": 2,
        "tokens": 16,
        "evaluate_every": 20,
        "evaluate_texts": 4,
        "checkpoint_every": CHECKPOINT_EVERY,
        "threads": 1,
    }
    return TrainingSettings(model=tuple(model), data=tuple(data), run=str(run), **(values | changes))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(place: str, count: int) -> None:
    """Arrange for SIGKILL in the `count`-th call of a function, before it or where the name says."""
    from foveate import run
    from foveate.text.agent import Agent
    from foveate.text.training import Trainer

    def half_written(save: Callable, tensors: Any, file: Path, **more: Any) -> None:
        save(tensors, file, **more)
        os.truncate(file, file.stat().st_size // 2)
        die()

    def cut_short(log: Callable, self: Any, step: int, metrics: Any) -> None:
        with (self.directory / "metrics.jsonl").open("a") as file:
            file.write('{"step": ')
        die()

    def before(function: Callable, *args: Any, **more: Any) -> None:
        die()

    def after(function: Callable, *args: Any, **more: Any) -> None:
        function(*args, **more)
        die()

    owner, name, fate = {
        "playing": (Trainer, "_play_step", before),
        "learning": (Trainer, "_learn", before),
        "evaluating": (Trainer, "_evaluate", before),
        "logging": (run.Run, "log", cut_short),
        "logged": (run.Run, "log", after),
        "half written": (run, "save_file", half_written),
        "written": (run, "save_file", after),
        "renamed": (run.Run, "save", after),
        "beginning": (run.Run, "begin", after),
        "restored": (Trainer, "restore", after),
        "agent unsaved": (Agent, "save_pretrained", before),
        "agent saved": (Agent, "save_pretrained", after),
    }[place]
    original, calls = getattr(owner, name), iter(range(1, count))

    def watched(*args: Any, **more: Any) -> Any:
        if next(calls, None) is not None:
            return original(*args, **more)
        return fate(original, *args, **more)

    setattr(owner, name, watched)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    from transformers import AutoTokenizer, BertForSequenceClassification  # noqa: F401

    from foveate.text.training import train

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            sys.stdout = sys.stderr
            if request["kill"]:
                kill_at(*request["kill"])
            code = 1
            try:
                train(small(request["model"], request["data"], request["run"], resume=request["resume"]))
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
