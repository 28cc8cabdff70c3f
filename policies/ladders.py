"""The modes of a task as ladders: for each GPU type, from the smallest gang up, each larger one faster."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from rlsched.active import TaskState
from rlsched.state import State

Value = TypeVar("Value")


class PerTask(Generic[Value]):
    """Something computed once for each task, and forgotten with it.

    Args:
        compute: answers a task and the state with the value.
    """

    def __init__(self, compute: Callable[[TaskState, State], Value]) -> None:
        self._compute = compute

    def __call__(self, task: TaskState, state: State) -> Value:
        memo = task.memo
        if self in memo:
            value: Value = memo[self]
            return value
        value = memo[self] = self._compute(task, state)
        return value


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
    rigid, fits = len(modes) == 1, state.fits_when_empty
    by_kind: dict[tuple[bool, str | None], list[Rung]] = {}
    for number, mode in enumerate(modes):
        if rigid or fits(mode):
            gpus = mode.gpus
            kind = (True, mode.gpu_type) if gpus else (False, None)
            rung = Rung(number, gpus or sum(mode.resources.values()) or 1, mode.duration)
            if kind in by_kind:
                by_kind[kind].append(rung)
            else:
                by_kind[kind] = [rung]
    return tuple([Ladder(*kind, _rising(rungs)) for kind, rungs in by_kind.items()])


_size_and_duration = attrgetter("size", "duration")


def _rising(rungs: list[Rung]) -> tuple[Rung, ...]:
    """In order of size, without those that are no faster than a smaller one."""
    size, shortest = 0, math.inf
    for rung in rungs:
        if rung.size <= size or rung.duration >= shortest:
            break
        size, shortest = rung.size, rung.duration
    else:
        return tuple(rungs)  # as they usually stand
    kept: list[Rung] = []
    shortest = math.inf
    for rung in sorted(rungs, key=_size_and_duration):
        if rung.duration < shortest:
            kept.append(rung)
            shortest = rung.duration
    return tuple(kept)
