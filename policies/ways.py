"""The tasks of a state as claims on time, for `rlsched.policies.timeshares`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rlsched.active import Run, TaskState
from rlsched.model import Mode
from rlsched.policies.counts import Menu
from rlsched.policies.ladders import Ladder, Rung
from rlsched.policies.timeshares import Resource, Way
from rlsched.state import State

Capacity = Mapping[Resource, float]


def capacity(state: State) -> Capacity:
    """GPUs of each type and of all together, and units of every custom resource, on nodes that are up."""
    found: dict[Resource, float] = defaultdict(float)
    for node, up in zip(state.cluster.nodes, state.pool.up, strict=True):
        if up:
            found["gpus", node.gpu_type] += node.gpus
            found["gpus", None] += node.gpus
            for name, amount in node.resources.items():
                found["resource", name] += amount
    return {resource: amount for resource, amount in found.items() if amount}


def something_is_free(state: State) -> bool:
    """False if it is certain that nothing can start."""
    return bool(state.pool.free_gpus()) or any(not m.gpus for task in state.ready.values() for m in task.task.modes)


class Ways:
    """In which ways a task may spend its time.

    Args:
        aware: in each of its modes. Otherwise it cannot choose among GPU types: with as many GPUs as it likes, its time
            is spread over the types as their GPUs are, and each counts for as fast as the fastest.
        threshold: least efficiency of modes on several GPUs (the rule `efficiency`), in [0, 1]; without it, who needs
            to be fast would hold every GPU for the last bit of speed.
        stretch: how many times longer than in the best of its modes a task that is not preemptible may take, at least
            1; it cannot leave a slow type again.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, aware: bool, threshold: float, stretch: float) -> None:
        self._aware = aware
        self._movable = Menu("efficiency", threshold, math.inf)
        self._fixed = Menu("efficiency", threshold, stretch)

    def of_run(self, run: Run) -> tuple[Way, ...]:
        """What runs and is not preemptible has no choice."""
        number = run.allocation.mode
        return (_way([(Rung(number, 0, run.mode.duration), 1.0)], run.task.task.modes),)

    def __call__(self, task: TaskState, state: State, limits: Capacity) -> tuple[Way, ...]:
        """Ways that fit within the limits; none if too many nodes are down."""
        modes = task.task.modes
        menu = self._movable if task.task.preemptible else self._fixed
        rungs = [(ladder, rung) for ladder, on_type in menu(task, state) for rung in on_type]
        fitting = [
            (ladder, rung)
            for ladder, rung in rungs
            if all(limits.get(resource, 0.0) >= amount for resource, amount in takes(modes[rung.mode]).items())
        ]
        if self._aware:
            return tuple(_way([(rung, 1.0)], modes) for _, rung in fitting)
        by_size: dict[tuple[bool, int], list[tuple[Ladder, Rung]]] = defaultdict(list)
        for ladder, rung in fitting:
            by_size[ladder.on_gpus, rung.size].append((ladder, rung))
        return tuple(_spread(same, limits, modes) for same in by_size.values())


def _spread(same: Sequence[tuple[Ladder, Rung]], limits: Capacity, modes: Sequence[Mode]) -> Way:
    there_are = [limits["gpus", ladder.gpu_type] if ladder.on_gpus else 1.0 for ladder, _ in same]
    return _way([(rung, part / sum(there_are)) for (_, rung), part in zip(same, there_are, strict=True)], modes)


def _way(parts: Sequence[tuple[Rung, float]], modes: Sequence[Mode]) -> Way:
    total: dict[Resource, float] = defaultdict(float)
    for rung, part in parts:
        for resource, amount in takes(modes[rung.mode]).items():
            total[resource] += part * amount
    fastest = min(rung.duration for rung, _ in parts)
    return Way(tuple((rung.mode, part) for rung, part in parts), 1.0 / fastest, total)


def takes(mode: Mode) -> dict[Resource, float]:
    """What a gang takes of everything that is shared out."""
    found: dict[Resource, float] = {("resource", name): float(n) for name, n in mode.resources.items() if n}
    if mode.gpus:
        found["gpus", None] = float(mode.gpus)
        if mode.gpu_type is not None:
            found["gpus", mode.gpu_type] = float(mode.gpus)
    return found
