"""Let a policy that has learned without stopping runs begin to try it."""

from __future__ import annotations

import numpy as np
import torch

from rlsched.envs.rows import IS_STOP
from rlsched.envs.scheduling import SchedulingEnv
from rlsched.policies.network import SchedulingNetwork
from rlsched.policies.rollouts import play
from rlsched.scenario import Scenario

OFTEN = 0.02  # stops among sampled decisions that might be one: enough to learn from, too few to ruin what is known
_FAR = 1e4  # beyond any difference of scores


def begin_to_stop(network: SchedulingNetwork, scenario: Scenario, workload: int) -> None:
    """Score stops so that, where runs can be stopped, `OFTEN` of the decisions stop one on average.

    Args:
        network: its scores of stops mean nothing yet.
        workload: the one on whose decisions the score is found.
    """
    network.make_stops_rare(-_FAR)
    (episode,) = play(network, [SchedulingEnv(scenario)], [workload], seed=0)
    network.make_stops_rare(0.0)
    seen = {key: torch.as_tensor(np.stack([o[key] for o in episode.observations])) for key in episode.observations[0]}
    stops = seen["candidates"][..., IS_STOP] > 0
    with torch.inference_mode():
        scores = network.actor(seen).masked_fill(~torch.as_tensor(np.stack(episode.masks)), -torch.inf)
    possible = stops.any(dim=1)
    low, high = -_FAR, 0.0
    while possible.any() and high - low > 1e-3:
        middle = (low + high) / 2
        parts = (scores + middle * stops).softmax(-1)
        stopped = (parts * stops).sum(-1)[possible].mean()
        low, high = (low, middle) if stopped > OFTEN else (middle, high)
    network.make_stops_rare(low)
