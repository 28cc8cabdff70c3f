"""Playing whole episodes with a network: in batches, in several processes, reproducibly; and what it is compared with.

A group is one arrival sequence, played several times. Its result depends on the network, the workload and the seed
alone, not on how many processes play how many groups.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsched.envs.scheduling import Observation, SchedulingEnv
from rlsched.policies.network import NetworkConfig, SchedulingNetwork
from rlsched.policies.registry import load_policy
from rlsched.scenario import Scenario
from rlsched.scheduler import Scheduler
from rlsched.workers import available_cores, submit_all, worker_pool

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Episode:
    """One rollout: D decisions, and the simulated times around them (seconds).

    Attributes:
        times: D + 1; of each decision, and of the end.
        kept: decisions up to the last arrival; all of them where every job is released at once.
        bootstrapped: the last kept decision is not the end: arrivals went on, and so does what they cost.
        unit: mean critical path of the workload, seconds.
        scenario: name of the one that was played.
        score: the objective's value, seconds or a ratio.
    """

    observations: list[Observation] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    kept: int = 0
    bootstrapped: bool = False
    unit: float = 1.0
    scenario: str = ""
    score: float = 0.0

    def advantages(self, values: Floats, horizon: float, trace: float) -> Floats:
        """Generalised advantages of the kept decisions, discounted in simulated time, (kept,).

        Args:
            values: of the states of the kept decisions and of the one after, (kept + 1,).
            horizon, trace: time constants in units of `unit`. An episode that is over when its jobs are done, because
                none arrive later, is not discounted: nothing lies beyond it.
        """
        horizon = horizon if self.bootstrapped else math.inf
        elapsed = np.diff(np.array(self.times[: self.kept + 1])) / self.unit
        gamma, decay = np.exp(-elapsed / horizon), np.exp(-elapsed * (1 / horizon + 1 / trace))
        delta = np.array(self.rewards[: self.kept]) + gamma * values[1:] - values[:-1]
        result = np.empty(self.kept)
        following = 0.0
        for i in range(self.kept - 1, -1, -1):
            result[i] = following = delta[i] + decay[i] * following
        return result


def play(
    network: SchedulingNetwork, environments: Sequence[SchedulingEnv], workloads: Sequence[int], seed: int | None
) -> list[Episode]:
    """Play one workload on each environment to its end, all in step, so that the network sees batches.

    Args:
        network: is put into evaluation mode.
        environments, workloads: of equal length.
        seed: of sampling the actions; None: always take the best one, and keep only times and score.
    """
    network.eval()
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    episodes = [Episode() for _ in environments]
    current: list[tuple[Observation, NDArray[np.bool_]]] = []
    for environment, workload, episode in zip(environments, workloads, episodes, strict=True):
        observation, info = environment.reset(seed=workload)
        episode.times.append(info["time"])
        current.append((observation, environment.action_masks()))
    active = list(range(len(environments)))
    while active:
        tensors = {key: torch.as_tensor(np.stack([current[i][0][key] for i in active])) for key in current[0][0]}
        masks = torch.as_tensor(np.stack([current[i][1] for i in active]))
        with torch.inference_mode():
            logits = network.actor(tensors).masked_fill(~masks, -torch.inf)
            chosen = logits.argmax(-1) if generator is None else _sample(logits, generator)
            log_probs = logits.log_softmax(-1).gather(1, chosen[:, None]).squeeze(1).tolist()
        remaining = []
        for i, action, log_prob in zip(active, chosen.tolist(), log_probs, strict=True):
            episode, (observation, mask) = episodes[i], current[i]
            following, reward, ended, _, info = environments[i].step(action)
            episode.times.append(info["time"])
            if seed is not None:
                episode.observations.append(observation)
                episode.masks.append(mask)
                episode.actions.append(action)
                episode.log_probs.append(log_prob)
                episode.rewards.append(reward)
                if not info["arrivals_over"]:
                    episode.kept = len(episode.actions)
            if ended:
                episode.bootstrapped = episode.kept > 0
                episode.kept = episode.kept or len(episode.actions)
                episode.unit = environments[i].state.typical_time
                episode.scenario = environments[i].episode.name
                episode.score = environments[i].scheduler.schedule.metrics()[environments[i].episode.objective]
            else:
                remaining.append(i)
                current[i] = (following, environments[i].action_masks())
        active = remaining
    return episodes


def _sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)


class Players:
    """Processes that play workloads of one scenario.

    Args:
        scenario: what is played.
        config: sizes of the network, whose weights come with each call.
        processes: 0: one a core; 1: this process.
    """

    def __init__(self, scenario: Scenario, config: NetworkConfig, processes: int = 0) -> None:
        self._player: _Player | None = None
        self._pool: ProcessPoolExecutor | None = None
        processes = processes or available_cores()
        if processes == 1:
            self._player = _Player(scenario, config)
        else:
            self._pool = worker_pool(processes, _begin, scenario, config)

    def __enter__(self) -> Players:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def play(
        self, network: SchedulingNetwork, groups: Sequence[Sequence[int]], seeds: Sequence[int | None]
    ) -> list[list[Episode]]:
        """Play groups of workloads.

        Args:
            groups: the workloads of each group, played in step; a workload may occur several times.
            seeds: of the sampling in each group; None: always the best action.
        """
        if next(network.parameters()).device.type != "cpu":
            network = copy.deepcopy(network).cpu()
        if self._pool is None:
            assert self._player is not None
            return [self._player.play(network, group, seed) for group, seed in zip(groups, seeds, strict=True)]
        weights = {name: value.numpy() for name, value in network.state_dict().items()}
        calls = ((weights, group, seed) for group, seed in zip(groups, seeds, strict=True))
        futures = submit_all(self._pool, _play, calls)
        return [future.result() for future in futures]

    def scores(self, calls: Sequence[tuple[str, int]]) -> list[float]:
        """The objective's value, seconds or a ratio, of each policy, by name, on the workload beside it."""
        if self._pool is None:
            assert self._player is not None
            return [self._player.score(policy, workload) for policy, workload in calls]
        return [future.result() for future in submit_all(self._pool, _score, calls)]


class _Player:
    """Environments that are used again from group to group."""

    def __init__(self, scenario: Scenario, config: NetworkConfig) -> None:
        self.scenario, self.config = scenario, config
        self.environments: list[SchedulingEnv] = []

    def play(self, network: SchedulingNetwork, group: Sequence[int], seed: int | None) -> list[Episode]:
        while len(self.environments) < len(group):
            self.environments.append(SchedulingEnv(self.scenario))
        return play(network, self.environments[: len(group)], group, seed)

    def score(self, policy: str, workload: int) -> float:
        schedule = Scheduler(self.scenario.simulator(workload)).run(load_policy(policy))
        return schedule.metrics()[self.scenario.episode(workload).objective]


_player: _Player  # of a worker process


def _begin(scenario: Scenario, config: NetworkConfig) -> None:
    global _player
    torch.set_num_threads(1)
    _player = _Player(scenario, config)


def _play(weights: dict[str, NDArray[Any]], group: Sequence[int], seed: int | None) -> list[Episode]:
    network = SchedulingNetwork(_player.config)
    network.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    return _player.play(network, group, seed)


def _score(policy: str, workload: int) -> float:
    return _player.score(policy, workload)
