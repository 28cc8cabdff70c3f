"""Scheduling by linear programming: fractional allocation with concave speed-ups, rounded to gangs."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csc_array

from rlsched.model import Allocation, Mode
from rlsched.policies.counts import Menu
from rlsched.state import State, TaskState

_TOLERANCE = 1e-6  # HiGHS is exact to about 1e-7

Start = tuple[TaskState, list[int]]


class _Variable(NamedTuple):
    """x[t, m]: members of task t that start in mode m. Value: its coefficient in the objective."""

    task: TaskState
    modes: list[int]
    size: int
    value: float


class LinearProgramPolicy:
    """Fractional allocation by a linear program, solved by HiGHS and rounded to gangs.

    For each ready task t and mode m there is x[t, m] >= 0, the number of members, whole or not, that start in m:

        maximise    sum over t, m of w[t] x[t, m] / d[m]
        subject to  sum over m of x[t, m]         <= n[t]           for every task t (members that wait)
                    sum over t, m of g[m] x[t, m] <= free GPUs      of every type, and of all types together
                    sum over t, m of r[m] x[t, m] <= free units     of every custom resource

    d is the estimated duration, hence x / d is speed, and w[t] = weight of the job x work of one member / work left in
    the job: the objective is the rate at which jobs come closer to their end, and those with little left count most,
    as under SRPT. Speed is rewarded, so doing nothing is not optimal while anything fits. As a member may be split
    among modes, its speed on g GPUs is the upper concave hull of its modes' speeds: the piecewise-linear speed-up
    curve needs no variable of its own. Only modes on the task's menu (see `Menu`, with the rule `efficiency`) take
    part; a lone task would otherwise hold every GPU for the last bit of speed.

    Rounding: a basic solution has few members that are not whole. Whole ones start; a member split among modes starts
    in the smallest of them; a member of which only a part fits waits, and the GPUs of that part stay free for it, so
    that large gangs are not overtaken for ever. The program is solved again when the state has changed otherwise than
    by these starts.

    In the spirit of Gavel's heterogeneity-aware policies (Narayanan et al., OSDI 2020, sec. 4), which maximise
    functions of throughput on several GPU types for jobs that share them in time; here gangs run to their end.

    Args:
        tasks: how many ready tasks take part: those of the jobs with the least work left.
        threshold: least efficiency of the modes that take part, in [0, 1].
        stretch: how many times longer than in the best of these modes a task may take, at least 1.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, *, tasks: int = 64, threshold: float = 0.5, stretch: float = 4.0, power: float=1.) -> None:
        if tasks < 1:
            raise ValueError(f"tasks is {tasks}, expected 1 or more")
        self._tasks = tasks;self._power=power
        self._menu = Menu("efficiency", threshold, stretch)
        self._plan: deque[Start] = deque()
        self._planned_for: tuple[float, int, int] | None = None

    def __call__(self, state: State) -> Sequence[Allocation]:
        if self._planned_for != (state.now, len(state.running), len(state.jobs)):
            self._plan = deque(self._starts(state))
        allocation = None
        while self._plan and allocation is None:
            task, modes = self._plan.popleft()
            fitting = (state.allocate(task, mode) for mode in modes)
            allocation = next((a for a in fitting if a is not None), None)
        self._planned_for = (state.now, len(state.running) + (allocation is not None), len(state.jobs))
        return () if allocation is None else (allocation,)

    def _starts(self, state: State) -> list[Start]:
        variables = self._variables(state)
        if not variables:
            return []
        starts: list[Start] = []
        by_task = itertools.groupby(zip(variables, _solve(variables, state), strict=True), lambda pair: pair[0].task)
        for task, pairs in by_task:
            part, smallest = 0.0, None
            for variable, amount in pairs:
                whole = int(amount + _TOLERANCE)
                starts += [(task, variable.modes)] * whole
                if amount - whole > _TOLERANCE:
                    part += amount - whole
                    if smallest is None or variable.size < smallest.size:
                        smallest = variable
            if smallest is not None:
                starts += [(task, smallest.modes)] * int(part + _TOLERANCE)
        if not starts and not state.running:  # everything is free: there is nothing to wait for
            best = max(variables, key=lambda variable: variable.value)
            starts.append((best.task, best.modes))
        return starts

    def _variables(self, state: State) -> list[_Variable]:
        tasks = heapq.nsmallest(self._tasks, state.ready.values(), key=lambda task: (task.job.work_left, task.job.id))
        variables = []
        for task in tasks:
            ladders = self._menu(task, state)
            work = min(rung.size * rung.duration for rungs in ladders for rung in rungs)
            weight = task.job.job.weight * work / max(task.job.work_left, work * len(task.waiting))**self._power
            for rungs in ladders:
                modes = [rung.mode for rung in rungs]
                for at, rung in enumerate(rungs):
                    if all(limit > 0 for _, limit, _ in _takes(task, task.task.modes[rung.mode], state)):
                        variables.append(_Variable(task, modes[at:], rung.size, weight / rung.duration))
        return variables


def _solve(variables: Sequence[_Variable], state: State) -> list[float]:
    """The amount of every variable in an optimal solution."""
    row_of: dict[object, int] = {}
    limits: list[float] = []
    rows, columns, amounts = [], [], []
    for column, variable in enumerate(variables):
        mode = variable.task.task.modes[variable.modes[0]]
        for what, limit, amount in _takes(variable.task, mode, state):
            if what not in row_of:
                row_of[what] = len(limits)
                limits.append(limit)
            rows.append(row_of[what])
            columns.append(column)
            amounts.append(amount)
    matrix = csc_array((amounts, (rows, columns)), shape=(len(limits), len(variables)), dtype=np.float64)
    values = np.array([variable.value for variable in variables])
    result = milp(
        -values / values.max(),  # the tolerance of HiGHS is absolute
        constraints=LinearConstraint(matrix, -np.inf, np.array(limits)),
        bounds=Bounds(0.0, np.inf),
    )
    return [float(x) for x in result.x]


def _takes(task: TaskState, mode: Mode, state: State) -> Iterator[tuple[object, float, float]]:
    """The constraints that a mode appears in: a key, the limit, and what one member takes of it."""
    yield task.key, len(task.waiting), 1.0
    if mode.gpus:
        yield "GPUs", state.pool.free_gpus(), mode.gpus
        if mode.gpu_type is not None:
            yield ("GPUs", mode.gpu_type), state.pool.free_gpus(mode.gpu_type), mode.gpus
    for name, amount in mode.resources.items():
        if amount:
            yield ("resource", name), state.pool.free_resource(name), amount
