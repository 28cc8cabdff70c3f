"""From a State to arrays and a mask, and from an action back to an Allocation.

Legend of shapes, the only place where they are defined:

    C = MAX_CANDIDATES   rows of `candidates`; row 0 is "wait", rows 1.. are fitting (task, mode) pairs
    T = MAX_TASKS        rows of `tasks`: unsettled tasks of the shortlisted jobs (graph observation only)
    E = MAX_EDGES        rows of `edges`: (predecessor, successor) row numbers in `tasks`, -1 where there is none

    key              shape                    meaning
    globals          (GLOBAL_FEATURES,)       cluster and queue, for the actor
    candidates       (C, CANDIDATE_FEATURES)  job, task and mode features of every candidate: see COLUMNS
    critic           (CRITIC_FEATURES,)       what is to come, for the critic
    candidate_task   (C,)                     row of the candidate's task in `tasks`, -1 for none (graph only)
    tasks            (T, TASK_FEATURES)       features of the DAG's nodes (graph only)
    edges            (E, 2)                   the DAG's edges (graph only)

Times are divided by the mean critical path of the jobs seen so far and counts are log-scaled, so that a policy sees
the same picture on a cluster of 4 or 1,024 GPUs and for jobs of seconds or of days.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log1p
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlsched.envs.facts import facts_of
from rlsched.envs.fluid import fluid_flow_times
from rlsched.envs.graph import encode_graph
from rlsched.model import Share
from rlsched.state import JobState, State, TaskState

MAX_CANDIDATES = 48
SHORTLIST = 16  # tasks whose modes become candidates
PER_JOB = 3  # shortlisted tasks of one job, so that one wide sweep does not hide the other jobs

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
)
CANDIDATE_FEATURES = len(COLUMNS)
GLOBAL_FEATURES = 10
CRITIC_FEATURES = 18

_SECONDS = np.array([scale == "seconds" for _, scale in COLUMNS])
_LOGGED = np.array([scale != "" for _, scale in COLUMNS])
_work_left, _rank = attrgetter("work_left"), attrgetter("rank")

Floats = NDArray[np.float32]


class Candidate(NamedTuple):
    """A task, the number of one of its modes that fits now, and where such a mode would go."""

    task: TaskState
    mode: int
    shares: tuple[Share, ...]


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
        pool, free = state.pool, state.pool.free_gpus()
        places: dict[int, tuple[Share, ...] | None] = {}
        tasks = 0
        for job in sorted(state.jobs.values(), key=_work_left):
            if not job.ready:
                continue
            of_job, facts = 0, facts_of(job.job)
            for task in sorted(job.ready.values(), key=_rank, reverse=True):
                of_task = facts[task.index]
                if of_task.least_gpus > free:
                    continue
                before = len(found)
                for number, mode in enumerate(of_task.modes):
                    shape = mode.shape
                    if shape in places:
                        shares = places[shape]
                    else:
                        shares = places[shape] = pool.place(task.task.modes[number])
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
        queue = sorted(state.jobs.values(), key=_work_left)
        work = sum(map(_work_left, queue))
        next_end = min((run.expected_end for run in state.running.values()), default=state.now) - state.now
        observation: dict[str, NDArray[np.generic]] = {
            "globals": self._globals(state, work, next_end),
            "candidates": self._rows(state, candidates, queue, work, next_end),
        }
        if critic:
            observation["critic"] = self._critic(state, queue, work, next_end)
        if self.graph:
            observation |= encode_graph(state, [candidate.task for candidate in candidates], MAX_CANDIDATES)
        return observation

    def _globals(self, state: State, work: float, next_end: float) -> Floats:
        unit, pool, cluster = state.typical_time, state.pool, state.cluster
        total = max(1, cluster.gpu_count())
        shares = [pool.free_gpus(t) / cluster.gpu_count(t) for t in cluster.gpu_types] or [0.0]
        return np.array(
            (
                pool.free_gpus() / total,
                max(shares),
                min(shares),
                log1p(len(state.jobs)),
                log1p(len(state.ready)),
                log1p(work / (total * unit)),
                log1p(state.demand / total),
                log1p(max(0.0, next_end) / unit),
                log1p(total) / 4,
                log1p(len(cluster.gpu_types)),
            ),
            dtype=np.float32,
        )

    def _rows(
        self, state: State, candidates: list[Candidate], queue: Sequence[JobState], work: float, next_end: float
    ) -> Floats:
        result = np.zeros((MAX_CANDIDATES, CANDIDATE_FEATURES), dtype=np.float32)
        result[0, 0] = 1.0
        if not candidates:
            return result
        unit, now, pool, nodes = state.typical_time, state.now, state.pool, state.cluster.nodes
        total, free_all = max(1, state.cluster.gpu_count()), pool.free_gpus()
        free = {t: pool.free_gpus(t) for t in state.cluster.gpu_types}
        rank_of = {job.id: rank for rank, job in enumerate(queue)}
        mean_work, soon = max(work / len(queue), 1e-9), max(next_end, 1e-3 * unit)
        flat: list[float] = []
        job: JobState | None = None
        before: TaskState | None = None
        for task, number, shares in candidates:
            if task.job is not job:
                job = task.job
                facts, rank = facts_of(job.job), rank_of[job.id]
                weight, deadline = job.job.weight, job.job.deadline
                of_job = (
                    1.0,
                    job.work_left,
                    job.critical_path_left,
                    now - job.job.release,
                    job.gpus,
                    job.unsettled,
                    rank / len(queue),
                    rank,
                    job.work_left / mean_work,
                    weight if deadline is None else weight * _signed((deadline - now) / unit),
                )
            if task is not before:
                before, of_task = task, facts[task.index]
                # of other branches and what lies behind, in the fastest modes
                rest = max(0.0, job.critical_path_left - task.rank)
                left, setup = task.left(task.waiting[-1]), task.task.setup_time > 0
                prefix = (
                    *of_job,
                    *of_task.features,
                    task.rank,
                    task.rank / max(job.critical_path_left, 1e-9),
                    sum(job.tasks[s].needs_left == 1 for s in job.job.successors[task.index]),
                    len(task.waiting),
                    now - task.ready_at,
                )
            mode = of_task.modes[number]
            duration, gpus, node = left * mode.duration, mode.gpus, shares[0].node
            type_free = free_all if mode.gpu_type is None else free.get(mode.gpu_type, 0)
            flat += prefix
            flat += mode.features
            flat += (
                duration,
                gpus / total,
                gpus / max(1, type_free),
                (type_free - gpus) / total,
                (pool.free_on(node) - len(shares[0].gpus)) / max(1, nodes[node].gpus),
                len(shares) > 1,
                self._setup_share(state, task, number) if setup else 0.0,
                duration + rest,
                duration / soon,
            )
        rows = result[1 : 1 + len(candidates)]
        rows[:] = np.array(flat).reshape(len(candidates), CANDIDATE_FEATURES)
        np.divide(rows, unit, out=rows, where=_SECONDS)
        np.log1p(rows, out=rows, where=_LOGGED)
        return result

    @staticmethod
    def _setup_share(state: State, task: TaskState, number: int) -> float:
        """Set-up time relative to the duration, if the devices it would get are cold."""
        mode = task.task.modes[number]
        places = state.pool.place(mode, task.job.id)
        cold = places is not None and state.pool.is_cold(places, task.job.id)
        return log1p(task.task.setup_time / mode.duration) if cold else 0.0

    def _critic(self, state: State, queue: Sequence[JobState], work: float, next_end: float) -> Floats:
        unit, now, total = state.typical_time, state.now, max(1, state.cluster.gpu_count())
        count = len(queue)
        pairs = [(job.work_left, job.critical_path_left) for job in queue]
        paths = [path for _, path in pairs]
        held, running_work, inefficient = 0, 0.0, 0.0
        for run in state.running.values():
            if gpus := run.mode.gpus:
                left = gpus * max(0.0, run.expected_end - now)
                held += gpus
                running_work += left
                efficiency = facts_of(run.task.job.job)[run.task.index].modes[run.allocation.mode].features[0]
                inefficient += left * (1.0 - efficiency)
        fluid, half = fluid_flow_times(pairs, total), fluid_flow_times(pairs, total / 2)
        flow, longest = sum(fluid) / unit, max(paths, default=0.0)
        late = sum(job.job.deadline is not None and job.job.deadline < now for job in queue)
        age = count * now - sum(job.job.release for job in queue)
        return np.array(
            (
                log1p(count),
                count / 20,
                log1p(flow),
                flow / 20,
                log1p(sum(half) / unit),
                log1p(max(fluid, default=0.0) / unit),
                log1p(longest / unit),
                log1p(sum(paths) / unit),
                log1p(work / (total * unit)),
                work / (total * unit) / 5,
                log1p(running_work / (total * unit)),
                log1p(inefficient / (total * unit)),
                held / total,
                log1p(len(state.ready)),
                log1p(state.demand / total),
                log1p(max(0.0, next_end) / unit),
                log1p(max(0.0, age) / unit),
                log1p(late),
            ),
            dtype=np.float32,
        )


def action_mask(state: State, candidates: list[Candidate]) -> NDArray[np.bool_]:
    """Which actions are legal, (C,). Waiting is not while nothing runs and something could; one always is."""
    mask = np.zeros(MAX_CANDIDATES, dtype=np.bool_)
    mask[0] = bool(state.running) or not candidates
    mask[1 : 1 + len(candidates)] = True
    return mask


def _signed(value: float) -> float:
    return log1p(value) if value >= 0 else -log1p(-value)
