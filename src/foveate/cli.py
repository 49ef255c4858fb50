"""The command line: arguments to calls. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro

from foveate.errors import RequestError

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130

USAGE = """usage: foveate COMMAND ...

What did a network look at when it decided, and does that claim survive a test?

  explain             find the tokens that carry a classifier's decision
  attack              change a classifier's decision by masking or rewriting few tokens
  text train          train an agent
  text benchmark      set methods side by side on a data set
  text transfer       play agents on classifiers that they were not trained on
  text ablate         train and test agents with other attention than the classifier's
  text report         explainer and attacker side by side on the same texts
  import attexplainer turn a value network that AttExplainer's authors published into an agent
  import mask-a3c     turn weights that Mask-A3C's authors published into a playing agent
  agent train         train an agent to play
  agent evaluate      let a playing agent play, and tell its scores
  agent watch         film a game, and where the playing agent looks
  agent analyse       put a playing agent's attention to the test: agent analyse --help has the list
  agent report        all of them that fit the agent, on one page
  agent table         let all agents of a directory play: games and models side by side
  doctor              what is installed, what is missing, and how to mend it

foveate COMMAND --help tells more. --debug shows tracebacks, --version the version.
Exit status: 0 done; 1 the work failed, or some of the texts did; 2 the request was wrong; 130 interrupted.
"""


@dataclass(frozen=True)
class ImportAttExplainer:
    """Turn a value network that AttExplainer's authors published into an agent."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """One of the .bin files."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The directory for the agent: `foveate explain --agent DIR`."""


@dataclass(frozen=True)
class ImportMaskA3C:
    """Turn weights that Mask-A3C's authors published into an agent."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """One of the .dat files of the double mask; its name begins with the game's."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The directory for the agent: `foveate agent evaluate --agent DIR`."""


@dataclass(frozen=True)
class Doctor:
    """Tell what is installed, what is missing, and how to mend it."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = _command(words, debug)
        sys.stdout.flush()
    except RequestError as error:
        status = _fail(error, REFUSED, debug)
    except KeyboardInterrupt as error:
        status = _fail(str(error) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        status = FAILED
    except Exception as error:
        status = _fail(error, FAILED, debug)
    # What is left in the buffer of a broken pipe or a full disk would raise once more when the interpreter ends.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _command(words: list[str], debug: bool) -> int:
    if words[:1] in ([], ["-h"], ["--help"]):
        print(USAGE, end="")
        return DONE if words else REFUSED
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("foveate"))
        return DONE
    for name, run in COMMANDS.items():
        if words[: len(name)] == list(name):
            _quiet(debug)
            return run("foveate " + " ".join(name), words[len(name) :])
    known = [" ".join(name) for name in COMMANDS]
    same = [name for name in known if name.split()[0] == words[0]]
    raise RequestError(f"unknown command {' '.join(words[:2])!r}; there is {', '.join(same or known)}")


def _quiet(debug: bool) -> None:
    """Leave stderr to what a user must know: no advice of libraries, and on no terminal no bars."""
    teller = logging.StreamHandler()
    teller.setFormatter(logging.Formatter("foveate: %(message)s"))
    logging.getLogger("foveate").addHandler(teller)
    if not debug:
        warnings.simplefilter("ignore")
        for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):
            os.environ.setdefault(name, "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def _fail(error: BaseException | str, status: int, debug: bool = False) -> int:
    if debug:
        import traceback

        traceback.print_exc()
        return status
    if isinstance(error, OSError) and error.strerror:
        error = f"{error.strerror}: {error.filename}" if error.filename else f"cannot write: {error.strerror}"
    elif not isinstance(error, RequestError | str):
        error = f"{type(error).__name__}: {error} (a fault of foveate's own? --debug shows where)"
    print("foveate:", " ".join(str(error).split()), file=sys.stderr)
    return status


def _parse(settings: Any, program: str, words: list[str], **options: Any) -> Any:
    """Settings from arguments; what is wrong with them is told in one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(settings, prog=program, args=words, config=(tyro.conf.FlagCreatePairsOff,), **options)
    except SystemExit as error:
        if not error.code:
            raise
        lines = [line.strip("│╭╮╰╯─ ") for line in said.getvalue().splitlines()]
        what = " ".join(filter(None, lines[1:])) or f"see {program} --help"
        raise RequestError(what.replace(" For full helptext, run", "; see")) from None


def _explain(program: str, words: list[str]) -> int:
    from foveate.text.explain import Settings, explain

    outcome = explain(_parse(Settings, program, words))
    if not outcome.failed:
        return DONE
    return FAILED if outcome.explained else REFUSED


def _attack(program: str, words: list[str]) -> int:
    from foveate.text.attack import Settings, attack

    outcome = attack(_parse(Settings, program, words))
    if not outcome.failed:
        return DONE
    return FAILED if outcome.explained else REFUSED


