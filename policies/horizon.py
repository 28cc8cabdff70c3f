"""Rolling-horizon scheduling: a time-indexed linear program of what is ready or soon will be, and a plan from it."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, vstack

from rlsched.model import Allocation, Member
from rlsched.policies.claims import something_is_free, takes
from rlsched.policies.counts import Menu
from rlsched.policies.ladders import Rung
from rlsched.policies.options import look_up
from rlsched.policies.timeline import Timeline, time_left, timeline_of
from rlsched.policies.timeshares import Resource
from rlsched.state import State, Status, TaskState

_TOLERANCE = 1e-6  # HiGHS is exact to about 1e-7
_OBJECTIVES = {"mean_jct": 0.0, "makespan": 1.0}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A task that is in the program.

    Attributes:
        members: how many wait.
        release: seconds until they may start.
        rungs: the modes that they may start in.
        work: GPU-seconds of a member in its most efficient mode.
        weight: what a second that a member ends later costs.
        tail: seconds from the end of the task to the end of its job, on the longest path.
    """

    task: TaskState
    members: int
    release: float
    rungs: Sequence[Rung]
    work: float
    weight: float
    tail: float


class _Intent(NamedTuple):
    """That a member is to start, sorted by what comes first.

    Attributes:
        start: seconds from the time of the program on, by its solution.
        rank: of equals, the smaller comes first.
        modes: in which of these.
    """

    start: float
    rank: tuple[float, ...]
    task: TaskState
    modes: tuple[int, ...]


class HorizonPolicy:
    """Rolling-horizon linear program: plans starts in time slots with reservations, carries out what starts now.

    Candidates are the ready tasks and those that wait for running ones only, from the expected end of these on. For
    each candidate t, mode m and slot s there is x[t, m, s] >= 0, the number of members that start in m at the
    beginning of s, and y[t] >= 0, of those that start after the horizon:

        minimise    sum over t, m, s of w[t] x[t, m, s] (start[s] + d[t, m]), and the same for y
        subject to  sum over m, s of x[t, m, s] + y[t]  = n[t]              for every task t (members that wait)
                    sum of g[t, m] x[t, m, s] overlap   <= free GPUs        in every slot, of every type, of all types
                                                                            and of every custom resource

    d is the estimated duration, overlap the part of a slot that a run covers, w[t] = weight of the job x work of one
    member / work left in the job, a little more for those on long paths, and what is free takes the expected ends of
    running members into account. This is the time-indexed relaxation of Pritsker, Watters and Wolfe (Management
    Science 1969), with slots that grow with the distance (Hall, Schulz, Shmoys and Wein, Mathematics of Operations
    Research 1997, sec. 2.3) and end when all the work could be done. With the objective `makespan` the latest end of
    a candidate + its tail is minimised, and the sum above decides among equals.

    The solution becomes a schedule by its alpha-points with alpha = 1/2 (Phillips, Stein and Wein, Mathematical
    Programming 1998): members are ordered by the times at which the solution has started half of them, and each is
    placed as early as possible without delaying those before it, in whichever of its modes with a part in the solution
    it ends first. What has its place now starts; the others keep theirs, so that large gangs are not overtaken for
    ever. Each event makes the plan anew; the program is solved anew only if there are candidates that it has not seen,
    or other nodes. If it takes longer than the limit, members are ordered by the work left in their job, and may use
    all of their modes. Nothing is preempted.

    Args:
        objective: `mean_jct` or `makespan`.
        slots: of the program.
        tasks: how many candidates take part: those of the jobs with the least work left.
        threshold, stretch: limit the modes, as those of greedy policies do (`efficiency`).
        limit: seconds that a program may take. A run in which one takes longer may be another one the next time.

    Raises:
        ValueError: an unknown objective, or a number out of range.
    """

    def __init__(
        self,
        *,
        objective: str = "mean_jct",
        slots: int = 12,
        tasks: int = 32,
        threshold: float = 0.5,
        stretch: float = 4.0,
        limit: float = 2.0,
    ) -> None:
        for name, value, least in (("slots", slots, 2), ("tasks", tasks, 1)):
            if value < least:
                raise ValueError(f"{name} is {value}, expected {least} or more")
        if not limit > 0:
            raise ValueError(f"limit is {limit:g}, expected seconds above 0")
        self._makespan = look_up(_OBJECTIVES, "objective", objective)
        self._slots = slots
        self._tasks = tasks
        self._menu = Menu("efficiency", threshold, stretch)
        self._limit = limit
        self._intents: list[_Intent] = []
        self._solved_for: tuple[State, tuple[bool, ...], set[tuple[int, int]]] | None = None
        self._planned_for: tuple[object, ...] | None = None

    def __call__(self, state: State) -> Sequence[Allocation]:
        if self._planned_for == self._now(state) or not something_is_free(state):
            return ()
        timeline = timeline_of(state)
        candidates = {candidate.task.key: candidate for candidate in self._candidates(state)}
        seen = (state, tuple(state.pool.up), set(candidates))
        if self._solved_for is None or seen[:2] != self._solved_for[:2] or not seen[2] <= self._solved_for[2]:
            self._intents = self._solved(list(candidates.values()), timeline)
            self._solved_for = seen
        starts = _carried_out(self._intents, candidates, timeline, state)
        self._planned_for = self._now(state, len(starts))
        return starts

    @staticmethod
    def _now(state: State, starting: int = 0) -> tuple[object, ...]:
        return state, state.now, len(state.running) + starting, len(state.jobs)

    def _candidates(self, state: State) -> list[_Candidate]:
        soon = _soon_ready(state)
        tasks = heapq.nsmallest(
            self._tasks,
            (*state.ready.values(), *(task for task, _ in soon.values())),
            key=lambda task: (task.job.work_left, task.job.id, -task.rank, task.index),
        )
        found = []
        for task in tasks:
            menu = self._menu(task, state)
            rungs = [rung for _, on_type in menu for rung in on_type]
            work = min(ladder.least_work for ladder, _ in menu)
            job = task.job
            urgency = 1.0 + 0.2 * task.rank / max(job.critical_path_left, task.rank, 1e-9)
            members = len(task.waiting)
            weight = urgency * job.job.weight * work / max(job.work_left, work * members)
            release = soon[task.key][1] if task.key in soon else 0.0
            tail = task.rank - task.task.shortest
            found.append(_Candidate(task, members, release, rungs, work, weight, tail))
        return found

    def _solved(self, candidates: Sequence[_Candidate], timeline: Timeline) -> list[_Intent]:
        edges = _edges(candidates, timeline, self._slots)
        columns, solution = _solve(candidates, timeline, edges, self._makespan, self._limit)
        intents = []
        points: dict[int, list[tuple[float, int, float]]] = defaultdict(list)
        for (owner, rung, start), amount in zip(columns, solution, strict=False):
            if amount > _TOLERANCE:
                points[owner].append((start, rung.mode, amount))
        for owner, candidate in enumerate(candidates):
            job = candidate.task.job
            rank = (job.work_left / job.job.weight, float(job.id), -candidate.task.rank)
            own = sorted(points[owner])
            modes = tuple(dict.fromkeys(mode for _, mode, _ in own)) or tuple(r.mode for r in candidate.rungs)
            begun = np.cumsum([amount for _, _, amount in own])
            for member in range(candidate.members):
                point = int(np.searchsorted(begun, member + 0.5))
                start = own[point][0] if point < len(own) else edges[-1]
                intents.append(_Intent(start, rank, candidate.task, modes))
        return sorted(intents, key=lambda intent: intent[:2])


