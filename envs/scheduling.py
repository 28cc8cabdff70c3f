"""SchedulingEnv: the scheduler and the simulator, seen by a reinforcement-learning agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlsched.envs.continuation import Continuation
from rlsched.envs.encoding import (
    CRITIC_FEATURES,
    GLOBAL_FEATURES,
    MAX_CANDIDATES,
    Encoder,
    action_mask,
    decision_of,
)
from rlsched.envs.graph import MAX_EDGES, MAX_TASKS, TASK_FEATURES
from rlsched.envs.reward import Reward, make_reward
from rlsched.envs.rows import CANDIDATE_FEATURES, Candidate
from rlsched.mixture import load_training
from rlsched.model import Allocation
from rlsched.scenario import Scenario
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator
from rlsched.state import State

WAIT = 0

Observation = dict[str, NDArray[np.generic]]


def observation_space(graph: bool) -> spaces.Space[Any]:
    """Space of the observations; see the legend in `rlsched.envs.encoding` for what the shapes mean."""

    def box(*shape: int) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, shape, dtype=np.float32)

    parts: dict[str, spaces.Space[Any]] = {
        "globals": box(GLOBAL_FEATURES),
        "candidates": box(MAX_CANDIDATES, CANDIDATE_FEATURES),
        "critic": box(CRITIC_FEATURES),
    }
    if graph:
        parts["tasks"] = box(MAX_TASKS, TASK_FEATURES)
        parts["edges"] = spaces.Box(-1, MAX_TASKS, (MAX_EDGES, 2), dtype=np.int32)
        parts["candidate_task"] = spaces.Box(-1, MAX_TASKS, (MAX_CANDIDATES,), dtype=np.int32)
    return spaces.Dict(parts)


class SchedulingEnv(gymnasium.Env[Observation, np.int64]):
    """One episode is one workload of the scenario, simulated to its end.

    Each step is one decision at an instant at which there is at least one candidate: action 0 waits for the next event,
    action i starts candidate i, or stops it if it is a run (where the scenario has preemption). Members of an array
    task go on by themselves for a while (`Continuation`). An illegal action (the
    mask forbids it) counts as waiting, or as the first candidate where waiting is illegal too; `info["illegal"]` says
    so.

    The reward is the negative of what the objective integrates over the time that passes, so that the undiscounted
    return of an episode is the negative objective in units of the workload's mean critical path (`make_reward`).

    Args:
        scenario: a name, a path, or a Scenario; a mixture plays another one in each episode (`episode`).
        graph: also observe the DAG (tasks, edges, candidate_task).
        first_seed: `reset()` without a seed plays workloads first_seed, first_seed + 1, ... Default: the
            scenario's training range.

    `info` always has `time` (seconds, simulated) and `arrivals_over` (no more jobs to come).
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (gymnasium's own form)

    def __init__(self, scenario: str | Path | Scenario, graph: bool = False, first_seed: int | None = None) -> None:
        self.scenario = scenario if isinstance(scenario, Scenario) else load_training(scenario)
        self.episode = self.scenario
        self.observation_space = observation_space(graph)
        self.action_space = spaces.Discrete(MAX_CANDIDATES)
        self._graph = graph
        self._next_seed = self.scenario.seeds.train if first_seed is None else first_seed
        self._candidates: list[Candidate] = []
        self._owed = 0.0  # what the time before the first decision cost: comes with the first reward
        self._continuation = Continuation()
        self._mask: NDArray[np.bool_]
        self._encoder: Encoder
        self._scheduler: Scheduler
        self._reward: Reward

    @property
    def state(self) -> State:
        """The scheduler's state, for looking at; changing it breaks the episode."""
        return self._scheduler.state

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of this episode; after the end its `schedule` holds every metric."""
        return self._scheduler

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        workload = self._next_seed if seed is None else seed
        self._next_seed = workload + 1
        self.episode = scenario = self.scenario.episode(workload)
        jobs = scenario.jobs(workload)
        self._encoder = Encoder(scenario.objective, preemption=scenario.preemption, graph=self._graph)
        self._scheduler = Scheduler(Simulator(scenario.cluster, jobs, workload, scenario.uncertainty))
        self._reward = make_reward(scenario.objective, jobs, scenario.cluster)
        self._owed = self._to_next_decision()
        return self._observe(), self._info(illegal=False)

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        chosen, mask = int(action), self._mask
        illegal = not (0 <= chosen < len(mask) and mask[chosen])
        if illegal:
            chosen = int(np.argmax(mask))
        reward, self._owed = self._owed, 0.0
        if chosen == WAIT:
            reward += self._advance()
        else:
            decision = decision_of(self._candidates[chosen - 1], self.state)
            self._scheduler.apply([decision])
            if isinstance(decision, Allocation):
                self._continuation.decided(decision, self.state)
        reward += self._to_next_decision()
        return self._observe(), reward, self._scheduler.finished, False, self._info(illegal)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now, (MAX_CANDIDATES,); the name is the one that sb3-contrib looks for."""
        return self._mask.copy()

    def _to_next_decision(self) -> float:
        """Advance until there is a candidate or everything has ended; the reward on the way."""
        reward = 0.0
        self._find_candidates()
        while not self._candidates and not self._scheduler.finished:
            reward += self._advance()
            self._find_candidates()
        return reward

    def _find_candidates(self) -> None:
        while following := self._continuation(self.state):
            self._scheduler.apply([following])
        self._candidates = self._encoder.candidates(self.state)

    def _advance(self) -> float:
        before, jobs = self.state.now, list(self.state.jobs.values())
        self._scheduler.advance()
        return -self._reward(jobs, before, self.state.now)

    def _observe(self) -> Observation:
        self._mask = action_mask(self.state, self._candidates)
        return self._encoder.encode(self.state, self._candidates)

    def _info(self, illegal: bool) -> dict[str, Any]:
        return {
            "time": self.state.now,
            "arrivals_over": not self._scheduler.backend.expecting,
            "illegal": illegal,
        }
