"""Fluid estimates of the flow time to come: what a critic should know of a queue."""

from __future__ import annotations

from collections.abc import Iterable


def fluid_flow_times(ahead: Iterable[float], paths: Iterable[float], capacity: float) -> list[float]:
    """Seconds until each job ends if the whole capacity served jobs one by one, least work first.

    The shortest-remaining-processing-time fluid bound: the cumulative work over the capacity, but no less than the
    job's own critical path (Schrage, Operations Research 1968, for the order's optimality on one machine).

    Plain Python: for the tens of jobs that are usually in the system it is faster than numpy.

    Args:
        ahead: GPU-seconds left of each job and of those before it, least work left first.
        paths: the critical path left of each, seconds.
        capacity: GPUs.
    """
    return [alone if (alone := work / capacity) > path else path for work, path in zip(ahead, paths, strict=True)]