def _carried_out(
    intents: Sequence[_Intent], candidates: Mapping[tuple[int, int], _Candidate], timeline: Timeline, state: State
) -> list[Allocation]:
    """Place members in order, each as early as possible; answer with those that start now."""
    starts: list[Allocation] = []
    pool = state.pool.copy()
    used: Counter[tuple[int, int]] = Counter()
    for intent in intents:
        candidate = candidates.get(intent.task.key)
        if candidate is None or used[intent.task.key] == candidate.members:
            continue  # it has started meanwhile
        used[intent.task.key] += 1
        places = []
        for mode in intent.modes:
            wanted = intent.task.task.modes[mode]
            amounts = takes(wanted)
            start = timeline.earliest(amounts, candidate.release, wanted.duration)
            if start is not None:
                places.append((start + wanted.duration, start, mode, amounts))
        if not places:
            continue  # not while so many nodes are down
        end, start, mode, amounts = min(places, key=lambda place: place[:3])
        timeline.take(amounts, start, end - start)
        if start == 0.0 and candidate.release == 0.0:
            shares = pool.place(intent.task.task.modes[mode], intent.task.job.id)
            if shares is not None:
                pool.take(shares, intent.task.task.modes[mode], intent.task.job.id)
                member = intent.task.waiting[-used[intent.task.key]]
                starts.append(Allocation(Member(*intent.task.key, member), mode, shares))
    return starts


