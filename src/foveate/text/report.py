"""Report: explainer and attacker side by side on the same sentences (AttExplainer, section 4.3, Table 5, Figure 5)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from foveate.bootstrap import Interval, bootstrap_means
from foveate.errors import RequestError
from foveate.run import Run, write_atomically
from foveate.text.attack_result import AttackResult
from foveate.text.attacker import Attacker
from foveate.text.classifier import TextClassifier
from foveate.text.corpus import AttackRows, ExplainRows, Item, Worker, resume, work
from foveate.text.encoded import Text
from foveate.text.explainer import Explainer
from foveate.text.explanation import Explanation
from foveate.text.explanation_files import open_writer
from foveate.text.inputs import Columns, Row, read_labelled
from foveate.text.tagging import CONTENT, Tagger, nltk_tagger
from foveate.viz.marks import pieces, visible


@dataclass(frozen=True)
class Settings:
    """Put an explainer and an attacker side by side on the same texts.

    A text whose label is known and that the classifier got wrong is explained, but not attacked, and in no figure of
    the overlap. A text that begins with a dash goes after `--`.
    """

    output: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The directory for report.html, report.md, report.json and the pictures."""
    texts: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[TEXT ...]")] = ()
    """The texts."""
    pair: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """The second text, for a classifier of pairs."""
    input: Annotated[str | None, tyro.conf.arg(metavar="FILE|-|ID")] = None
    """Texts, and labels if it has them: a .jsonl, .csv or .tsv file (also .gz), standard input, or a hub data set."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The first so many texts of the input."""
    text_columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """The column of the text, or the two of a pair; found by their usual names if not given."""
    label_column: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The column of the true label; found by its usual names if not given."""
    model: Annotated[str, tyro.conf.arg(metavar="ID|DIR")] = "emotion"
    """The classifier; if not given, the one in the package."""
    explainer: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR")] = None
    """The agent that explains; if not given, the classifier's own, or else the general one."""
    attacker: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR")] = None
    """The agent that attacks, likewise."""
    threshold: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """The drop in probability that counts as explained; if not given, what the explainer learned to reach."""
    tagger: Literal["none", "nltk"] = "none"
    """What tells parts of speech (English); none: they are left out."""
    resources: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the tagger's data is; if not given, where NLTK looks (NLTK_DATA)."""
    shown: Annotated[int, tyro.conf.arg(metavar="N")] = 50
    """Texts on the page; the figures are of all."""
    plots: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Texts whose attack and explanation are drawn step by step."""
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """CPU threads; 0 for torch's own choice."""
    resume: bool = False
    """Go on where an interrupted report into the same directory stopped."""


FREE = ("output", "tagger", "resources", "shown", "plots", "threads", "resume")
"""Settings that may change when a report is resumed: none of them is of what is found."""


@dataclass(frozen=True)
class Case:
    """One text, explained and attacked."""

    explanation: Explanation
    attack: AttackResult
    jaccard: float | None
    """Tokens that both found over tokens that either found; None where one of them did not reach its end."""
    by_chance: float | None
    """What it would be on average of random sets of the same sizes."""
    shared: float | None
    """The share of the attacker's tokens that are the explainer's too."""
    tags: Mapping[str, Mapping[str, int]]
    """Words by part of speech, of the `explainer`, of the `attacker`, and `all`; empty without a tagger."""

    @property
    def compared(self) -> bool:
        return self.jaccard is not None


@dataclass(frozen=True)
class Failure:
    """A text that can be neither explained nor attacked."""

    text: Text
    reason: str

    @property
    def parts(self) -> tuple[str, ...]:
        """The text, or the two of a pair."""
        return (self.text,) if isinstance(self.text, str) else self.text