def _preset(words: list[str], known: Collection[str]) -> tuple[str, list[str]]:
    """The preset, which changes the defaults that the other flags start from, so it is read before them; and those."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset", default="default")
    try:
        preset, words = first.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise RequestError(str(error)) from error
    if preset.preset not in ("default", *known):
        raise RequestError(f"unknown preset {preset.preset!r}; there is {', '.join(('default', *known))}")
    return preset.preset, words


def _train(program: str, words: list[str]) -> int:
    preset, words = _preset(words, ("paper",))
    from foveate.text.training import TrainingSettings, paper, train

    blank = TrainingSettings(model=tyro.MISSING, data=tyro.MISSING, run=tyro.MISSING)
    default = paper(blank) if preset == "paper" else blank
    directory = train(_parse(TrainingSettings, program, words, default=default))
    print(f"foveate: the agent is in {directory}; foveate explain --agent {directory} ...", file=sys.stderr)
    return DONE


def _benchmark(program: str, words: list[str]) -> int:
    from foveate.text.benchmark import Settings, benchmark

    settings = _parse(Settings, program, words)
    print(benchmark(settings).to_markdown())
    return DONE


def _transfer(program: str, words: list[str]) -> int:
    from foveate.text.transfer import Settings, transfer

    settings = _parse(Settings, program, words)
    print(transfer(settings).to_markdown(), end="")
    return DONE


def _ablate(program: str, words: list[str]) -> int:
    from foveate.text.ablate import Settings, ablate

    settings = _parse(Settings, program, words)
    print(ablate(settings).to_markdown(), end="")
    return DONE


def _report(program: str, words: list[str]) -> int:
    from foveate.text.report import Settings, report

    settings = _parse(Settings, program, words)
    print("\n".join(report(settings).sentences))
    print(f"foveate: the page is {settings.output / 'report.html'}", file=sys.stderr)
    return DONE


def _import(program: str, words: list[str]) -> int:
    settings = _parse(ImportAttExplainer, program, words)
    from foveate.text.agent import import_attexplainer

    import_attexplainer(settings.file).save_pretrained(settings.output)
    print(f"foveate: the agent is in {settings.output}", file=sys.stderr)
    return DONE


def _import_mask_a3c(program: str, words: list[str]) -> int:
    settings = _parse(ImportMaskA3C, program, words)
    from foveate.agents.agent import import_mask_a3c

    import_mask_a3c(settings.file).save_pretrained(settings.output)
    print(f"foveate: the agent is in {settings.output}", file=sys.stderr)
    return DONE


def _train_player(program: str, words: list[str]) -> int:
    from foveate.agents.games import EnvironmentSettings
    from foveate.agents.presets import PRESETS
    from foveate.agents.training import TrainSettings, train

    preset, words = _preset(words, PRESETS)
    start = {}
    if preset in PRESETS:
        blank = TrainSettings(run=tyro.MISSING, environment=EnvironmentSettings(env=tyro.MISSING))
        start["default"] = PRESETS[preset](blank)
    directory = train(_parse(TrainSettings, program, words, **start))
    print(f"foveate: the agent is in {directory}; foveate agent evaluate --agent {directory}", file=sys.stderr)
    return DONE


def _evaluate(program: str, words: list[str]) -> int:
    from foveate.agents.evaluation import EvaluationSettings, evaluate

    settings = _parse(EvaluationSettings, program, words)
    evaluation = evaluate(settings)
    print(evaluation.to_json() if settings.json else evaluation.to_text())
    return DONE


def _watch(program: str, words: list[str]) -> int:
    from foveate.agents.watch import WatchSettings, watch

    settings = _parse(WatchSettings, program, words)
    watched = watch(settings)
    ended = "the game ended" if watched.over else "the game went on"
    print(f"foveate: {watched.steps} steps, score {watched.score:g}, {ended}; {settings.video}", file=sys.stderr)
    return DONE


def _analyse(program: str, words: list[str]) -> int:
    from foveate.agents.analysis import ANALYSES, analysis

    if words[:1] in ([], ["-h"], ["--help"]):
        print(f"usage: {program} ANALYSIS --agent AGENT --output DIR ...\n")
        for name, asks in ANALYSES.items():
            print(f"  {name:16} {asks}")
        print(f"\n{program} ANALYSIS --help tells more.")
        return DONE if words else REFUSED
    module = analysis(words[0])
    settings = _parse(module.Settings, f"{program} {words[0]}", words[1:])
    findings = module.analyse(settings)
    for sentence in findings.sentences:
        print(sentence)
    print(f"foveate: {findings.write(settings.subject.output)}", file=sys.stderr)
    return DONE


def _report_player(program: str, words: list[str]) -> int:
    from foveate.agents.analysis.report import Settings, report

    settings = _parse(Settings, program, words)
    failed = False
    for part in report(settings):
        print(f"{part.name}, {part.outcome}: {part.told}", flush=True)
        failed |= part.outcome == "failed"
    print(f"foveate: {settings.subject.output / 'index.html'}", file=sys.stderr)
    return FAILED if failed else DONE


def _player_table(program: str, words: list[str]) -> int:
    from foveate.agents.table import TableSettings, table

    settings = _parse(TableSettings, program, words)
    scores = table(settings)
    print(scores.to_json() if settings.json else scores.to_markdown(), end="\n" if settings.json else "")
    print(f"foveate: {settings.output / 'table.md'}", file=sys.stderr)
    return DONE


def _doctor(program: str, words: list[str]) -> int:
    _parse(Doctor, program, words)
    from foveate.doctor import examine

    findings = examine()
    for finding in findings:
        mend = f"  ->  {finding.mend}" if finding.mend else ""
        print(f"{'ok ' if finding.sound else 'BAD'} {finding.name:20} {finding.state}{mend}")
    return DONE if all(finding.sound for finding in findings) else FAILED


COMMANDS: dict[tuple[str, ...], Callable[[str, list[str]], int]] = {
    ("explain",): _explain,
    ("attack",): _attack,
    ("text", "train"): _train,
    ("text", "benchmark"): _benchmark,
    ("text", "transfer"): _transfer,
    ("text", "ablate"): _ablate,
    ("text", "report"): _report,
    ("import", "attexplainer"): _import,
    ("import", "mask-a3c"): _import_mask_a3c,
    ("agent", "train"): _train_player,
    ("agent", "evaluate"): _evaluate,
    ("agent", "watch"): _watch,
    ("agent", "analyse"): _analyse,
    ("agent", "table"): _player_table,
    ("agent", "report"): _report_player,
    ("doctor",): _doctor,
}


if __name__ == "__main__":
    main()
