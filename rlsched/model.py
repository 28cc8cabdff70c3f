"""What is to be scheduled, and on what: frozen, validated values.

Units everywhere: time in seconds, memory in GiB, `gpus` and `cpus` as counts. A GPU slot of a machine without GPUs
(`gpu_type="cpu"`) is scheduled exactly like a GPU.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


class Cause(StrEnum):
    """Why an attempt failed by itself: a non-zero exit code, a signal, want of memory (the host's or a GPU's), time."""

    EXIT = "exit"
    SIGNAL = "signal"
    OOM = "oom"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to run a task: the resources it takes and how long it is expected to run with them.

    Attributes:
        duration: estimated seconds from first statement to end, on a warm device, all GPUs on one node.
        gpus: size of the gang; all of its GPUs are of one type and start together. 0: needs no GPU.
        gpu_type: the type that this estimate is for; None: any type.
        gpu_memory: GiB that every GPU of the gang must have.
        cpus, memory, resources: cores, GiB and named custom resources taken *on each node* of the gang.

    Raises:
        ValueError: a negative amount, or a duration that is not a positive finite number.
    """

    duration: float
    gpus: int = 0
    gpu_type: str | None = None
    gpu_memory: float = 0.0
    cpus: int = 0
    memory: float = 0.0
    resources: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Thousands of modes are made for every episode: words are put together only where something is wrong.
        if not (math.isfinite(self.duration) and self.duration > 0):
            raise ValueError(f"duration is {self.duration}, expected seconds above 0")
        if not (self.gpus >= 0 and self.cpus >= 0 and self.memory >= 0 and self.gpu_memory >= 0):
            for name in ("gpus", "cpus", "memory", "gpu_memory"):
                _check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, expected 0 or more")
        for name, amount in self.resources.items():
            if amount < 0:
                raise ValueError(f"resource {name!r} is {amount}, expected 0 or more")

    @property
    def gpu_seconds(self) -> float:
        """GPU time the mode takes: size of the gang x estimated duration."""
        return self.gpus * self.duration

    @property
    def needs(self) -> tuple[object, ...]:
        """Everything that it takes, as a key: modes of equal needs fit the same places."""
        resources = tuple(sorted(self.resources.items())) if self.resources else ()
        return (self.gpus, self.gpu_type, self.gpu_memory, self.cpus, self.memory, resources)

    @property
    def cpu_only(self) -> bool:
        """True if the mode takes nothing that a policy has to share out: neither GPUs nor custom resources."""
        return self.gpus == 0 and not self.resources


@dataclass(frozen=True, slots=True)
class Task:
    """A node of a job's DAG.

    Attributes:
        name: unique within the job.
        modes: the ways to run it. One: rigid. Several: moldable (chosen at start).
        needs: names of the tasks that must have finished before this one starts.
        array: number of identical members (trials of a sweep, tasks of a Spark stage).
        preemptible: may be stopped and resumed from a checkpoint.
        priority: larger is more urgent; what it means is up to the policy.
        retries: attempts beyond the first after a failure of its own (a lost node or a preemption is free): a number,
            whatever the cause, or a number for each cause, 0 where none is given.
        setup_time: seconds a device needs first when the task it ran before was of another job.
        checkpoint_time: seconds to write a checkpoint when stopped, and again to load it when resumed.
        cpu_only: every mode takes neither GPUs nor custom resources: the scheduler starts the task itself (derived).
        shortest: estimated seconds of the fastest mode (derived).
        least_work: GPU-seconds of all members in the mode that takes the fewest (derived).
        least_gpus: size of the smallest gang (derived).

    Raises:
        ValueError: no mode, a name that is empty, a member count below 1, a negative time.
    """

    name: str
    modes: tuple[Mode, ...]
    needs: tuple[str, ...] = ()
    array: int = 1
    preemptible: bool = False
    priority: float = 0.0
    retries: int | Mapping[Cause, int] = 0
    setup_time: float = 0.0
    checkpoint_time: float = 0.0
    cpu_only: bool = field(init=False, repr=False, compare=False)
    shortest: float = field(init=False, repr=False, compare=False)
    least_work: float = field(init=False, repr=False, compare=False)
    least_gpus: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        modes = self.modes
        if not self.name:
            raise ValueError("a task has an empty name")
        if not modes:
            raise ValueError(f"task {self.name!r} has no mode")
        if not self.array >= 1:
            raise ValueError(f"task {self.name!r}: array is {self.array}, expected 1 or more")
        if not (self.setup_time >= 0 and self.checkpoint_time >= 0):
            name = "checkpoint_time" if self.setup_time >= 0 else "setup_time"
            raise ValueError(f"task {self.name!r}: {name} is below 0")
        retries = self.retries if isinstance(self.retries, int) else min(self.retries.values(), default=0)
        if not retries >= 0:
            raise ValueError(f"task {self.name!r}: retries is below 0")
        if len(modes) == 1:
            (mode,) = modes
            least_gpus, shortest, work, cpu_only = mode.gpus, mode.duration, mode.gpus * mode.duration, mode.cpu_only
        else:
            least_gpus, shortest = min(mode.gpus for mode in modes), min(mode.duration for mode in modes)
            work = min(mode.gpus * mode.duration for mode in modes)
            cpu_only = not least_gpus and all(mode.cpu_only for mode in modes)
        object.__setattr__(self, "cpu_only", cpu_only)
        object.__setattr__(self, "shortest", shortest)
        object.__setattr__(self, "least_gpus", least_gpus)
        object.__setattr__(self, "least_work", self.array * work)

    def may_retry(self, failures: Mapping[Cause, int]) -> bool:
        """True if a member that has failed that often, by cause, is to be tried again."""
        if isinstance(self.retries, int):
            return sum(failures.values()) <= self.retries
        return all(count <= self.retries.get(cause, 0) for cause, count in failures.items())


