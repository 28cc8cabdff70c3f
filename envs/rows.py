"""The rows of `candidates`: what a policy sees of each candidate, and of waiting."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from math import log1p
from struct import pack
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlsched.active import JobState, Run, TaskState, run_time
from rlsched.envs.availability import Availability
from rlsched.envs.backlog import Backlog
from rlsched.envs.facts import TaskFacts, facts_of
from rlsched.model import Share
from rlsched.state import State

PER_JOB = 3  # tasks of one job that are looked at, with others waiting: one wide sweep is not to hide them
LOOKED_AT = 16  # tasks that waiting may be for

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
    ("job.slowdown", "count"),
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
    ("mode.resource_share", ""),
    ("mode.duration", "seconds"),
    ("mode.share_of_cluster", ""),
    ("mode.share_of_free", ""),
    ("mode.free_after", ""),
    ("mode.node_remainder", ""),
    ("mode.spans", ""),
    ("mode.overhead", ""),
    ("mode.moving", ""),
    ("mode.job_time", "seconds"),
    ("mode.past_next_end", "count"),
    ("mode.delay", "seconds"),
    ("mode.best_delay", "seconds"),
    ("mode.best_finish", ""),
    ("run.elapsed", "seconds"),
    ("is_stop", ""),
    ("is_wait", ""),
)
CANDIDATE_FEATURES = len(COLUMNS)
IS_STOP = [name for name, _ in COLUMNS].index("is_stop")

_SECONDS = np.array([scale == "seconds" for _, scale in COLUMNS])
_LOGGED = np.array([scale != "" for _, scale in COLUMNS])


class Candidate(NamedTuple):
    """A decision that is possible now.

    Attributes:
        task, mode, shares: start the task's next member in a mode, given by number, and where that would go;
        run: or stop this run, which holds these shares.
    """

    task: TaskState
    mode: int
    shares: tuple[Share, ...]
    run: Run | None = None


class RowWriter:
    """Writes the rows of one state.

    Args:
        backlog: the jobs of that state.
        queue: those with ready tasks, in the order in which these are looked at; no more of it is taken than needed.
        next_end: seconds until something that runs is expected to end.
    """

    def __init__(self, state: State, backlog: Backlog, queue: Iterable[JobState], next_end: float) -> None:
        self._state, self._backlog, self._queue = state, backlog, queue
        self._unit, self._pool, self._nodes = state.typical_time, state.pool, state.cluster.nodes
        self._total = max(1, state.cluster.gpu_count())
        self._free = {t: state.pool.free_gpus(t) for t in (None, *state.cluster.gpu_types)}  # None: of any type
        self._mean_work = max(backlog.work / max(1, len(backlog.jobs)), 1e-9)
        self._soon = max(next_end, 1e-3 * self._unit)
        self._availability = Availability(state)
        self._bests: dict[TaskState, tuple[float, float, int]] = {}
        self._awaited = self._find_awaited()

    def write(self, candidates: Sequence[Candidate], rows: int) -> NDArray[np.float32]:
        """Row 0 is waiting, then the candidates, then zeros: (rows, CANDIDATE_FEATURES)."""
        result = np.zeros((rows, CANDIDATE_FEATURES), dtype=np.float32)
        flat = self._wait()
        pool, nodes, total, soon = self._pool, self._nodes, self._total, self._soon
        before: TaskState | None = None
        for task, number, shares, run in candidates:
            if run is not None:
                flat += self._stop(run)
                continue
            if task is not before:
                before, facts = task, facts_of(task.job.job)[task.index]
                prefix = self._task(task, facts)
                left = task.left(task.waiting[-1])
                best_finish, best_delay, _ = self._best(task, facts, left)
                rest = max(0.0, task.job.critical_path_left - task.rank)
                overhead = task.task.setup_time > 0 or left < 1.0
            mode = facts.modes[number]
            duration, gpus, node = left * mode.duration, mode.gpus, shares[0].node
            type_free = self._free.get(mode.gpu_type, 0)
            flat += prefix
            flat += mode.features
            flat += (
                mode.resource_share(self._state.cluster) if mode.resources else 0.0,
                duration,
                gpus / total,
                gpus / type_free if type_free else 0.0,
                (type_free - gpus) / total,
                (pool.free_on(node) - len(shares[0].gpus)) / (nodes[node].gpus or 1),
                len(shares) > 1,
                *(self._overhead(task, number, left) if overhead else (0.0, 0.0)),
                duration + rest,
                duration / soon,
                0.0,
                best_delay,
                min(1.0, best_finish / duration),
                0.0,
                0.0,
                0.0,
            )
        used = result[: 1 + len(candidates)]
        used[:] = np.frombuffer(pack(f"{len(flat)}d", *flat)).reshape(used.shape)  # numpy takes long over mixed numbers
        np.divide(used, self._unit, out=used, where=_SECONDS)
        np.log1p(used, out=used, where=_LOGGED)
        return result

    def _wait(self) -> list[float]:
        """Waiting is seen as starting later what it is worth to wait for.

        That is the first task in the queue which, by the estimates, ends earlier in a mode that has to wait than in
        any that fits now. If there is none, all but the first and the last column is 0.
        """
        if self._awaited is None:
            return [1.0, *(0.0,) * (CANDIDATE_FEATURES - 2), 1.0]
        task, finish, delay, number = self._awaited
        facts = facts_of(task.job.job)[task.index]
        mode = facts.modes[number]
        rest = max(0.0, task.job.critical_path_left - task.rank)
        here = (
            0.0,
            finish - delay,
            mode.gpus / self._total,
            *(0.0,) * 6,  # what is free then is not known
            finish + rest,
            finish / self._soon,
            delay,
            delay,
            1.0,
            0.0,
            0.0,
            1.0,
        )
        return [*self._task(task, facts), *mode.features, *here]

    def _find_awaited(self) -> tuple[TaskState, float, float, int] | None:
        """What waiting is for: the task, seconds to its end, seconds of the wait, and the mode's number."""
        tasks = (task for job in self._queue for task in job.foremost[:PER_JOB])
        for task in islice(tasks, LOOKED_AT):
            finish, delay, number = self._best(task, facts_of(task.job.job)[task.index], task.left(task.waiting[-1]))
            if 0.0 < delay < math.inf:
                return task, finish, delay, number
        return None

    def _stop(self, run: Run) -> tuple[float, ...]:
        """Stopping is seen as what is left of the run, what a checkpoint costs relative to that, and whom it helps.

        For the task that waiting is for, if it ends earlier in the room that this makes; and for the run itself.
        """
        task, mode = run.task, run.mode
        facts = facts_of(task.job.job)[task.index]
        left = max(run.expected_end - self._state.now, 1e-3 * self._unit)
        of_type = self._free.get(mode.gpu_type, 0)
        share, delay, saved, work = self._let_in(run, of_type + mode.gpus)
        return (
            *self._task(task, facts),
            *facts.modes[run.allocation.mode].features,
            0.0,
            left,
            mode.gpus / self._total,
            share,
            (of_type + mode.gpus) / self._total,
            self._gain_by_restart(run, facts, left),
            len(run.allocation.shares) > 1,
            log1p(2 * task.task.checkpoint_time / left),
            0.0,
            left + max(0.0, task.job.critical_path_left - task.rank),
            left / self._soon,
            delay,
            saved,
            work,
            self._state.now - run.start,
            1.0,
            0.0,
        )

    def _gain_by_restart(self, run: Run, facts: TaskFacts, left: float) -> float:
        """The part of what is left of the run that it would save in its fastest mode for which there is room."""
        own = run.mode
        work = left / facts.modes[run.allocation.mode].duration
        for mode in facts.fastest_first:
            room = self._free.get(mode.gpu_type, 0)
            if mode.gpus <= room + (own.gpus if mode.gpu_type == own.gpu_type else 0):
                return max(0.0, 1.0 - (run.toll + work * mode.duration) / left)
        return 0.0

    def _let_in(self, run: Run, room: int) -> tuple[float, float, float, float]:
        """What the task that waiting is for would have of a stop; all 0 if it would save nothing.

        The part of the room that it takes, seconds that it waits now, seconds that it saves, and the work of its job
        relative to that of the run's, at most 1.
        """
        awaited = self._awaited
        if awaited is None:
            return 0.0, 0.0, 0.0, 0.0
        task, finish, delay, _ = awaited
        facts = facts_of(task.job.job)[task.index]
        left, gpu_type = task.left(task.waiting[-1]), run.mode.gpu_type
        wait = run.task.task.checkpoint_time
        for mode in facts.fastest_first:
            if mode.gpus <= room and (mode.gpu_type is None or mode.gpu_type == gpu_type):
                saved = finish - wait - left * mode.duration
                if saved <= 0:
                    break
                return mode.gpus / room, delay, saved, min(1.0, task.job.work_left / max(run.task.job.work_left, 1e-9))
        return 0.0, 0.0, 0.0, 0.0

    def _best(self, task: TaskState, facts: TaskFacts, left: float) -> tuple[float, float, int]:
        """Seconds to the earliest end of the task that waiting allows, seconds of the wait, and the mode's number."""
        known = self._bests.get(task)
        if known is not None:
            return known
        delays = self._availability.delays
        best, wait, chosen = math.inf, math.inf, 0
        for mode in facts.fastest_first:
            duration = left * mode.duration
            if duration >= best:
                break
            later = delays[mode.shape] if mode.shape in delays else self._availability.delay(mode)
            if later + duration < best:
                best, wait, chosen = later + duration, later, mode.number
        self._bests[task] = found = (best, wait, chosen)
        return found

    def _task(self, task: TaskState, facts: TaskFacts) -> tuple[float, ...]:
        """The columns of the job and the task."""
        now, unit, state = self._state.now, self._unit, task.job
        job, rank, path = state.job, self._backlog.rank(state), state.critical_path_left
        age = now - job.release
        return (
            1.0,
            state.work_left,
            path,
            age,
            state.gpus,
            state.unsettled,
            rank / len(self._backlog.jobs),
            rank,
            state.work_left / self._mean_work,
            (age + path) / job.critical_path,
            job.weight if job.deadline is None else job.weight * _signed((job.deadline - now) / unit),
            *facts.features,
            task.rank,
            task.rank / path if path else 0.0,
            sum([state.tasks[s].needs_left == 1 for s in job.successors[task.index]]),
            len(task.waiting),
            now - task.ready_at,
        )

    def _overhead(self, task: TaskState, number: int, left: float) -> tuple[float, float]:
        """Set-up on cold devices and loading a checkpoint, relative to the work of the member.

        And relative to what there is for these devices to do: the task's waiting members, shared with the GPUs that the
        job holds.
        """
        mode, job = task.task.modes[number], task.job
        places = self._pool.place(mode, job.id)
        cold = places is not None and self._pool.is_cold(places, job.id)
        overhead, work = run_time(task.task, mode, self._state.cluster, 1, left, cold)
        share = len(task.waiting) * max(1, mode.gpus) / (job.gpus + max(1, mode.gpus))
        return log1p(overhead / work), log1p(overhead / (work * share))


def _signed(value: float) -> float:
    return log1p(value) if value >= 0 else -log1p(-value)
