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

from rlsched.active import Status, TaskState
from rlsched.model import Allocation, Member
from rlsched.policies.counts import Menu
from rlsched.policies.ladders import Rung
from rlsched.policies.options import look_up
from rlsched.policies.timeline import Timeline, time_left, timeline_of
from rlsched.policies.timeshares import Resource
from rlsched.policies.ways import something_is_free, takes
from rlsched.state import State

_TOLERANCE = 1e-6  # HiGHS is exact to about 1e-7
_ALPHA = 0.5 - 1e-4  # a half, whatever the last digits
_OBJECTIVES = {"mean_jct": False, "makespan": True}


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
    it ends first. What has its place now starts; the others keep theirs, and nothing goes ahead of a large gang that
    would delay it. Each event makes the plan anew; the program is solved anew only if there are candidates that it has
    not seen, or other nodes. If it takes longer than the limit, members are ordered by the work left in their job (for
    makespan: by their path), and may use all of their modes. Nothing is preempted.

    Args:
        objective: `mean_jct` or `makespan`.
        slots: of the program.
        tasks: how many candidates take part: those of the jobs with the least work left; for makespan, on the longest
            paths.
        threshold, stretch: limit the modes, as those of greedy policies do (`efficiency`).
        limit: seconds that a program may take. A run in which one takes longer may be another one the next time.

    Raises:
        ValueError: an unknown objective, or a number out of range.
    """

    def __init__(
        self,
        *,
        objective: str = "mean_jct",
        slots: int = 20,
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
        if not state.ready or self._planned_for == self._now(state) or not something_is_free(state):
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
            key=self._first,
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

    def _first(self, task: TaskState) -> tuple[float, ...]:
        """The smaller, the more a task matters to the objective, as far as one sees without solving anything."""
        job = task.job
        if self._makespan:
            return (-task.rank, job.id, task.index)
        return (job.work_left / job.job.weight, job.id, -task.rank, task.index)

    def _solved(self, candidates: Sequence[_Candidate], timeline: Timeline) -> list[_Intent]:
        edges = _edges(candidates, timeline, self._slots)
        solution = _solve(candidates, timeline, edges, self._makespan, self._limit)
        intents = []
        for candidate, own in zip(candidates, solution, strict=True):
            modes = tuple(dict.fromkeys(mode for _, mode, _ in own)) or tuple(r.mode for r in candidate.rungs)
            begun = np.cumsum([amount for _, _, amount in own])
            for member in range(candidate.members):
                point = int(np.searchsorted(begun, member + _ALPHA))
                start = own[point][0] if point < len(own) else edges[-1]
                intents.append(_Intent(start, self._first(candidate.task), candidate.task, modes))
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


@dataclass(frozen=True, slots=True)
class _Starts:
    """The columns of the program that start members of a candidate in one mode: one column a time.

    Attributes:
        owner: number of the candidate.
        times: seconds from now on.
        parts: part of each slot that a run covers, by time and slot.
    """

    owner: int
    rung: Rung
    times: NDArray[np.float64]
    parts: NDArray[np.float64]


def _starts(candidates: Sequence[_Candidate], edges: NDArray[np.float64]) -> list[_Starts]:
    found = []
    for owner, candidate in enumerate(candidates):
        times = np.append(candidate.release, edges[:-1][edges[:-1] > candidate.release])[:, None]
        for rung in candidate.rungs:
            overlap = np.minimum(times + rung.duration, edges[1:]) - np.maximum(times, edges[:-1])
            found.append(_Starts(owner, rung, times[:, 0], np.maximum(overlap, 0.0) / np.diff(edges)))
    return found


def _solve(
    candidates: Sequence[_Candidate], timeline: Timeline, edges: NDArray[np.float64], makespan: bool, limit: float
) -> list[list[tuple[float, int, float]]]:
    """For each candidate (time, mode, amount) of what starts when, in order; nothing at all if it takes too long."""
    starts = _starts(candidates, edges)
    late = len(candidates)  # a column each for what starts after the horizon
    slots = len(edges) - 1
    row_of: dict[Resource, int] = {}
    entries: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    count = 0
    for of in starts:
        at, slot = np.nonzero(of.parts)
        for resource, amount in takes(candidates[of.owner].task.task.modes[of.rung.mode]).items():
            first = row_of.setdefault(resource, len(row_of) * slots)
            entries.append((amount * of.parts[at, slot], first + slot, count + at))
        count += len(of.times)
    limits = np.array([timeline.mean_free(r, *edges[s : s + 2]) for r in row_of for s in range(slots)])
    owners = np.concatenate([*(np.full(len(of.times), of.owner) for of in starts), np.arange(late)])
    ends = [of.times + of.rung.duration for of in starts]
    ends.append(np.array([edges[-1] + min(rung.duration for rung in c.rungs) for c in candidates]))
    ends_at = np.concatenate(ends)
    columns = np.arange(count + late)
    weights, members, tails = np.array([(c.weight, c.members, c.tail) for c in candidates]).T
    costs = weights[owners] * ends_at
    costs /= costs.max()
    uses: Any = csr_array((len(limits), len(columns)))
    if entries:
        values, rows, cols = (np.concatenate(parts) for parts in zip(*entries, strict=True))
        uses = csr_array((values, (rows, cols)), shape=(len(limits), len(columns)))
    each: Any = csr_array((np.ones(len(columns)), (owners, columns)), shape=(late, len(columns)))
    if makespan:  # one more variable: the latest end, in units of the largest possible
        scale = float((ends_at + tails[owners]).max())
        own = csr_array((ends_at / members[owners] / scale, (owners, columns)), shape=(late, len(columns)))
        uses = vstack([hstack([uses, csr_array((len(limits), 1))]), hstack([own, csr_array(np.full((late, 1), -1.0))])])
        limits = np.concatenate([limits, -tails / scale])
        each = hstack([each, csr_array((late, 1))])
        costs = np.append(1e-3 * costs / members.sum(), 1.0)
    result = linprog(costs, uses, limits, each, members, options={"time_limit": limit})
    solution: list[list[tuple[float, int, float]]] = [[] for _ in candidates]
    if result.x is not None:
        amounts = iter(result.x.tolist())
        for of in starts:
            parts = ((time, of.rung.mode, next(amounts)) for time in of.times.tolist())
            solution[of.owner] += [part for part in parts if part[2] > _TOLERANCE]
    return [sorted(parts) for parts in solution]