@dataclass(frozen=True, slots=True)
class Job:
    """One submitted DAG of tasks (a workflow instance).

    Attributes:
        name: for people; need not be unique.
        tasks: in any order; edges are given by their `needs`.
        release: arrival time in seconds.
        weight: relative importance, above 0.
        deadline: seconds on the same clock as `release`; None: none.
        successors: for each task, the indices of the tasks that need it (derived).
        needs_left: for each task, how many tasks it needs (derived).
        topological: task indices in an order that respects the edges: as they stand, if that is one (derived).
        upward_ranks: seconds from each task's start to the job's end along the longest path, every task in its fastest
            mode: HEFT's upward rank without communication cost (Topcuoglu et al., IEEE TPDS 2002, eq. 4) (derived).
        critical_path: seconds the job takes on an empty, unlimited cluster by its estimates (derived).
        task_work: `least_work` of each task, GPU-seconds (derived).
        least_work: GPU-seconds of the whole job, every task in its most efficient mode (derived).
        derived: room for what others compute from the job once and for all (a job never changes). It stays in this
            process: a copy that is sent to another begins without.

    Raises:
        ValueError: duplicate names, unknown needs, a cycle, a weight not above 0, a deadline before the release.
    """

    name: str
    tasks: tuple[Task, ...]
    release: float = 0.0
    weight: float = 1.0
    deadline: float | None = None
    successors: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    needs_left: tuple[int, ...] = field(init=False, repr=False, compare=False)
    topological: tuple[int, ...] = field(init=False, repr=False, compare=False)
    upward_ranks: tuple[float, ...] = field(init=False, repr=False, compare=False)
    critical_path: float = field(init=False, repr=False, compare=False)
    task_work: tuple[float, ...] = field(init=False, repr=False, compare=False)
    least_work: float = field(init=False, repr=False, compare=False)
    derived: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __getstate__(self) -> list[Any]:
        return [{} if each.name == "derived" else getattr(self, each.name) for each in fields(self)]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError(f"job {self.name!r} has no task")
        if not math.isfinite(self.release):
            raise ValueError(f"job {self.name!r}: release is {self.release}")
        if not self.weight > 0:
            raise ValueError(f"job {self.name!r}: weight is {self.weight}, expected above 0")
        if not (self.deadline is None or self.deadline >= self.release):
            raise ValueError(f"job {self.name!r}: the deadline is before the release")
        tasks = self.tasks
        predecessors = self._predecessors()
        successors: list[list[int]] = [[] for _ in predecessors]
        in_order = True
        for i, needed in enumerate(predecessors):
            for predecessor in needed:
                successors[predecessor].append(i)
                in_order = in_order and predecessor < i
        order = tuple(range(len(predecessors))) if in_order else self._sorted(predecessors)
        object.__setattr__(self, "successors", tuple(map(tuple, successors)))
        object.__setattr__(self, "needs_left", tuple(map(len, predecessors)))
        object.__setattr__(self, "topological", order)
        ranks = [task.shortest for task in tasks]
        for i in reversed(order):
            if successors[i]:
                ranks[i] += max([ranks[s] for s in successors[i]])
        object.__setattr__(self, "upward_ranks", tuple(ranks))
        object.__setattr__(self, "critical_path", max(ranks))
        work = tuple([task.least_work for task in tasks])
        object.__setattr__(self, "task_work", work)
        object.__setattr__(self, "least_work", sum(work))

    def _predecessors(self) -> list[list[int]]:
        """For each task, the indices of the tasks that it needs."""
        index = {task.name: i for i, task in enumerate(self.tasks)}
        if len(index) != len(self.tasks):
            raise ValueError(f"job {self.name!r}: two tasks have the same name")
        try:
            return [[index[need] for need in dict.fromkeys(task.needs)] if task.needs else [] for task in self.tasks]
        except KeyError:
            task, need = next((task, need) for task in self.tasks for need in task.needs if need not in index)
            raise ValueError(f"job {self.name!r}: task {task.name!r} needs {need!r}, which does not exist") from None

    def _sorted(self, predecessors: list[list[int]]) -> tuple[int, ...]:
        try:
            return tuple(TopologicalSorter(dict(enumerate(predecessors))).static_order())
        except CycleError as error:
            cycle = " -> ".join(self.tasks[i].name for i in error.args[1])
            raise ValueError(f"job {self.name!r}: the needs form a cycle: {cycle}") from None


