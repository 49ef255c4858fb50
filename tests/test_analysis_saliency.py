"""Saliency: the maps are those of the definition, and they agree with attention that is used, and with no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import LooksAtOneSprite, agent_that
from torch import Tensor

pytest.importorskip("minatar", reason="needs the extra `agents`")

from test_agents_trace import agent_of

from foveate.agents.agent import PlayingAgent
from foveate.agents.analysis.agreement import agreement, standard_ranks, top_cells
from foveate.agents.analysis.blur import ATARI, MINATAR, Blur, blurred
from foveate.agents.analysis.saliency import Settings, analyse
from foveate.agents.analysis.saliency_map import patches_of, saliency, to_cells
from foveate.agents.analysis.subject import Recording, Subject
from foveate.agents.models import build
from foveate.agents.models.grid import Grid
from foveate.agents.models.interface import AgentInputs, AgentNetwork
from foveate.agents.models.s3ta import TO_THE_LETTER
from foveate.agents.trace import record
from foveate.cli import main
from foveate.errors import RequestError


def inputs_of(frame: Tensor, done: bool = False) -> AgentInputs:
    one = torch.zeros(1, 1)
    return AgentInputs(frame[None, None], one + 0.5, one.long() + 1, one.bool() | done)


def residual() -> PlayingAgent:
    torch.manual_seed(0)
    settings = {"channels": (8, 8), "units": 16}
    return PlayingAgent("residual-lstm", (4, 10, 10), 3, {"env": "MinAtar/Breakout-v1"}, settings).eval()


def naively(network: AgentNetwork, inputs: AgentInputs, state: dict[str, Tensor], blur: Blur) -> np.ndarray:
    """Greydanus' formula, a pixel at a time, with scipy's Gaussian where it is installed."""
    frame = inputs.observation[0, 0].float()
    _, height, width = frame.shape
    other = blurred(frame, blur.width)
    rows, columns = np.mgrid[:height, :width]
    before = network(inputs, state)[0]
    maps = np.zeros((2, height, width))
    for i in range(height):
        for j in range(width):
            away = np.maximum(abs(rows - i), abs(columns - j)) <= 4 * blur.bump
            bump = np.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * blur.bump**2)) * away
            mask = torch.from_numpy(bump).float()
            changed = (frame * (1 - mask) + other * mask).round().to(torch.uint8)
            after = network(replace(inputs, observation=changed[None, None]), state)[0]
            policy = after.logits.softmax(-1) - before.logits.softmax(-1)
            maps[:, i, j] = float((policy**2).sum() / 2), float(((after.value - before.value) ** 2).sum() / 2)
    return maps


@pytest.mark.parametrize("model", ["s3ta", "mask-a3c", "residual-lstm"])
@torch.inference_mode()
def test_it_is_the_definition(model: str) -> None:
    agent = residual() if model == "residual-lstm" else agent_of("MinAtar/Breakout-v1", model)
    if model == "mask-a3c":
        agent.network.get_parameter("policy.output.weight").mul_(30)  # an untrained one has hardly a policy
    rng = torch.Generator().manual_seed(0)
    frame = (torch.rand(4, 10, 10, generator=rng) < 0.2).to(torch.uint8) * 255
    state = agent(inputs_of(frame.flip(2)), agent.initial_state(1))[1]
    inputs = inputs_of(frame)
    found = torch.stack(saliency(agent.network, inputs, state, MINATAR)).numpy()
    expected = naively(agent.network, inputs, state, MINATAR)
    assert expected.max() > 1e-8
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1.2e-10)


@pytest.mark.parametrize(
    ("observation", "settings"),
    [
        ((3, 60, 52), {}),
        ((1, 10, 10), {}),
        ((1, 41, 33), {}),
        ((1, 41, 33), TO_THE_LETTER),
        ((1, 41, 33), {"queries": "fixed"}),
        ((1, 41, 33), {"queries": "l2-keys"}),
    ],
)
@torch.inference_mode()
def test_a_part_of_a_screen_is_the_whole_screen(observation: tuple[int, int, int], settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    small = {"memory": 8, "keys": 4, "core": 16, "output": 16, "query_units": (16,), "answer_units": (16,)}
    network = build("s3ta", observation, 5, {**small, **settings})
    channels, height, width = observation
    rng = torch.Generator().manual_seed(1)

    def pixels(*size: int) -> Tensor:
        return torch.randint(0, 256, size, generator=rng).to(torch.uint8)

    state = {n: torch.rand(s.shape, generator=rng) for n, s in network.initial_state(1).items()}
    for done in (False, True):
        inputs = inputs_of(pixels(*observation), done)
        part, whole = network.what_if(inputs, state), AgentNetwork.what_if(network, inputs, state)
        for top, left, high, wide in (
            (0, 0, 1, 1),
            (height - 1, width - 1, 1, 1),
            (height // 2, 0, 5, 7),
            (1, width - 3, 4, 3),
            (0, 0, height, width),
        ):
            patches = pixels(3, channels, high, wide)
            ours, theirs = part(patches, top, left), whole(patches, top, left)
            torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(ours.value, theirs.value, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(ours.logits[0, 0], network(inputs, state)[0].logits[0, 0], atol=1e-5)


def test_blur_is_scipys() -> None:
    scipy = pytest.importorskip("scipy.ndimage")
    frame = torch.rand(2, 23, 17, generator=torch.Generator().manual_seed(0)) * 255
    expected = np.stack([scipy.gaussian_filter(channel, 3) for channel in frame.numpy()])
    np.testing.assert_allclose(blurred(frame, 3.0).numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(blurred(frame, None)[1].numpy(), frame[1].mean(), rtol=1e-4)


def test_every_point_that_changes_the_frame_is_blurred_once() -> None:
    frame = torch.zeros(1, 40, 30, dtype=torch.uint8)
    frame[0, 20, 15] = 200
    points = [torch.arange(40), torch.arange(30)]
    other = blurred(frame.float(), ATARI.width)[0]
    blurs = {}
    for rows, columns, patches, top, left in patches_of(frame, points, ATARI):
        for row, column, patch in zip(rows.tolist(), columns.tolist(), patches, strict=True):
            whole = frame[0].clone()
            whole[top : top + patch.shape[1], left : left + patch.shape[2]] = patch[0]
            assert (row, column) not in blurs
            blurs[row, column] = whole
    for (row, column), whole in blurs.items():
        away = (torch.arange(40)[:, None] - row) ** 2 + (torch.arange(30) - column) ** 2
        near = torch.maximum((torch.arange(40)[:, None] - row).abs(), (torch.arange(30) - column).abs()) <= 20
        bump = torch.exp(-away / 50) * near
        assert torch.equal(whole, (frame[0] * (1 - bump) + other * bump).round().to(torch.uint8))
    assert (20, 15) in blurs and (0, 0) not in blurs and len(blurs) > 300


def test_cells_take_the_pixels_nearest_to_them() -> None:
    pixels = torch.arange(16.0).view(4, 4)
    grid = Grid(2, 2, row=0.5, column=0.5, row_step=2.0, column_step=2.0)
    assert to_cells(pixels, grid).tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert torch.equal(to_cells(pixels, Grid(4, 4)), pixels)


def test_ranks_and_tops_share_what_ties() -> None:
    values = torch.tensor([[3.0, 1, 1, 2], [5, 5, 5, 5]])
    ranks = standard_ranks(values)
    expected = torch.tensor([4.0, 1.5, 1.5, 3]) - 2.5
    torch.testing.assert_close(ranks[0].float(), expected / expected.norm())
    assert not ranks[1].any()
    tops = top_cells(torch.tensor([[float(n) for n in range(20)], [1.0] * 20, [2.0] + [1.0] * 19]))
    assert tops[0].tolist() == [0.0] * 18 + [1, 1]
    assert tops[1].tolist() == pytest.approx([0.1] * 20)
    assert tops[2].tolist() == pytest.approx([1] + [1 / 19] * 19)


def test_agreement_is_spearmans_and_the_share() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = torch.Generator().manual_seed(0)
    maps, salient = torch.rand(6, 40, generator=rng), torch.rand(6, 40, generator=rng) ** 3
    salient = salient + maps
    found = agreement(maps.view(6, 5, 8), salient.view(6, 5, 8), rng)
    assert found is not None
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(maps.numpy(), salient.numpy(), strict=True)]
    assert found.rank_correlation.actual.mean == pytest.approx(np.mean(expected), abs=1e-5)
    top = maps.topk(4, 1).indices
    share = (salient.gather(1, top).sum(1) / salient.sum(1)).mean()
    assert found.share_inside.actual.mean == pytest.approx(float(share), abs=1e-5)
    others = [stats.spearmanr(maps[g], salient[f]).statistic for f in range(6) for g in range(6) if f != g]
    assert found.rank_correlation.other_time.mean == pytest.approx(np.mean(others), abs=1e-5)
    assert found.share_inside.shuffled.mean == pytest.approx(0.1, abs=0.01)
    near = torch.zeros(6, 7, 10)
    for frame, cell in ((f, c) for f in range(6) for c in top[f].tolist()):
        near[frame, cell // 8 : cell // 8 + 3, cell % 8 : cell % 8 + 3] = 1
    share = (salient.view(6, 5, 8) * near[:, 1:6, 1:9]).sum((1, 2)) / salient.sum(1)
    assert found.share_near.actual.mean == pytest.approx(float(share.mean()), abs=1e-5)
    assert agreement(maps.view(6, 5, 8), torch.zeros(6, 5, 8), rng) is None


def settings_of(tmp_path: Path, **changed: object) -> Settings:
    subject = Subject(agent="synthetic", output=tmp_path / "out", seed=1)
    return replace(Settings(subject, Recording(trace=tmp_path / "trace"), frames=12), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("used", [True, False], ids=["used", "decorative"])
def test_agreement_tells_attention_that_is_used_from_decoration(
    used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_that(LooksAtOneSprite(used))
    record(agent, tmp_path / "trace", steps=150, sample=True, seed=1)
    monkeypatch.setattr(Subject, "open", lambda self: agent)
    findings = analyse(settings_of(tmp_path))
    for output in ("policy", "value"):
        found = findings.numbers[output]["sprite"]
        ranks, share = found["rank_correlation"], found["share_inside"]
        assert abs(ranks["shuffled"]["mean"]) < 0.05
        assert share["shuffled"]["mean"] == pytest.approx(0.1, abs=0.03)
        if used:
            assert ranks["actual"]["mean"] > 0.8 and share["actual"]["mean"] > 0.95
            assert ranks["above_other_time"]["low"] > 0 and share["above_other_time"]["low"] > 0.2
        else:
            assert ranks["above_other_time"]["low"] < 0 and share["above_other_time"]["low"] < 0
            assert share["actual"]["mean"] < 0.3
    assert ("Attention is where policy saliency is, and follows it" in findings.sentences[0]) == used


def test_the_command_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_of("MinAtar/Breakout-v1").save_pretrained(tmp_path / "agent")
    words = ["--agent", str(tmp_path / "agent"), "--output", str(tmp_path / "out"), "--steps", "24", "--frames", "3"]
    with pytest.raises(SystemExit) as ended:
        main(["agent", "analyse", "saliency", *words, "--drawn", "1"])
    assert ended.value.code == 0 and "saliency" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["protocol"]["stride"] == 1 and "channel's mean" in numbers["protocol"]["blur"]
    assert list(numbers["numbers"]["policy"]) == ["head 1", "head 2", "head 3", "head 4", "all heads"]
    for name in ("saliency.png", "saliency.svg", "agreement.png", "index.html"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


def test_an_agent_without_attention_has_saliency_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = residual()
    record(agent, tmp_path / "trace", steps=20, sample=True)
    monkeypatch.setattr(Subject, "open", lambda self: agent)
    findings = analyse(settings_of(tmp_path, frames=3))
    assert "no attention" in findings.sentences[0]
    assert findings.numbers["policy"]["top_tenth"]["mean"] > 0.1 and set(findings.pictures) == {"saliency"}


def test_a_stride_goes_straight_between_the_points() -> None:
    agent = agent_of("MinAtar/Breakout-v1")
    frame = (torch.rand(4, 10, 10, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8) * 255
    inputs, state = inputs_of(frame), agent.initial_state(1)
    every = saliency(agent.network, inputs, state, MINATAR)[0]
    third = saliency(agent.network, inputs, state, MINATAR, 3)[0]
    torch.testing.assert_close(third[::3, ::3], every[::3, ::3])
    torch.testing.assert_close(third[0, 1], (2 * every[0, 0] + every[0, 3]) / 3)


@pytest.mark.parametrize(("changed", "words"), [({"frames": 1}, "--frames is 1"), ({"stride": 0}, "--stride is 0")])
def test_what_cannot_be_is_told(changed: dict[str, int], words: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=words):
        analyse(settings_of(tmp_path, **changed))