def _soon_ready(state: State) -> dict[tuple[int, int], tuple[TaskState, float]]:
    """Tasks that wait for nothing but running members, and the seconds until the last of these is expected to end."""
    ends: dict[tuple[int, int], float] = defaultdict(float)
    running: dict[tuple[int, int], TaskState] = {}
    for run in state.running.values():
        if run.task.status is Status.RUNNING:
            running[run.task.key] = run.task
            ends[run.task.key] = max(ends[run.task.key], time_left(run, state))
    met: Counter[tuple[int, int]] = Counter()
    release: dict[tuple[int, int], float] = defaultdict(float)
    found: dict[tuple[int, int], tuple[TaskState, float]] = {}
    for key, task in running.items():
        for index in task.job.job.successors[task.index]:
            successor = task.job.tasks[index]
            if successor.status is Status.BLOCKED and not successor.task.cpu_only:
                met[successor.key] += 1
                release[successor.key] = max(release[successor.key], ends[key])
                if met[successor.key] == successor.needs_left:
                    found[successor.key] = (successor, release[successor.key])
    return found


def _edges(candidates: Sequence[_Candidate], timeline: Timeline, slots: int) -> NDArray[np.float64]:
    """Where slots begin: 0, then at growing distances until all candidates could be done."""
    shortest = min(rung.duration for c in candidates for rung in c.rungs)
    longest = max(min(rung.duration for rung in c.rungs) + c.release for c in candidates)
    works: dict[Resource, float] = defaultdict(float)
    for candidate in candidates:
        for resource in {
            resource for rung in candidate.rungs for resource in takes(candidate.task.task.modes[rung.mode])
        }:
            works[resource] += candidate.members * candidate.work
    far = 1e3 * (longest + sum(works.values()))
    drain = max(
        (work / max(1.0, timeline.mean_free(r, far, 2 * far)) for r, work in works.items() if r[1] is None), default=0.0
    )
    horizon = 2.0 * (longest + drain)
    return np.concatenate([[0.0], np.geomspace(max(shortest / 2, horizon / 500), horizon, slots)])


Columns = list[tuple[int, Rung, float]]


def _solve(
    candidates: Sequence[_Candidate], timeline: Timeline, edges: NDArray[np.float64], makespan: float, limit: float
) -> tuple[Columns, NDArray[np.float64]]:
    """Owner, rung and start of every x, and the solution; no solution if it takes too long."""
    begins, ends = edges[:-1], edges[1:]
    columns: Columns = []
    entries: list[tuple[NDArray[np.int64], int, NDArray[np.float64]]] = []
    row_of: dict[Resource, int] = {}
    for owner, candidate in enumerate(candidates):
        for rung in candidate.rungs:
            amounts = takes(candidate.task.task.modes[rung.mode])
            for begin in (*begins[begins > candidate.release], candidate.release):
                overlap = np.minimum(begin + rung.duration, ends) - np.maximum(begin, begins)
                parts = np.maximum(overlap, 0.0) / (ends - begins)
                touched = np.flatnonzero(parts)
                for resource, amount in amounts.items():
                    first = row_of.setdefault(resource, len(row_of) * len(begins))
                    entries.append((first + touched, len(columns), amount * parts[touched]))
                columns.append((owner, rung, float(begin)))
    count, late = len(columns), len(candidates)
    rows = np.concatenate([rows for rows, _, _ in entries] or [np.zeros(0, int)])
    cols = np.repeat([column for _, column, _ in entries], [len(rows) for rows, _, _ in entries])
    values = np.concatenate([values for _, _, values in entries] or [np.zeros(0)])
    limits = [timeline.mean_free(r, b, e) for r in row_of for b, e in zip(begins, ends, strict=True)]
    owners = np.array([owner for owner, _, _ in columns] + list(range(late)))
    end_times = np.array([begin + rung.duration for _, rung, begin in columns])
    end_times = np.append(end_times, [edges[-1] + min(r.duration for r in c.rungs) for c in candidates])
    members = np.array([c.members for c in candidates], float)
    costs = np.array([c.weight for c in candidates])[owners] * end_times
    costs = np.append(costs / costs.max(), 0.0)  # the last variable is the latest end
    all_rows: Any = csr_array((values, (rows, cols)), shape=(len(limits), count + late + 1))
    if makespan:
        tails = np.array([c.tail for c in candidates])
        scale = float((end_times + tails[owners]).max())
        own = csr_array(
            (end_times / members[owners] / scale, (owners, np.arange(count + late))), shape=(late, count + late)
        )
        all_rows = vstack([all_rows, hstack([own, csr_array(np.full((late, 1), -1.0))])])
        limits += list(-tails / scale)
        costs = np.append(costs[:-1] * 1e-3 / members.sum(), 1.0)
    each: Any = csr_array((np.ones(count + late), (owners, np.arange(count + late))), shape=(late, count + late + 1))
    result = linprog(costs, all_rows, limits, each, members, options={"time_limit": limit})
    return columns, np.zeros(0) if result.x is None else np.asarray(result.x)