@dataclass(frozen=True, slots=True)
class Node:
    """One machine.

    Attributes:
        gpus, gpu_type, gpu_memory: how many GPUs, all of one type; GiB of memory of each.
        cpus, memory, resources: cores, GiB, and named custom resources (licences, slots, bandwidth ...).

    Raises:
        ValueError: a negative amount, or GPUs without a type.
    """

    name: str
    gpus: int = 0
    gpu_type: str = "gpu"
    gpu_memory: float = 0.0
    cpus: int = 0
    memory: float = 0.0
    resources: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(bool(self.name), "a node has an empty name")
        _check(bool(self.gpu_type), f"node {self.name!r}: gpu_type is empty")
        for name in ("gpus", "cpus", "memory", "gpu_memory"):
            _check(getattr(self, name) >= 0, f"node {self.name!r}: {name} is below 0")
        for name, amount in self.resources.items():
            _check(amount >= 0, f"node {self.name!r}: resource {name!r} is {amount}, expected 0 or more")


@dataclass(frozen=True)
class Cluster:
    """The machines, and how much a gang loses when it spans several of them.

    Attributes:
        nodes: addressed by their index everywhere.
        span_speed: speed of a gang on more than one node relative to the same gang on one, in (0, 1].
        gpu_types: the types present, in order of first appearance (derived).

    Raises:
        ValueError: no node, two nodes of one name, a span_speed outside (0, 1].
    """

    nodes: tuple[Node, ...]
    span_speed: float = 1.0
    gpu_types: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(bool(self.nodes), "the cluster has no node")
        _check(len({node.name for node in self.nodes}) == len(self.nodes), "two nodes have the same name")
        _check(0 < self.span_speed <= 1, f"span_speed is {self.span_speed}, expected above 0 and at most 1")
        types = dict.fromkeys(node.gpu_type for node in self.nodes if node.gpus)
        object.__setattr__(self, "gpu_types", tuple(types))

    def gpu_count(self, gpu_type: str | None = None) -> int:
        """Number of GPUs of a type, or of all types."""
        return self._gpu_counts.get(gpu_type, 0)

    @cached_property
    def resources(self) -> Mapping[str, int]:
        """Units of every custom resource on all nodes together."""
        counts: Counter[str] = Counter()
        for node in self.nodes:
            counts.update(node.resources)
        return counts

    @cached_property
    def _gpu_counts(self) -> dict[str | None, int]:
        counts: dict[str | None, int] = {None: sum(node.gpus for node in self.nodes)}
        for node in self.nodes:
            counts[node.gpu_type] = counts.get(node.gpu_type, 0) + node.gpus
        return counts


class Member(NamedTuple):
    """One runnable unit: member number `member` of task number `task` of job number `job` (indices)."""

    job: int
    task: int
    member: int = 0


class Share(NamedTuple):
    """What a gang holds of one node: the node's index and the indices of its GPUs there."""

    node: int
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Allocation:
    """A decision: start `member` in its task's mode number `mode` on these devices, all at once (a gang)."""

    member: Member
    mode: int
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Preemption:
    """A decision: stop a running, preemptible `member`; it comes back as ready with the work it has left."""

    member: Member


@dataclass(frozen=True, slots=True)
class WakeUp:
    """A decision: be asked again `at` that time (seconds), even if nothing happens until then; the last one counts."""

    at: float
