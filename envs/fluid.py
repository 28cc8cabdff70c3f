"""Fluid estimates of the flow time to come: what a critic should know of a queue."""

from __future__ import annotations

from collections.abc import Iterable


def fluid_flow_times(jobs: Iterable[tuple[float, float]], capacity: float) -> list[float]:
    """Seconds until each job ends if the whole capacity served jobs one by one, least work first.

    The shortest-remaining-processing-time fluid bound: the cumulative work over the capacity, but no less than the
    job's own critical path (Schrage, Operations Research 1968, for the order's optimality on one machine).

    Plain Python: for the tens of jobs that are usually in the system it is faster than numpy.

    Args:
        jobs: (work left in GPU-seconds, critical path left in seconds) of each.
        capacity: GPUs.

    Returns:
        Seconds, in the order of increasing work.
    """
    result, ahead = [], 0.0
    for work, critical_path in sorted(jobs):
        ahead += work
        result.append(max(ahead / capacity, critical_path))
    return result
