"""Let a training begin with what a linear policy decides: a network that scores candidates as it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from rlsched.envs.encoding import OBJECTIVES
from rlsched.experiments.imitation import Floats, watch
from rlsched.policies.linear import CANDIDATE_COLUMNS, NAMES, LinearPolicy
from rlsched.policies.network import SchedulingNetwork
from rlsched.scenario import Scenario

ENTROPY = 0.5  # nats a decision, on average: sure of what is clear, and ready to try what is close
_LARGEST = 1e6


def start_from_linear(
    network: SchedulingNetwork, weights: Mapping[str, float], scenario: Scenario, seeds: Sequence[int]
) -> None:
    """Put the weights of a linear policy into the network's linear part, sharp enough to decide like it when sampling.

    Args:
        weights: by name of the column.
        seeds: the workloads on which its decisions show how sharp that is.
    """
    own = np.array([weights.get(name, 0.0) for name in NAMES])
    watched = watch(scenario, LinearPolicy(weights, scenario.objective), seeds)
    scale = sharpness([rows @ own for rows in watched.seen], ENTROPY)
    of_candidates, of_waiting = np.split(own * scale, [len(CANDIDATE_COLUMNS)])
    with torch.no_grad():
        known = torch.tensor([name in weights for name in CANDIDATE_COLUMNS])
        network.skip.weight[0, known] = torch.as_tensor(of_candidates, dtype=torch.float32)[known]
        network.waiting.weight[0, len(OBJECTIVES) :] = torch.as_tensor(of_waiting, dtype=torch.float32)


def sharpness(scores: Sequence[Floats], entropy: float) -> float:
    """What the scores of each decision are to be multiplied by so that softmax has this entropy, nats on average."""
    low, high = 0.0, 1.0
    while _mean_entropy(scores, high) > entropy and high < _LARGEST:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean_entropy(scores, middle) > entropy else (low, middle)
    return high


def _mean_entropy(scores: Sequence[Floats], scale: float) -> float:
    total = 0.0
    for of_one in scores:
        logits = scale * (of_one - of_one.max())
        parts = np.exp(logits)
        sums = parts.sum()
        total += float(np.log(sums) - (parts * logits).sum() / sums)
    return total / len(scores)
