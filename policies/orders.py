"""Orders: which ready task comes first. One function and one `@order` line make a new greedy policy.

An order answers a ready task and the state with a number, or a tuple of numbers; the task with the smallest comes
first, and among equals the one that became ready first. It is asked about every ready task at every decision, so it
should be cheap. Keyword-only parameters with defaults become options of the policy: `fair:exponent=-1`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rlsched.state import State, TaskState

Key = float | tuple[float, ...]
Order = Callable[[TaskState, State], Key]

ORDERS: dict[str, Callable[..., Any]] = {}
"""By name: functions of (task, state), or classes whose objects are, for orders with a memory of their own."""

AnyOrder = TypeVar("AnyOrder", bound=Callable[..., object])
Value = TypeVar("Value")


def order(name: str, *, local: bool = False) -> Callable[[AnyOrder], AnyOrder]:
    """Register an order, and with it a greedy policy, under a name.

    Args:
        local: its answer depends on the task and its job alone, so it stands until something happens to that job.
            Such orders are fast however many tasks wait (see `rlsched.policies.ranking`).

    Raises:
        ValueError: the name is taken.
    """

    def register(function: AnyOrder) -> AnyOrder:
        if name in ORDERS:
            raise ValueError(f"there is an order {name!r} already")
        function.local = local  # type: ignore[attr-defined]
        ORDERS[name] = function
        return function

    return register


@order("fifo", local=True)
def fifo(task: TaskState, state: State) -> Key:
    """First in, first out: jobs in order of release, a job's tasks in the order they became ready."""
    return task.job.id


@order("priority", local=True)
def priority(task: TaskState, state: State) -> Key:
    """Most urgent task first (the task's own priority), then first in, first out."""
    return (-task.task.priority, task.job.id)


@order("edf", local=True)
def earliest_deadline(task: TaskState, state: State) -> Key:
    """Earliest deadline first, jobs without one last (Jackson 1955), then first in, first out."""
    deadline = task.job.job.deadline
    return (math.inf if deadline is None else deadline, task.job.id)


@order("sjf", local=True)
def shortest_task(task: TaskState, state: State) -> Key:
    """Shortest task first, each in its fastest mode."""
    return task.task.shortest


@order("srpt", local=True)
def shortest_remaining_work(task: TaskState, state: State) -> Key:
    """Tasks of the job with the least GPU time left (Schrage 1968); within a job, longest path to its end first.

    Of jobs that need no GPU time any more, the one with the shorter critical path left comes first.
    """
    job = task.job
    work = job.work_left
    return (work, 0.0 if work else job.critical_path_left, job.id, -task.rank)


@order("shortest-path", local=True)
def shortest_remaining_path(task: TaskState, state: State) -> Key:
    """Tasks of the job with the shortest critical path left; within a job, longest path to its end first."""
    return (task.job.critical_path_left, task.job.id, -task.rank)


@order("critical-path", local=True)
def longest_path(task: TaskState, state: State) -> Key:
    """Longest path to the end of its job first: HEFT's upward rank (Topcuoglu et al., IEEE TPDS 2002, sec. 4)."""
    return -task.rank


@order("fair", local=True)
def weighted_fair(task: TaskState, state: State, *, exponent: float = 0.0) -> Key:
    """Job that would hold the smallest part of its fair share; shares go by weight x (total work) ^ exponent.

    Exponent 0 shares evenly, 1 by work, -1 (the best in Decima's tuning) favours small jobs (Mao et al., Decima,
    SIGCOMM 2019, sec. 7.1, "weighted fair").
    """
    job = task.job
    share = job.job.weight
    if exponent:
        share *= max(job.job.least_work, 1e-9) ** exponent
    return ((job.gpus + 1) / share, job.id)


class _OnceAnInstant(Generic[Value]):
    """Something computed from the whole state, once for each instant that it is asked about."""

    def __init__(self, compute: Callable[[State], Value]) -> None:
        self._compute = compute
        self._known: tuple[State, float, Value] | None = None

    def __call__(self, state: State) -> Value:
        known = self._known
        if known is None or known[0] is not state or known[1] != state.now:
            self._known = known = (state, state.now, self._compute(state))
        return known[2]


@order("las")
class LeastAttainedService:
    """Job that has had the least GPU time so far; needs no estimate (Gu et al., Tiresias, NSDI 2019)."""

    def __init__(self) -> None:
        self._in_running_tasks = _OnceAnInstant(self._gpu_seconds_of_running_tasks)

    def __call__(self, task: TaskState, state: State) -> Key:
        job = task.job
        return (job.service + self._in_running_tasks(state).get(job.id, 0.0), job.id)

    @staticmethod
    def _gpu_seconds_of_running_tasks(state: State) -> dict[int, float]:
        attained: dict[int, float] = defaultdict(float)
        for run in state.running.values():
            attained[run.task.job.id] += run.mode.gpus * (state.now - run.start)
        return attained


@order("tetris")
class Tetris:
    """Task that packs best, less a penalty for much work left in its job (Grandl et al., Tetris, SIGCOMM 2014).

    Packing (sec. 3.2) is the dot product of what the task asks for at least and what is free, both as parts of what
    the cluster has. As in sec. 3.3, it and the job's work left count relative to their means, here over the ready
    tasks; `work_weight` 0 packs only.
    """

    def __init__(self, *, work_weight: float = 1.0) -> None:
        self.work_weight = work_weight
        self._scales = _OnceAnInstant(self._mean_packing_and_work)
        self._capacity = _OnceAnInstant(_capacities)

    def __call__(self, task: TaskState, state: State) -> Key:
        packing, work = self._scales(state)
        return self.work_weight * task.job.work_left / work - self._packing(task, state) / packing

    def _mean_packing_and_work(self, state: State) -> tuple[float, float]:
        tasks = state.ready.values()
        packing = sum(self._packing(task, state) for task in tasks) / len(tasks)
        work = sum(task.job.work_left for task in tasks) / len(tasks)
        return packing or 1.0, work or 1.0

    def _packing(self, task: TaskState, state: State) -> float:
        pool, (gpus, resources) = state.pool, self._capacity(state)
        least = min(mode.gpus for mode in task.task.modes)
        best = 0.0
        for mode in task.task.modes:
            if mode.gpus == least:
                has = gpus.get(mode.gpu_type, 0)
                score = mode.gpus * pool.free_gpus(mode.gpu_type) / has**2 if has else 0.0
                for name, amount in mode.resources.items():
                    score += amount * pool.free_resource(name) / max(1, resources[name]) ** 2
                best = max(best, score)
        return best


def _capacities(state: State) -> tuple[dict[str | None, int], dict[str, int]]:
    """GPUs of the cluster by type, with all of them under None, and units of every custom resource."""
    gpus: dict[str | None, int] = defaultdict(int)
    resources: dict[str, int] = defaultdict(int)
    for node in state.cluster.nodes:
        gpus[None] += node.gpus
        gpus[node.gpu_type] += node.gpus
        for name, amount in node.resources.items():
            resources[name] += amount
    return gpus, resources
