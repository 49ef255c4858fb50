"""From what a classifier shows to what an agent sees: one row of numbers a token.

Every feature depends on its own sequence alone: padding it or batching it with others changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import RequestError
from foveate.masking.state import State


def bin_counts(
    values: Float[Tensor, "games tokens tokens"], real: Bool[Tensor, "games tokens"], bins: int
) -> tuple[Float[Tensor, "games tokens bins"], Float[Tensor, "games tokens bins"]]:
    """Histograms over [0, 1] of each token's column and row, counting real tokens only; 1.0 falls in the last bin."""
    games, tokens, _ = values.shape
    index = (values * bins).long().clamp_(0, bins - 1)
    counted = (real[:, :, None] & real[:, None, :]).to(values.dtype)
    empty = values.new_zeros(games, tokens, bins)
    rows = empty.scatter_add(2, index, counted)
    columns = empty.scatter_add(2, index.transpose(1, 2), counted)
    return columns, rows


def moments(
    values: Float[Tensor, "games tokens tokens"], real: Bool[Tensor, "games tokens"]
) -> tuple[Float[Tensor, "games tokens"], Float[Tensor, "games tokens"]]:
    """Mean and unbiased standard deviation of each row over the real tokens."""
    weight = real[:, None, :].to(values.dtype)
    count = weight.sum(2)
    mean = (values * weight).sum(2) / count
    variance = ((values - mean[:, :, None]).square() * weight).sum(2) / (count - 1).clamp(min=1)
    return mean, variance.sqrt()


def statistics(
    attention: Float[Tensor, "games tokens tokens"], real: Bool[Tensor, "games tokens"], bins: int = 32
) -> Float[Tensor, "games tokens 2*{bins}+4"]:
    """The paper's matrix F (AttExplainer, section 3.3, figure 3).

    Column histogram, row histogram (counts over n), row mean and deviation, column mean and deviation (the paper says
    variance; the networks that its authors published were trained on the deviation). Entries of
    attention are in [0, 1]; padding must be marked in `real` and comes out as zero.
    """
    columns, rows = bin_counts(attention, real, bins)
    length = real.sum(1)[:, None, None]
    row_mean, row_std = moments(attention, real)
    column_mean, column_std = moments(attention.transpose(1, 2), real)
    summary = torch.stack([row_mean, row_std, column_mean, column_std], -1)
    return torch.cat([columns / length, rows / length, summary], -1) * real[:, :, None]


def relative(values: Float[Tensor, "games *rest tokens"], real: Bool[Tensor, "games tokens"]) -> Tensor:
    """log2 of attention relative to uniform (n · a), so that 0 means an even share whatever the length."""
    length = real.sum(1).view(-1, *[1] * (values.dim() - 1))
    return torch.log2((values * length).clamp(min=2**-6))


def _statistics(state: State) -> Tensor:
    return statistics(state.observation.attention, state.real)


def _relative_histograms(state: State) -> Tensor:
    """Histograms of n · a on a logarithmic scale, where the entries are spread, in place of a on a linear one."""
    bins = 12
    scaled = (relative(state.observation.attention, state.real) + 6) / bins
    columns, rows = bin_counts(scaled.clamp(0, 1), state.real, bins)
    length = state.real.sum(1)[:, None, None]
    return torch.cat([columns, rows], -1) / length


def _layers(state: State) -> Tensor:
    """Attention received and attention from the pooling position, layer by layer."""
    o = state.observation
    return relative(torch.cat([o.received, o.pooled], 1), state.real).transpose(1, 2)


def _profile(state: State) -> Tensor:
    """The same over any number of layers: mean, highest, first, middle and last."""
    o = state.observation
    parts = []
    for a in (o.received, o.pooled):
        middle = a.shape[1] // 2
        parts += [a.mean(1), a.amax(1), a[:, 0], a[:, middle], a[:, -1]]
    share = torch.stack([_ranks(p, state.real) for p in (parts[0], parts[4], parts[5], parts[9])], -1)
    return torch.cat([relative(torch.stack(parts, 1), state.real).transpose(1, 2), share], -1)


def _ranks(values: Float[Tensor, "games tokens"], real: Bool[Tensor, "games tokens"]) -> Float[Tensor, "games tokens"]:
    """The share of the sequence's tokens with a higher value."""
    higher = (values[:, None, :] > values[:, :, None]) & real[:, None, :]
    return higher.sum(2) / real.sum(1, keepdim=True)


def _hidden(state: State) -> Tensor:
    """The encoder's last hidden state of each token."""
    return state.observation.hidden


def _geometry(state: State) -> Tensor:
    """Where each last hidden state lies, whatever the encoder's width: its cosines with the one that the classifier
    reads and with the mean, and its length."""
    hidden, real = state.observation.hidden, state.real
    summary = state.observation.summary[:, None]
    weight = real[:, :, None].to(hidden.dtype)
    mean = (hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    norm = hidden.norm(dim=-1)
    typical = (norm * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
    return torch.stack(
        [
            F.cosine_similarity(hidden, summary, dim=-1),
            F.cosine_similarity(hidden, mean, dim=-1),
            F.cosine_similarity(hidden - mean, summary - mean, dim=-1),
            norm / typical.clamp(min=1e-6) - 1,
        ],
        -1,
    )


def _context(state: State) -> Tensor:
    """How the game stands and where the token is: the same for every classifier."""
    tokens = state.real.shape[1]
    now = state.probabilities.gather(1, state.target[:, None]).clamp(1e-6, 1 - 1e-6)
    goal = state.wanted[:, None].clamp(1e-6, 1 - 1e-6)
    others = state.probabilities.scatter(1, state.target[:, None], 0).amax(1, keepdim=True)
    maskable = state.maskable.sum(1, keepdim=True).clamp(min=1)
    masked = (state.maskable & ~state.visible).sum(1, keepdim=True)
    length = state.real.sum(1, keepdim=True)
    games = torch.cat([now, now.logit() / 4, goal.logit() / 4, others, masked / maskable, length.float().log2() / 4], 1)
    position = torch.arange(tokens, device=length.device)[None] / length
    places = torch.stack([position, state.segments.float(), state.legal.float()], -1)
    return torch.cat([games[:, None].expand(-1, tokens, -1), places], -1)


def _labels(state: State) -> Tensor:
    """The classifier's probabilities, and which label is explained."""
    tokens = state.real.shape[1]
    target = F.one_hot(state.target, state.probabilities.shape[1])
    return torch.cat([state.probabilities, target], 1)[:, None].expand(-1, tokens, -1)


FEATURES: dict[str, Callable[[State], Tensor]] = {
    "statistics": _statistics,
    "relative-histograms": _relative_histograms,
    "layers": _layers,
    "profile": _profile,
    "hidden": _hidden,
    "geometry": _geometry,
    "context": _context,
    "labels": _labels,
}
"""Every group of features by name. `layers`, `hidden` and `labels` have sizes of one classifier; the others fit any."""


def check_features(names: Sequence[str]) -> None:
    """Raises RequestError where a group of features has no such name."""
    if unknown := set(names) - FEATURES.keys():
        raise RequestError(f"no features are called {', '.join(sorted(unknown))}; there are {', '.join(FEATURES)}")


def token_features(state: State, names: Sequence[str]) -> Float[Tensor, "games tokens features"]:
    """The named groups side by side, zero on padding."""
    return torch.cat([FEATURES[name](state) for name in names], -1) * state.real[:, :, None]
