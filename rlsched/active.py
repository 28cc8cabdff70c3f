"""What there is to schedule: active jobs, their tasks, and the members that run, each with what can be known of it.

`rlsched.state` keeps them up to date.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter
from typing import Any

from rlsched.model import Allocation, Cause, Cluster, Job, Member, Mode, Task


class Status(Enum):
    """Where a task is in its life. An array task is READY while members wait, RUNNING once all have started."""

    BLOCKED = "blocked"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(slots=True, eq=False)
class TaskState:
    """A task of an active job.

    Attributes:
        needs_left: tasks it still waits for.
        waiting: members that have not started, or have come back; the last one starts next.
        running, done: numbers of members.
        ready_at: when the last of its needs was met, seconds.
        ready_number: tasks that become ready are numbered in that order, from 1.
        rank: upward rank, seconds (see `Job.upward_ranks`).
        work: GPU-seconds of all members in the most efficient mode.
        work_left: for members that were stopped, the part of the work they have left, in (0, 1].
        memo: room for what policies compute once for each task, by whose it is.
    """

    job: JobState
    index: int
    task: Task
    rank: float
    work: float
    needs_left: int
    waiting: list[int]
    running: int = 0
    done: int = 0
    ready_at: float = 0.0
    ready_number: int = 0
    status: Status = Status.BLOCKED
    work_left: dict[int, float] | None = None
    failures: dict[int, Counter[Cause]] | None = None
    memo: dict[object, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        return (self.job.id, self.index)

    def copy(self, job: JobState) -> TaskState:
        """The same of a twin of its job; what policies remember of it stays here."""
        twin = copy.copy(self)
        twin.job, twin.waiting, twin.memo = job, self.waiting.copy(), {}
        twin.work_left = self.work_left and self.work_left.copy()
        twin.failures = self.failures and {member: causes.copy() for member, causes in self.failures.items()}
        return twin

    def next_member(self) -> Member:
        """The member that a new allocation of this task starts."""
        return Member(self.job.id, self.index, self.waiting[-1])

    def left(self, member: int) -> float:
        """Part of a member's work that is still to do, 1 unless it was stopped at a checkpoint."""
        return 1.0 if self.work_left is None else self.work_left.get(member, 1.0)


@dataclass(slots=True, eq=False)
class JobState:
    """An active job: arrived, not ended.

    Attributes:
        tasks: in the order of `job.tasks`.
        unsettled: tasks that are not done, failed or skipped.
        work_left: GPU-seconds of its unfinished members, each task in its most efficient mode, without what those that
            were stopped had done by then.
        ready: its tasks in `State.ready`, by index.
        changed: number of the last change to it or its tasks; see `State.recent`.
        gpus: GPUs it holds now.
        service: GPU-seconds it has attained in runs that have ended.
        first_start: when its first task started; None: not yet.
    """

    id: int
    job: Job
    tasks: list[TaskState]
    unsettled: int
    work_left: float
    ready: dict[int, TaskState] = field(default_factory=dict)
    changed: int = 0
    gpus: int = 0
    service: float = 0.0
    first_start: float | None = None
    failed: bool = False
    _critical_path: float | None = None
    _foremost: list[TaskState] | None = None

    @property
    def foremost(self) -> list[TaskState]:
        """The tasks of `ready`, longest upward rank first."""
        if self._foremost is None:
            self._foremost = sorted(self.ready.values(), key=_by_rank, reverse=True)
        return self._foremost

    @property
    def critical_path_left(self) -> float:
        """Seconds of the longest path through its unsettled tasks, by estimates, fastest modes."""
        if self._critical_path is None:
            self._critical_path = max((t.rank for t in self.tasks if t.status in _UNSETTLED), default=0.0)
        return self._critical_path

    def copy(self) -> JobState:
        """Another one in the same condition."""
        twin = copy.copy(self)
        twin.tasks = [task.copy(twin) for task in self.tasks]
        twin.ready = {index: twin.tasks[index] for index in self.ready}
        twin._foremost = None
        return twin

    def enqueue(self, task: TaskState) -> None:
        """Enter one of its tasks into `ready`."""
        self.ready[task.index] = task
        self._foremost = None

    def dequeue(self, task: TaskState) -> None:
        """Take a task out of `ready`."""
        del self.ready[task.index]
        self._foremost = None

    def forget_critical_path(self) -> None:
        """A task is about to be settled."""
        self._critical_path = None


_by_rank = attrgetter("rank")
_UNSETTLED = (Status.BLOCKED, Status.READY, Status.RUNNING)


@dataclass(slots=True, eq=False)
class Run:
    """A member that is running: on what, ready and running since when, until when by the estimates (seconds)."""

    allocation: Allocation
    task: TaskState
    mode: Mode
    ready_at: float
    start: float
    expected_end: float
    stopping: bool = False

    def part_left(self, now: float, cluster: Cluster) -> float:
        """Part of the member's work that is left by the estimates, 0 to 1."""
        whole = self.mode.duration / (cluster.span_speed if len(self.allocation.shares) > 1 else 1.0)
        return min(self.task.left(self.allocation.member.member), max(0.0, self.expected_end - now) / whole)

    @property
    def toll(self) -> float:
        """Seconds that it costs to stop and resume it: a checkpoint written and loaded, devices set up again."""
        return 2 * self.task.task.checkpoint_time + self.task.task.setup_time


def run_time(task: Task, mode: Mode, cluster: Cluster, nodes: int, work_left: float, cold: bool) -> tuple[float, float]:
    """Seconds a member holds its devices by the estimate of its mode: set-up and restore, and the work that is left."""
    speed = cluster.span_speed if nodes > 1 else 1.0
    overhead = (task.setup_time if cold else 0.0) + (task.checkpoint_time if work_left < 1.0 else 0.0)
    return overhead, work_left * mode.duration / speed
