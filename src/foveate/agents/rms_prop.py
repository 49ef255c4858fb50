"""RMSProp as TensorFlow 1 has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class TensorFlowRMSProp(torch.optim.Optimizer):
    """ε stands inside the root, and the mean square starts from 1: first steps are small, where torch's are large.

    Source: tensorflow/python/training/rmsprop.py, which IMPALA and its followers used; without momentum.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, decay: float, epsilon: float) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "epsilon": epsilon})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter by -lr · g / √(mean square + ε)."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean_square"] = torch.ones_like(parameter)
                mean_square = state["mean_square"]
                mean_square.mul_(group["decay"]).addcmul_(parameter.grad, parameter.grad, value=1 - group["decay"])
                parameter.addcdiv_(parameter.grad, (mean_square + group["epsilon"]).sqrt_(), value=-group["lr"])
