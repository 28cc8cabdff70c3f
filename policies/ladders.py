"""The modes of a task as ladders: for each GPU type, from the smallest gang up, each larger one faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from rlsched.state import JobState, State, TaskState

Value = TypeVar("Value")


class PerTask(Generic[Value]):
    """Something computed once for each task, and forgotten with its job.

    Args:
        compute: answers a task and the state with the value.
    """

    def __init__(self, compute: Callable[[TaskState, State], Value]) -> None:
        self._compute = compute
        self._known: WeakKeyDictionary[JobState, dict[int, Value]] = WeakKeyDictionary()

    def __call__(self, task: TaskState, state: State) -> Value:
        of_job = self._known.get(task.job)
        if of_job is None:
            of_job = self._known[task.job] = {}
        if task.index not in of_job:
            of_job[task.index] = self._compute(task, state)
        return of_job[task.index]


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

    @property
    def least_work(self) -> float:
        """GPU-seconds (size x duration) on the lowest rung."""
        return self.rungs[0].size * self.rungs[0].duration


def ladders(task: TaskState, state: State) -> tuple[Ladder, ...]:
    """One ladder for each GPU type that the task has modes for; modes too large for the cluster are on none."""
    modes = task.task.modes
    by_kind: dict[tuple[bool, str | None], list[Rung]] = {}
    for number, mode in enumerate(modes):
        if len(modes) == 1 or state.fits_when_empty(mode):
            size = max(1, mode.gpus or sum(mode.resources.values()))
            kind = (mode.gpus > 0, mode.gpu_type if mode.gpus else None)
            by_kind.setdefault(kind, []).append(Rung(number, size, mode.duration))
    return tuple(Ladder(*kind, _rising(rungs)) for kind, rungs in by_kind.items())


def _rising(rungs: list[Rung]) -> tuple[Rung, ...]:
    """In order of size, without those that are no faster than a smaller one."""
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda rung: (rung.size, rung.duration)):
        if not kept or rung.duration < kept[-1].duration:
            kept.append(rung)
    return tuple(kept)
