"""What is to be planned: jobs that are known in advance, or what is left of those in the system; and playing it.

An instance is the same thing that the simulator takes, a cluster and jobs, so that every plan can be played and its
value measured there: nothing is claimed that has not happened in the simulator.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

from rlsched.active import JobState, Run, Status, TaskState
from rlsched.model import Allocation, Cluster, Job, Member, Share, Task
from rlsched.schedule import Schedule
from rlsched.scheduler import Arrived, Event, Policy, Scheduler
from rlsched.simulator import Simulator
from rlsched.state import State

Objective = Literal["mean_jct", "makespan", "weighted_tardiness"]
OVERDUE = 1e-3  # part of its duration that a run is expected to go on when it should have ended by now


class Terms(NamedTuple):
    """What objectives know of a job beside its end: release and deadline in seconds, and its weight."""

    release: float
    weight: float
    deadline: float | None


@dataclass(frozen=True)
class Instance:
    """Jobs to be planned.

    Attributes:
        cluster: the machines. Those that are down are taken for up: they will be back.
        jobs: in order of release. Of jobs that have begun, what is left: their tasks are parts of the real ones.
        terms: of each job.
        origin: for each job its id, and for each of its tasks the index, in the state that it is taken from.
        held: the shares of what runs already, by job and task of this instance.
    """

    cluster: Cluster
    jobs: tuple[Job, ...]
    terms: tuple[Terms, ...]
    origin: tuple[tuple[int, tuple[int, ...]], ...]
    held: Mapping[tuple[int, int], tuple[Share, ...]] = field(default_factory=dict)

    def cost(self, ends: Sequence[float], objective: str) -> float:
        """What an objective, lower is better, makes of the times at which the jobs end.

        Raises:
            ValueError: there is no such objective.
        """
        pairs = list(zip(ends, self.terms, strict=True))
        match objective:
            case "mean_jct":
                return math.fsum(end - terms.release for end, terms in pairs) / len(pairs)
            case "makespan":
                return max(ends) - min(terms.release for terms in self.terms)
            case "weighted_tardiness":
                due = ((end, t.weight, t.deadline) for end, t in pairs if t.deadline is not None)
                return math.fsum(weight * max(0.0, end - deadline) for end, weight, deadline in due)
        raise ValueError(f"objective is {objective!r}, expected {', '.join(get_args(Objective))}")

    def cost_of(self, schedule: Schedule, objective: str) -> float:
        """The same for a schedule of this instance, as `play` makes it."""
        ends = [record.completion for record in schedule.jobs.values()]
        return self.cost([end for end in ends if end is not None], objective)

    def play(self, policy: Policy) -> Schedule:
        """What a policy makes of it in the simulator, where every estimate is true.

        Raises:
            StallError: the policy waits for what cannot happen.
            ValueError: a decision is infeasible.
        """
        return Scheduler(_Resumed(self)).run(policy)


class _Resumed(Simulator):
    """The simulator, with what is held already running."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance.cluster, instance.jobs)
        self._held: dict[int, list[Allocation]] = defaultdict(list)
        for (job, task), shares in instance.held.items():
            self._held[job].append(Allocation(Member(job, task), 0, shares))

    def wait(self, until: float = math.inf) -> list[Event]:
        events = super().wait(until)
        if not self._held:
            return events
        return [self._resume(event) if isinstance(event, Arrived) else event for event in events]

    def _resume(self, event: Arrived) -> Arrived:
        running = tuple(self._held.pop(event.job_id, ()))
        for allocation in running:
            self.launch(allocation)
        return replace(event, running=running)


def check_objective(objective: str) -> str:
    """The objective, if it is one.

    Raises:
        ValueError: there is no such objective.
    """
    if objective not in get_args(Objective):
        raise ValueError(f"objective is {objective!r}, expected {', '.join(get_args(Objective))}")
    return objective


def all_known(cluster: Cluster, jobs: Iterable[Job]) -> Instance:
    """Jobs of which everything is known from the start, also of those that are released later (clairvoyance).

    Plans stop nothing that runs: no task is preemptible here.
    """
    ordered = tuple(sorted(map(_without_preemption, jobs), key=lambda job: job.release))
    terms = tuple(Terms(job.release, job.weight, job.deadline) for job in ordered)
    origin = tuple((number, tuple(range(len(job.tasks)))) for number, job in enumerate(ordered))
    return Instance(cluster, ordered, terms, origin)


def _without_preemption(job: Job) -> Job:
    if not any(task.preemptible for task in job.tasks):
        return job
    return replace(job, tasks=tuple(replace(task, preemptible=False) for task in job.tasks))


def what_is_left(state: State) -> Instance:
    """The jobs in the system from now on, by their estimates.

    A member that runs is a task of its own, on its devices until its expected end. Members that wait are one task,
    less those that have been stopped, which have their part of the work left.
    """
    runs: dict[tuple[int, int], list[Run]] = defaultdict(list)
    for run in state.running.values():
        runs[run.task.key].append(run)
    parts = [_rest_of(job, state, runs) for job in state.jobs.values()]
    jobs, terms, origin, held = [], [], [], {}
    for number, (source, tasks, indices, shares) in enumerate(parts):
        jobs.append(Job(source.job.name, tuple(tasks), state.now))
        terms.append(Terms(source.job.release, source.job.weight, source.job.deadline))
        origin.append((source.id, tuple(indices)))
        held.update({(number, index): devices for index, devices in shares.items()})
    return Instance(state.cluster, tuple(jobs), tuple(terms), tuple(origin), held)


def _rest_of(
    job: JobState, state: State, runs: Mapping[tuple[int, int], list[Run]]
) -> tuple[JobState, list[Task], list[int], dict[int, tuple[Share, ...]]]:
    """The parts of a job's tasks, the index of each one's task, and the devices of those that run."""
    names: dict[str, list[str]] = defaultdict(list)  # of a task's parts; a task that is done has none
    tasks: list[Task] = []
    indices: list[int] = []
    held: dict[int, tuple[Share, ...]] = {}
    for index in job.job.topological:
        task = job.tasks[index]
        needs = tuple(part for need in task.task.needs for part in names[need])
        parts: list[Task] = []
        for run in runs.get(task.key, ()):
            held[len(tasks) + len(parts)] = run.allocation.shares
            parts.append(_running(run, state))
        if task.status in (Status.BLOCKED, Status.READY):
            parts += _waiting(task, needs)
        for number, part in enumerate(parts):
            tasks.append(replace(part, name=f"{index}.{number}"))
            indices.append(index)
            names[task.task.name].append(f"{index}.{number}")
    return job, tasks, indices, held


def _running(run: Run, state: State) -> Task:
    seconds = max(run.expected_end - state.now, OVERDUE * run.mode.duration)
    if len(run.allocation.shares) > 1:
        seconds *= state.cluster.span_speed
    return Task(run.task.task.name, (replace(run.mode, duration=seconds),))


def _waiting(task: TaskState, needs: tuple[str, ...]) -> list[Task]:
    fresh = replace(task.task, needs=needs, array=1, preemptible=False)
    stopped = [member for member in task.waiting if task.left(member) < 1.0]
    parts: list[Task] = []
    if whole := len(task.waiting) - len(stopped):
        parts.append(replace(fresh, array=whole))
    for member in stopped:
        left, load = task.left(member), task.task.checkpoint_time
        parts.append(
            replace(fresh, modes=tuple(replace(mode, duration=left * mode.duration + load) for mode in fresh.modes))
        )
    return parts
