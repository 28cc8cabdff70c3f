"""Preemption: what comes first in an order stops what comes last."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rlsched.active import TaskState
from rlsched.model import Preemption
from rlsched.policies.claims import Gang
from rlsched.policies.orders import Key
from rlsched.policies.stopping import Stopping


def preempt_for(task: TaskState, stopping: Stopping, ratio: float) -> Sequence[Preemption] | None:
    """Whom to stop so that a task can start: those that come last in the order, and no more than make room.

    The task gets the gang that it would get if none of those ran that it beats.

    Args:
        ratio: by what factor the key of the task must beat that of a run; without meaning if the order is ordinal.

    Returns:
        None if that is impossible, or waiting costs less. Otherwise the task has a claim from now on; nobody has to be
        stopped for it if enough is stopping already.
    """
    if stopping.all_ahead:
        return None
    key = stopping.order(task, stopping.state)
    factor = 1.0 if getattr(stopping.order, "ordinal", False) else ratio
    beaten = [run for _, run in itertools.takewhile(lambda keyed: _beats(key, keyed[0], factor), stopping.runs)]
    stopping.all_ahead = not beaten
    victims = [run for run in beaten if stopping.may_stop(run)]
    if not victims:
        return None
    pool = stopping.pool()
    for run in victims:
        pool.give(run.allocation.shares, run.mode)
    gang = stopping.choose(task, pool)
    if gang is None:
        return None
    needed = []
    for run in reversed(victims):
        pool.withhold(run.allocation.shares, run.mode)
        if stopping.place(pool, task, gang.mode) is None:
            pool.give(run.allocation.shares, run.mode)
            needed.append(run)
    if needed and stopping.wait(task) <= max(run.toll for run in needed):
        return None
    shares = stopping.place(pool, task, gang.mode)
    assert shares is not None
    return stopping.claim(task, Gang(gang.mode, shares), needed[::-1])


def _beats(key: Key, other: Key, factor: float) -> bool:
    """True if a key comes first, and by a factor; of tuples the first number counts. Numbers below 0 are penalties."""
    if not key < other:  # type: ignore[operator]
        return False
    first, second = (k[0] if isinstance(k, tuple) else k for k in (key, other))
    return second - first >= (factor - 1.0) * min(abs(first), abs(second))