@dataclass(frozen=True)
class Report:
    """Cases, and what they come to."""

    model: str
    cases: tuple[Case, ...]
    means: Mapping[str, Interval]
    """Over the texts that both solved: `jaccard`, `by_chance`, their `difference`, `shared`, and the tokens that each
    found, `explainer` and `attacker`."""
    tags: Mapping[str, Mapping[str, int]]
    """Words of those texts by part of speech, as of a case."""
    failures: tuple[Failure, ...] = ()
    """The texts that are no cases."""

    @property
    def compared(self) -> int:
        return sum(case.compared for case in self.cases)

    @property
    def sentences(self) -> list[str]:
        """What the figures say, a sentence each."""
        wrong = sum(case.attack.skipped for case in self.cases)
        explained = sum(case.explanation.solved for case in self.cases)
        attacked = sum(case.attack.solved for case in self.cases)
        said = [
            f"{len(self.cases)} texts: {explained} explained, {attacked} attacked with success"
            + (f", {wrong} not attacked as the classifier gets them wrong" if wrong else "")
            + (f"; {len(self.failures)} more cannot be worked on." if self.failures else ".")
        ]
        if not self.means:
            return [*said, "No text was both explained and attacked with success, so nothing is compared."]
        m = self.means
        verdict = {1: "more than chance", -1: "less than chance", 0: "not told apart from chance"}
        said += [
            f"On the {self.compared} texts that both solved, the explainer masks {_shown(m['explainer'], 2)} tokens, "
            f"the attacker {_shown(m['attacker'], 2)}.",
            f"Their overlap (Jaccard) is {_shown(m['jaccard'])}; of random sets of the same sizes it would be "
            f"{_shown(m['by_chance'])}; the difference is {_shown(m['difference'], signed=True)}, "
            f"{verdict[m['difference'].sign]}.",
            f"Of the attacker's tokens, {_shown(m['shared'])} are the explainer's too.",
            "Brackets: 95% bootstrap intervals over texts.",
        ]
        return said

    @property
    def tag_rows(self) -> list[tuple[str, list[str]]]:
        """Parts of speech with counts and shares of the explainer's words, the attacker's, and all words."""
        sums = {who: max(1, sum(counts.values())) for who, counts in self.tags.items()}
        names = sorted(self.tags.get("all", {}), key=lambda name: -self.tags["all"][name])
        rows = [
            (name, [f"{c.get(name, 0)} ({c.get(name, 0) / sums[w]:.0%})" for w, c in self.tags.items()])
            for name in names
        ]
        content = [sum(counts.get(name, 0) for name in CONTENT) for counts in self.tags.values()]
        total = [f"{n} ({n / sums[who]:.0%})" for n, who in zip(content, self.tags, strict=True)]
        return [*rows, ("content words: " + ", ".join(CONTENT), total)] if rows else []

    def to_dict(self) -> dict[str, Any]:
        cases = [
            {
                **{name: getattr(case, name) for name in ("jaccard", "by_chance", "shared", "tags")},
                "explanation": case.explanation.to_dict(),
                "attack": case.attack.to_dict(),
            }
            for case in self.cases
        ]
        means = {name: asdict(interval) for name, interval in self.means.items()}
        return {
            "model": self.model,
            "texts": len(cases),
            "compared": self.compared,
            "means": means,
            "tags": self.tags,
            "cases": cases,
            "failures": [asdict(failure) for failure in self.failures],
        }

    def to_markdown(self, shown: int, pictures: Sequence[str] = ()) -> str:
        """The same as the page; bold tokens are the explainer's, struck ones the attacker's."""
        parts = [f"# Explainer and attacker: {Path(self.model).name}", "\n".join(f"- {s}" for s in self.sentences)]
        if self.tag_rows:
            lines = ["| part of speech | explainer | attacker | all words |", "|---|---|---|---|"]
            lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in self.tag_rows]
            parts += ["## Words by part of speech, texts that both solved", "\n".join(lines)]
        else:
            parts.append("Parts of speech are left out, as no tagger was named (`--tagger nltk`).")
        header = "| text | true | predicted | attacked | Δp | overlap |"
        lines = [header, "|---|---|---|---|---|---|"]
        for case in self.cases[:shown]:
            a = case.attack
            cells = (
                " ⁄ ".join(_marked_text(case, segment) for segment in range(1 if a.pair is None else 2)),
                a.truth or "",
                a.label,
                attacked(case),
                "" if a.skipped else f"{a.delta_p:.3f}",
                overlap(case),
            )
            lines.append("| " + " | ".join(cells) + " |")
        for failure in self.failures[:shown]:
            text = " ⁄ ".join(_escaped(visible(part)) for part in failure.parts)
            lines.append(f"| {text} | | | {_escaped(failure.reason)} | | |")
        parts += [
            "## Texts",
            "<b>Bold</b>: found by the explainer; <s>struck</s>: masked by the attacker.",
            "\n".join(lines),
        ]
        if len(self.cases) > shown:
            parts.append(f"{len(self.cases) - shown} more texts are in report.json.")
        parts += [f"![{picture}]({picture})" for picture in pictures]
        return "\n\n".join(parts) + "\n"


