"""What will be free when, and the earliest time at which something fits: the memory of schedules with reservations."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from rlsched.active import Run
from rlsched.policies.timeshares import Resource
from rlsched.policies.ways import capacity, takes
from rlsched.state import State

_LATE = 0.1  # a run that has outlived its estimate is expected to take so much more of what it has taken


class Timeline:
    """Free amounts of every resource as step functions of time, in seconds from now on. Nodes do not count.

    Args:
        free: now.
    """

    def __init__(self, free: Mapping[Resource, float]) -> None:
        self._times = [0.0]
        self._free = {resource: [amount] for resource, amount in free.items()}

    def give(self, amounts: Mapping[Resource, float], start: float) -> None:
        """Amounts become free at a time, for good."""
        first = self._cut(start)
        for resource, amount in amounts.items():
            free = self._free[resource]
            for step in range(first, len(free)):
                free[step] += amount

    def take(self, amounts: Mapping[Resource, float], start: float, duration: float) -> None:
        """Reserve amounts for a time."""
        first, last = self._cut(start), self._cut(start + duration)
        for resource, amount in amounts.items():
            free = self._free[resource]
            for step in range(first, last):
                free[step] -= amount

    def earliest(self, amounts: Mapping[Resource, float], release: float, duration: float) -> float | None:
        """The first time from the release on at which the amounts are free for so long; None if they never are."""
        if any(resource not in self._free for resource in amounts):
            return None
        needed = [(self._free[resource], amount) for resource, amount in amounts.items()]
        step, start = bisect_right(self._times, release) - 1, release
        end = start + duration
        while step < len(self._times) and self._times[step] < end:
            if any(free[step] < amount for free, amount in needed):
                if step + 1 == len(self._times):
                    return None
                start = self._times[step + 1]
                end = start + duration
            step += 1
        return start

    def mean_free(self, resource: Resource, start: float, end: float) -> float:
        """The average amount that is free between two times, start before end."""
        total = 0.0
        for step, amount in enumerate(self._free.get(resource, ())):
            until = self._times[step + 1] if step + 1 < len(self._times) else end
            total += amount * max(0.0, min(until, end) - max(self._times[step], start))
        return total / (end - start)

    def _cut(self, time: float) -> int:
        """The number of the step that begins at a time; it is made if there is none."""
        step = bisect_right(self._times, time) - 1
        if self._times[step] < time:
            step += 1
            self._times.insert(step, time)
            for free in self._free.values():
                free.insert(step, free[step - 1])
        return step


def timeline_of(state: State) -> Timeline:
    """What is free now, and what will be given back when running members end by their estimates."""
    pool = state.pool
    free = {
        (kind, name): float(pool.free_gpus(name) if kind == "gpus" else pool.free_resource(str(name)))
        for kind, name in capacity(state)
    }
    timeline = Timeline(free)
    for run in state.running.values():
        timeline.give(takes(run.mode), time_left(run, state))
    return timeline


def time_left(run: Run, state: State) -> float:
    """Seconds until a run ends, as far as one can tell; above 0."""
    return max(run.expected_end - state.now, _LATE * (state.now - run.start), 1e-3)
