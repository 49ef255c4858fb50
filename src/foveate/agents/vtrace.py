"""What an unroll's values should have been: V-trace for off-policy unrolls, generalised advantages for on-policy ones.

Names carry their time: of a transition, `x_tm1` is what was known before it, `x_t` what it brought. A transition that
must not be learned from (`learn_t` false) has a temporal difference of 0: its target is the value that was said, and
nothing after it reaches the steps before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """What values should have been, and how much better than them the actions were."""

    value_tm1: Float[Tensor, "time envs"]
    advantage_tm1: Float[Tensor, "time envs"]


@torch.no_grad()
def vtrace(
    v_tm1: Float[Tensor, "time envs"],
    v_t: Float[Tensor, "time envs"],
    r_t: Float[Tensor, "time envs"],
    discount_t: Float[Tensor, "time envs"],
    rho_tm1: Float[Tensor, "time envs"],
    learn_t: Bool[Tensor, "time envs"],
    *,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> Targets:
    """V-trace targets (Espeholt et al. 2018, equation 1) and policy-gradient advantages (section 4.2).

    `discount_t` is 0 where the episode ended. `rho_tm1` is how much likelier the action is under the policy that learns
    than under the one that took it; `rho_bar` and `c_bar` are where it is cut, for the fixed point and for the trace.
    """
    _same_shapes(v_tm1, v_t, r_t, discount_t, rho_tm1, learn_t)
    rho, c = rho_tm1.clamp(max=rho_bar), rho_tm1.clamp(max=c_bar)
    errors = _sum_back(rho * (r_t + discount_t * v_t - v_tm1), discount_t * c, learn_t)
    # Equation 1 of the next step: its value where the unroll ends, whatever that is where the episode does.
    target_t = torch.cat([v_t[:-1] + errors[1:], v_t[-1:]])
    advantage = rho * (r_t + discount_t * target_t - v_tm1)
    return Targets(v_tm1 + errors, advantage.where(learn_t, 0))


@torch.no_grad()
def generalised_advantages(
    v_tm1: Float[Tensor, "time envs"],
    v_t: Float[Tensor, "time envs"],
    r_t: Float[Tensor, "time envs"],
    discount_t: Float[Tensor, "time envs"],
    learn_t: Bool[Tensor, "time envs"],
    *,
    gae_lambda: float = 1.0,
) -> Targets:
    """Generalised advantages (Schulman et al. 2016, equation 16) and λ-returns; with λ = 1, n-step returns."""
    _same_shapes(v_tm1, v_t, r_t, discount_t, learn_t)
    advantage = _sum_back(r_t + discount_t * v_t - v_tm1, discount_t * gae_lambda, learn_t)
    return Targets(v_tm1 + advantage, advantage)


def _sum_back(
    delta_t: Float[Tensor, "time envs"], decay_t: Float[Tensor, "time envs"], learn_t: Bool[Tensor, "time envs"]
) -> Float[Tensor, "time envs"]:
    """Of every step the sum of this and all later differences, each decayed by the steps between."""
    sums = torch.empty_like(delta_t)
    later = torch.zeros_like(delta_t[0])
    for t in reversed(range(len(delta_t))):
        later = (delta_t[t] + decay_t[t] * later).where(learn_t[t], 0)
        sums[t] = later
    return sums


def _same_shapes(*tensors: Tensor) -> None:
    # A missing axis would broadcast into plausible nonsense.
    shapes = [tuple(t.shape) for t in tensors]
    assert tensors[0].dim() == 2 and len(set(shapes)) == 1, f"all must be [time, envs], not {shapes}"
