"""Let a training begin with what a heuristic decides: a network that has learned to decide like it."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from rlsched.envs.encoding import Encoder
from rlsched.envs.scheduling import Observation
from rlsched.experiments.imitation import Watched
from rlsched.policies.network import SchedulingNetwork
from rlsched.policies.registry import load_policy
from rlsched.scenario import Scenario
from rlsched.scheduler import Scheduler

WORKLOADS = 120  # training workloads to watch the heuristic on, at most
EXAMPLES = 40_000  # decisions after which no further workload is begun
EPOCHS = 40
_BATCH = 512
_RATE, _LEAST_RATE = 3e-3, 1.5e-4  # of Adam, falling linearly


def clone(network: SchedulingNetwork, scenario: Scenario, teacher: str, seed: int = 0) -> None:
    """Fit the network's choice among candidates to a heuristic's decisions: behavioural cloning (Pomerleau, 1991).

    Decisions that a network cannot take, such as a candidate that is not on the encoder's list, are left out.

    Args:
        scenario: whose training workloads the heuristic plays.
        seed: of the order of the examples.

    Raises:
        ValueError: no such heuristic, or one that never decided anything that could be imitated.
    """
    seen, chosen = _watch(network, scenario, teacher)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
    device = network.score.weight.device
    updates = EPOCHS * -(-len(chosen) // _BATCH)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, _LEAST_RATE / _RATE, updates)
    network.train()
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(chosen), generator=generator), _BATCH):
            part = {key: values[batch].to(device) for key, values in seen.items()}
            scores = network.actor(part).masked_fill(part["candidates"][..., 0] == 0, -torch.inf)
            loss = torch.nn.functional.cross_entropy(scores, chosen[batch].to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            decay.step()


def _watch(network: SchedulingNetwork, scenario: Scenario, teacher: str) -> tuple[dict[str, Tensor], Tensor]:
    """What a network sees when the teacher decides, each (decisions, ...), and the row of what it decides."""
    seen: list[Observation] = []
    chosen: list[int] = []
    first, end = scenario.seeds.train, scenario.seeds.validation
    for seed in range(first, min(first + WORKLOADS, end)):
        if len(seen) >= EXAMPLES:
            break
        episode = scenario.episode(seed)
        encoder = Encoder(episode.objective, preemption=episode.preemption)
        watched = Watched(load_policy(teacher), encoder.candidates, partial(encoder.encode, critic=False))
        Scheduler(episode.simulator(seed)).run(watched)
        seen += watched.seen
        chosen += watched.chosen
    if not seen:
        raise ValueError(f"{teacher}: expected a policy whose decisions can be imitated, found one that takes none")
    return {key: torch.as_tensor(np.stack([one[key] for one in seen])) for key in seen[0]}, torch.as_tensor(chosen)
