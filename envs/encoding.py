"""From a State to arrays and a mask, and from an action back to an Allocation.

Legend of shapes, the only place where they are defined:

    C = MAX_CANDIDATES   rows of `candidates`; row 0 is "wait", then fitting (task, mode) pairs, then runs to stop
    T = MAX_TASKS        rows of `tasks`: unsettled tasks of the shortlisted jobs (graph observation only)
    E = MAX_EDGES        rows of `edges`: (predecessor, successor) row numbers in `tasks`, -1 where there is none

    key              shape                    meaning
    globals          (GLOBAL_FEATURES,)       objective, cluster and queue, for the actor
    candidates       (C, CANDIDATE_FEATURES)  every candidate, and what waiting is for: see `rows.COLUMNS`
    critic           (CRITIC_FEATURES,)       objective and what is to come, for the critic
    candidate_task   (C,)                     row of the candidate's task in `tasks`, -1 for none (graph only)
    tasks            (T, TASK_FEATURES)       features of the DAG's nodes (graph only)
    edges            (E, 2)                   the DAG's edges (graph only)

Times are divided by the mean critical path of the jobs seen so far and counts are log-scaled, so that a policy sees
the same picture on a cluster of 4 or 1,024 GPUs and for jobs of seconds or of days.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import log1p
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from rlsched.active import JobState
from rlsched.envs.backlog import Backlog
from rlsched.envs.facts import facts_of
from rlsched.envs.fluid import fluid_flow_times
from rlsched.envs.graph import encode_graph
from rlsched.envs.rows import PER_JOB, Candidate, RowWriter
from rlsched.model import Allocation, Preemption, Share
from rlsched.state import State

MAX_CANDIDATES = 48
SHORTLIST = 16  # tasks whose modes become candidates
MAX_STOPS = 12  # runs that may be stopped

OBJECTIVES = ("mean_jct", "makespan", "weighted_tardiness", "finish_time_fairness")

GLOBAL_FEATURES = 12 + len(OBJECTIVES)
CRITIC_FEATURES = 19 + len(OBJECTIVES)

Floats = NDArray[np.float32]


class Encoder:
    """Turns states into observations, and finds what the actions stand for.

    Args:
        objective: what the policy is to make small; one network may serve several.
        preemption: whether stopping what runs, where its task allows it, is an action.
        graph: whether the DAG is observed too.

    Raises:
        ValueError: an unknown objective.
    """

    def __init__(self, objective: str = "mean_jct", *, preemption: bool = False, graph: bool = False) -> None:
        if objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {objective!r}, expected one of {', '.join(OBJECTIVES)}")
        self.preemption = preemption
        self.graph = graph
        self._backlog = Backlog()
        self._longest_first = objective == "makespan"
        self._objective = tuple(float(objective == other) for other in OBJECTIVES)

    def candidates(self, state: State) -> list[Candidate]:
        """What may be decided now: MAX_CANDIDATES - 1 at the most.

        First the fitting (task, mode) pairs of the shortlist, jobs with the least work left first, or for the makespan
        those with the longest critical path left: at most SHORTLIST tasks, of each job at most its part of that, or
        PER_JOB if that is more (longest upward rank first). Then, with preemption, at most MAX_STOPS runs, jobs with
        the most work left first: if something waits, or if the run might get more GPUs. Not those that have hardly
        done more than start and restore: else tasks could be started and stopped for ever.
        """
        stops = self._stops(state) if self.preemption and state.preemptible else []
        starts = self._starts(state, MAX_CANDIDATES - 1 - len(stops)) if state.ready else []
        return starts + stops

    def _starts(self, state: State, most: int) -> list[Candidate]:
        found: list[Candidate] = []
        pool, free = state.pool, state.pool.free_gpus()
        if not free and not state.cluster.resources:
            return found
        places: dict[int, tuple[Share, ...] | None] = {}
        tasks = 0
        self._backlog.update(state)
        queue = list(self._queue())
        per_job = max(PER_JOB, SHORTLIST // max(1, len(queue)))
        for job in queue:
            of_job, facts = 0, facts_of(job.job)
            for task in job.foremost:
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
                    if len(found) >= most or tasks == SHORTLIST:
                        return found[:most]
                    if of_job == per_job:
                        break
        return found

    def _queue(self) -> Iterator[JobState]:
        """The jobs with ready tasks, those first whose tasks are looked at first."""
        jobs = self._backlog.jobs
        if self._longest_first:
            jobs = sorted(jobs, key=_path_left, reverse=True)
        return (job for job in jobs if job.ready)

    def _stops(self, state: State) -> list[Candidate]:
        free, waiting = state.pool.free_gpus(), bool(state.ready)
        runs = [
            run
            for run in state.running.values()
            if run.task.task.preemptible
            and not run.stopping
            and (waiting or (len(run.task.task.modes) > 1 and free))
            and state.now - run.start > run.toll
        ]
        runs.sort(key=lambda run: -run.task.job.work_left)
        return [Candidate(r.task, r.allocation.mode, r.allocation.shares, r) for r in runs[:MAX_STOPS]]

    def encode(self, state: State, candidates: list[Candidate], critic: bool = True) -> dict[str, NDArray[np.generic]]:
        """The observation of a state with its candidates; see the legend for shapes. Acting needs no `critic`."""
        backlog = self._backlog
        backlog.update(state)
        next_end = min([run.expected_end for run in state.running.values()], default=state.now) - state.now
        observation: dict[str, NDArray[np.generic]] = {
            "globals": self._globals(state, next_end),
            "candidates": RowWriter(state, backlog, self._queue(), next_end).write(candidates, MAX_CANDIDATES),
        }
        if critic:
            observation["critic"] = self._critic(state, next_end)
        if self.graph:
            observation |= encode_graph(state, [candidate.task for candidate in candidates], MAX_CANDIDATES)
        return observation

    def _globals(self, state: State, next_end: float) -> Floats:
        work, unit, pool, cluster = self._backlog.work, state.typical_time, state.pool, state.cluster
        total, free = max(1, cluster.gpu_count()), pool.free_gpus()
        shares = [pool.free_gpus(t) / cluster.gpu_count(t) for t in cluster.gpu_types] or [0.0]
        resources = [pool.free_resource(name) / max(1, has) for name, has in cluster.resources.items()] or [0.0]
        return np.array(
            (
                *self._objective,
                free / total,
                max(shares),
                min(shares),
                max(resources),
                min(resources),
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

    def _critic(self, state: State, next_end: float) -> Floats:
        queue, work = self._backlog.jobs, self._backlog.work
        unit, now, total = state.typical_time, state.now, max(1, state.cluster.gpu_count())
        count = len(queue)
        held, running_work, inefficient = 0, 0.0, 0.0
        for run in state.running.values():
            if gpus := run.mode.gpus:
                held += gpus
                if run.expected_end > now:
                    left = gpus * (run.expected_end - now)
                    running_work += left
                    efficiency = facts_of(run.task.job.job)[run.task.index].modes[run.allocation.mode].features[0]
                    inefficient += left * (1.0 - efficiency)
        paths = [job.critical_path_left for job in queue]
        ahead = list(accumulate([job.work_left for job in queue]))
        fluid, half = fluid_flow_times(ahead, paths, total), fluid_flow_times(ahead, paths, total / 2)
        flow, longest = sum(fluid) / unit, max(paths, default=0.0)
        late, age, slowdown = 0, 0.0, 0.0
        for job, path in zip(queue, paths, strict=True):
            spec = job.job
            in_system = now - spec.release
            age += in_system
            slowdown += (in_system + path) / spec.critical_path
            if spec.deadline is not None and spec.deadline < now:
                late += 1
        return np.array(
            (
                *self._objective,
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
                log1p(age / unit),
                log1p(slowdown),
                log1p(late),
            ),
            dtype=np.float32,
        )


_path_left = attrgetter("critical_path_left")


def action_mask(state: State, candidates: list[Candidate]) -> NDArray[np.bool_]:
    """Which actions are legal, (C,). Waiting is not while nothing runs and something could; one always is."""
    mask = np.zeros(MAX_CANDIDATES, dtype=np.bool_)
    mask[0] = bool(state.running) or not candidates
    mask[1 : 1 + len(candidates)] = True
    return mask


def decision_of(candidate: Candidate, state: State) -> Allocation | Preemption:
    """What a candidate stands for."""
    if candidate.run is not None:
        return Preemption(candidate.run.allocation.member)
    allocation = state.allocate(candidate.task, candidate.mode)
    assert allocation is not None, "a candidate fits until the next event"
    return allocation
