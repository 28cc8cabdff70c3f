"""Orders: which ready task comes first. One function and one `@order` line make a new greedy policy.

An order answers a ready task and the state with a number, or a tuple of numbers; the task with the smallest comes
first, and among equals the one that became ready first. It is asked about every ready task at every decision, so it
should be cheap. Keyword-only parameters with defaults become options of the policy: `fair:exponent=-1`.

What runs is ranked among what waits by the same answer, about its task, unless the order has an `of_run` that takes
the progress of the run into account. An order whose answers change as time goes by can have a `wake_up` that says when.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

from rlsched.active import Run, TaskState
from rlsched.policies.options import Option
from rlsched.policies.outlook import WholeState
from rlsched.state import State

Key = float | tuple[float, ...]
Order = Callable[[TaskState, State], Key]
KeyOfRun = Callable[[Run, State], Key]

ORDERS: dict[str, Callable[..., Any]] = {}
"""By name: functions of (task, state), or classes whose objects are, for orders with a memory of their own."""

AnyOrder = TypeVar("AnyOrder", bound=Callable[..., object])


def order(
    name: str, *, local: bool = False, ordinal: bool = False, of_run: KeyOfRun | None = None, **family: Option
) -> Callable[[AnyOrder], AnyOrder]:
    """Register an order, and with it a greedy policy, under a name.

    Args:
        local: its answer depends on the task and its job alone, so it stands until something happens to that job.
            Such orders are fast however many tasks wait (see `rlsched.policies.ranking`).
        ordinal: only who is first matters, not by how much: `preempt_ratio` means nothing.
        of_run: the key of something that runs, where its progress makes it another than that of its task. A class
            has a method of that name instead.
        family: options of all greedy policies that have another default here.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: AnyOrder) -> AnyOrder:
        if name in ORDERS:
            raise ValueError(f"there is an order {name!r} already")
        function.local, function.ordinal, function.family = local, ordinal, family  # type: ignore[attr-defined]
        if of_run is not None:
            function.of_run = of_run  # type: ignore[attr-defined]
        ORDERS[name] = function
        return function

    return register


@order("fifo", local=True, ordinal=True)
def fifo(task: TaskState, state: State) -> Key:
    """First in, first out: jobs in order of release, a job's tasks in the order they became ready."""
    return task.job.id


@order("priority", local=True, ordinal=True)
def priority(task: TaskState, state: State) -> Key:
    """Most urgent task first (the task's own priority), then first in, first out."""
    return (-task.task.priority, task.job.id)


@order("edf", local=True, ordinal=True)
def earliest_deadline(task: TaskState, state: State) -> Key:
    """Earliest deadline first, jobs without one last (Jackson 1955), then first in, first out."""
    deadline = task.job.job.deadline
    return (math.inf if deadline is None else deadline, task.job.id)


def _time_left(run: Run, state: State) -> float:
    return run.part_left(state.now, state.cluster) * run.task.task.shortest


@order("sjf", local=True, of_run=_time_left)
def shortest_task(task: TaskState, state: State) -> Key:
    """Shortest task first, each in its fastest mode and with the work it has left."""
    return task.task.shortest * task.left(task.waiting[-1])


@order("srpt", local=True)
class ShortestRemainingWork:
    """Tasks of the job with the least GPU time left (Schrage 1968); within a job, longest path to its end first.

    Of jobs that need no GPU time any more, the one with the shorter critical path left comes first. What runs has the
    work left that its job's runs have not done yet.
    """

    def __init__(self) -> None:
        self._in_runs = WholeState(self._done_in_runs)

    def __call__(self, task: TaskState, state: State) -> Key:
        return self._key(task, task.job.work_left)

    def of_run(self, run: Run, state: State) -> Key:
        return self._key(run.task, run.task.job.work_left - self._in_runs(state)[run.task.job.id])

    @staticmethod
    def _key(task: TaskState, work: float) -> Key:
        job = task.job
        return (work, 0.0 if work else job.critical_path_left, job.id, -task.rank)

    @staticmethod
    def _done_in_runs(state: State) -> dict[int, float]:
        """By job, GPU-seconds of the most efficient modes that its runs have done since they started."""
        done: dict[int, float] = defaultdict(float)
        for run in state.running.values():
            task = run.task
            part = task.left(run.allocation.member.member) - run.part_left(state.now, state.cluster)
            done[task.job.id] += part * task.work / task.task.array
        return done


def _path_left(run: Run, state: State) -> float:
    """Seconds from now to the end of the job along the longest path through a run."""
    return run.task.rank - run.task.task.shortest + _time_left(run, state)


def _longest_path_of_run(run: Run, state: State) -> Key:
    return -_path_left(run, state)


def _remaining_path_of_run(run: Run, state: State) -> Key:
    return (run.task.job.critical_path_left - run.task.rank + _path_left(run, state), run.task.job.id, -run.task.rank)


@order("shortest-path", local=True, of_run=_remaining_path_of_run)
def shortest_remaining_path(task: TaskState, state: State) -> Key:
    """Tasks of the job with the shortest critical path left; within a job, longest path to its end first."""
    return (task.job.critical_path_left, task.job.id, -task.rank)


@order("critical-path", local=True, of_run=_longest_path_of_run)
def longest_path(task: TaskState, state: State) -> Key:
    """Longest path to the end of its job first: HEFT's upward rank (Topcuoglu et al., IEEE TPDS 2002, sec. 4).

    With the type where the task ends first (`gpu_type=fastest`), as HEFT has it, it goes by the name `heft` as well.
    """
    return -task.rank


order("heft", local=True, of_run=_longest_path_of_run)(longest_path)


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


@order("tetris")
class Tetris:
    """Task that packs best, less a penalty for much work left in its job (Grandl et al., Tetris, SIGCOMM 2014).

    Packing (sec. 3.2) is the dot product of what the task asks for at least and what is free, both as parts of what
    the cluster has. As in sec. 3.3, it and the job's work left count relative to their means, here over the ready
    tasks; `work_weight` 0 packs only.
    """

    def __init__(self, *, work_weight: float = 1.0) -> None:
        self.work_weight = work_weight
        self._scales = WholeState(self._mean_packing_and_work)
        self._capacity = WholeState(_capacities)

    def __call__(self, task: TaskState, state: State) -> Key:
        packing, work = self._scales(state)
        return self.work_weight * task.job.work_left / work - self._packing(task, state) / packing

    def _mean_packing_and_work(self, state: State) -> tuple[float, float]:
        tasks = state.ready.values()
        packing = sum(self._packing(task, state) for task in tasks) / max(1, len(tasks))
        work = sum(task.job.work_left for task in tasks) / max(1, len(tasks))
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
