"""What the estimates say about what runs: how much of it is left, and when something else will fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from rlsched.pool import Pool
from rlsched.state import State

Value = TypeVar("Value")


class WholeState(Generic[Value]):
    """Something computed from the whole state, once for as long as nothing happens and no time passes."""

    def __init__(self, compute: Callable[[State], Value]) -> None:
        self._compute = compute
        self._known: tuple[State, tuple[float, int, int], Value] | None = None

    def __call__(self, state: State) -> Value:
        known, version = self._known, (state.now, state.changes, state.preemptible)
        if known is None or known[0] is not state or known[1] != version:
            self._known = known = (state, version, self._compute(state))
        return known[2]


class Forecast(NamedTuple, Generic[Value]):
    """Something that fits from a time on, seconds, if nothing else starts."""

    time: float
    what: Value


def when_fits(state: State, pool: Pool, fits: Callable[[Pool], Value | None]) -> Forecast[Value] | None:
    """When something will fit that does not fit now: what runs is given back in the order of its expected ends.

    Exact as far as the estimates are: GPUs, cores, memory and custom resources of every node count, whole nodes for
    gangs that span them, and what has been set aside. What is overdue is expected to end at once.

    Args:
        pool: what is free once all that is stopping has stopped; it is given back what runs besides.
        fits: answers a pool with what fits it, or None.

    Returns:
        None if nothing fits even then, as when nodes are down.
    """
    now = state.now
    stopping = [run for run in state.running.values() if run.stopping]
    if stopping and (found := fits(pool)) is not None:
        return Forecast(now + max(run.task.task.checkpoint_time for run in stopping), found)
    staying = [(max(now, run.expected_end), run) for run in state.running.values() if not run.stopping]
    staying.sort(key=lambda end_and_run: end_and_run[0])
    for time, ending in itertools.groupby(staying, key=lambda end_and_run: end_and_run[0]):
        for _, run in ending:
            pool.give(run.allocation.shares, run.mode)
        if (found := fits(pool)) is not None:
            return Forecast(time, found)
    return None
