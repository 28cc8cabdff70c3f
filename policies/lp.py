"""Scheduling by linear programming: fractional allocation with concave speed-ups, rounded to gangs."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csc_array

from rlsched.active import TaskState
from rlsched.model import Allocation
from rlsched.policies.counts import Menu
from rlsched.state import State

_TOLERANCE = 1e-6  # HiGHS is exact to about 1e-7


class _Variable(NamedTuple):
    """x[t, m]: how many members of task t start in mode m.

    Attributes:
        modes: m, and the smaller modes of its GPU type that will do if m does not fit any one node.
        size: GPUs that m takes, or units of custom resources.
        value: coefficient in the objective.
    """

    task: TaskState
    modes: list[int]
    size: int
    value: float


class LinearProgramPolicy:
    """Linear program: fractional allocation for the fastest weighted progress, rounded to gangs.

    For each ready task t and mode m there is x[t, m] >= 0, the number of members, whole or not, that start in m:

        maximise    sum over t, m of w[t] x[t, m] / d[t, m]
        subject to  sum over m of x[t, m]            <= n[t]           for every task t (members that wait)
                    sum over t, m of g[t, m] x[t, m] <= free GPUs      of every type, and of all types together
                    sum over t, m of r[t, m] x[t, m] <= free units     of every custom resource

    d is the estimated duration, hence x / d is speed, and w[t] = weight of the job x work of one member / work left in
    the job: the objective is the rate at which jobs come closer to their end, and those with little left count most,
    as under SRPT. Speed is rewarded, so doing nothing is not optimal while anything fits. As a member may be split
    among modes, its speed on g GPUs is the upper concave hull of its modes' speeds: the piecewise-linear speed-up
    curve needs no variable of its own. Only modes on the task's menu (see `Menu`, with the rule `efficiency`) take
    part; a lone task would otherwise hold every GPU for the last bit of speed.

    Rounding: in a basic solution few members are not whole. Whole ones start; a member split among modes starts in the
    smallest of them; a member of which only a part fits waits, and the GPUs of that part stay free for it, so that
    large gangs are not overtaken for ever. The program is solved once, then again as soon as anything but these
    starts has changed the state.

    In the spirit of Gavel's heterogeneity-aware policies (Narayanan et al., OSDI 2020, sec. 4), which maximise
    functions of throughput on several GPU types for jobs that share them in time; here gangs run to their end.

    Args:
        tasks: how many ready tasks take part: those of the jobs with the least work left.
        threshold: least efficiency of the modes that take part, in [0, 1].
        stretch: how many times longer than in the best of these modes a task may take, at least 1.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, *, tasks: int = 32, threshold: float = 0.5, stretch: float = 4.0) -> None:
        if tasks < 1:
            raise ValueError(f"tasks is {tasks}, expected 1 or more")
        self._tasks = tasks
        self._menu = Menu("efficiency", threshold, stretch)
        self._plan: deque[_Variable] = deque()
        self._planned_for: tuple[State, float, int, int] | None = None

    def __call__(self, state: State) -> Sequence[Allocation]:
        if self._planned_for != (state, state.now, len(state.running), len(state.jobs)):
            self._plan = deque(self._starts(state))
        allocation = None
        while self._plan and allocation is None:
            task, modes, _, _ = self._plan.popleft()
            fitting = (state.allocate(task, mode) for mode in modes)
            allocation = next((a for a in fitting if a is not None), None)
        starting = 0 if allocation is None else 1
        self._planned_for = (state, state.now, len(state.running) + starting, len(state.jobs))
        return () if allocation is None else (allocation,)

    def _starts(self, state: State) -> list[_Variable]:
        """What to start, one entry a member: the solution of the program, rounded."""
        variables = self._variables(state)
        if not variables:
            return []
        starts: list[_Variable] = []
        parts: dict[tuple[int, int], list[tuple[_Variable, float]]] = defaultdict(list)
        for variable, amount in zip(variables, _solve(variables, state), strict=True):
            whole = int(amount + _TOLERANCE)
            starts += [variable] * whole
            if amount - whole > _TOLERANCE:
                parts[variable.task.key].append((variable, amount - whole))
        for split in parts.values():
            smallest = min((variable for variable, _ in split), key=lambda variable: variable.size)
            starts += [smallest] * int(sum(part for _, part in split) + _TOLERANCE)
        if not starts and not state.running:  # everything is free: there is nothing to wait for
            starts.append(max(variables, key=lambda variable: variable.value))
        return starts

    def _variables(self, state: State) -> list[_Variable]:
        """For the tasks that take part: the modes for which there are enough GPUs or, failing that, the smallest."""
        tasks = heapq.nsmallest(self._tasks, state.ready.values(), key=lambda task: (task.job.work_left, task.job.id))
        free: dict[str | None, int] = {kind: state.pool.free_gpus(kind) for kind in (None, *state.cluster.gpu_types)}
        variables = []
        for task in tasks:
            menu = self._menu(task, state)
            work = min(ladder.least_work for ladder, _ in menu)
            weight = task.job.job.weight * work / max(task.job.work_left, work * len(task.waiting))
            for ladder, rungs in menu:
                limit = free[ladder.gpu_type] if ladder.on_gpus else math.inf
                if rungs and limit:
                    enough = [at for at, rung in enumerate(rungs) if rung.size <= limit] or [len(rungs) - 1]
                    modes = [rung.mode for rung in rungs]
                    variables += [
                        _Variable(task, modes[at:], rungs[at].size, weight / rungs[at].duration) for at in enough
                    ]
        return variables


def _solve(variables: Sequence[_Variable], state: State) -> list[float]:
    """The amount of every variable in an optimal basic solution."""
    row_of: dict[object, int] = {}
    limits: list[float] = []
    entries: list[tuple[float, int, int]] = []
    for column, variable in enumerate(variables):
        for what, limit, amount in _limits(variable.task, variable.modes[0], state):
            if what not in row_of:
                row_of[what] = len(limits)
                limits.append(limit)
            entries.append((amount, row_of[what], column))
    amounts, rows, columns = zip(*entries, strict=True)
    matrix = csc_array((np.array(amounts), (rows, columns)), shape=(len(limits), len(variables)))
    values = np.array([variable.value for variable in variables])
    result = milp(  # with no integer variable: scipy's shortest way to HiGHS
        -values / values.max(),  # its tolerance is absolute
        constraints=LinearConstraint(matrix, -np.inf, np.array(limits)),
        bounds=Bounds(0.0, np.inf),
    )
    assert result.x is not None, result.message  # zero is feasible, and n[t] bounds every variable
    solution: list[float] = result.x.tolist()
    return solution


def _limits(task: TaskState, number: int, state: State) -> Iterator[tuple[object, float, float]]:
    """The constraints that a mode is part of: which, the limit, and how much of it a member takes."""
    mode, pool = task.task.modes[number], state.pool
    yield task.key, float(len(task.waiting)), 1.0
    if mode.gpus:
        yield "GPUs", float(pool.free_gpus()), float(mode.gpus)
        if mode.gpu_type is not None:
            yield ("GPUs", mode.gpu_type), float(pool.free_gpus(mode.gpu_type)), float(mode.gpus)
    for name, amount in mode.resources.items():
        if amount:
            yield ("resource", name), float(pool.free_resource(name)), float(amount)
