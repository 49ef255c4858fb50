"""A run directory: what is kept, what is refused, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate import run as run_module
from foveate.errors import RequestError
from foveate.run import (
    Checkpoint,
    Run,
    flatten,
    optimiser_tensors,
    restore_optimiser,
    unflatten,
    write_atomically,
)


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    names: tuple[str, ...] = ("a", "b")


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        {
            "half": torch.full((2, 3), step, dtype=torch.float16),
            "double": torch.tensor([1 / 3], dtype=torch.float64),
            "flags": torch.tensor([True, False]),
            "scalar": torch.tensor(float(step)),
            "slice": torch.arange(6).view(2, 3).T,
            "none": torch.zeros(0, 4),
        },
        {"step": step, "drawn": [step, 0.1 + 0.2]},
    )


def assert_same(found: Checkpoint | None, step: int) -> None:
    expected = checkpoint(step)
    assert found is not None and found.numbers == expected.numbers
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype and torch.equal(found.tensors[name], tensor)


def begun(place: Path, **more: object) -> Run:
    run = Run(place, Settings(), **more)
    run.begin()
    return run


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    run = begun(tmp_path / "deep" / "run")
    assert not run.checkpoint_file.exists()
    for step in (8, 16):
        run.save(checkpoint(step))
    assert_same(Run(run.directory, Settings(), resume=True).begin(), 16)
    assert json.loads((run.directory / "settings.json").read_text()) == {"rate": 0.1, "names": ["a", "b"]}


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    begun(tmp_path).save(checkpoint(8))
    with pytest.raises(RequestError, match="holds a run already; add --resume"):
        Run(tmp_path, Settings())
    assert_same(Run(tmp_path, Settings(), resume=True).begin(), 8)


def test_other_settings_are_named(tmp_path: Path) -> None:
    begun(tmp_path).save(checkpoint(8))
    with pytest.raises(RequestError, match=r"other settings \(rate\)"):
        Run(tmp_path, Settings(rate=0.2), resume=True)
    assert_same(Run(tmp_path, Settings(), resume=True).begin(), 8)


def test_a_setting_that_is_newer_than_the_run_had_its_default(tmp_path: Path) -> None:
    begun(tmp_path).save(checkpoint(8))
    (tmp_path / "settings.json").write_text('{"rate": 0.1}')
    with pytest.raises(RequestError, match=r"other settings \(names\)"):
        Run(tmp_path, Settings(names=("c",)), resume=True)
    assert_same(Run(tmp_path, Settings(), resume=True).begin(), 8)


def test_a_run_that_never_began_leaves_no_trace(tmp_path: Path) -> None:
    """A mistake in the settings, found before the first step, does not take the directory."""
    Run(tmp_path / "run", Settings(rate=0.3))
    assert not (tmp_path / "run").exists()
    assert begun(tmp_path / "run").directory.exists()


def test_resuming_what_is_not_there_starts(tmp_path: Path) -> None:
    assert Run(tmp_path / "run", Settings(), resume=True).begin() is None


@pytest.mark.parametrize("content", ["", "no json", "[1, 2]", '{"rate": '])
def test_settings_of_something_else_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(RequestError, match="does not hold the settings of a run"):
        Run(tmp_path, Settings(), resume=True)


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RequestError, match="cannot write to"):
            begun(place)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x08" + bytes(40)])
def test_a_broken_checkpoint_is_refused_and_kept(content: bytes, tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.checkpoint_file.write_bytes(content)
    with pytest.raises(RequestError, match="cannot be read") as error:
        Run(tmp_path, Settings(), resume=True).begin()
    assert "\n" not in str(error.value) and run.checkpoint_file.read_bytes() == content


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path).save(checkpoint(8))
    monkeypatch.setattr(run_module, "FORMAT", "of another")
    with pytest.raises(RequestError, match="another version"):
        Run(tmp_path, Settings(), resume=True).begin()


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is done."""


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_while_saving_leaves_the_last_checkpoint(
    half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path)
    run.save(checkpoint(8))

    def killed_in_writing(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(run.checkpoint_file.read_bytes()[:60])
        raise Killed

    def killed_before_renaming(one: Path, other: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if half:
            patch.setattr(run_module, "save_file", killed_in_writing)
        else:
            patch.setattr(run_module.os, "replace", killed_before_renaming)
        with pytest.raises(Killed):
            run.save(checkpoint(16))
    assert len(list(tmp_path.glob("checkpoint*"))) == 2
    assert_same(Run(tmp_path, Settings(), resume=True).begin(), 8)
    assert [file.name for file in tmp_path.glob("checkpoint*")] == ["checkpoint.safetensors"]


def test_metrics_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    """They will be logged again; and so are lines that a kill cut short."""
    run = begun(tmp_path)
    for step in (8, 16, 24):
        run.log(step, {"loss": 1 / step})
        if step == 16:
            run.save(checkpoint(16))
    run.close()
    file = tmp_path / "metrics.jsonl"
    with file.open("a") as lines:
        lines.write('{"step": 8, "lo')
    resumed = Run(tmp_path, Settings(), resume=True)
    resumed.begin()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": 8, "loss": 1 / 8},
        {"step": 16, "loss": 1 / 16},
    ]
    resumed.log(24, {"loss": 0.5})
    resumed.close()
    assert json.loads(file.read_text().splitlines()[-1]) == {"step": 24, "loss": 0.5}


def test_metrics_before_the_first_checkpoint_are_dropped(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.log(8, {"loss": 1.0})
    run.close()
    Run(tmp_path, Settings(), resume=True).begin()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_metrics_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = begun(tmp_path)
    for step in (8, 16):
        run.log(step, {"loss": step / 2, "queries": 3.0})
    run.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(8, 4.0), (16, 8.0)]


def test_metrics_reach_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a stand-in: what is asked of the package, and that a resumed run goes on with its own curves."""
    asked: list[tuple] = []
    tracker = SimpleNamespace(
        log=lambda metrics, step: asked.append((step, metrics)), finish=lambda: asked.append(("finished",))
    )
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.init = lambda **options: asked.append((options["id"], options["resume"], options["config"])) or tracker
    monkeypatch.setitem(sys.modules, "wandb", module)
    for step in (8, 16):
        run = Run(tmp_path / "mine", Settings(), resume=True, wandb=True)
        run.begin()
        run.log(step, {"loss": 0.5})
        run.close()
    start = (f"mine-{zlib.crc32(str(tmp_path / 'mine').encode()):08x}", "allow", {"rate": 0.1, "names": ["a", "b"]})
    assert asked == [start, (8, {"loss": 0.5}), ("finished",), start, (16, {"loss": 0.5}), ("finished",)]


def test_a_tracker_that_is_not_installed_is_missed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'foveate\[wandb\]'"):
        Run(tmp_path / "run", Settings(), wandb=True)
    assert not (tmp_path / "run").exists()


def test_a_file_is_written_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    write_atomically(file, "old ε")

    def killed(one: Path, other: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", killed)
        write_atomically(file, "new")
    assert file.read_text(encoding="utf-8") == "old ε"
    write_atomically(file, "new")
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


@given(st.dictionaries(st.text(min_size=1), st.integers()), st.dictionaries(st.text(min_size=1), st.integers()))
@settings(max_examples=30, deadline=None)
def test_unflatten_undoes_flatten(one: dict[str, int], other: dict[str, int]) -> None:
    def tensors(values: dict[str, int]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(value % 1000) for name, value in values.items()}

    both = flatten("net", tensors(one)) | flatten("network", tensors(other))
    assert unflatten("net", both) == tensors(one)
    assert unflatten("network", both) == tensors(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.Adam(parameters, lr=0.1),
        lambda parameters: torch.optim.Adam(parameters, lr=0.1, amsgrad=True),
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, momentum=0.5, centered=True),
    ],
)
def test_a_restored_optimiser_goes_on_to_the_bit(make: Callable) -> None:
    def updates(network: torch.nn.Module, optimiser: torch.optim.Optimizer, count: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for _ in range(count):
            optimiser.zero_grad()
            network(torch.randn(4, 3, generator=draw)).square().sum().backward()
            optimiser.step()

    torch.manual_seed(0)
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    first, second = make(one.parameters()), make(other.parameters())
    restore_optimiser(second, optimiser_tensors(first))  # nothing to restore yet is no matter
    updates(one, first, 5, seed=1)
    other.load_state_dict(one.state_dict())
    restore_optimiser(second, {name: tensor.clone() for name, tensor in optimiser_tensors(first).items()})
    updates(one, first, 5, seed=2)
    updates(other, second, 5, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
