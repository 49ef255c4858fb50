"""What is said of attention's spread and of what it follows, on maps that are known by construction."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path

import pytest
import torch

pytest.importorskip("minatar", reason="needs the extra `agents`")

from mapped import by_brightness, player
from test_agents_trace import agent_of

from foveate.agents.analysis import attention
from foveate.agents.analysis.blocks import BLOCKS, FEW, over_blocks, stretches
from foveate.agents.analysis.following import as_mass, delayed, family, mass_on, near, spectrum
from foveate.agents.objects import Track, tracks
from foveate.agents.trace import record
from foveate.cli import main


def run(words: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_maps(time: int, heads: int = 2, rows: int = 3, columns: int = 4) -> torch.Tensor:
    return torch.rand(time, heads, rows, columns, generator=rng())


class TestBlocks:
    def test_a_mean_is_of_what_is_counted(self) -> None:
        values = torch.randn(100, 2, generator=rng())
        counted = torch.rand(100, 2, generator=rng()) < 0.4
        values[~counted] = math.nan
        means = over_blocks(values, counted, rng())
        for n in range(2):
            assert float(means.mean[n]) == pytest.approx(float(values[:, n][counted[:, n]].mean()), abs=1e-6)
            interval = means.interval(n)
            assert interval is not None and interval.low < interval.mean < interval.high

    def test_stretches_are_drawn_whole(self) -> None:
        # Within a stretch all steps are alike: intervals are those of 20 numbers, not of 2,000.
        level = torch.randn(BLOCKS, generator=rng())
        means = over_blocks(level.repeat_interleave(100)[:, None], None, rng())
        few = over_blocks(level[:, None], None, rng())
        assert means.interval() == few.interval()

    def test_what_is_constant_has_no_width(self) -> None:
        interval = over_blocks(torch.full((50, 1), 0.25), None, rng()).interval()
        assert interval is not None and (interval.low, interval.mean, interval.high) == (0.25, 0.25, 0.25)

    def test_what_is_rare_has_none(self) -> None:
        counted = torch.zeros(100, 1, dtype=torch.bool)
        counted[: (FEW - 1) * 100 // BLOCKS] = True
        assert over_blocks(torch.ones(100, 1), counted, rng()).interval() is None
        assert stretches(torch.cat([counted, ~counted], 1)).tolist() == [FEW - 1, BLOCKS - FEW + 1]


class TestFollowing:
    def test_near_is_what_it_says(self) -> None:
        rows, columns = torch.tensor([2.0, 12.0, 22.0]), torch.tensor([1.0, 5.0, 9.0, 13.0])
        generator = rng()
        track = Track(
            torch.rand(300, 2, generator=generator) * 24,
            torch.rand(300, 2, generator=generator) * 15,
            torch.rand(300, 2, generator=generator) < 0.5,
        )
        found = near(track, rows, columns, 1.3)
        for t in range(0, 300, 7):
            for i in range(3):
                for j in range(4):
                    inside = [
                        bool(track.seen[t, p])
                        and math.hypot(
                            float(track.rows[t, p] - rows[i]) / 10, float(track.columns[t, p] - columns[j]) / 4
                        )
                        <= 1.3
                        for p in range(2)
                    ]
                    assert bool(found[t, i, j]) == any(inside)
        assert 0 < found.float().mean() < 1

    def test_the_control_is_the_mean_over_all_orders(self) -> None:
        mass = as_mass(random_maps(4))
        place = torch.rand(4, 3, 4, generator=rng()) < 0.3
        actual, control = mass_on(mass, place)
        for t in range(4):
            assert torch.allclose(actual[t], (mass[t] * place[t]).sum((1, 2)))
        orders = [torch.stack([mass[o[t]] for t in range(4)]) for o in permutations(range(4))]
        shuffled = torch.stack([mass_on(order, place)[0] for order in orders]).mean(0)
        assert torch.allclose(shuffled, control, atol=1e-6)

    def test_a_head_that_does_not_move_follows_nothing(self) -> None:
        mass = as_mass(random_maps(1)).expand(40, -1, -1, -1)
        place = torch.rand(40, 3, 4, generator=rng()) < 0.3
        actual, control = mass_on(mass, place)
        assert torch.allclose(actual, control, atol=1e-6)

    def test_a_thing_that_does_not_move_is_followed_by_no_head(self) -> None:
        place = (torch.rand(1, 3, 4, generator=rng()) < 0.3).expand(40, -1, -1)
        actual, control = mass_on(as_mass(random_maps(40)), place)
        assert torch.allclose(actual.mean(0), control.mean(0), atol=1e-6)

    def test_masks_become_shares(self) -> None:
        mass = as_mass(torch.full((2, 1, 2, 5), 0.7))
        assert torch.allclose(mass, torch.full_like(mass, 0.1))
        assert torch.isfinite(as_mass(torch.zeros(1, 1, 2, 2))).all()


class TestManyComparisons:
    def test_delays_are_what_they_say(self) -> None:
        mass = as_mass(random_maps(11))
        place = torch.rand(11, 3, 4, generator=rng()) < 0.1
        steps = int(place.flatten(1).any(1).sum())
        found = delayed(spectrum(mass), place)
        for later in range(11):
            actual, control = mass_on(mass.roll(-later, 0), place)
            assert torch.allclose(found[later], actual.sum(0) / steps, atol=1e-6)
            assert torch.allclose(found.mean(0), control.sum(0) / steps, atol=1e-6)
        assert 0 < steps < 11

    def test_what_does_not_move_is_not_beyond_chance(self) -> None:
        still = delayed(spectrum(as_mass(random_maps(1)).expand(40, -1, -1, -1)), torch.rand(40, 3, 4) < 0.3)
        assert [i.sign for i in family(still).excess] == [0, 0]

    def test_noise_is_seldom_beyond_chance_in_any_of_many_pairs(self) -> None:
        """4 heads and 6 things that have nothing to do with each other, each much as it was a step before: in 5% of
        traces is any of the 24 pairs beyond chance, as is to be; with an interval for each alone, in most."""
        generator, alone, together = rng(), 0, []
        for _ in range(150):
            mass = slow(120, (4, 16), generator).mul(1.5).softmax(2).view(120, 4, 4, 4)
            places = [places_of(120, generator) for _ in range(6)]
            maps = spectrum(mass)
            compared = family(torch.cat([delayed(maps, place) for place in places], 1))
            together.append([i.sign for i in compared.excess])
            delays = torch.cat([delayed(maps, place) for place in places], 1)
            far = (delays - delays.mean(0)).abs()
            alone += int((far[0] > far.quantile(0.95, dim=0)).any())
        wrong = sum(any(signs) for signs in together) / 150
        assert 0.01 <= wrong <= 0.1  # of 150 traces at 5%, 98 of 100 times
        assert alone / 150 > 0.5

    def test_what_is_followed_among_many_is_found(self) -> None:
        generator = rng()
        places = [places_of(300, generator) for _ in range(6)]
        mass = slow(300, (4, 16), generator).mul(1.5).softmax(2).view(300, 4, 4, 4)
        mass[:, 2] = as_mass(mass[:, [2]] + 0.2 * places[3][:, None])[:, 0]
        maps = spectrum(mass)
        compared = family(torch.cat([delayed(maps, place) for place in places], 1))
        assert [n for n, i in enumerate(compared.excess) if i.sign] == [3 * 4 + 2]
        assert compared.excess[14].sign == 1 and 0.99 < compared.alone < 1
        assert "95% for all 24 comparisons together" in compared.in_words()


def slow(steps: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Numbers that change from step to step by about a third of what they can."""
    new = torch.randn(steps, *shape, generator=generator)
    for step in range(1, steps):
        new[step] = 0.8 * new[step - 1] + 0.6 * new[step]
    return new


