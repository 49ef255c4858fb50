"""The command line: what it prints where, its exit status, and that nothing is lost whatever happens."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PAIRS, TEXTS

from foveate.cli import main
from foveate.text.explainer import Explainer
from foveate.text.explanation_files import load

FAST = ("--method", "greedy", "--max-steps", "1", "--threshold", "0.3")


@pytest.fixture(scope="session")
def model(tiny: Callable[[str], tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a tiny BERT."""
    directory = tmp_path_factory.mktemp("models") / "tiny-bert"
    for part in tiny("bert"):
        part.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], model: str) -> Callable[..., tuple[int, str, str]]:
    """`run(*arguments)` is the exit status, stdout and stderr of `foveate explain` with the tiny model."""

    def run(*arguments: str, command: tuple[str, ...] = ("explain",)) -> tuple[int, str, str]:
        options = [] if command != ("explain",) or "--model" in arguments else ["--model", model]
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*command, *options, *arguments])
        return (ended.value.code, *capsys.readouterr())  # type: ignore[return-value]

    return run


def corpus(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """`foveate` in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    # A shell that starts the tests in the background has them ignore Ctrl-C, and their children too.
    options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "foveate", *arguments], env=environment, **pipes)


def one_line(said: str) -> bool:
    return said.startswith("foveate: ") and said.count("\n") == 1 and "Traceback" not in said


# What is printed where


def test_a_text_is_explained(run) -> None:
    status, out, err = run(TEXTS[0], *FAST)
    assert (status, err) == (0, "")
    assert TEXTS[0].split()[-1] in out
    assert "Δp" in out


def test_json_is_alone_on_standard_output_one_object_a_text(run) -> None:
    status, out, err = run(*TEXTS, "--json", *FAST)
    assert (status, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [e["text"] for e in found] == list(TEXTS)
    assert all(e["method"] == "greedy" and e["threshold"] == 0.3 and len(e["path"]) <= 1 for e in found)


def test_a_pair_and_a_target(run) -> None:
    status, out, _ = run(PAIRS[0][0], "--pair", PAIRS[0][1], "--target", "bad", "--json", "--verify", *FAST)
    found = json.loads(out)
    assert (status, found["text"], found["pair"], found["label"]) == (0, *PAIRS[0], "bad")


def test_a_text_may_begin_with_a_dash(run) -> None:
    status, out, _ = run("--json", *FAST, "--", "- joy", "--debug")
    assert (status, [json.loads(line)["text"] for line in out.splitlines()]) == (0, ["- joy", "--debug"])


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_of_texts_becomes_a_file_of_explanations(run, tmp_path: Path, ending: str) -> None:
    source, output = corpus(tmp_path / "in.jsonl", list(TEXTS)), tmp_path / f"out.{ending}"
    status, out, err = run("--input", str(source), "--output", str(output), *FAST)
    assert (status, out) == (0, "")
    assert err == f"foveate: 5 explained, 0 failed; written to {output}\n"
    assert [e.text for e in load(output)] == list(TEXTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", output.name]


def test_html(run, tmp_path: Path) -> None:
    assert run(TEXTS[0], "--output", str(tmp_path / "out.html"), *FAST)[0] == 0
    assert (tmp_path / "out.html").read_text().startswith("<!DOCTYPE html>")


def test_columns_of_a_table(run, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('a,b\n"joy, joy",the dog\n')
    status, out, _ = run("--input", str(source), "--text-columns", "b", "a", "--json", *FAST)
    assert (status, json.loads(out)["text"], json.loads(out)["pair"]) == (0, "the dog", "joy, joy")


# Rows that cannot be explained


def test_bad_rows_are_named_by_line_and_the_rest_is_explained(run, tmp_path: Path) -> None:
    lines = [json.dumps({"text": TEXTS[i % 5]}).encode() for i in range(70)]
    lines[3], lines[40], lines[69] = b"{", b'{"text": "\xe9"}', b'{"text": "\\u0000"}'
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join(lines))
    status, _, err = run("--input", str(source), "--output", str(output), *FAST)
    assert status == 1
    told = err.splitlines()
    assert [line.split(": ")[1] for line in told[:3]] == [f"{source}, line {n}" for n in (4, 41, 70)]
    assert told[3:] == [f"foveate: 67 explained, 3 failed; written to {output}"]
    assert [e.text for e in load(output)] == [TEXTS[i % 5] for i in range(69) if i not in (3, 40)]


def test_one_bad_text_among_good_ones_is_status_1_and_alone_status_2(run) -> None:
    status, out, err = run("joy", "", "--json", *FAST)
    assert (status, len(out.splitlines()), err.split(": ")[1]) == (1, 1, "text 2")
    status, out, err = run("", "--json", *FAST)
    assert (status, out) == (2, "")
    assert one_line(err)


def test_a_text_that_is_too_long_is_explained_and_told(run) -> None:
    status, out, err = run("joy " * 600, "--json", *FAST)
    assert (status, json.loads(out)["truncated"]) == (0, True)
    assert one_line(err)
    assert "longer than the classifier reads" in err


# Requests that are wrong


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to explain"),
        (["joy", "--input", "x.jsonl"], "leave one of them out"),
        (["joy", "joy", "--pair", "joy"], "--pair goes with one text"),
        (["joy", "--resume"], "--output"),
        (["joy", "--output", "x.txt"], "must end in .jsonl"),
        (["joy", "--output", "x.html", "--resume"], ".jsonl or .parquet"),
        (["joy", "--output", "nowhere/x.jsonl"], "nowhere"),
        (["joy", "--nonsense"], "--nonsense"),
        (["joy", "--threshold", "high"], "high"),
        (["joy", "--threshold", "2"], "threshold"),
        (["joy", "--method", "gready"], "did you mean greedy?"),
        (["joy", "--target", "god"], "did you mean good?"),
        (["joy", "--replacement", "nothing"], "replacement"),
        (["--input", "none.jsonl"], "no such file"),
        (["--input", "."], "directory"),
        (["--input", "none.csv", "--model", "none"], "none.csv"),
        ([" "], "empty"),
        (["[CLS] [SEP]"], "no token"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(run, monkeypatch, tmp_path, arguments: list[str], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(
        *arguments, *(FAST if "--method" not in arguments and "--threshold" not in arguments else ())
    )
    assert (status, out) == (2, "")
    assert one_line(err), err
    assert says in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["missing", "empty", "no tokenizer", "no weights", "nan"])
def test_a_model_that_cannot_be_used_is_one_line(run, tiny, tmp_path: Path, monkeypatch, broken: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    directory = tmp_path / "model"
    network, tokenizer = tiny("bert")
    if broken != "missing":
        directory.mkdir()
    if broken in ("no tokenizer", "nan"):
        network.save_pretrained(directory)
    if broken in ("no weights", "nan"):
        tokenizer.save_pretrained(directory)
        network.config.save_pretrained(directory)
    if broken == "nan":
        from safetensors.torch import load_file, save_file

        tensors = load_file(directory / "model.safetensors")
        save_file({n: t * float("nan") for n, t in tensors.items()}, directory / "model.safetensors", {"format": "pt"})
    status, out, err = run("joy", "--model", str(directory), *FAST)
    assert (status, out) == (2, "")
    assert one_line(err), err
    assert "NaN" in err if broken == "nan" else str(directory) in err


def test_debug_shows_where(run) -> None:
    status, _, err = run("", "--method", "gready", "--debug")
    assert status == 2
    assert "Traceback" in err


@pytest.mark.parametrize("words", [["nonsense"], ["text"], ["text", "nonsense"], ["import"], [""]])
def test_an_unknown_command_lists_the_known_ones(run, words: list[str]) -> None:
    status, out, err = run(command=tuple(words))
    assert (status, out) == (2, "")
    assert one_line(err)
    assert "text train" in err or "attexplainer" in err


# Interruptions


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_what_was_finished_is_kept_and_resume_goes_on(run, model, tmp_path: Path, monkeypatch, sent) -> None:
    texts = [TEXTS[i % 5] + " joy" * (i % 7) for i in range(48)]
    source, output = corpus(tmp_path / "in.jsonl", texts), tmp_path / "out.jsonl"
    options = ["--model", model, "--output", str(output), *FAST]
    # The first 40 lines come through a pipe that stays open: it waits for more, and that is when it is interrupted.
    process = start("explain", "--input", "-", "--json", *options)
    assert process.stdin and process.stdout
    process.stdin.write(b"".join(source.read_bytes().splitlines(keepends=True)[:40]))
    process.stdin.flush()
    for _ in range(32):
        assert process.stdout.readline()
    process.send_signal(sent)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.decode() == f"foveate: interrupted; 32 explanations are in {output}, add --resume to go on from there\n"
    assert [e.text for e in load(output)] == texts[:32]

    worked: list[str] = []
    attempt = Explainer.attempt
    monkeypatch.setattr(
        Explainer, "attempt", lambda self, chunk, **options: worked.extend(chunk) or attempt(self, chunk, **options)
    )
    assert run("--input", str(source), "--resume", *options)[0] == 0
    assert worked == texts[32:]
    assert [e.text for e in load(output)] == texts
    assert run("--input", str(source), "--resume", *options)[0] == 0
    assert worked == texts[32:]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_resuming_with_other_texts_leaves_the_output_as_it_was(run, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert run("joy", "anger", "fear", "--output", str(output), *FAST)[0] == 0
    before = output.read_bytes()
    status, _, err = run("joy", "love", "--output", str(output), "--resume", *FAST)
    assert (status, one_line(err)) == (2, True)
    assert "other texts" in err
    assert output.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_reader_that_goes_away_is_no_error(model, tmp_path: Path) -> None:
    source = corpus(tmp_path / "in.jsonl", list(TEXTS) * 20)
    process = start("explain", "--input", str(source), "--json", "--model", model, *FAST)
    assert process.stdout and process.stderr
    assert json.loads(process.stdout.readline())["text"] == TEXTS[0]
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(300) == 1


def test_a_full_disk_is_one_line(model, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = start("explain", "joy", "--json", "--model", model, *FAST, stdout=full)
        assert process.communicate(timeout=300)[1] == b"foveate: cannot write: No space left on device\n"
    assert process.returncode == 1


def test_a_full_disk_does_not_touch_the_old_output(model, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("what was there before\n")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (999, 999))  # noqa: E731
    arguments = (*TEXTS, "--output", str(output), "--model", model, *FAST)
    process = start("explain", *arguments, preexec_fn=limit)
    err = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 1
    assert one_line(err), err
    assert "File too large" in err
    assert output.read_text() == "what was there before\n"


# The other commands


def test_help_and_what_is_wrong_with_the_words_are_quick_because_nothing_is_loaded() -> None:
    code = """
import sys
from foveate.cli import main
try:
    main({!r})
except SystemExit as ended:
    print(ended.code, "torch" in sys.modules)
"""
    for words in ([], ["explain"], ["attack"], ["import", "attexplainer"]):
        for more, status, says in ((["--help"], 0, "usage: foveate"), (["--nonsense"], 2, "2 False\n")):
            done = subprocess.run(
                [sys.executable, "-c", code.format(words + more)], capture_output=True, text=True, check=True
            )
            assert done.stdout.startswith(says)
            assert done.stdout.endswith(f"{status} False\n")


def test_the_presets_of_training_are_where_its_flags_start_from() -> None:
    # In a process of its own: required flags are placeholders, which the run-time check of types would refuse.
    process = start("text", "train", "--preset", "paper", "--help")
    out, err = (said.decode() for said in process.communicate(timeout=300))
    assert (process.returncode, err) == (0, "")
    assert "usage: foveate text train" in out
    assert "(required)" in out
    assert "(default: square)" in out


def test_help_of_the_benchmark(run) -> None:
    status, out, _ = run("--help", command=("text", "benchmark"))
    assert status == 0
    assert "usage: foveate text benchmark" in out


def test_commands_refuse_in_a_line(run, tmp_path: Path) -> None:
    for command, arguments in (
        (("text", "train"), ["--preset", "best"]),
        (("text", "benchmark"), []),
        (("import", "attexplainer"), [str(tmp_path / "none.bin"), "--output", str(tmp_path / "agent")]),
        (("doctor",), ["--nonsense"]),
    ):
        status, out, err = run(*arguments, command=command)
        assert (status, out) == (2, "")
        assert one_line(err), err
    assert not list(tmp_path.iterdir())


def test_the_doctor_names_what_is_there(run) -> None:
    status, out, _ = run(command=("doctor",))
    import torch

    assert status == 0
    assert torch.__version__ in out
    assert "emotion-classifier" in out


def test_the_doctor_sees_a_missing_asset(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("foveate.doctor.ASSETS", tmp_path)
    status, out, _ = run(command=("doctor",))
    assert status == 1
    assert "BAD emotion-classifier" in out


def test_the_version(run) -> None:
    status, out, _ = run(command=("--version",))
    assert (status, out.strip()) == (0, __import__("importlib.metadata").metadata.version("foveate"))
