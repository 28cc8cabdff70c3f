"""Several policies in one: the network whose scores are the mean of theirs.

Trainings that differ by chance make different mistakes, and a mean makes fewer than each of its parts (Hansen &
Salamon, Neural Network Ensembles, IEEE TPAMI 12(10), 1990). Networks of one hidden width side by side are one network
of the sum of the widths, so nothing is lost and nothing needs to be learned anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rlsched.policies.network import SchedulingNetwork


def merged(networks: Sequence[SchedulingNetwork]) -> SchedulingNetwork:
    """The network whose logits are the mean of the networks' logits, but for rounding.

    Raises:
        ValueError: they have a graph network, or one pools and another does not.
    """
    first = networks[0].config
    for config in (network.config for network in networks):
        if config.graph_layers:
            raise ValueError("policies with a graph network cannot be merged")
        if config.pooled != first.pooled:
            raise ValueError("policies of which some pool and others do not cannot be merged")
    together = SchedulingNetwork(replace(first, hidden=sum(network.config.hidden for network in networks)))
    share = 1.0 / len(networks)
    with torch.no_grad():
        together.read.weight.copy_(torch.cat([n.read.weight for n in networks]))
        together.read.bias.copy_(torch.cat([n.read.bias for n in networks]))
        # Columns are the first layer's values and, with pooling, their maxima: each network sees its own alone.
        parts = [n.compare.weight.split(n.config.hidden, dim=1) for n in networks]
        together.compare.weight.copy_(torch.cat([torch.block_diag(*side) for side in zip(*parts, strict=True)], dim=1))
        together.compare.bias.copy_(torch.cat([n.compare.bias for n in networks]))
        together.score.weight.copy_(share * torch.cat([n.score.weight for n in networks], dim=1))
        for mean, layers in (
            (together.score.bias, [n.score.bias for n in networks]),
            (together.skip.weight, [n.skip.weight for n in networks]),
            (together.waiting.weight, [n.waiting.weight for n in networks]),
            (together.waiting.bias, [n.waiting.bias for n in networks]),
        ):
            mean.copy_(torch.stack(layers).mean(dim=0))
    return together