def places_of(steps: int, generator: torch.Generator) -> torch.Tensor:
    """One of 16 cells, at four steps of five or so."""
    cell = slow(steps, (16,), generator).argmax(1)
    seen = slow(steps, (1,), generator) > -0.8
    return (torch.nn.functional.one_hot(cell, 16).bool() & seen).view(steps, 4, 4)


class TestSpread:
    def test_of_a_uniform_map_and_of_a_point(self) -> None:
        uniform = torch.full((30, 3, 4), 1 / 12)
        point = torch.zeros(30, 3, 4)
        point[:, 2, 1] = 1
        assert torch.allclose(attention.entropy(uniform), torch.full((30,), math.log(12)))
        assert torch.equal(attention.entropy(point), torch.zeros(30))
        wide, narrow = (attention.shape(mass, rng()) for mass in (uniform, point))
        assert wide.share is not None and wide.share.mean == pytest.approx(1)
        assert narrow.peak is not None and narrow.peak.mean == 1
        assert (narrow.columns, narrow.rows) == ([0, 1, 0, 0], [0, 0, 1])


def test_an_agent_that_looks_at_one_thing_is_found_out(tmp_path: Path) -> None:
    """Its masks are open where the chicken is: it follows that, and none of the cars beyond what they share with it."""
    agent = player(by_brightness)
    trace = record(agent, tmp_path, steps=200, sample=True, seed=1)
    mass = as_mass(trace.column("maps"))
    cells = torch.arange(10.0)
    found, compared = attention.follow(mass, trace.heads, tracks(trace), cells, cells, 0.4)
    chicken = found["policy"]["chicken"]
    # 0.9 of 0.9 + 99 * 0.1
    assert chicken.mass == pytest.approx(0.9 / 10.8, abs=1e-4)
    assert chicken.excess is not None and chicken.excess.low > 0.03 and chicken.beyond == 1
    assert compared is not None and len(compared.excess) == sum(
        f.excess is not None for by in found.values() for f in by.values()
    )
    car = found["policy"]["car"]
    assert car.excess is not None and abs(car.excess.mean) < 0.1 * chicken.excess.mean
    assert found["value"].keys() == found["policy"].keys()


