"""When jobs arrive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlsched.generator.workload import HOUR, Bursts


def release_times(rng: np.random.Generator, jobs: int, mean_gap: float, bursts: Bursts | None) -> NDArray[np.float64]:
    """Ascending times of arrival in seconds, (jobs,): a Poisson process, or one modulated by bursts.

    Args:
        mean_gap: mean seconds between two arrivals, over calm and burst; 0: all arrive at 0.
    """
    even = np.cumsum(rng.exponential(size=jobs)) * mean_gap
    return even if bursts is None or not mean_gap else _bunched(rng, even, bursts)


def _bunched(rng: np.random.Generator, even: NDArray[np.float64], bursts: Bursts) -> NDArray[np.float64]:
    """Times at which the arrivals of a process of constant rate come in the modulated one.

    A process of rate r(t) is one of constant rate in the time R(t) = integral of r; its arrivals are mapped back
    through R (Cinlar, Introduction to Stochastic Processes, 1975, sec. 4.7).
    """
    hours = {True: bursts.burst_hours, False: bursts.calm_hours}
    cycle = bursts.burst_hours + bursts.calm_hours
    calm_rate = cycle / (bursts.calm_hours + bursts.intensity * bursts.burst_hours)
    in_burst = bool(rng.random() < bursts.burst_hours / cycle)
    clock, integral = [0.0], [0.0]
    while integral[-1] < even[-1]:
        length = HOUR * rng.exponential(hours[in_burst])
        clock.append(clock[-1] + length)
        integral.append(integral[-1] + length * calm_rate * (bursts.intensity if in_burst else 1.0))
        in_burst = not in_burst
    return np.interp(even, integral, clock)
