"""A run directory: its settings, its checkpoint, its metrics; and how a run goes on after it was killed."""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveate.errors import RequestError

FORMAT = "2"
"""Of checkpoints; another one cannot be resumed."""


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary name, then rename: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped."""

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]
    """What JSON holds without loss."""


class Run:
    """A directory that one run writes to.

    `settings.json` says what is run, `checkpoint.safetensors` where it stands, `metrics.jsonl` what was measured
    (and `events.*` the same for TensorBoard).
    """

    def __init__(
        self,
        directory: str | Path,
        settings: Any,
        *,
        resume: bool = False,
        wandb: bool = False,
        free: Collection[str] = (),
    ) -> None:
        """Look whether a run can go on here; nothing is written yet. `free` settings may change on resuming.

        Raises RequestError where the directory holds a run already and `resume` is off, where it was started with
        other settings, or where W&B is asked for and not installed.
        """
        if wandb:
            require_wandb()
        self.directory = Path(directory)
        self.checkpoint_file = self.directory / "checkpoint.safetensors"
        self.settings_file = self.directory / "settings.json"
        self._settings = _plain(vars(settings))
        if self.settings_file.exists():
            if not resume:
                raise RequestError(
                    f"{self.directory} holds a run already; add --resume to go on with it, or name another"
                )
            differ = ", ".join(
                n for n in _difference(self.settings_file, self._settings, _defaults(settings)) if n not in free
            )
            if differ:
                raise RequestError(f"{self.directory} was started with other settings ({differ}); resume with the same")
        self._wandb = wandb
        self._board: Any = None
        self._tracker: Any = None

    def begin(self) -> Checkpoint | None:
        """Write down the settings; gives the last checkpoint, or None where there is none yet.

        Raises RequestError where the directory cannot be written to, or the checkpoint is unreadable or of another
        version.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(self.settings_file, json.dumps(self._settings, indent=1) + "\n")
        except OSError as error:
            raise RequestError(f"cannot write to {self.directory}: {error.strerror}") from error
        with suppress(FileNotFoundError):
            self.checkpoint_file.with_name("checkpoint.tmp").unlink()
        if not self.checkpoint_file.exists():
            self._keep_metrics(0)
            return None
        try:
            with safe_open(self.checkpoint_file, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        except SafetensorError as error:
            raise RequestError(
                f"{self.checkpoint_file} cannot be read ({error}); start anew in another --run"
            ) from error
        if about.get("format") != FORMAT:
            raise RequestError(f"{self.checkpoint_file} is of another version of foveate; start anew in another --run")
        numbers = json.loads(about["numbers"])
        self._keep_metrics(numbers["step"])
        return Checkpoint(tensors, numbers)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, atomically. `numbers` must hold `step`."""
        temporary = self.checkpoint_file.with_name("checkpoint.tmp")
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        save_file(tensors, temporary, metadata={"format": FORMAT, "numbers": json.dumps(dict(checkpoint.numbers))})
        os.replace(temporary, self.checkpoint_file)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append metrics of a step to metrics.jsonl, TensorBoard and, when asked for, W&B."""
        with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.directory), purge_step=step)
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        if self._wandb:
            if self._tracker is None:
                self._tracker = start_wandb(self.directory, self._settings)
            self._tracker.log(dict(metrics), step=step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        if self._tracker is not None:
            self._tracker.finish()

    def _keep_metrics(self, step: int) -> None:
        """Drop what was logged after the checkpoint: it will be logged again."""
        file = self.directory / "metrics.jsonl"
        if file.exists():
            lines = [line for line in file.read_text().splitlines() if _step(line) <= step]
            write_atomically(file, "".join(line + "\n" for line in lines))


def require_wandb() -> None:
    """Raises RequestError where W&B is not installed."""
    if find_spec("wandb") is None:
        raise RequestError("--wandb needs the package wandb: pip install 'foveate[wandb]'")


def start_wandb(directory: Path, settings: Mapping[str, Any]) -> Any:
    """The run of Weights & Biases that belongs to a directory."""
    import wandb

    place = directory.resolve()
    # One id a directory, so that a resumed run goes on with its own curves.
    return wandb.init(
        project="foveate",
        id=f"{place.name}-{zlib.crc32(str(place).encode()):08x}",
        name=place.name,
        dir=place,
        config=dict(settings),
        resume="allow",
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has them, settings within settings too."""
    return json.loads(json.dumps(values, default=lambda v: vars(v) if dataclasses.is_dataclass(v) else str(v)))


def _difference(file: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The names of the settings that are others in the file; what it does not know yet had its default."""
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        old = None
    if not isinstance(old, dict):
        raise RequestError(f"{file} does not hold the settings of a run; name another directory")
    old = {**defaults, **old}
    return sorted(name for name in old.keys() | settings.keys() if old.get(name) != settings.get(name))


def _defaults(settings: Any) -> dict[str, Any]:
    """Of the settings that have one."""
    known = {f.name: f.default for f in dataclasses.fields(settings) if f.default is not dataclasses.MISSING}
    made = {f.name: f.default_factory() for f in dataclasses.fields(settings) if callable(f.default_factory)}
    return _plain(known | made)


def _step(line: str) -> float:
    """A metrics line's step; infinite where the line was cut short by a kill."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def flatten(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names under a prefix."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unflatten(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `flatten` put under the prefix."""
    start = prefix + "."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser whose parameter groups do not change."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value) for index, s in state.items() for name, value in s.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
