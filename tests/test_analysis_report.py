"""The report: every analysis that fits, on one page; what is there is kept, and what fails stops nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("minatar", reason="needs the extra `agents`")

from test_agents_trace import agent_of

from foveate.agents import analysis as registry
from foveate.agents.analysis.conditions import Play
from foveate.agents.analysis.findings import Findings, Section, page, read_section, section
from foveate.agents.analysis.report import Part, Settings, report
from foveate.agents.analysis.subject import Recording, Subject
from foveate.cli import main
from foveate.errors import RequestError


@dataclass(frozen=True)
class Reads:
    """An analysis that reads a trace."""

    subject: Subject
    recording: Recording
    extra: int = 7


@dataclass(frozen=True)
class Plays:
    """An analysis that plays games."""

    subject: Subject
    play: Play


def answer(name: str, said: str) -> Findings:
    return Findings(name, f"Title <{name}>", "why?", {"seed": 0}, [said], {"x": 1.0})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Reads | Plays]:
    """What four analyses were asked: one reads, one plays, one does not fit, one fails."""
    calls: list[Reads | Plays] = []

    def refuses(settings: Reads) -> Findings:
        raise RequestError("this agent has no queries")

    def fails(settings: Reads) -> Findings:
        calls.append(settings)
        raise ZeroDivisionError("of\nnothing")

    def add(name: str, kind: type, analyse: Callable[..., Findings]) -> None:
        module = ModuleType(name)
        module.Settings = kind  # type: ignore[attr-defined]
        module.analyse = analyse  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"{registry.__name__}.{name.replace('-', '_')}", module)

    def reads(settings: Reads) -> Findings:
        calls.append(settings)
        return answer("reads-it", f"{settings.recording.open(settings.subject, settings.subject.open()).steps} & steps")

    def plays(settings: Plays) -> Findings:
        calls.append(settings)
        return answer("plays", f"{settings.play.episodes} games")

    add("reads-it", Reads, reads)
    add("refuses", Reads, refuses)
    add("fails", Reads, fails)
    add("plays", Plays, plays)
    monkeypatch.setattr(registry, "ANALYSES", {})
    for name in ("reads-it", "refuses", "fails", "plays"):
        registry.ANALYSES[name] = "?"
    monkeypatch.setattr("foveate.agents.analysis.report.ANALYSES", registry.ANALYSES)
    return calls


def settings_of(tmp_path: Path) -> Settings:
    if not (tmp_path / "agent").exists():
        agent_of("MinAtar/Breakout-v1").save_pretrained(tmp_path / "agent")
    return Settings(Subject(str(tmp_path / "agent"), tmp_path / "out"), Recording(steps=9), episodes=2)


def outcomes(parts: list[Part]) -> dict[str, tuple[str, str]]:
    return {part.name: (part.outcome, part.told) for part in parts}


def test_all_that_fit_are_on_one_page(tmp_path: Path, asked: list[Reads | Plays]) -> None:
    found = outcomes(list(report(settings_of(tmp_path))))
    assert found == {
        "reads-it": ("done", "9 & steps"),
        "refuses": ("does not fit", "this agent has no queries"),
        "fails": ("failed", "ZeroDivisionError: of nothing"),
        "plays": ("done", "2 games"),
    }
    text = (tmp_path / "out" / "index.html").read_text()
    for words in ("9 &amp; steps", "this agent has no queries", "of nothing", "2 games", "Title &lt;plays&gt;"):
        assert words in text
    assert text.count("<section") == 2 and (tmp_path / "out" / "reads-it" / "numbers.json").exists()
    reading, playing = asked[0], asked[-1]
    assert isinstance(reading, Reads) and reading.recording.trace == tmp_path / "out" / "trace" and reading.extra == 7
    assert isinstance(playing, Plays) and (playing.play.episodes, playing.play.max_steps) == (2, 1000)
    assert playing.subject.output == tmp_path / "out" / "plays"


def test_what_is_done_is_kept_and_the_rest_is_done(tmp_path: Path, asked: list[Reads | Plays]) -> None:
    settings = settings_of(tmp_path)
    list(report(settings))
    recorded = (tmp_path / "out" / "trace" / "trace.json").stat().st_mtime_ns
    page_before = (tmp_path / "out" / "index.html").read_text()
    asked.clear()
    again = outcomes(list(report(settings)))
    assert again["reads-it"] == ("kept", "9 & steps") and again["plays"] == ("kept", "2 games")
    assert again["fails"][0] == "failed" and len(asked) == 1
    assert (tmp_path / "out" / "trace" / "trace.json").stat().st_mtime_ns == recorded
    assert (tmp_path / "out" / "index.html").read_text() == page_before

    asked.clear()
    (tmp_path / "out" / "plays" / "games.json").write_text("begun")
    more = outcomes(list(report(replace(settings, episodes=3))))
    assert more["reads-it"][0] == "kept" and more["plays"] == ("done", "3 games")
    assert not (tmp_path / "out" / "plays" / "games.json").exists()

    asked.clear()
    longer = outcomes(list(report(replace(settings, recording=Recording(steps=11)))))
    assert longer["reads-it"] == ("done", "11 & steps") and longer["plays"][0] == "done"


def test_a_part_that_was_broken_off_goes_on(tmp_path: Path, asked: list[Reads | Plays]) -> None:
    settings = settings_of(tmp_path)
    list(report(settings))
    place = tmp_path / "out" / "plays"
    (place / "numbers.json").unlink()
    (place / "games.json").write_text("of the same settings")
    assert outcomes(list(report(settings)))["plays"] == ("done", "2 games")
    assert (place / "games.json").exists()


def test_the_command_says_what_became_of_each(
    tmp_path: Path, asked: list[Reads | Plays], capsys: pytest.CaptureFixture[str]
) -> None:
    settings_of(tmp_path)
    words = ["--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out"), "--steps", "5"]
    with pytest.raises(SystemExit) as ended:
        main(["agent", "report", *words])
    said = capsys.readouterr()
    assert ended.value.code == 1  # one failed
    assert "refuses, does not fit: this agent has no queries" in said.out and "index.html" in said.err
    del registry.ANALYSES["fails"]
    with pytest.raises(SystemExit) as ended:
        main(["agent", "report", *words])
    assert ended.value.code == 0


def test_a_section_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = answer("name", "5 < 6 & so on")
    found = read_section(written.write(tmp_path))
    assert found == section(written)
    assert "<h2>Title &lt;name&gt;</h2>" in page("All", [found, Section("b", "B", "<p>b</p>")])
    (tmp_path / "index.html").write_text("something else")
    with pytest.raises(ValueError, match="substring"):
        read_section(tmp_path / "index.html")


def test_every_analysis_has_the_fields_that_the_report_fills() -> None:
    from dataclasses import MISSING, fields

    for name in registry.ANALYSES:
        known = {"subject", "recording", "play"}
        for f in fields(registry.analysis(name).Settings):
            assert f.name in known or f.default is not MISSING or f.default_factory is not MISSING, (name, f.name)
