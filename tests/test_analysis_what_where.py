"""Equations 8 to 11 on numbers made by hand, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("minatar", reason="needs the extra `agents`")

from test_agents_trace import agent_of

from foveate.agents.analysis.what_where import LIMIT, centred, dominance, parts, relative, share_of_what
from foveate.agents.trace import record
from foveate.cli import main


def run(words: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


def grids(*rows: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(row).view(1, 1, 1, -1) for row in rows]


def test_equations_10_and_11() -> None:
    what, where, maps = grids([3.0, 0.0, 1.0, 0.5], [0.0, 5.0, 1.0, 0.0], [0.4, 0.3, 0.2, 0.1])
    assert torch.allclose(dominance(what, where).flatten(), torch.tensor([LIMIT, -LIMIT, 0.0, 0.5]))
    assert math.exp(LIMIT) == pytest.approx(10)
    wanted = torch.tensor([0.4 * LIMIT, -0.3 * LIMIT, 0, 0.05])
    assert torch.allclose(relative(what, where, maps).flatten(), wanted)
    assert float(share_of_what(what, where, maps)) == pytest.approx(0.5 + float(wanted.sum()) / (2 * LIMIT))


def test_the_share_is_between_all_what_and_all_where() -> None:
    maps = torch.rand(5, 2, 3, 4).flatten(2).softmax(2).unflatten(2, (3, 4))
    nothing, much = torch.zeros_like(maps), torch.full_like(maps, 9.0)
    assert torch.allclose(share_of_what(much, nothing, maps), torch.ones(5, 2))
    assert torch.allclose(share_of_what(nothing, much, maps), torch.zeros(5, 2), atol=1e-6)
    assert torch.allclose(share_of_what(much, much, maps), torch.full((5, 2), 0.5))


def test_centred_does_not_see_what_a_softmax_does_not_see() -> None:
    what, where = torch.randn(3, 2, 3, 4), torch.randn(3, 2, 3, 4)
    maps = (what + where).flatten(2).softmax(2).unflatten(2, (3, 4))
    moved = what + 7
    assert torch.allclose(maps, (moved + where).flatten(2).softmax(2).unflatten(2, (3, 4)), atol=1e-6)
    assert torch.allclose(
        share_of_what(centred(what), centred(where), maps),
        share_of_what(centred(moved), centred(where), maps),
        atol=1e-5,
    )
    assert not torch.allclose(share_of_what(what, where, maps), share_of_what(moved, where, maps), atol=0.1)


def test_of_a_piece_it_is_the_queries_and_keys(tmp_path: Path) -> None:
    """Equations 8 and 9 by loops over what the network reports."""
    agent = agent_of("MinAtar/Breakout-v1")
    trace = record(agent, tmp_path, steps=6)
    attention = trace.attention(trace.piece(0), agent)
    what, where, maps = parts(attention)
    assert attention.queries is not None and attention.keys is not None
    basis = agent.network.basis.view(-1, 10, 10)  # type: ignore[operator, union-attr]
    channels = attention.keys.shape[2]
    for t, n, i, j in ((0, 0, 0, 0), (3, 1, 4, 7), (5, 3, 9, 2)):
        query = attention.queries[t, 0, n]
        content = sum(float(query[h] * attention.keys[t, 0, h, i, j]) for h in range(channels))
        place = sum(float(query[channels + h] * basis[h, i, j]) for h in range(len(basis)))
        assert float(what[t, n, i, j]) == pytest.approx(content, abs=1e-4)
        assert float(where[t, n, i, j]) == pytest.approx(place, abs=1e-4)
    assert torch.allclose((what + where).flatten(2).softmax(2), maps.flatten(2), atol=1e-5)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_of("MinAtar/Breakout-v1").save_pretrained(tmp_path / "agent")
    words = ["agent", "analyse", "what-where", "--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out")]
    assert run([*words, "--steps", "70", "--sample"]) == 0
    assert "the share of what" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "numbers.json").read_text())
    heads = written["numbers"]["heads"]
    assert list(heads) == [f"head {n}" for n in range(1, 5)]
    assert all(
        0 <= heads[head][kind]["low"] <= heads[head][kind]["high"] <= 1 for head in heads for kind in heads[head]
    )
    for name in ("maps", "over-time"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5_000
    again = ["--trace", str(tmp_path / "out" / "trace")]
    assert run([*words, *again, "--start", "60"]) == 2
    assert "has room for what is drawn from 0 to 42" in capsys.readouterr().err
    # Keys alone are no queries.
    agent_of("MinAtar/Breakout-v1", "mask-a3c").save_pretrained(tmp_path / "agent")
    assert run(words) == 2
    assert "asks no queries" in capsys.readouterr().err
