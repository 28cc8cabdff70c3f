"""The rows of `candidates`: what a policy sees of each (task, mode) pair, and of waiting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from math import log1p
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlsched.envs.availability import Availability
from rlsched.envs.facts import TaskFacts, facts_of
from rlsched.model import Share
from rlsched.state import JobState, State, TaskState

PER_JOB = 3  # tasks of one job that are looked at, so that one wide sweep does not hide the other jobs

COLUMNS = (
    # name, and how the number is scaled: "" as it is, "count" log(1 + x), "seconds" log(1 + x / typical time)
    ("used", ""),
    ("job.work_left", "seconds"),
    ("job.critical_path_left", "seconds"),
    ("job.age", "seconds"),
    ("job.gpus", "count"),
    ("job.tasks_left", "count"),
    ("job.rank_share", ""),
    ("job.rank", "count"),
    ("job.work_over_mean", "count"),
    ("job.urgency", ""),
    ("task.scaling", ""),
    ("task.slow_ratio", ""),
    ("task.least_work", "seconds"),
    ("task.descendant_work", "seconds"),
    ("task.rank", "seconds"),
    ("task.criticality", ""),
    ("task.unlocks", "count"),
    ("task.members", "count"),
    ("task.waited", "seconds"),
    ("mode.efficiency", ""),
    ("mode.speed", ""),
    ("mode.type_speed", ""),
    ("mode.last_gain", ""),
    ("mode.next_gain", ""),
    ("mode.is_largest", ""),
    ("mode.gpu_seconds", "seconds"),
    ("mode.gpus", "count"),
    ("mode.duration", "seconds"),
    ("mode.share_of_cluster", ""),
    ("mode.share_of_free", ""),
    ("mode.free_after", ""),
    ("mode.node_remainder", ""),
    ("mode.spans", ""),
    ("mode.setup", ""),
    ("mode.job_time", "seconds"),
    ("mode.past_next_end", "count"),
    ("mode.delay", "seconds"),
    ("mode.best_delay", "seconds"),
    ("mode.best_finish", ""),
    ("is_wait", ""),
)
CANDIDATE_FEATURES = len(COLUMNS)

_SECONDS = np.array([scale == "seconds" for _, scale in COLUMNS])
_LOGGED = np.array([scale != "" for _, scale in COLUMNS])


class Candidate(NamedTuple):
    """A task, the number of one of its modes that fits now, and where such a mode would go."""

    task: TaskState
    mode: int
    shares: tuple[Share, ...]


def foremost(job: JobState) -> list[TaskState]:
    """The job's ready tasks, longest upward rank first."""
    return sorted(job.ready.values(), key=_rank, reverse=True)


def _rank(task: TaskState) -> float:
    return task.rank


