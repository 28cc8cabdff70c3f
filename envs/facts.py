"""What an encoder knows of a job's tasks and modes once and for all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from operator import attrgetter
from typing import NamedTuple

from rlsched.model import Cluster, Job, Mode, Task

_SHAPES: dict[object, int] = {}  # what a mode takes -> a short name for it, in this process


class ModeFacts(NamedTuple):
    """Of a mode.

    Attributes:
        number: its index in the task's modes.
        shape: modes of equal shape fit the same places.
        features: its columns of the observation that no state changes (see `rlsched.envs.encoding`).
    """

    number: int
    duration: float
    gpus: int
    gpu_type: str | None
    resources: Mapping[str, int]
    shape: int
    features: tuple[float, ...]

    def resource_share(self, cluster: Cluster) -> float:
        """The largest part it takes of any custom resource of the cluster."""
        return max(amount / max(1, cluster.resources.get(name, 0)) for name, amount in self.resources.items())


class TaskFacts(NamedTuple):
    """Of a task.

    Attributes:
        fastest_first: its modes.
        features: its columns of the observation that no state changes.
    """

    modes: tuple[ModeFacts, ...]
    fastest_first: tuple[ModeFacts, ...]
    least_gpus: int
    features: tuple[float, ...]
    descendant_work: float


def facts_of(job: Job) -> list[TaskFacts]:
    """What is known of each of the job's tasks, computed when it is first asked for."""
    facts: list[TaskFacts] | None = job.derived.get(__name__)
    if facts is None:
        facts = [_task_facts(t, work) for t, work in zip(job.tasks, descendant_work(job), strict=True)]
        job.derived[__name__] = facts
    return facts


def descendant_work(job: Job) -> list[float]:
    """For each task, the GPU-seconds (most efficient modes) of all tasks behind it; each counted once."""
    reached = [0] * len(job.tasks)  # bit i of reached[t]: task i lies behind task t
    for i in reversed(job.topological):
        for successor in job.successors[i]:
            reached[i] |= reached[successor] | 1 << successor
    works = job.task_work
    return [sum([work for j, work in enumerate(works) if bits >> j & 1]) if bits else 0.0 for bits in reached]


def _task_facts(task: Task, descendants: float) -> TaskFacts:
    # Plain comparisons: this is done for every task of every episode.
    best_at: dict[int, float] = {}  # by number of GPUs: seconds on the type that is best for it
    worst_at: dict[int, float] = {}
    by_type: dict[str | None, dict[int, float]] = {}  # and on each type
    least = math.inf
    for mode in task.modes:
        gpus, duration = mode.gpus, mode.duration
        if gpus * duration < least:
            least = gpus * duration
        if gpus not in best_at:
            best_at[gpus] = worst_at[gpus] = duration
        elif duration < best_at[gpus]:
            best_at[gpus] = duration
        elif duration > worst_at[gpus]:
            worst_at[gpus] = duration
        of_type = by_type.get(mode.gpu_type)
        if of_type is None:
            by_type[mode.gpu_type] = {gpus: duration}
        elif gpus not in of_type or duration < of_type[gpus]:
            of_type[gpus] = duration
    fewest, most = min(best_at), max(best_at)
    scaling = best_at[fewest] / best_at[most] / max(1.0, most / max(1, fewest))
    slow_ratio = min([best_at[g] / worst_at[g] for g in best_at])
    neighbours = {gpu_type: _gains(of_type) for gpu_type, of_type in by_type.items()}
    facts = []
    for number, mode in enumerate(task.modes):
        gpus, duration = mode.gpus, mode.duration
        features = (
            least / (gpus * duration) if gpus else 1.0,
            task.shortest / duration,
            best_at[gpus] / duration,
            *neighbours[mode.gpu_type][gpus],
            gpus * duration,
            gpus,
        )
        facts.append(ModeFacts(number, duration, gpus, mode.gpu_type, mode.resources, _shape(mode), features))
    fastest_first = tuple(sorted(facts, key=_duration))
    return TaskFacts(tuple(facts), fastest_first, fewest, (scaling, slow_ratio, least, descendants), descendants)


_duration = attrgetter("duration")


def _gains(durations: Mapping[int, float]) -> dict[int, tuple[float, float, float]]:
    """For each size of the gang: relative gain of the last step up to it, of the next one, and 1 for the largest."""
    gains, counts = {}, sorted(durations)
    last = 0.0
    for gpus, larger in itertools.pairwise(counts):
        following = durations[gpus] / durations[larger] - 1.0
        gains[gpus] = (last, following, 0.0)
        last = following
    gains[counts[-1]] = (last, 0.0, 1.0)
    return gains


def _shape(mode: Mode) -> int:
    needs: object = (
        mode.needs if mode.resources or mode.cpus or mode.memory else (mode.gpus, mode.gpu_type, mode.gpu_memory)
    )
    return _SHAPES.setdefault(needs, len(_SHAPES))
