"""From a State to arrays and a mask, and from an action back to an Allocation.

Legend of shapes, the only place where they are defined:

    C = MAX_CANDIDATES   rows of `candidates`; row 0 is "wait", rows 1.. are fitting (task, mode) pairs
    T = MAX_TASKS        rows of `tasks`: unsettled tasks of the shortlisted jobs (graph observation only)
    E = MAX_EDGES        rows of `edges`: (predecessor, successor) row numbers in `tasks`, -1 where there is none

    key              shape                    meaning
    globals          (GLOBAL_FEATURES,)       cluster and queue, for the actor
    candidates       (C, CANDIDATE_FEATURES)  job, task and mode features of every candidate
    critic           (CRITIC_FEATURES,)       what is to come, for the critic
    candidate_task   (C,)                     row of the candidate's task in `tasks`, -1 for none (graph only)
    tasks            (T, TASK_FEATURES)       features of the DAG's nodes (graph only)
    edges            (E, 2)                   the DAG's edges (graph only)

Times are divided by the mean critical path of the jobs seen so far and counts are log-scaled, so that a policy sees
the same picture on a cluster of 4 or 1,024 GPUs and for jobs of seconds or of days.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nsmallest
from math import log1p
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlsched.envs.fluid import fluid_flow_times
from rlsched.model import Job, Mode, Share, Task
from rlsched.state import State, Status, TaskState

MAX_CANDIDATES = 48
MAX_TASKS = 96
MAX_EDGES = 192
SHORTLIST = 16  # tasks whose modes become candidates
PER_JOB = 3  # shortlisted tasks of one job, so that one wide sweep does not hide the other jobs

GLOBAL_FEATURES = 10
CRITIC_FEATURES = 18
TASK_FEATURES = 8
_JOB, _TASK, _MODE = 9, 9, 17
CANDIDATE_FEATURES = 1 + _JOB + _TASK + _MODE  # the first one marks a row in use

Floats = NDArray[np.float32]

_SHAPES: dict[tuple[object, ...], int] = {}  # what a mode takes -> a short name for it


class Candidate(NamedTuple):
    """A task, the number of one of its modes that fits now, and where such a mode would go."""

    task: TaskState
    mode: int
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class _ModeFacts:
    """What is known of a mode once and for all."""

    duration: float
    gpu_seconds: float
    shape: int  # modes of equal shape fit the same places
    features: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _TaskFacts:
    """What is known of a task once and for all."""

    modes: tuple[_ModeFacts, ...]
    least_gpus: int
    least_work: float
    features: tuple[float, ...]
    descendant_work: float


class Encoder:
    """Turns states into observations and actions into allocations."""

    def __init__(self, graph: bool = False) -> None:
        self.graph = graph

    def candidates(self, state: State) -> list[Candidate]:
        """The fitting (task, mode) pairs of the shortlist: jobs with the least work left first.

        At most SHORTLIST tasks, PER_JOB a job (longest upward rank first), and MAX_CANDIDATES - 1 pairs in all.
        """
        found: list[Candidate] = []
        if not state.ready:
            return found
        free = state.pool.free_gpus()
        by_job: dict[int, list[TaskState]] = {}
        for task in state.ready.values():
            if _facts_of(task).least_gpus <= free:
                by_job.setdefault(task.job.id, []).append(task)
        places: dict[int, tuple[Share, ...] | None] = {}
        tasks = 0
        for job_id in nsmallest(SHORTLIST * 2, by_job, key=lambda j: (state.jobs[j].work_left, j)):
            ready = by_job[job_id]
            if len(ready) > 1:
                ready.sort(key=lambda task: -task.rank)
            of_job = 0
            for task in ready:
                before = len(found)
                for number, facts in enumerate(_facts_of(task).modes):
                    if facts.shape not in places:
                        places[facts.shape] = state.pool.place(task.task.modes[number])
                    shares = places[facts.shape]
                    if shares is not None:
                        found.append(Candidate(task, number, shares))
                if len(found) > before:
                    of_job += 1
                    tasks += 1
                    if len(found) >= MAX_CANDIDATES - 1 or tasks == SHORTLIST:
                        return found[: MAX_CANDIDATES - 1]
                    if of_job == PER_JOB:
                        break
        return found

    def encode(self, state: State, candidates: list[Candidate], critic: bool = True) -> dict[str, NDArray[np.generic]]:
        """The observation of a state with its candidates; see the legend for shapes. Acting needs no `critic`."""
        next_end = min((run.expected_end for run in state.running.values()), default=state.now) - state.now
        observation: dict[str, NDArray[np.generic]] = {
            "globals": self._globals(state, next_end),
            "candidates": self._rows(state, candidates, next_end),
        }
        if critic:
            observation["critic"] = self._critic(state, next_end)
        if self.graph:
            observation |= self._graph(state, candidates)
        return observation

    def _globals(self, state: State, next_end: float) -> Floats:
        unit = state.typical_time
        total, free = max(1, state.cluster.gpu_count()), state.pool.free_gpus()
        backlog = sum(job.work_left for job in state.jobs.values())
        demand = sum(_facts_of(task).least_gpus * len(task.waiting) for task in state.ready.values())
        types = state.cluster.gpu_types
        shares = [state.pool.free_gpus(t) / state.cluster.gpu_count(t) for t in types] or [0.0]
        return np.array(
            (
                free / total,
                max(shares),
                min(shares),
                log1p(len(state.jobs)),
                log1p(len(state.ready)),
                log1p(backlog / (total * unit)),
                log1p(demand / total),
                log1p(max(0.0, next_end) / unit),
                log1p(total) / 4,
                log1p(len(types)),
            ),
            dtype=np.float32,
        )

    def _rows(self, state: State, candidates: list[Candidate], next_end: float) -> Floats:
        unit, now, pool = state.typical_time, state.now, state.pool
        result = np.zeros((MAX_CANDIDATES, CANDIDATE_FEATURES), dtype=np.float32)
        result[0, 0] = 1.0
        if not candidates:
            return result
        total = max(1, state.cluster.gpu_count())
        work_left = sorted(job.work_left for job in state.jobs.values())
        srpt = {work: rank for rank, work in enumerate(work_left)}
        mean_work = max(sum(work_left) / len(work_left), 1e-9)
        free = {t: pool.free_gpus(t) for t in state.cluster.gpu_types}
        free_all = pool.free_gpus()
        jobs: dict[int, tuple[float, ...]] = {}
        rows: list[tuple[float, ...]] = []
        before: TaskState | None = None
        prefix: tuple[float, ...] = ()
        for task, number, shares in candidates:
            job, facts = task.job, _facts_of(task)
            if task is not before:
                before = task
                if job.id not in jobs:
                    rank = srpt[job.work_left]
                    deadline = job.job.deadline
                    jobs[job.id] = (
                        1.0,
                        log1p(job.work_left / unit),
                        log1p(job.critical_path_left / unit),
                        log1p((now - job.job.release) / unit),
                        log1p(job.gpus),
                        log1p(job.unsettled),
                        rank / len(work_left),
                        log1p(rank),
                        log1p(job.work_left / mean_work),
                        job.job.weight if deadline is None else job.job.weight * _signed((deadline - now) / unit),
                    )
                members = len(task.waiting)
                unlocks = sum(job.tasks[s].needs_left == 1 for s in job.job.successors[task.index])
                prefix = (
                    *jobs[job.id],
                    *facts.features,
                    log1p(facts.least_work / unit),
                    log1p(task.rank / unit),
                    task.rank / max(job.critical_path_left, 1e-9),
                    log1p(unlocks),
                    log1p(facts.descendant_work / unit),
                    log1p(members),
                    log1p((now - task.ready_at) / unit),
                )
            mode, static = task.task.modes[number], facts.modes[number]
            node = shares[0].node
            duration = task.left(task.waiting[-1]) * static.duration
            type_free = free_all if mode.gpu_type is None else free.get(mode.gpu_type, 0)
            rest = job.critical_path_left - task.rank  # of other branches and what lies behind, in the fastest modes
            rows.append(
                (
                    *prefix,
                    *static.features,
                    log1p(duration / unit),
                    log1p(static.gpu_seconds / unit),
                    log1p(mode.gpus),
                    mode.gpus / total,
                    mode.gpus / max(1, type_free),
                    (type_free - mode.gpus) / total,
                    (pool.free_on(node) - len(shares[0].gpus)) / max(1, state.cluster.nodes[node].gpus),
                    float(len(shares) > 1),
                    self._setup_share(state, task, mode),
                    log1p(max(0.0, duration + max(rest, 0.0)) / unit),
                    log1p(duration / max(next_end, 1e-3 * unit)),
                )
            )
        result[1 : 1 + len(rows)] = rows
        return result

    @staticmethod
    def _setup_share(state: State, task: TaskState, mode: Mode) -> float:
        """Set-up time relative to the duration, if the devices it would get are cold."""
        if not task.task.setup_time:
            return 0.0
        places = state.pool.place(mode, task.job.id)
        cold = places is not None and state.pool.is_cold(places, task.job.id)
        return log1p(task.task.setup_time / mode.duration) if cold else 0.0

    def _critic(self, state: State, next_end: float) -> Floats:
        unit, total = state.typical_time, max(1, state.cluster.gpu_count())
        jobs = state.jobs.values()
        count = len(jobs)
        queue = [(job.work_left, job.critical_path_left) for job in jobs]
        work = sum(left for left, _ in queue)
        paths = [path for _, path in queue]
        held, running_work, inefficient = 0, 0.0, 0.0
        for run in state.running.values():
            if run.mode.gpus:
                left = run.mode.gpus * max(0.0, run.expected_end - state.now)
                held += run.mode.gpus
                running_work += left
                inefficient += left * (1.0 - _facts_of(run.task).modes[run.allocation.mode].features[0])
        fluid, half = fluid_flow_times(queue, total), fluid_flow_times(queue, total / 2)
        late = sum(job.job.deadline is not None and job.job.deadline < state.now for job in jobs)
        ready_work = sum(task.work for task in state.ready.values())
        age = sum(state.now - job.job.release for job in jobs)
        return np.array(
            (
                log1p(count),
                count / 20,
                log1p(sum(fluid) / unit),
                sum(fluid) / unit / 20,
                log1p(sum(half) / unit),
                log1p(max(fluid, default=0.0) / unit),
                log1p(max(paths, default=0.0) / unit),
                log1p(sum(paths) / unit),
                log1p(work / (total * unit)),
                work / (total * unit) / 5,
                log1p(running_work / (total * unit)),
                log1p(inefficient / (total * unit)),
                held / total,
                log1p(len(state.ready)),
                log1p(ready_work / (total * unit)),
                log1p(max(0.0, next_end) / unit),
                log1p(age / unit),
                log1p(late),
            ),
            dtype=np.float32,
        )

    def _graph(self, state: State, candidates: list[Candidate]) -> dict[str, NDArray[np.generic]]:
        """The unsettled tasks of the candidates' jobs, job by job in the shortlist's order, and their edges."""
        unit = state.typical_time
        tasks = np.zeros((MAX_TASKS, TASK_FEATURES), dtype=np.float32)
        edges = np.full((MAX_EDGES, 2), -1, dtype=np.int32)
        row_of: dict[tuple[int, int], int] = {}
        edge = 0
        for job in {c.task.job.id: c.task.job for c in candidates}.values():
            unsettled = [t for t in job.tasks if t.status in (Status.BLOCKED, Status.READY, Status.RUNNING)]
            for task in unsettled[: MAX_TASKS - len(row_of)]:
                row_of[task.key] = row = len(row_of)
                facts = _facts_of(task)
                tasks[row] = (
                    1.0,
                    log1p(facts.least_work / unit),
                    log1p(task.task.shortest / unit),
                    log1p(task.rank / unit),
                    log1p(facts.descendant_work / unit),
                    log1p(len(task.waiting)),
                    task.status is Status.READY,
                    task.status is Status.RUNNING,
                )
            for task in unsettled:
                for successor in job.job.successors[task.index]:
                    start, end = row_of.get(task.key), row_of.get((job.id, successor))
                    if start is not None and end is not None and edge < MAX_EDGES:
                        edges[edge] = start, end
                        edge += 1
        candidate_task = np.full(MAX_CANDIDATES, -1, dtype=np.int32)
        candidate_task[1 : 1 + len(candidates)] = [row_of.get(c.task.key, -1) for c in candidates]
        return {"tasks": tasks, "edges": edges, "candidate_task": candidate_task}


def action_mask(state: State, candidates: list[Candidate]) -> NDArray[np.bool_]:
    """Which actions are legal, (C,). Waiting is not while nothing runs and something could; one always is."""
    mask = np.zeros(MAX_CANDIDATES, dtype=np.bool_)
    mask[0] = bool(state.running) or not candidates
    mask[1 : 1 + len(candidates)] = True
    return mask


def descendant_work(job: Job) -> list[float]:
    """For each task, the GPU-seconds (most efficient modes) of all tasks behind it; each counted once."""
    reached = [0] * len(job.tasks)  # bit i of reached[t]: task i lies behind task t
    for i in reversed(job.topological):
        for successor in job.successors[i]:
            reached[i] |= reached[successor] | 1 << successor
    return [sum(work for j, work in enumerate(job.task_work) if bits >> j & 1) for bits in reached]


def _facts_of(task: TaskState) -> _TaskFacts:
    job = task.job.job
    facts: list[_TaskFacts] | None = job.derived.get(__name__)
    if facts is None:
        facts = [_task_facts(t, work) for t, work in zip(job.tasks, descendant_work(job), strict=True)]
        job.derived[__name__] = facts
    return facts[task.index]


def _task_facts(task: Task, descendants: float) -> _TaskFacts:
    least = min(mode.gpu_seconds for mode in task.modes)
    by_count: dict[tuple[str | None, int], float] = {}
    for mode in task.modes:
        key = (mode.gpu_type, mode.gpus)
        by_count[key] = min(mode.duration, by_count.get(key, mode.duration))
    best_at = {gpus: min(d for (_, g), d in by_count.items() if g == gpus) for _, gpus in by_count}
    worst_at = {gpus: max(d for (_, g), d in by_count.items() if g == gpus) for _, gpus in by_count}
    counts = sorted(best_at)
    scaling = best_at[counts[0]] / best_at[counts[-1]] / max(1.0, counts[-1] / max(1, counts[0]))
    slow_ratio = min(best_at[g] / worst_at[g] for g in counts)
    facts = []
    for mode in task.modes:
        of_type = sorted(g for t, g in by_count if t == mode.gpu_type)
        position = of_type.index(mode.gpus)
        smaller = of_type[position - 1] if position else None
        larger = of_type[position + 1] if position + 1 < len(of_type) else None
        facts.append(
            _ModeFacts(
                mode.duration,
                mode.gpu_seconds,
                _SHAPES.setdefault(mode.needs, len(_SHAPES)),
                (
                    least / mode.gpu_seconds if mode.gpus else 1.0,
                    task.shortest / mode.duration,
                    best_at[mode.gpus] / mode.duration,
                    0.0 if smaller is None else by_count[mode.gpu_type, smaller] / mode.duration - 1.0,
                    0.0 if larger is None else mode.duration / by_count[mode.gpu_type, larger] - 1.0,
                    0.0 if larger is not None else 1.0,
                ),
            )
        )
    return _TaskFacts(tuple(facts), counts[0], least, (scaling, slow_ratio), descendants)


def _signed(value: float) -> float:
    return log1p(value) if value >= 0 else -log1p(-value)
