"""What an encoder knows of a job's tasks and modes once and for all."""

from __future__ import annotations

from dataclasses import dataclass

from rlsched.model import Job, Task

_SHAPES: dict[tuple[object, ...], int] = {}  # what a mode takes -> a short name for it


@dataclass(frozen=True, slots=True)
class ModeFacts:
    """Of a mode.

    Attributes:
        shape: modes of equal shape fit the same places.
        features: its columns of the observation that no state changes (see `rlsched.envs.encoding`).
    """

    duration: float
    gpus: int
    gpu_type: str | None
    shape: int
    features: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """Of a task; `features` are its columns of the observation that no state changes."""

    modes: tuple[ModeFacts, ...]
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
    return [sum(work for j, work in enumerate(job.task_work) if bits >> j & 1) for bits in reached]


def _task_facts(task: Task, descendants: float) -> TaskFacts:
    least = min(mode.gpu_seconds for mode in task.modes)
    by_count: dict[tuple[str | None, int], float] = {}
    for mode in task.modes:
        key = (mode.gpu_type, mode.gpus)
        by_count[key] = min(mode.duration, by_count.get(key, mode.duration))
    best_at = {gpus: min(d for (_, g), d in by_count.items() if g == gpus) for _, gpus in by_count}
    worst_at = {gpus: max(d for (_, g), d in by_count.items() if g == gpus) for _, gpus in by_count}
    counts = sorted(best_at)
    scaling = best_at[counts[0]] / best_at[counts[-1]] / max(1.0, counts[-1] / max(1, counts[0]))
    slow_ratio = min(best_at[g] / worst_at[g] for g in counts)
    facts = []
    for mode in task.modes:
        of_type = sorted(g for t, g in by_count if t == mode.gpu_type)
        position = of_type.index(mode.gpus)
        smaller = of_type[position - 1] if position else None
        larger = of_type[position + 1] if position + 1 < len(of_type) else None
        features = (
            least / mode.gpu_seconds if mode.gpus else 1.0,
            task.shortest / mode.duration,
            best_at[mode.gpus] / mode.duration,
            0.0 if smaller is None else by_count[mode.gpu_type, smaller] / mode.duration - 1.0,
            0.0 if larger is None else mode.duration / by_count[mode.gpu_type, larger] - 1.0,
            0.0 if larger is not None else 1.0,
            mode.gpu_seconds,
            mode.gpus,
        )
        shape = _SHAPES.setdefault(mode.needs, len(_SHAPES))
        facts.append(ModeFacts(mode.duration, mode.gpus, mode.gpu_type, shape, features))
    return TaskFacts(tuple(facts), counts[0], (scaling, slow_ratio, least, descendants), descendants)