def report(settings: Settings) -> Report:
    """Explain and attack the texts, and write report.html, report.md, report.json and the pictures.

    What is found is kept as it comes in explanations.jsonl and attacks.jsonl, from which an interrupted report goes
    on. A text that cannot be worked on is in it with the reason. Raises RequestError where the request is wrong, or no
    text can be worked on.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    tagger = nltk_tagger(settings.resources) if settings.tagger == "nltk" else None
    labelled = _read(settings)
    classifier = TextClassifier.from_pretrained(settings.model)
    explainer = Explainer(classifier, agent=settings.explainer, threshold=settings.threshold)
    attacker = Attacker(classifier, agent=settings.attacker)
    Run(settings.output, settings, resume=settings.resume, free=FREE).begin()
    rows = [Row(number, text, label) for number, (text, label) in enumerate(labelled, 1)]
    explanations: list[Explanation] = []
    attacks: list[AttackResult] = []
    failures: list[Failure] = []
    try:
        workers: dict[str, Worker] = {
            "explanations.jsonl": ExplainRows(explainer),
            "attacks.jsonl": AttackRows(attacker),
        }
        both = [_found(settings.output / name, worker, rows, settings.resume) for name, worker in workers.items()]
    except KeyboardInterrupt:
        kept = f"interrupted; what was found is in {settings.output}, add --resume to go on from there"
        raise KeyboardInterrupt(kept) from None
    for row, e, a in zip(rows, *both, strict=True):
        if isinstance(e, Explanation) and isinstance(a, AttackResult):
            explanations.append(e)
            attacks.append(a)
        else:
            failures.append(Failure(row.text, str(e if isinstance(e, RequestError) else a)))
    if not explanations:
        raise RequestError(f"none of the texts can be worked on; the first: {failures[0].reason}")
    result = replace(compare(settings.model, explanations, attacks, tagger), failures=tuple(failures))
    pictures = _draw(result, settings)
    from foveate.viz.report import page

    text = json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n"
    write_atomically(settings.output / "report.json", text)
    write_atomically(settings.output / "report.md", result.to_markdown(settings.shown, [p.name for p in pictures]))
    write_atomically(settings.output / "report.html", page(result, settings.shown, pictures))
    return result


def _found(path: Path, worker: Worker, rows: Sequence[Row], resumed: bool) -> list[Explanation | RequestError]:
    """What came of each row, kept at `path` as it is found; what is there already is not done again if `resumed`."""
    done: Iterator[Explanation] = iter(())
    left: Iterator[Item] = iter(rows)
    if resumed and path.exists():
        done, left = resume(path, worker, left)
    earlier: list[Explanation] = []
    found: dict[int, Explanation | RequestError] = {}
    with open_writer(path) as writer:
        writer.go_on(done, earlier.append)
        for results in work(worker, left):
            writer.write(result for _, result in results if isinstance(result, Explanation))
            found |= results
    # What was done before is all that was not done now, in the same order.
    before = (replace(explanation, explainer=worker.explainer) for explanation in earlier)
    return [found[row.number] if row.number in found else next(before) for row in rows]


def _read(settings: Settings) -> list[tuple[Text, str | int | None]]:
    if bool(settings.texts) == bool(settings.input):
        raise RequestError("name texts, or a file of them with --input, and not both")
    if settings.input:
        if settings.pair is not None:
            raise RequestError("--pair goes with one text, not with --input")
        columns = Columns(settings.text_columns, settings.label_column)
        return read_labelled(settings.input, columns, settings.limit)
    if settings.pair is None:
        return [(text, None) for text in settings.texts]
    if len(settings.texts) > 1:
        raise RequestError(f"--pair goes with one text, not with {len(settings.texts)}; give many with --input")
    return [((settings.texts[0], settings.pair), None)]


def compare(
    model: str, explanations: Sequence[Explanation], attacks: Sequence[AttackResult], tagger: Tagger | None = None
) -> Report:
    """Set explanations and attacks of the same texts side by side."""
    cases = tuple(_case(e, a, tagger) for e, a in zip(explanations, attacks, strict=True))
    both = [case for case in cases if case.compared]
    columns = {
        "jaccard": [case.jaccard or 0.0 for case in both],
        "by_chance": [case.by_chance or 0.0 for case in both],
        "difference": [(case.jaccard or 0.0) - (case.by_chance or 0.0) for case in both],
        "shared": [case.shared or 0.0 for case in both],
        "explainer": [float(len(case.explanation.masked)) for case in both],
        "attacker": [float(len(case.attack.masked)) for case in both],
    }
    means: dict[str, Interval] = {}
    if both:
        values = torch.tensor(list(columns.values()), dtype=torch.float64).T
        means = dict(zip(columns, bootstrap_means(values, torch.Generator().manual_seed(0)), strict=True))
    sums: dict[str, Counter[str]] = {}
    for case in both:
        for who, counts in case.tags.items():
            sums.setdefault(who, Counter()).update(counts)
    return Report(model, cases, means, sums)


def _case(e: Explanation, a: AttackResult, tagger: Tagger | None) -> Case:
    tags = {} if tagger is None else _tags(e, {"explainer": e.masked, "attacker": a.masked}, tagger)
    if not e.solved or not a.solved:
        return Case(e, a, None, None, None, tags)
    mine, theirs = set(e.masked), set(a.masked)
    words = sum(not token.special for token in e.tokens)
    return Case(
        explanation=e,
        attack=a,
        jaccard=len(mine & theirs) / len(mine | theirs),
        by_chance=chance_overlap(words, len(mine), len(theirs)),
        shared=len(mine & theirs) / len(theirs),
        tags=tags,
    )


def chance_overlap(tokens: int, first: int, second: int) -> float:
    """The expected Jaccard index of two random sets of those sizes among so many tokens.

    What they share is hypergeometric, so the mean is a sum. One of the sets must not be empty.
    """
    ways = math.comb(tokens, second)
    least, most = max(0, first + second - tokens), min(first, second)
    return sum(
        math.comb(first, k) * math.comb(tokens - first, second - k) / ways * k / (first + second - k)
        for k in range(least, most + 1)
    )


def _tags(e: Explanation, sets: Mapping[str, Sequence[int]], tagger: Tagger) -> dict[str, dict[str, int]]:
    """Words by part of speech: those that a set's tokens touch, and all. A word counts once, however many tokens."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*sets, "all")}
    for segment, text in enumerate([e.text] if e.pair is None else [e.text, e.pair]):
        for start, end, tag in tagger(text):
            counts["all"][tag] += 1
            for name, chosen in sets.items():
                tokens = [e.tokens[i] for i in chosen]
                if any(t.segment == segment and t.start < end and t.end > start for t in tokens):
                    counts[name][tag] += 1
    return {name: dict(found) for name, found in counts.items()}