class RowWriter:
    """Writes the rows of one state.

    Args:
        queue: the jobs, least work left first.
        work: what is left of all of them, GPU-seconds.
        next_end: seconds until something that runs is expected to end.
    """

    def __init__(self, state: State, queue: Sequence[JobState], work: float, next_end: float) -> None:
        self._state, self._queue = state, queue
        self._unit, self._pool, self._nodes = state.typical_time, state.pool, state.cluster.nodes
        self._total, self._free_all = max(1, state.cluster.gpu_count()), state.pool.free_gpus()
        self._free = {t: state.pool.free_gpus(t) for t in state.cluster.gpu_types}
        self._rank_of = {job.id: rank for rank, job in enumerate(queue)}
        self._mean_work = max(work / max(1, len(queue)), 1e-9)
        self._soon = max(next_end, 1e-3 * self._unit)
        self._availability = Availability(state)

    def write(self, candidates: Sequence[Candidate], rows: int) -> NDArray[np.float32]:
        """Row 0 is waiting, then the candidates, then zeros: (rows, CANDIDATE_FEATURES)."""
        result = np.zeros((rows, CANDIDATE_FEATURES), dtype=np.float32)
        flat = self._wait()
        before: TaskState | None = None
        for task, number, shares in candidates:
            if task is not before:
                before, facts = task, facts_of(task.job.job)[task.index]
                prefix = self._task(task, facts)
                left, best = task.left(task.waiting[-1]), self._best(task, facts)
                rest = max(0.0, task.job.critical_path_left - task.rank)
                setup = task.task.setup_time > 0
            mode = facts.modes[number]
            duration, gpus, node = left * mode.duration, mode.gpus, shares[0].node
            type_free = self._free_all if mode.gpu_type is None else self._free.get(mode.gpu_type, 0)
            flat += prefix
            flat += mode.features
            flat += (
                duration,
                gpus / self._total,
                gpus / max(1, type_free),
                (type_free - gpus) / self._total,
                (self._pool.free_on(node) - len(shares[0].gpus)) / max(1, self._nodes[node].gpus),
                len(shares) > 1,
                self._setup_share(task, number) if setup else 0.0,
                duration + rest,
                duration / self._soon,
                0.0,
                best[1],
                min(1.0, best[0] / duration),
                0.0,
            )
        used = result[: 1 + len(candidates)]
        used[:] = np.array(flat).reshape(used.shape)
        np.divide(used, self._unit, out=used, where=_SECONDS)
        np.log1p(used, out=used, where=_LOGGED)
        return result

    def _wait(self) -> list[float]:
        """Waiting is seen as starting later what it is worth to wait for.

        That is the first task in the queue which, by the estimates, ends earlier in a mode that has to wait than in
        any that fits now. If there is none, all but the first and the last column is 0.
        """
        for task in self._first_tasks():
            facts = facts_of(task.job.job)[task.index]
            finish, delay, number = self._best(task, facts)
            if 0.0 < delay < math.inf:
                mode = facts.modes[number]
                rest = max(0.0, task.job.critical_path_left - task.rank)
                here = (
                    finish - delay,
                    mode.gpus / self._total,
                    *(0.0,) * 5,  # what is free then is not known
                    finish + rest,
                    finish / self._soon,
                    delay,
                    delay,
                    1.0,
                    1.0,
                )
                return [*self._task(task, facts), *mode.features, *here]
        return [1.0, *(0.0,) * (CANDIDATE_FEATURES - 2), 1.0]

    def _first_tasks(self) -> Iterator[TaskState]:
        for job in self._queue:
            if job.ready:
                yield from foremost(job)[:PER_JOB]

    def _best(self, task: TaskState, facts: TaskFacts) -> tuple[float, float, int]:
        """Seconds to the earliest end of the task that waiting allows, seconds of the wait, and the mode's number."""
        left, delay = task.left(task.waiting[-1]), self._availability.delay
        best = (math.inf, math.inf, 0)
        for number, mode in enumerate(facts.modes):
            later = delay(mode.gpus, mode.gpu_type)
            finish = later + left * mode.duration
            if finish < best[0]:
                best = (finish, later, number)
        return best

    def _task(self, task: TaskState, facts: TaskFacts) -> tuple[float, ...]:
        """The columns of the job and the task."""
        state, unit, job = self._state, self._unit, task.job
        weight, deadline, rank = job.job.weight, job.job.deadline, self._rank_of[job.id]
        return (
            1.0,
            job.work_left,
            job.critical_path_left,
            state.now - job.job.release,
            job.gpus,
            job.unsettled,
            rank / len(self._queue),
            rank,
            job.work_left / self._mean_work,
            weight if deadline is None else weight * _signed((deadline - state.now) / unit),
            *facts.features,
            task.rank,
            task.rank / max(job.critical_path_left, 1e-9),
            sum(job.tasks[s].needs_left == 1 for s in job.job.successors[task.index]),
            len(task.waiting),
            state.now - task.ready_at,
        )

    def _setup_share(self, task: TaskState, number: int) -> float:
        """Set-up time relative to the duration, if the devices it would get are cold."""
        mode = task.task.modes[number]
        places = self._pool.place(mode, task.job.id)
        cold = places is not None and self._pool.is_cold(places, task.job.id)
        return log1p(task.task.setup_time / mode.duration) if cold else 0.0


def _signed(value: float) -> float:
    return log1p(value) if value >= 0 else -log1p(-value)
