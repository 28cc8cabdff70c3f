"""Several policies in one: the network whose scores are the mean of theirs.

Trainings that differ by chance make different mistakes, and a mean makes fewer than each of its parts (Hansen &
Salamon, Neural Network Ensembles, IEEE TPAMI 12(10), 1990). Networks of one hidden width side by side are one network
of the sum of the widths, so nothing is lost and nothing needs to be learned anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlsched.policies.network import SchedulingNetwork


def merged(networks: Sequence[SchedulingNetwork]) -> SchedulingNetwork:
    """The network whose logits are the mean of the networks' logits, but for rounding.

    Raises:
        ValueError: one pools and another does not.
    """
    first = networks[0].config
    for config in (network.config for network in networks):
        if config.pooled != first.pooled:
            raise ValueError("policies of which some pool and others do not cannot be merged")
    together = SchedulingNetwork(replace(first, hidden=sum(network.config.hidden for network in networks)))

    def of(name: str) -> list[Tensor]:
        return [network.get_parameter(name) for network in networks]

    with torch.no_grad():
        for name in ("read.weight", "read.bias", "compare.bias"):
            together.get_parameter(name).copy_(torch.cat(of(name)))
        for name in ("score.bias", "skip.weight", "waiting.weight", "waiting.bias"):
            together.get_parameter(name).copy_(torch.stack(of(name)).mean(dim=0))
        together.score.weight.copy_((1.0 / len(networks)) * torch.cat(of("score.weight"), dim=1))
        # Columns are the first layer's values and, with pooling, their maxima: each network sees its own alone.
        parts = [weight.chunk(2 if first.pooled else 1, dim=1) for weight in of("compare.weight")]
        blocks = [torch.block_diag(*side) for side in zip(*parts, strict=True)]  # type: ignore[no-untyped-call]
        together.compare.weight.copy_(torch.cat(blocks, dim=1))
    return together
