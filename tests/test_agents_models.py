"""Networks: acting is learning, sizes are the papers', and the map is where the pixel is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from eyes import make_eyes
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from foveate.agents.models import MODELS, build, settings_of
from foveate.agents.models.conv_lstm import ConvLSTM
from foveate.agents.models.interface import AgentInputs, AgentNetwork, parameters, reset
from foveate.agents.models.mask_a3c import MaskA3C, normalise
from foveate.agents.models.s3ta import S3TA, TO_THE_LETTER
from foveate.agents.models.spatial_basis import spatial_basis
from foveate.errors import RequestError

SCREEN, SMALL = (1, 40, 48), (4, 10, 10)
ACTIONS = 5
ATTENTIVE = [name for name in MODELS if not name.startswith("residual") and name != "a3c"]


def inputs_of(observation: tuple[int, int, int], time: int = 7, envs: int = 3, seed: int = 0) -> AgentInputs:
    rng = torch.Generator().manual_seed(seed)
    done = torch.zeros(time, envs, dtype=torch.bool)
    done[0] = True
    for step, env in ((3, 1), (4, 0), (4, 1)):
        if step < time:
            done[step, env] = True
    return AgentInputs(
        observation=torch.randint(256, (time, envs, *observation), generator=rng, dtype=torch.uint8),
        reward=torch.randn(time, envs, generator=rng),
        action=torch.randint(ACTIONS, (time, envs), generator=rng),
        done=done,
    )


def rows(inputs: AgentInputs, *index) -> AgentInputs:
    return AgentInputs(*(getattr(inputs, n)[index] for n in ("observation", "reward", "action", "done")))


def network(name: str, observation=SCREEN) -> AgentNetwork:
    torch.manual_seed(0)
    return build(name, observation, ACTIONS).eval()


@pytest.mark.parametrize("observation", [SCREEN, SMALL], ids=["screen", "small"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_acting_is_learning(name: str, observation: tuple[int, int, int]) -> None:
    """An unroll at once gives what its steps one by one give, episodes that begin in its middle included."""
    model, inputs = network(name, observation), inputs_of(observation)
    whole, last = model(inputs, model.initial_state(3), observe=True)
    assert whole.logits.shape == (7, 3, ACTIONS) and whole.value.shape == (7, 3)
    state = model.initial_state(3)
    for t in range(7):
        step, state = model(rows(inputs, slice(t, t + 1)), state, observe=True)
        torch.testing.assert_close(step.logits[0], whole.logits[t], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(step.value[0], whole.value[t], atol=1e-5, rtol=1e-4)
        if whole.attention is not None:
            torch.testing.assert_close(step.attention.maps[0], whole.attention.maps[t], atol=1e-5, rtol=1e-4)
    assert state.keys() == last.keys() == model.initial_state(1).keys()
    for part in state:
        torch.testing.assert_close(state[part], last[part], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_an_episode_knows_nothing_of_the_one_before(name: str) -> None:
    """From the step where it begins on, an environment is as one that was never played; but for frame statistics."""
    model, inputs = network(name, SMALL), inputs_of(SMALL)
    state = model.initial_state(3)
    whole, _ = model(inputs, state)
    _, before = model(rows(inputs, slice(0, 4)), state)
    fresh = model.initial_state(3) | {k: v for k, v in before.items() if k.startswith("frame")}
    cut = rows(inputs, slice(4, 7))
    cut = replace(cut, reward=torch.cat([cut.reward[:1] + 9, cut.reward[1:]]))
    anew, _ = model(cut, fresh)
    torch.testing.assert_close(anew.logits[:, :2], whole.logits[4:, :2], atol=1e-5, rtol=1e-4)
    if "core" in fresh or "vision" in fresh:
        assert not torch.allclose(anew.logits[:, 2], whole.logits[4:, 2], atol=1e-5), "the third had a past"


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_environments_do_not_mix(name: str) -> None:
    model, inputs = network(name, SMALL), inputs_of(SMALL)
    whole, _ = model(inputs, model.initial_state(3))
    alone, _ = model(rows(inputs, slice(None), slice(1, 2)), model.initial_state(1))
    torch.testing.assert_close(alone.logits[:, 0], whole.logits[:, 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(name: str) -> None:
    model, inputs = network(name, SMALL), inputs_of(SMALL)
    output, _ = model(inputs, model.initial_state(3))
    (output.logits.square().mean() + output.value.square().mean()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


class TestSizes:
    def test_the_papers(self) -> None:
        """S3TA, section A.1 and Table 2, on 210 × 160 × 3 and 18 actions."""
        model = build("s3ta-paper", (3, 210, 160), 18)
        assert isinstance(model, S3TA)
        first = model.convolutions[0].grid
        assert (first.height, first.width) == (53, 40)
        assert (model.grid.height, model.grid.width) == (27, 20)
        assert model.grid.centre(0, 0) == (2.5, 3.5) and model.grid.centre(3, 5) == (26.5, 43.5)
        assert model.basis.shape == (64, 27 * 20)
        assert model.query_size == 72 and len(model.heads) == 4
        convolutions = (8 * 8 * 3 * 32 + 32) + (4 * 4 * 32 * 64 + 64)
        conv_lstm = 3 * 3 * (64 + 128) * 512 + 512
        queries = (256 * 256 + 256) + (256 * 128 + 128) + (128 * 288 + 288)
        told = 4 * (120 + 64) + 288 + 1 + 18
        answers = (told * 512 + 512) + (512 * 256 + 256)
        lstm = 4 * 256 * (256 + 256) + 2 * 4 * 256
        output = (256 * 128 + 128) + (128 * 18 + 18) + (128 + 1)
        assert parameters(model) == convolutions + conv_lstm + queries + answers + lstm + output == 2_287_635

    def test_small_screens_keep_their_cells(self) -> None:
        for name in ("s3ta", "mask-a3c"):
            assert (network(name, SMALL).grid.height, network(name, SMALL).grid.width) == (10, 10)
            assert network(name, SMALL).grid.centre(4, 7) == (4, 7)

    def test_mask_a3c(self) -> None:
        """The published weights' sizes: 80 × 80 to 10 × 10, 4 actions."""
        model = build("mask-a3c", (1, 80, 80), 4)
        assert (model.grid.height, model.grid.width) == (10, 10)
        assert model.grid.centre(0, 0) == (3.5, 3.5) and model.grid.row_step == 8
        convolutions = (25 * 32 + 32) + (9 * 32 * 32 + 32) + (9 * 32 * 64 + 64)
        branches = 2 * (64 + 1 + 64 * 32 + 32) + 3200 * (4 + 1) + 4 + 1
        assert parameters(model) == convolutions + (9 * 128 * 256 + 256) + branches
        narrow = build("mask-a3c", (1, 80, 80), 4, {"convolutions": [4, 5, 6]})
        convolutions = (25 * 4 + 4) + (9 * 4 * 5 + 5) + (9 * 5 * 6 + 6)
        assert parameters(narrow) == convolutions + (9 * (6 + 64) * 256 + 256) + branches

    @pytest.mark.parametrize("name", ["s3ta", "s3ta-paper", "mask-a3c"])
    def test_on_small_screens(self, name: str) -> None:
        """Less than a fifth of the weights, and what is asked for stands."""
        model = build(name, SMALL, 3)
        assert parameters(model) < parameters(build(name, SCREEN, 3)) / 5
        assert model.grid.height == model.grid.width == 10
        assert build(name, SMALL, 3, {"memory": 9}).settings == replace(model.settings, memory=9)

    def test_paper_to_the_letter(self) -> None:
        model = build("s3ta-paper", SMALL, 3)
        assert settings_of(model) | TO_THE_LETTER == settings_of(model)
        assert build("s3ta", SMALL, 3, settings_of(model)).settings == model.settings

    def test_wrong_requests(self) -> None:
        with pytest.raises(RequestError, match="no model"):
            build("s4ta", SMALL, 3)
        with pytest.raises(RequestError, match="no setting"):
            build("residual", SMALL, 3, {"heads": 3})

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("mask-a3c", {"convolutions": [16, 32]}),
            ("mask-a3c", {"masks": "all"}),
            ("mask-a3c", {"memory": "much"}),
            ("s3ta", {"memory": 0}),
            ("s3ta", {"heads": -1}),
            ("residual", {"channels": 4}),
        ],
    )
    def test_values_that_no_network_has(self, name: str, settings: dict[str, Any]) -> None:
        with pytest.raises(RequestError, match=f"no {name} can be made for screens of .* with {next(iter(settings))}="):
            build(name, SMALL, 3, settings)


