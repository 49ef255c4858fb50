"""An agent that learns to play the masking game on the moments of a playing agent, from its attention alone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.agents.analysis.moments import Moments
from foveate.agents.models.grid import Grid
from foveate.masking.dqn import Learner, LearnerSettings
from foveate.masking.game import MaskingGame, Moves
from foveate.masking.goal import Goal
from foveate.masking.learning import ShuffledRows, explore
from foveate.masking.qnetwork import NetworkSettings, build_network
from foveate.masking.replay import Replay
from foveate.masking.reward import RewardSettings
from foveate.masking.state import State

NETWORK = NetworkSettings(kind="pooled", width=64)
LEARNER = LearnerSettings(learning_rate=1e-3, batch_size=64, capacity=10_000)
UPDATES = 2
"""After every step of all games."""
GAMES = 16
"""Played at once."""
WARMUP = 250
"""Queries before the first update."""
GREEDY = 0.7
"""Share of moves that are the agent's best; the others are random (AttExplainer, algorithm 1)."""


class CellAgent(nn.Module):
    """Values the blurring of every cell by what the maps show there and how the game stands."""

    moves: Moves = "take-back"
    tolerance = 0.5
    rounds = 1

    def __init__(self, grid: Grid, heads: int) -> None:
        super().__init__()
        self.grid = grid
        self.network = build_network(NETWORK, 3 * heads + 8)

    def look(self, state: State) -> Float[Tensor, "games cells features"]:
        """The features of each cell: see `cell_features`."""
        return cell_features(state, self.grid)

    def forward(
        self,
        features: Float[Tensor, "games cells features"],
        visible: Bool[Tensor, "games cells"],
        real: Bool[Tensor, "games cells"],
    ) -> Float[Tensor, "games cells"]:
        return self.network(features, visible, real)

    @torch.no_grad()
    def values(self, state: State) -> Float[Tensor, "games cells"]:
        """Q of blurring each cell; −∞ where that is not allowed."""
        return self(self.look(state), state.visible, state.real).masked_fill(~state.legal, -torch.inf)


def cell_features(state: State, grid: Grid) -> Float[Tensor, "games cells features"]:
    """Of each head's map: how far a cell is above an even share (log2), the share of the cells that have more, and the
    same of the mean over the cell and its neighbours; how the game stands; where the cell is, and whether anything may
    be done to it."""
    maps = state.observation.maps
    games, heads, cells = maps.shape
    share = maps / maps.sum(2, keepdim=True).clamp(min=1e-9)
    picture = share.view(games, heads, grid.height, grid.width)
    around = F.avg_pool2d(picture, 3, stride=1, padding=1, count_include_pad=False).flatten(2)
    above = [torch.log2((x * cells).clamp(min=2**-6)) / 4 for x in (share, around)]
    order = share.argsort(dim=2, descending=True, stable=True)
    rank = torch.empty_like(share).scatter_(2, order, torch.linspace(0, 1, cells).expand_as(share))
    seen = torch.cat([*above, rank], 1).transpose(1, 2)
    now = state.probabilities.gather(1, state.target[:, None]).clamp(1e-6, 1 - 1e-6)
    rival = state.probabilities.scatter(1, state.target[:, None], 0).amax(1, keepdim=True).clamp(1e-6, 1 - 1e-6)
    masked = (state.maskable & ~state.visible).sum(1, keepdim=True) / 4
    stands = torch.cat([now, now.logit() / 4, rival, rival.logit() / 4, masked], 1)
    down, across = torch.meshgrid(torch.linspace(-1, 1, grid.height), torch.linspace(-1, 1, grid.width), indexing="ij")
    places = torch.stack([down.flatten(), across.flatten()], 1).expand(games, -1, -1)
    return torch.cat([seen, stands[:, None].expand(-1, cells, -1), places, state.legal[:, :, None].float()], 2)


def learn(moments: Moments, goal: Goal, grid: Grid, queries: int, max_steps: int, seed: int) -> CellAgent:
    """An agent that has played for so many queries, on those of the moments whose screen a blur changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = CellAgent(grid, moments.maps.shape[1])
    generator = torch.Generator().manual_seed(seed)
    playable = moments.maskable.any(1).nonzero().squeeze(1).tolist()
    game = MaskingGame(
        moments,
        goal,
        map(playable.__getitem__, ShuffledRows(len(playable), seed)),
        slots=GAMES,
        max_steps=max_steps,
        moves=agent.moves,
        tolerance=agent.tolerance,
        rounds=agent.rounds,
    )
    learner = Learner(agent, LEARNER)
    assert game.state is not None
    cells, width = agent.look(game.state).shape[1:]
    replay = Replay(
        LEARNER.capacity,
        GAMES,
        cells,
        width,
        discount=LEARNER.discount,
        n_step=LEARNER.n_step,
        exponent=LEARNER.priority_exponent,
    )
    played = 0
    while played < queries:
        replay.add(**explore(game, agent, GREEDY, RewardSettings(), generator))
        played += GAMES
        learner.anneal(played / queries)
        for _ in range(UPDATES if played >= WARMUP and len(replay) else 0):
            batch = replay.sample(LEARNER.batch_size, LEARNER.importance_exponent, generator)
            _, error = learner.learn(batch)
            replay.update(batch.index, error)
    return agent.eval()
