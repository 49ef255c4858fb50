"""What `explain` and `attack` share: texts, wherever they are, to results, wherever they are wanted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from foveate.errors import RequestError

if TYPE_CHECKING:
    from foveate.text.corpus import Item, Worker
    from foveate.text.explanation import Explanation


@dataclass(frozen=True)
class Settings:
    """Which texts, which classifier, which method, and where the results go."""

    texts: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[TEXT ...]")] = ()
    """The texts."""
    pair: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """The second text, for a classifier of pairs."""
    input: Annotated[str | None, tyro.conf.arg(metavar="FILE|-|ID")] = None
    """Texts from a .jsonl, .csv or .tsv file (also .gz), from standard input, or a data set of the hub
    (ID, ID:SPLIT or ID:CONFIG:SPLIT)."""
    text_columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """The column of the text, or the two of a pair; found by their usual names if not given."""
    model: Annotated[str | None, tyro.conf.arg(metavar="ID|DIR")] = None
    """The classifier; if not given, the small emotion classifier that comes with foveate."""
    method: Annotated[str, tyro.conf.arg(metavar="NAME")] = "agent"
    """How the tokens are found; an unknown name lists all."""
    agent: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR")] = None
    """The agent; if not given, the classifier's own, or else the general one."""
    max_steps: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    """Steps after which the search for a text's tokens ends."""
    replacement: Annotated[
        Literal["mask", "pad", "unk", "delete"] | None, tyro.conf.arg(metavar="mask|pad|unk|delete")
    ] = None
    """What a masked token is replaced by; if not given, the classifier's mask token, or nothing if it has none."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 32
    """Rows that go through the classifier at once."""
    verify: bool = False
    """Check that every token found is needed."""
    json: bool = False
    """Print one JSON object a text on standard output, and nothing else."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write to a .jsonl, .parquet or .html file."""
    resume: bool = False
    """Go on where an interrupted run stopped that wrote to the same --output."""

    def options(self) -> dict[str, Any]:
        """What `Explainer.from_pretrained` and `Attacker.from_pretrained` take alike."""
        names = ("model", "method", "agent", "max_steps", "replacement", "batch_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Outcome:
    """How many texts were worked on, and how many could not be."""

    explained: int
    failed: int


def stream(settings: Settings, worker: Callable[[], Worker], *, label_column: str | None = None) -> Outcome:
    """Put the texts that are asked for to what `worker` makes, and print or write the results as they are found.

    Each failure is a line on stderr. Raises RequestError where the request is wrong as a whole, and KeyboardInterrupt,
    with a line that says how to go on, when interrupted: what was finished by then is in the output.
    """
    check(settings)
    rows = read(settings, label_column)
    first = next(rows)  # What cannot be read is said before torch and the classifier are loaded, which takes seconds.

    from tqdm import tqdm

    from foveate.text.corpus import resume, work
    from foveate.text.explanation_files import open_writer

    working = worker()
    rows = chain([first], rows)
    done: Iterator[Explanation] = iter(())
    if settings.resume and settings.output and settings.output.exists():
        done, rows = resume(settings.output, working, rows)

    show = printer(settings)
    explained = failed = 0

    def say(number: int, what: object) -> None:
        tqdm.write(f"foveate: {place(settings, number)}{what}", file=sys.stderr)

    with ExitStack() as stack:
        writer = stack.enter_context(open_writer(settings.output)) if settings.output else None
        # A bar among explanations on the same screen would only tear them apart.
        hidden = True if sys.stdout.isatty() and (settings.json or not writer) else None
        bar = stack.enter_context(tqdm(unit=" texts", disable=hidden, file=sys.stderr))
        if writer:
            writer.go_on(done, lambda _: bar.update())
            explained = writer.count
        try:
            for results in work(working, rows):
                for number, result in results:
                    if isinstance(result, RequestError):
                        failed += 1
                        say(number, result)
                        continue
                    if result.truncated:
                        say(number, "the text is longer than the classifier reads; its end was not looked at")
                    if writer:
                        writer.write([result])
                    explained += 1
                    show(result)
                sys.stdout.flush()
                bar.update(len(results))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(interrupted(settings, explained)) from None
    if settings.output:
        print(f"foveate: {explained} {working.done}, {failed} failed; written to {settings.output}", file=sys.stderr)
    return Outcome(explained, failed)


def check(settings: Settings) -> None:
    """Raises RequestError where settings contradict each other."""
    if settings.texts and settings.input:
        raise RequestError("texts come either from the command line or from --input; leave one of them out")
    if not settings.texts and not settings.input:
        raise RequestError(
            'there is nothing to explain or attack; give a text, foveate explain "so it goes", or --input FILE'
        )
    if settings.pair is not None and len(settings.texts) != 1:
        raise RequestError("--pair goes with one text; for many pairs, use --input with a column for each half")
    if settings.resume and not settings.output:
        raise RequestError("--resume goes on with an output; name it with --output")
    ending = settings.output.suffix.lower() if settings.output else ".jsonl"
    if ending not in (".jsonl", ".parquet", ".html", ".htm"):
        raise RequestError(f"cannot write {settings.output}: its name must end in .jsonl, .parquet or .html")
    if settings.resume and ending not in (".jsonl", ".parquet"):
        raise RequestError("--resume reads what was written before; that takes a .jsonl or .parquet file")


def read(settings: Settings, label_column: str | None) -> Iterator[Item]:
    """The texts of the command line or of the input."""
    from foveate.text.inputs import Columns, Row, read_rows

    if settings.input:
        return read_rows(settings.input, Columns(settings.text_columns, label_column))
    if settings.pair is not None:
        return iter([Row(1, (settings.texts[0], settings.pair))])
    return (Row(number, text) for number, text in enumerate(settings.texts, 1))


def printer(settings: Settings) -> Callable[[Explanation], None]:
    """What shows an explanation on standard output."""
    if settings.json:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # as JSON is, whatever the locale
        return lambda explanation: print(explanation.to_json())
    if settings.output:
        return lambda explanation: None
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty()).print


def place(settings: Settings, number: int) -> str:
    """Where a text stands, unless it is the only one."""
    if settings.input:
        return f"{'standard input' if settings.input == '-' else settings.input}, line {number}: "
    return f"text {number}: " if len(settings.texts) > 1 else ""


def interrupted(settings: Settings, explained: int) -> str:
    """What there is after Ctrl-C, and how to go on."""
    if not settings.output or not explained:
        return "interrupted"
    if settings.output.suffix.lower().startswith(".htm"):
        return f"interrupted; {explained} explanations are in {settings.output}"
    return f"interrupted; {explained} explanations are in {settings.output}, add --resume to go on from there"