def _draw(result: Report, settings: Settings) -> list[Path]:
    """Figure 5 of the first texts: the attack's steps, and the explanation's."""
    pictures = []
    for number, case in enumerate(result.cases[: settings.plots], 1):
        for what, found in (("attack", case.attack), ("explanation", case.explanation)):
            if found.path:
                place = settings.output / f"steps-{number}-{what}.png"
                found.plot().savefig(place, dpi=80)
                pictures.append(place)
    return pictures


def attacked(case: Case) -> str:
    """What became of the attack, in a word or two."""
    if case.attack.skipped:
        return "not attacked: wrong at first"
    return case.attack.final_label if case.attack.solved else "attack failed"


def overlap(case: Case) -> str:
    if case.jaccard is None:
        return ""
    both = len(set(case.explanation.masked) & set(case.attack.masked))
    either = len(set(case.explanation.masked) | set(case.attack.masked))
    return f"{case.jaccard:.2f} ({both} of {either})"


def _marked_text(case: Case, segment: int) -> str:
    """A text with the explainer's tokens in bold and the attacker's struck, for Markdown.

    In HTML's tags, since Markdown's own marks cannot stand between the parts of a word.
    """
    explained, struck = set(case.explanation.masked), set(case.attack.masked)
    parts = []
    for piece in pieces(case.explanation)[segment]:
        word = _escaped(visible(piece.text))
        if not struck.isdisjoint(piece.tokens):
            word = f"<s>{word}</s>"
        parts.append(word if explained.isdisjoint(piece.tokens) else f"<b>{word}</b>")
    return "".join(parts)


def _escaped(text: str) -> str:
    plain = " ".join(text.splitlines()) if "\n" in text else text
    return escape("".join("\\" + c if c in "\\`*_[]|~#" else c for c in plain), quote=False)


def _shown(interval: Interval, digits: int = 3, signed: bool = False) -> str:
    mean, low, high = (f"{x:{'+' if signed else ''}.{digits}f}" for x in asdict(interval).values())
    return f"{mean} [{low}, {high}]"
