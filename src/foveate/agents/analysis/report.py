"""`foveate agent report`: every analysis that fits an agent, on one page."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis import ANALYSES, analysis
from foveate.agents.analysis.conditions import Play
from foveate.agents.analysis.findings import Section, page, read_section
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.trace import Trace
from foveate.errors import RequestError
from foveate.run import write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Put a playing agent through every analysis that fits it, on one page.

    What OUTPUT holds already, of the same agent and settings, is not done again.
    """

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    recording: Annotated[Recording, tyro.conf.arg(name="")]
    episodes: int = 5
    """Games of each condition, for the analyses that play whole ones; in earnest there should be 20 or more."""
    max_steps: int | None = 1_000
    """Agent steps after which those games are cut off, their scores so far counted."""


@dataclass(frozen=True)
class Part:
    """What became of one analysis."""

    name: str
    outcome: Literal["done", "kept", "does not fit", "failed"]
    """`kept`: it was done before."""
    told: str
    """Its answer; or why there is none."""
    section: Section | None = None


def report(settings: Settings) -> Iterator[Part]:
    """The analyses one after another; the page OUTPUT/index.html is written after each, their own in OUTPUT/NAME/.

    One that fails, or does not fit the agent, does not stop the others. Raises RequestError where the agent cannot be
    loaded, play cannot be recorded, or nothing can be written.
    """
    agent = settings.subject.open()
    trace = _trace(settings, agent)
    parts: list[Part] = []
    for name in ANALYSES:
        part = _part(name, settings, agent, trace)
        parts.append(part)
        _write(settings.subject, agent, parts)
        yield part


def _trace(settings: Settings, agent: PlayingAgent) -> Path:
    """Recorded once, for all."""
    if settings.recording.trace is not None:
        settings.recording.open(settings.subject, agent)  # is it this agent's?
        return settings.recording.trace
    place = settings.subject.output / "trace"
    wanted = _about(settings.subject, agent) | {"steps": settings.recording.steps}
    if _same(place, wanted):
        try:
            return Trace(place).directory
        except RequestError:
            log.info("%s is recorded anew", place)
    settings.recording.open(settings.subject, agent)
    write_atomically(place / "settings.json", json.dumps(wanted) + "\n")
    return place


def _part(name: str, settings: Settings, agent: PlayingAgent, trace: Path) -> Part:
    place = settings.subject.output / name
    shared = {
        "subject": replace(settings.subject, output=place),
        "recording": Recording(trace=trace),
        "play": Play(episodes=settings.episodes, max_steps=settings.max_steps, parallel=settings.episodes, resume=True),
    }
    try:
        module = analysis(name)
        given = {f.name: shared[f.name] for f in fields(module.Settings) if f.name in shared}
        asked = module.Settings(**given)
        wanted = _about(settings.subject, agent) | {
            "recorded": Trace(trace).about if "recording" in given else None,
            "settings": json.loads(json.dumps({k: v for k, v in asdict(asked).items() if k != "subject"}, default=str)),
        }
        if _same(place, wanted) and (kept := _kept(place)) is not None:
            return Part(name, "kept", *kept)
        if not _same(place, wanted):
            # What is there is of another agent or of other settings: games that were begun must not be gone on with.
            for old in ("numbers.json", "index.html", "games.json"):
                (place / old).unlink(missing_ok=True)
            place.mkdir(parents=True, exist_ok=True)
            write_atomically(place / "settings.json", json.dumps(wanted) + "\n")
        module.analyse(asked).write(place)
        done = _kept(place)
        assert done is not None
        return Part(name, "done", *done)
    except RequestError as error:
        return Part(name, "does not fit", str(error))
    except OSError as error:
        raise RequestError(f"cannot write to {place}: {error.strerror or error}") from error
    except Exception as error:
        log.debug("%s failed", name, exc_info=True)
        return Part(name, "failed", " ".join(f"{type(error).__name__}: {error}".split()))


def _about(subject: Subject, agent: PlayingAgent) -> dict[str, Any]:
    """What changes every number."""
    about = {"fingerprint": agent.fingerprint(), "game": asdict(subject.environment(agent))}
    return json.loads(json.dumps(subject.protocol(agent) | about))


def _same(place: Path, wanted: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((place / "settings.json").read_text(encoding="utf-8")) == wanted)
    except (OSError, ValueError):
        return False


def _kept(place: Path) -> tuple[str, Section] | None:
    """The answer and the section that an analysis wrote; None where it did not come to its end."""
    try:
        answer = str(json.loads((place / "numbers.json").read_text(encoding="utf-8"))["findings"][0])
        return answer, read_section(place / "index.html")
    except (OSError, ValueError, LookupError):
        return None


def _write(subject: Subject, agent: PlayingAgent, parts: Sequence[Part]) -> None:
    sections = [part.section for part in parts if part.section is not None]
    lines = [
        f'<li><a href="#{escape(part.name)}">{escape(part.section.title)}</a>: {escape(part.told)}</li>'
        if part.section is not None
        else f"<li>{escape(part.name)} {part.outcome}: {escape(part.told)}</li>"
        for part in parts
    ]
    trained = f", {agent.steps:,} steps of training" if agent.steps else ""
    lead = (
        f'<p class="question">{escape(agent.model)} in {escape(subject.environment(agent).env)}{trained}. The answers, '
        f"each with its controls below:</p>\n<ul>{''.join(lines)}</ul>\n"
    )
    try:
        write_atomically(subject.output / "index.html", page(f"Report on {subject.agent}", sections, lead))
    except OSError as error:
        raise RequestError(f"cannot write to {subject.output}: {error.strerror or error}") from error
