"""Seconds as whole ticks."""

from __future__ import annotations

import math
from functools import reduce

from rlsched.policies.planning.instance import Instance

_FINEST = 1_000  # ticks a second that are looked for


def longest_tick(instance: Instance, most: int) -> tuple[float, bool]:
    """The length of a tick in seconds, and whether all durations, releases and deadlines are multiples of it.

    The longest for which they are; or, if there is none or all members one after the other would take more than
    `most` of them, one of which that takes half of `most`.
    """
    start = min(job.release for job in instance.jobs)
    tasks = [task for job in instance.jobs for task in job.tasks]
    times = {mode.duration for task in tasks for mode in task.modes} | {job.release - start for job in instance.jobs}
    times |= {abs(terms.deadline - start) for terms in instance.terms if terms.deadline is not None}
    span = max(job.release for job in instance.jobs) - start
    span += sum(task.array * max(mode.duration for mode in task.modes) for task in tasks)
    fine = [round(time * _FINEST) for time in times]
    if all(math.isclose(time * _FINEST, ticks, abs_tol=1e-6) for time, ticks in zip(times, fine, strict=True)):
        tick = reduce(math.gcd, fine) / _FINEST
        if span <= most * tick:
            return tick, True
    return 2 * span / most, False


def in_ticks(seconds: float, tick: float) -> int:
    """Whole ticks, rounded up: what fits in ticks fits in seconds."""
    return math.ceil(seconds / tick - 1e-9)
