"""The modes of a task as ladders: for each GPU type, from the smallest gang up, each larger one faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from rlsched.model import Mode, Task
from rlsched.state import JobState, State, TaskState


class Rung(NamedTuple):
    """A mode on a ladder.

    Attributes:
        mode: its index in the task's modes.
        size: GPUs of the gang; for a mode without GPUs the units of custom resources it takes, at least 1.
        duration: estimated seconds.
    """

    mode: int
    size: int
    duration: float


class Ladder(NamedTuple):
    """The modes of a task on one GPU type (None: any type), or those without GPUs; sizes rise, durations fall."""

    on_gpus: bool
    gpu_type: str | None
    rungs: tuple[Rung, ...]


def ladders(task: Task, fits: Callable[[Mode], bool]) -> tuple[Ladder, ...]:
    """One ladder for each GPU type that the task has modes for; of modes that do not fit there is no rung."""
    by_kind: dict[tuple[bool, str | None], list[Rung]] = {}
    for number, mode in enumerate(task.modes):
        if fits(mode):
            size = max(1, mode.gpus or sum(mode.resources.values()))
            kind = (mode.gpus > 0, mode.gpu_type if mode.gpus else None)
            by_kind.setdefault(kind, []).append(Rung(number, size, mode.duration))
    return tuple(Ladder(*kind, _rising(rungs)) for kind, rungs in by_kind.items())


def _rising(rungs: list[Rung]) -> tuple[Rung, ...]:
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda rung: (rung.size, rung.duration)):
        if not kept or rung.duration < kept[-1].duration:
            kept.append(rung)
    return tuple(kept)


class Ladders:
    """The ladders of the tasks in the system, built once for each task."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[JobState, dict[int, tuple[Ladder, ...]]] = WeakKeyDictionary()

    def __call__(self, task: TaskState, state: State) -> tuple[Ladder, ...]:
        of_job = self._known.get(task.job)
        if of_job is None:
            of_job = self._known[task.job] = {}
        found = of_job.get(task.index)
        if found is None:
            found = of_job[task.index] = ladders(task.task, state.fits_when_empty)
        return found
