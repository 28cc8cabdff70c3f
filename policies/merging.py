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
        for mine, layers in (
            (together.read.weight, [n.read.weight for n in networks]),
            (together.read.bias, [n.read.bias for n in networks]),
            (together.compare.bias, [n.compare.bias for n in networks]),
        ):
            mine.copy_(torch.cat([*layers]))
        together.score.weight.copy_(share * torch.cat([n.score.weight for n in networks], dim=1))
        for mine, layers in (
            (together.score.bias, [n.score.bias for n in networks]),
            (together.skip.weight, [n.skip.weight for n in networks]),
            (together.waiting.weight, [n.waiting.weight for n in networks]),
            (together.waiting.bias, [n.waiting.bias for n in networks]),
        ):
            mine.copy_(torch.stack([*layers]).mean(dim=0))
        # Columns are the first layer's values and, with pooling, their maxima: each network sees its own alone.
        together.compare.weight.zero_()
        first_row, width = 0, together.config.hidden
        for network in networks:
            hidden, weight = network.config.hidden, network.compare.weight
            rows = slice(first_row, first_row + hidden)
            for side in range(weight.shape[1] // hidden):
                columns = slice(side * width + first_row, side * width + first_row + hidden)
                together.compare.weight[rows, columns] = weight[:, side * hidden : (side + 1) * hidden]
            first_row += hidden
    return together
