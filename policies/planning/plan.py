"""A plan: what starts in which mode and where, in which order; and the policy that plays one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rlsched.active import Status, TaskState
from rlsched.model import Allocation, Mode
from rlsched.policies.planning.instance import Instance, what_is_left
from rlsched.schedule import Schedule
from rlsched.state import State


class Start(NamedTuple):
    """A member of a task that is to start.

    Attributes:
        nodes: where, with the number of GPUs on each; empty: wherever it fits best when it is its turn.
    """

    job: int
    task: int
    mode: int
    nodes: tuple[tuple[int, int], ...] = ()


Plan = Sequence[Start]
"""In order of start; one entry for every member that a policy has to start. Jobs and tasks are those of an instance,
or, where it is played, those of the state that the instance was taken from."""

Planner = Callable[[Instance], Plan]


def plan_of(schedule: Schedule, instance: Instance) -> Plan:
    """The plan behind a schedule of an instance, as `Instance.play` makes it."""
    starts = []
    for run in sorted(schedule.runs, key=lambda run: (run.start, run.member)):
        job, task, _ = run.member
        if is_planned(job, task, instance):
            starts.append(Start(job, task, run.mode, tuple((share.node, len(share.gpus)) for share in run.shares)))
    return starts


def is_planned(job: int, task: int, instance: Instance) -> bool:
    """False for what runs already and for what the scheduler starts by itself."""
    return (job, task) not in instance.held and not instance.jobs[job].tasks[task].cpu_only


class PlayedPlan:
    """A policy: every member starts in its planned mode on its planned nodes, as soon as its turn has come.

    On each node, its turn has come when what is free beyond the needs of those that come before it and still wait is
    enough. So a member may overtake another one, but never takes from it what it will need; a member of a job that
    has not arrived yet is not overtaken. Where all tasks take as long as planned, none starts later than planned;
    where they do not, the order holds and times move.

    A member planned for no node in particular waits until all before it have started.

    If nothing runs, nobody is still to arrive, and nothing can start as planned (a node is lost), what comes first
    starts wherever it fits.
    """

    def __init__(self, plan: Plan) -> None:
        self._waiting = list(plan)
        self._newest = -1

    def __call__(self, state: State) -> Sequence[Allocation]:
        self._newest = max(self._newest, next(reversed(state.jobs), -1))
        self._waiting = [start for start in self._waiting if self._is_due(start, state)]
        for number, allocation in self._startable(state):
            del self._waiting[number]
            return (allocation,)
        return ()

    def _is_due(self, start: Start, state: State) -> bool:
        """False once the job has ended or the task will not run."""
        job = state.jobs.get(start.job)
        if job is None:
            return start.job > self._newest
        return job.tasks[start.task].status in (Status.BLOCKED, Status.READY)

    def _startable(self, state: State) -> Iterable[tuple[int, Allocation]]:
        room = _Room(state)
        unseen = Counter({key: len(task.waiting) for key, task in state.ready.items()})
        for number, start in enumerate(self._waiting):
            if not unseen.total():
                break
            if start.job not in state.jobs:
                if not start.nodes:
                    break
                room.close(start.nodes)
                continue
            task = state.jobs[start.job].tasks[start.task]
            unseen[task.key] -= 1
            mode = task.task.modes[start.mode]
            ready = task.status is Status.READY
            if not start.nodes:
                if ready and (allocation := state.allocate(task, start.mode)):
                    yield number, allocation
                break
            if room.reserve(start.nodes, mode) and ready:
                shares = state.pool.place_on(mode, start.nodes, start.job)
                if shares is not None:
                    yield number, Allocation(task.next_member(), start.mode, shares)
        if not state.running and all(start.job in state.jobs for start in self._waiting):
            yield from self._anything(state)

    def _anything(self, state: State) -> Iterable[tuple[int, Allocation]]:
        for number, start in enumerate(self._waiting):
            if (task := state.ready.get((start.job, start.task))) is not None:
                others = (mode for mode in range(len(task.task.modes)) if mode != start.mode)
                for mode in (start.mode, *others):
                    if allocation := state.allocate(task, mode):
                        yield number, allocation


class _Room:
    """What is free on each node beyond what has been reserved."""

    def __init__(self, state: State) -> None:
        self._pool = state.pool
        self._free: dict[int, dict[str, float]] = {}

    def close(self, nodes: Sequence[tuple[int, int]]) -> None:
        """Let nobody have anything."""
        self._free.update((node, {}) for node, _ in nodes)

    def reserve(self, nodes: Sequence[tuple[int, int]], mode: Mode) -> bool:
        """Take away what a gang needs; True if it was there."""
        enough = True
        for node, gpus in nodes:
            free = self._free.get(node)
            if free is None:
                free = self._free[node] = self._pool.amounts(node)
            for name, amount in {"gpus": gpus, "cpus": mode.cpus, "memory": mode.memory, **mode.resources}.items():
                if amount:
                    free[name] = free.get(name, 0) - amount
                    enough = enough and free[name] >= -1e-9
        return enough


def _in_state(start: Start, instance: Instance) -> Start:
    job_id, tasks = instance.origin[start.job]
    return start._replace(job=job_id, task=tasks[start.task])


class PlanningPolicy:
    """Plans for all jobs in the system, plays the plan, and plans anew when something comes that is not in it.

    That is a job that arrives, or a member that comes back: it has failed, has been stopped or has lost its node.

    Args:
        planner: answers an instance with a plan.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._state: State | None = None
        self._newest = -1
        self._play(())

    def __call__(self, state: State) -> Sequence[Allocation]:
        if state is not self._state:
            self._state, self._newest = state, -1
            self._play(())
        if not state.ready:
            return ()
        newest = next(reversed(state.jobs))
        if newest > self._newest or any(self._lacks(task) for task in state.ready.values()):
            self._newest = newest
            instance = what_is_left(state)
            self._play([_in_state(start, instance) for start in self._planner(instance)])
        decisions = self._played(state)
        for allocation in decisions:
            self._planned[allocation.member[:2]] -= 1
        return decisions

    def _play(self, plan: Plan) -> None:
        self._played = PlayedPlan(plan)
        self._planned = Counter((start.job, start.task) for start in plan)

    def _lacks(self, task: TaskState) -> bool:
        return self._planned[task.key] < len(task.waiting)
