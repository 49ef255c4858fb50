"""Lags and tripwires of heads that are made to look ahead, behind, or at one place."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("minatar", reason="needs the extra `agents`")

from test_agents_trace import agent_of
from test_analysis_attention import places_of, slow

from foveate.agents.analysis.following import as_mass
from foveate.agents.analysis.look_ahead import Lead, lead_sentences, lives, look_ahead, shifted
from foveate.agents.analysis.tripwires import crossing, policy_without, total_variation, tripwires, wire_sentences
from foveate.agents.models.interface import Edit
from foveate.agents.trace import record
from foveate.cli import main

LAGS = list(range(-6, 7))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def wandering(steps: int = 400) -> torch.Tensor:
    """A thing that walks about at random on 5 x 5 cells: where it is now says little of where it is long after."""
    where, places = torch.tensor([2, 2]), torch.zeros(steps, 5, 5, dtype=torch.bool)
    generator = rng()
    for t in range(steps):
        where = (where + torch.randint(-1, 2, (2,), generator=generator)).clamp(0, 4)
        places[t, where[0], where[1]] = True
    return places


def looking(places: torch.Tensor, lag: int) -> torch.Tensor:
    """Maps of a head that looks to where the thing is `lag` steps later."""
    life = torch.zeros(len(places), dtype=torch.long)
    return as_mass(0.02 + shifted(places, life, lag)[0].float()[:, None])


def lead(
    mass: torch.Tensor, places: torch.Tensor, life: torch.Tensor, lags: list[int], rng: torch.Generator
) -> list[Lead | None]:
    return look_ahead(mass, {"ball": places}, life, lags, rng)[0]["ball"]


@pytest.mark.parametrize("lag", [-5, -2, 0, 3, 6])
def test_the_lag_is_found(lag: int) -> None:
    places = wandering(1_000)
    life = torch.zeros(len(places), dtype=torch.long)
    (found,) = lead(looking(places, lag), places, life, LAGS, rng())
    assert found is not None and found.follows
    assert (found.earliest, found.best, found.latest) == (lag, lag, lag)
    assert found.tilt.sign == (lag > 0) - (lag < 0)
    assert found.mass[LAGS.index(lag)] == pytest.approx(1.02 / 1.5, abs=0.02)
    (word,) = [s for s in lead_sentences({"ball": [found]}, None, ["eye"]) if "eye on the ball" in s and "steps" in s]
    assert word.startswith({1: "Ahead", 0: "Not told from now", -1: "Behind"}[(lag > 0) - (lag < 0)])


def test_a_head_that_looks_anywhere_follows_at_no_lag() -> None:
    places = wandering()
    life = torch.zeros(len(places), dtype=torch.long)
    mass = as_mass(torch.rand(len(places), 2, 5, 5, generator=rng()))
    found = lead(mass, places, life, LAGS, rng())
    assert not any(f is None or f.follows for f in found)
    assert lead_sentences({"ball": found}, None, ["a", "b"])[0].startswith("No head looks ahead")


def test_noise_looks_ahead_in_few_of_many_pairs_and_lags() -> None:
    """Two heads, three things, 9 lags: 54 comparisons of what has nothing to do with each other, and 6 tilts."""
    generator, wrong, tilted = rng(), 0, 0
    life = torch.zeros(160, dtype=torch.long)
    for _ in range(60):
        mass = slow(160, (2, 16), generator).mul(1.5).softmax(2).view(160, 2, 4, 4)
        places = {name: places_of(160, generator) for name in "abc"}
        leads, compared = look_ahead(mass, places, life, LAGS[2:-2], generator)
        assert compared is not None and [len(part.excess) for part in compared] == [54, 6]
        found = [lead for by in leads.values() for lead in by if lead is not None]
        wrong += any(lead.follows or min(lead.high) < 0 for lead in found)
        tilted += any(lead.tilt.sign for lead in found)
        assert len(found) == 6 and all(lead.follows == (max(lead.low) > 0) for lead in found)
    assert max(wrong, tilted) <= 7  # of 60 traces at 5%, 99 of 100 times


def test_nothing_is_compared_across_lives() -> None:
    life = torch.tensor([0, 0, 0, 1, 1])
    place = torch.arange(5)[:, None, None] == torch.arange(5)
    later, known = shifted(place, life, 1)
    assert known.tolist() == [True, True, False, True, False]
    assert later[known].nonzero()[:, 2].tolist() == [1, 2, 4]
    assert shifted(place, life, -2)[1].tolist() == [False, False, True, False, False]


def test_every_lag_is_measured_at_the_same_steps() -> None:
    """A life of 20 steps has 8 whose neighbours up to 6 steps on both sides are its own; one of 12 steps has none."""
    places = wandering(240)
    maps = looking(places, 2)
    (found,) = lead(maps, places, torch.arange(240) // 20, LAGS, rng())
    assert found is not None and found.best == 2
    middle = (torch.arange(240) % 20 >= 6) & (torch.arange(240) % 20 < 14)
    assert found.mass[LAGS.index(2)] == pytest.approx(
        float((maps[middle, 0] * places.roll(-2, 0)[middle]).sum((1, 2)).mean())
    )
    assert lead(maps, places, torch.arange(240) // 12, LAGS, rng()) == [None]


def test_tripwires_are_heavy_and_steady() -> None:
    generator = rng()
    maps = torch.rand(200, 4, 5, generator=generator) * 0.5
    maps[:, 1, 2] = 4 + torch.rand(200, generator=generator)  # heavy and steady
    maps[:, 3, 0] = 8 * (torch.rand(200, generator=generator) < 0.5)  # heavy, and not
    wire = tripwires(as_mass(maps[:, None])[:, 0])
    assert wire.nonzero().tolist() == [[1, 2]]
    assert not tripwires(torch.full((10, 4, 5), 1 / 20)).any()


def test_what_a_crossing_does() -> None:
    """A policy that changes as the thing comes to the wire, and rests elsewhere."""
    places = wandering(2_000)
    life = torch.zeros(len(places), dtype=torch.long)
    wire = torch.zeros(5, 5, dtype=torch.bool)
    wire[1, 3] = True
    on = (places & wire).flatten(1).any(1)
    policy = torch.stack([0.3 + 0.6 * on, 0.7 - 0.6 * on], 1).float()
    without = torch.tensor([[0.3, 0.7]]).expand(len(places), -1)
    found = crossing(places, wire, life, policy, without, rng())
    assert found is not None and found.difference is not None and found.cut_difference is not None
    assert found.times == int((on[1:-1] & ~on[:-2]).sum()) > 20
    # After the crossing the thing may have gone on already: then the policies before and after are the same.
    stays = on[2:][on[1:-1] & ~on[:-2]].float().mean()
    assert found.change == pytest.approx(0.6 * float(stays), abs=1e-5)
    assert found.cut == pytest.approx(0.6) and found.cut_elsewhere == 0
    assert found.cut_difference.low > 0.59 and found.difference.sign >= 0
    said = wire_sentences({"eye": wire}, {"eye": {"ball": found}}, [])
    assert any("they matter more then" in s for s in said)
    # Where the policy is the same always, nothing is said to change.
    flat = crossing(places, wire, life, without, without, rng())
    assert flat is not None and flat.difference is not None and (flat.change, flat.difference.sign) == (0, 0)
    assert crossing(torch.zeros_like(places), wire, life, policy, without, rng()) is None


def test_total_variation() -> None:
    p, q = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.25, 0.75]])
    assert total_variation(p, q).tolist() == [1.0, 0.25]


@pytest.mark.parametrize("model", ["s3ta", "mask-a3c"])
def test_a_wire_that_is_cut_is_an_edit(model: str, tmp_path: Path) -> None:
    agent = agent_of("MinAtar/Breakout-v1", model)
    trace = record(agent, tmp_path, steps=12, sample=True)
    wire = torch.zeros(10, 10, dtype=torch.bool)
    wire[4] = True

    def by_hand(maps: torch.Tensor) -> torch.Tensor:
        maps = maps.clone()
        maps[:, 0, 4] = 0
        if model == "s3ta":
            maps[:, 0] /= maps[:, 0].sum((1, 2), keepdim=True)
        return maps

    wanted = trace.replay(trace.piece(0), agent, Edit(maps=by_hand)).logits[:, 0].softmax(1)
    cut = policy_without(trace, agent, 0, wire)
    assert torch.allclose(cut, wanted, atol=1e-6)
    assert torch.allclose(policy_without(trace, agent, 0, ~wire & wire), trace.column("logits").softmax(1), atol=1e-5)
    if model == "mask-a3c":  # the value's mask does not reach the policy
        assert torch.allclose(policy_without(trace, agent, 1, wire), trace.column("logits").softmax(1), atol=1e-5)


@pytest.mark.parametrize("model", ["s3ta", "mask-a3c"])
def test_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_of("MinAtar/Breakout-v1", model).save_pretrained(tmp_path / "agent")
    words = ["agent", "analyse", "tripwires", "--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--steps", "90", "--sample", "--lags", "2"])
    assert end.value.code == 0
    assert "ripwires" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())["numbers"]
    head = {"s3ta": "head 1", "mask-a3c": "policy"}[model]
    ball = numbers["leads"][head]["ball"]
    assert ball["lags"] == list(range(-2, 3)) and len(ball["mass"]) == 5
    assert -2 <= ball["earliest"] <= ball["latest"] <= 2
    assert all(math.isfinite(x) for x in [*ball["low"], *ball["high"], *ball["control"]])
    written = json.loads((tmp_path / "out" / "numbers.json").read_text())
    pairs = [lead for by in numbers["leads"].values() for lead in by.values() if lead is not None]
    assert f"95% for all {5 * len(pairs)} comparisons together" in written["protocol"]["intervals_of_look_ahead"]
    assert any(f"{len(pairs)} pairs, at every lag" in said for said in written["findings"])
    assert numbers["tripwires"].keys() == numbers["leads"].keys()
    assert (tmp_path / "out" / "lags.png").stat().st_size > 5_000


def test_lives_end_with_what_is_forgotten(tmp_path: Path) -> None:
    trace = record(agent_of("MinAtar/Breakout-v1"), tmp_path, steps=40, sample=True, seed=2)
    life = lives(trace)
    starts = [game.start for game in trace.episodes()]
    assert life[0] == 1 and len(starts) > 1
    assert [t for t in range(1, 40) if life[t] > life[t - 1]] == starts[1:]
