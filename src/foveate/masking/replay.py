"""Prioritised experience replay on tensors (Schaul et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class SumTree:
    """Sums of priorities in a complete binary tree; setting and sampling are vectorised over leaves.

    Node 1 is the root, node i has the children 2i and 2i + 1, and leaf k is node `size + k`.
    """

    def __init__(self, capacity: int) -> None:
        self.depth = max(capacity - 1, 1).bit_length()
        self.size = 1 << self.depth
        self.nodes: Float[Tensor, " nodes"] = torch.zeros(2 * self.size, dtype=torch.float64)

    @property
    def total(self) -> float:
        return float(self.nodes[1])

    def __getitem__(self, leaves: Int[Tensor, " leaves"]) -> Float[Tensor, " leaves"]:
        return self.nodes[self.size + leaves]

    def __setitem__(self, leaves: Int[Tensor, " leaves"], priorities: Float[Tensor, " leaves"] | float) -> None:
        """Set priorities; of a leaf named twice, one of its values is kept."""
        nodes = self.size + leaves
        self.nodes[nodes] = torch.as_tensor(priorities, dtype=torch.float64).expand(len(leaves))
        for _ in range(self.depth):
            nodes = nodes // 2
            self.nodes[nodes] = self.nodes[2 * nodes] + self.nodes[2 * nodes + 1]

    def find(self, mass: Float[Tensor, " samples"]) -> Int[Tensor, " samples"]:
        """The leaf at which the running sum of priorities first exceeds `mass`, for each mass in [0, total)."""
        nodes = torch.ones_like(mass, dtype=torch.long)
        for _ in range(self.depth):
            left = self.nodes[2 * nodes]
            # A right child without mass is never entered, so that rounding cannot reach an empty leaf.
            right = (mass >= left) & (self.nodes[2 * nodes + 1] > 0)
            mass = torch.where(right, mass - left, mass)
            nodes = 2 * nodes + right
        return nodes - self.size

    def sample(self, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        """`count` leaves in proportion to their priorities, one from each of `count` equal shares of the sum."""
        spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        return self.find(spread.double() * self.total)


@dataclass(frozen=True)
class Batch:
    """Transitions (s, a, r, s'); states are trimmed to the longest sequence among s, and among s'."""

    index: Int[Tensor, " batch"]
    weight: Float[Tensor, " batch"]
    """Importance weights, largest 1 (Schaul et al. 2016, section 3.4)."""
    features: Float[Tensor, "batch items features"]
    visible: Bool[Tensor, "batch items"]
    real: Bool[Tensor, "batch items"]
    action: Int[Tensor, " batch"]
    reward: Float[Tensor, " batch"]
    """Discounted over the steps between s and s'."""
    discount: Float[Tensor, " batch"]
    """Of the value of s'; 0 where the game was over by then."""
    next_features: Float[Tensor, "batch next_items features"]
    next_visible: Bool[Tensor, "batch next_items"]
    next_real: Bool[Tensor, "batch next_items"]
    next_legal: Bool[Tensor, "batch next_items"]


class Replay:
    """A ring of time steps × games. A state is stored once: the one at time t + 1 is the successor of time t.

    Features are kept in half precision.
    """

    def __init__(
        self, capacity: int, games: int, items: int, features: int, *, discount: float, n_step: int, exponent: float
    ) -> None:
        self.times = max(capacity // games, n_step + 2)
        self.games = games
        self.discount = discount
        self.n_step = n_step
        self.exponent = exponent
        shape = (self.times, games)
        self.tensors: dict[str, Tensor] = {
            "features": torch.zeros(*shape, items, features, dtype=torch.float16),
            "visible": torch.zeros(*shape, items, dtype=torch.bool),
            "real": torch.zeros(*shape, items, dtype=torch.bool),
            "legal": torch.zeros(*shape, items, dtype=torch.bool),
            "action": torch.zeros(shape, dtype=torch.long),
            "reward": torch.zeros(shape),
            "over": torch.zeros(shape, dtype=torch.bool),
        }
        self.tree = SumTree(self.times * games)
        self.highest = 1.0
        self.written = 0

    def __len__(self) -> int:
        return max(0, min(self.written, self.times) - self.n_step) * self.games

    def add(self, **step: Tensor) -> None:
        """Append one time step of every game: the state, the action taken in it, and what came of it."""
        time = self.written % self.times
        for name, value in step.items():
            store = self.tensors[name][time]
            if value.dim() > 1:
                store.zero_()
                store[:, : value.shape[1]] = value
            else:
                store.copy_(value)
        games = torch.arange(self.games)
        self.tree[time * self.games + games] = 0.0
        if self.written >= self.n_step:
            ready = (self.written - self.n_step) % self.times
            self.tree[ready * self.games + games] = self.highest
        self.written += 1

    def sample(self, count: int, beta: float, generator: torch.Generator) -> Batch:
        index = self.tree.sample(count, generator)
        probability = self.tree[index] / self.tree.total
        weight = (len(self) * probability).pow(-beta)
        time, game = index // self.games, index % self.games
        reward, discount, ahead = self._look_ahead(time, game)
        now, later = (self._states(t, game) for t in (time, ahead))
        return Batch(
            index=index,
            weight=(weight / weight.max()).float(),
            features=now["features"].float(),
            visible=now["visible"],
            real=now["real"],
            action=self.tensors["action"][time, game],
            reward=reward,
            discount=discount,
            next_features=later["features"].float(),
            next_visible=later["visible"],
            next_real=later["real"],
            next_legal=later["legal"],
        )

    def update(self, index: Int[Tensor, " batch"], error: Float[Tensor, " batch"]) -> None:
        """Priorities from TD errors: (|δ| + 0.01) ^ exponent."""
        priority = (error.abs() + 0.01).pow(self.exponent)
        self.highest = max(self.highest, float(priority.max()))
        self.tree[index] = priority.double()

    def _look_ahead(self, time: Tensor, game: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward, discount = torch.zeros(len(time)), torch.ones(len(time))
        for _ in range(self.n_step):
            reward += discount * self.tensors["reward"][time, game]
            discount *= self.discount * ~self.tensors["over"][time, game]
            time = (time + 1) % self.times
        return reward, discount, time

    def _states(self, time: Tensor, game: Tensor) -> dict[str, Tensor]:
        real = self.tensors["real"][time, game]
        width = int(real.sum(1).max())
        return {n: self.tensors[n][time, game, :width] for n in ("features", "visible", "real", "legal")}

    def state_dict(self) -> dict[str, Tensor]:
        used = min(self.written, self.times)
        counts = torch.tensor([self.highest, self.written], dtype=torch.float64)
        return {n: t[:used] for n, t in self.tensors.items()} | {"tree": self.tree.nodes, "counts": counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor[: len(state[name])] = state[name]
        self.tree.nodes.copy_(state["tree"])
        self.highest, self.written = float(state["counts"][0]), int(state["counts"][1])