def test_basis_is_equation_7() -> None:
    h, w = 5, 7
    basis = spatial_basis(h, w)
    functions = [lambda u, i, n: torch.cos(torch.tensor(torch.pi * u * i / n))]
    functions.append(lambda u, i, n: torch.sin(torch.tensor(torch.pi * u * i / n)))
    channel = 0
    for row in functions:
        for u in range(1, 5):
            for column in functions:
                for v in range(1, 5):
                    for i in range(h):
                        for j in range(w):
                            assert abs(basis[channel, i, j] - row(u, i, h) * column(v, j, w)) < 1e-6
                    channel += 1
    assert channel == len(basis) == 64
    assert (basis.flatten(1).abs().sum(1) > 0).all(), "no channel is empty"


def test_conv_lstm_is_its_equations() -> None:
    torch.manual_seed(0)
    model = ConvLSTM(3, 4, forget_bias=1.0)
    x, done = torch.randn(5, 2, 3, 6, 5), torch.zeros(5, 2, dtype=torch.bool)
    done[2, 1] = True
    h = c = torch.randn(2, 4, 6, 5)
    outputs, last, cell = model(x, done, h, c)
    weight = torch.cat([model.input.weight, model.recurrent.weight], 1)
    for t in range(5):
        h, c = h * ~done[t].view(2, 1, 1, 1), c * ~done[t].view(2, 1, 1, 1)
        gates = nn.functional.conv2d(torch.cat([x[t], h], 1), weight, model.input.bias, padding=1)
        i, f, o, g = gates.split(4, 1)
        c = (f + 1).sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        torch.testing.assert_close(outputs[t], h, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last, h, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(cell, c, atol=1e-5, rtol=1e-4)


def test_reset_forgets_rows() -> None:
    done = torch.tensor([False, True])
    one, two = reset(done, torch.full((2, 3), torch.nan), torch.ones(2, 1, 2, 2))
    assert one[0].isnan().all() and (one[1] == 0).all(), "even what is not a number"
    assert two.flatten(1).sum(1).tolist() == [4, 0]


def test_frames_are_normalised_as_published() -> None:
    """The published NormalizedEnv, step by step."""
    frames = torch.rand(6, 2, 1, 4, 4)
    zeros = {name: torch.zeros(2) for name in ("frame_mean", "frame_deviation", "frames")}
    ours, _ = normalise(frames, zeros)
    for env in range(2):
        mean = deviation = 0.0
        for step in range(6):
            frame = frames[step, env].double()
            mean = 0.9999 * mean + 0.0001 * frame.mean()
            deviation = 0.9999 * deviation + 0.0001 * frame.std(correction=0)
            unbiased = 1 - 0.9999 ** (step + 1)
            theirs = (frame - mean / unbiased) / (deviation / unbiased + 1e-8)
            torch.testing.assert_close(ours[step, env], theirs.float(), atol=1e-4, rtol=1e-4)


class TestS3TA:
    @torch.no_grad()
    def test_attention_is_equations_3_to_5(self) -> None:
        model = network("s3ta-paper")
        inputs = inputs_of(SCREEN, time=1)
        _, state = model(inputs, model.initial_state(3))
        inputs = replace(inputs, done=torch.zeros_like(inputs.done))
        seen = model(inputs, state, observe=True)[0].attention
        keys = torch.cat([seen.keys[0], model.basis.unflatten(1, (5, 6)).expand(3, -1, -1, -1)], 1)
        logits = torch.einsum("bnc,bcij->bnij", seen.queries[0], keys)
        torch.testing.assert_close(seen.logits[0], logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(seen.what + seen.where, seen.logits)
        torch.testing.assert_close(seen.maps, logits.flatten(2).softmax(-1).view(1, 3, 4, 5, 6), atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_queries_are_top_down(self) -> None:
        """What is on the screen now changes keys, and the queries only at the next step."""
        model = network("s3ta")
        inputs = inputs_of(SCREEN, time=2)
        other = replace(inputs, observation=255 - inputs.observation, done=inputs.done.clone())
        one, two = (model(i, model.initial_state(3), observe=True)[0].attention for i in (inputs, other))
        assert torch.equal(one.queries[0], two.queries[0])
        assert not torch.allclose(one.queries[1], two.queries[1])

    @torch.no_grad()
    def test_ablations_are_bottom_up(self) -> None:
        fixed = network("s3ta-fixed-query")
        seen = fixed(inputs_of(SCREEN), fixed.initial_state(3), observe=True)[0].attention
        assert torch.equal(seen.queries, seen.queries[:1, :1].expand_as(seen.queries))
        keyed = network("s3ta-l2-keys")
        seen = keyed(inputs_of(SCREEN), keyed.initial_state(3), observe=True)[0].attention
        assert seen.queries is None
        torch.testing.assert_close(seen.logits[:, :, 0], seen.keys.norm(dim=2))

    @torch.no_grad()
    def test_switches_do_what_they_say(self) -> None:
        inputs = inputs_of(SCREEN, time=1)
        plain, letter = network("s3ta"), network("s3ta-paper")
        normal, raw = (m(inputs, m.initial_state(3), observe=True)[0].attention for m in (plain, letter))
        keys = normal.keys.flatten(-2)
        torch.testing.assert_close(keys.mean(-1), torch.zeros_like(keys[..., 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(keys.std(-1, correction=0), torch.ones_like(keys[..., 0]), atol=5e-2, rtol=0)
        assert raw.keys.abs().max() < 1  # a ConvLSTM's own
        # Nothing is remembered at first: the queries are what the heads begin with, which is nothing in the paper.
        asked = normal.queries[0]
        assert asked[..., : plain.settings.keys].std() > 0.5
        assert not asked[..., plain.settings.keys :].any()
        assert not raw.queries[0].any()
        assert isinstance(build("s3ta", SCREEN, ACTIONS, {"normalise_answers": True}).answer_norm, nn.LayerNorm)
        assert all(isinstance(m.answer_norm, nn.Identity) for m in (plain, letter))


class TestMaskA3C:
    @pytest.mark.parametrize("name", [n for n in MODELS if "a3c" in n])
    @torch.no_grad()
    def test_branches_have_their_masks(self, name: str) -> None:
        """Closing a branch's mask leaves its bias alone, and the other branch as it was."""
        model, inputs = network(name), inputs_of(SCREEN)
        before, _ = model(inputs, model.initial_state(3), observe=True)
        count = 0 if before.attention is None else before.attention.maps.shape[2]
        assert count == len(model.heads)
        for head in model.heads:
            branch = getattr(model, head)
            branch.mask.bias.fill_(-200)
            after, _ = model(inputs, model.initial_state(3), observe=True)
            shut, open_ = (after.logits, after.value) if head == "policy" else (after.value, after.logits)
            was = before.value if head == "policy" else before.logits
            alone = branch.output.bias if head == "policy" else branch.output.bias[0]
            torch.testing.assert_close(shut, alone.expand_as(shut))
            torch.testing.assert_close(open_, was)
            assert after.attention.maps[:, :, model.heads.index(head)].max() == 0
            branch.mask.bias.zero_()
            model = network(name)


# The map is where the pixel is


@torch.no_grad()
def map_is_where_the_pixel_is(model: AgentNetwork, observation: tuple[int, int, int]) -> bool:
    """Lights the pixel at the centre of a cell, for several cells: does that very cell of every map respond most?"""
    last = (model.grid.height - 1, model.grid.width - 1)
    cells = [(0, 0), last, (0, last[1]), (last[0] - 1, 1), (last[0] // 3, last[1] // 2)]
    dark = torch.zeros(1, len(cells), *observation)
    lit = dark.clone()
    for number, cell in enumerate(cells):
        row, column = model.grid.centre(*cell)
        # With "SAME" padding the last cell's centre may lie just outside: the nearest pixel, then.
        lit[0, number, :, min(int(row), observation[1] - 1), min(int(column), observation[2] - 1)] = 1
    steps = torch.zeros(1, len(cells))
    maps = []
    for picture in (dark, lit):
        inputs = AgentInputs(picture, steps, steps.long(), steps.bool())
        attention = model(inputs, model.initial_state(len(cells)), observe=True)[0].attention
        maps.append(attention.maps[0])
    gain = maps[1] - maps[0]
    found = gain.flatten(2).argmax(-1)
    wide = gain.shape[-1]
    return all(
        (int(place) // wide, int(place) % wide) == cell
        for places, cell in zip(found, cells, strict=True)
        for place in places
    )


@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize("observation", [(3, 105, 80), (2, 10, 12)], ids=["screen", "small"])
def test_the_map_is_where_the_pixel_is(name: str, observation: tuple[int, int, int]) -> None:
    assert map_is_where_the_pixel_is(make_eyes(build(name, observation, 3)), observation)


def test_full_size_maps_are_where_the_pixels_are() -> None:
    for model, observation in ((S3TA((3, 210, 160), 3), (3, 210, 160)), (MaskA3C((1, 80, 80), 3), (1, 80, 80))):
        assert map_is_where_the_pixel_is(make_eyes(model), observation)


class Transposed(S3TA):
    """Rows for columns."""

    def _attention(self, looks, keys):
        seen = super()._attention(looks, keys)
        names = ("maps", "logits", "what", "where", "keys")
        return replace(seen, **{n: getattr(seen, n).transpose(-1, -2).contiguous() for n in names})


class ChannelsAsRows(S3TA):
    """As the published reproduction: the memory of channels-first is read as if it were channels-last."""

    def _see(self, inputs, state):
        keys, values, hidden, cell = super()._see(inputs, state)
        seen = torch.cat([keys, values], 2)
        time, envs, channels, cells = seen.shape
        read = seen.contiguous().view(time, envs, cells, channels).transpose(2, 3)
        return read[:, :, : self.settings.keys], read[:, :, self.settings.keys :], hidden, cell


@pytest.mark.parametrize("wrong", [Transposed, ChannelsAsRows])
@pytest.mark.parametrize("observation", [(3, 105, 80), (2, 10, 12), (2, 10, 10)])
def test_wrong_maps_are_told(wrong: type[S3TA], observation: tuple[int, int, int]) -> None:
    assert not map_is_where_the_pixel_is(make_eyes(wrong(observation, 3)), observation)


class Largest(TorchDispatchMode):
    """Remembers the shapes of everything that was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.shapes += [tuple(out.shape)] if isinstance(out, Tensor) else []
        return out


@pytest.mark.parametrize("name", ["s3ta", "mask-a3c"])
@torch.no_grad()
def test_attention_costs_nothing_unless_asked_for(name: str) -> None:
    """Unasked, nothing more is computed than asked, and no stack of maps over time is made."""
    five = (5, 10, 10)
    model, inputs = network(name, five), inputs_of(five)
    counts = []
    for observe in (False, True):
        with Largest() as seen:
            output, _ = model(inputs, model.initial_state(3), observe=observe)
        assert (output.attention is not None) == observe
        counts.append(seen.shapes)
    maps = (7, 3, len(model.heads), 10, 10)
    assert maps not in counts[0] and maps in counts[1]
    assert len(counts[0]) < len(counts[1])
