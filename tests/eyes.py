"""Networks whose maps can be foretold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.agents.models.conv_lstm import ConvLSTM
from foveate.agents.models.interface import AgentNetwork
from foveate.agents.models.s3ta import S3TA


@torch.no_grad()
def make_eyes(model: AgentNetwork) -> AgentNetwork:
    """Give a network weights with which a cell's response grows with the light at the middle of its receptive field."""

    def peak(size: int) -> Tensor:
        # Steep, so that a border, where half the neighbours are missing, still responds most to its own light.
        middle = torch.minimum(torch.arange(size) + 1, size - torch.arange(size)).float() ** 2
        return middle / middle.sum()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            window = peak(module.kernel_size[0])
            module.weight.copy_((window[:, None] * window / module.in_channels).expand_as(module.weight))
            module.bias is not None and module.bias.zero_()
        if isinstance(module, ConvLSTM):
            module.input.weight.mul_(8)
    if isinstance(model, S3TA):
        content = torch.zeros(len(model.heads), model.query_size)
        content[:, : model.settings.keys] = 1
        if model.settings.queries == "top-down":
            model.query_network[-1].weight.zero_()
            model.query_network[-1].bias.copy_(content.flatten())
        elif model.settings.queries == "fixed":
            model.query.copy_(content)
    return model