@pytest.mark.parametrize("model", ["s3ta", "mask-a3c"])
def test_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_of("MinAtar/Breakout-v1", model).save_pretrained(tmp_path / "agent")
    words = ["--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out"), "--steps", "90", "--sample"]
    assert run(["agent", "analyse", "attention", *words]) == 0
    assert "head and thing" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "numbers.json").read_text())
    heads = {"s3ta": {f"head {n}" for n in range(1, 5)}, "mask-a3c": {"policy", "value"}}[model]
    assert written["numbers"]["heads"].keys() == written["numbers"]["follows"].keys() == heads
    for head in heads:
        shape = written["numbers"]["heads"][head]
        assert sum(shape["rows"]) == pytest.approx(1, abs=1e-4) and len(shape["columns"]) == 10
        assert 0 < shape["share"]["mean"] <= 1.0001
        assert {"paddle", "ball", "brick"} <= written["numbers"]["follows"][head].keys()
    assert (written["numbers"]["mean_mask"] is None) == (model == "s3ta")
    assert written["protocol"]["steps"] == 90 and "control" in written["protocol"]
    for name in ("marginals", "over-time", "follows"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5_000
        assert (tmp_path / "out" / f"{name}.svg").exists()
    compared = sum(f["excess"] is not None for by in written["numbers"]["follows"].values() for f in by.values())
    assert f"95% for all {compared} comparisons together" in written["protocol"]["intervals_of_what_is_followed"]
    assert f"This allows for {compared} comparisons" in (tmp_path / "out" / "index.html").read_text()


def test_without_attention_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_of("MinAtar/Breakout-v1", "a3c").save_pretrained(tmp_path / "agent")
    words = ["--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out")]
    for name in ("attention", "tripwires", "transitions"):
        assert run(["agent", "analyse", name, *words]) == 2
        assert "has no attention; take an S3TA" in capsys.readouterr().err
    assert run(["agent", "analyse", "what-where", *words]) == 2
    assert "asks no queries" in capsys.readouterr().err
    assert not (tmp_path / "out" / "trace").exists()
