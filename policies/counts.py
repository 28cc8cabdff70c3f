"""How many GPUs a moldable task gets.

A count rule chooses one rung of a ladder: the gang that a task is meant to get on one GPU type. The rules are those
of moldable and elastic schedulers; which is best depends on the load, so they are options of the policies
(`srpt:count=marginal,threshold=0.3`). A menu adds what a task accepts instead, if the chosen gang is not free.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

from rlsched.active import TaskState
from rlsched.policies.knapsack import Knapsack
from rlsched.policies.ladders import Ladder, PerTask, Rung, ladders
from rlsched.policies.options import look_up
from rlsched.state import State

Courses = list[tuple[Ladder, list[Rung]]]


class Menu:
    """The modes that a task may start in.

    On each GPU type a rule chooses a gang. Acceptable are the chosen gangs and smaller ones that take at most
    `stretch` times as long as the fastest of the chosen: within that limit a task accepts fewer GPUs, or a slower
    type, rather than wait. With stretch 1 it insists on its best.

    Attributes:
        threshold: what the rule calls effective enough, 0 to 1.
        ladders: the ladders of all tasks in the system.
        kind: what a task needs to start, as a number: of tasks with equal menus either all can start now or none can;
            None where menus change with the state.
        knapsack, weighted_knapsack: the gangs that the rules of those names choose.

    Args:
        elastic: what runs can be restarted with another number of GPUs.

    Raises:
        ValueError: a rule that does not exist, a threshold outside [0, 1], a stretch below 1.
    """

    def __init__(self, count: str, threshold: float, stretch: float, elastic: bool = False) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected 0 to 1")
        if not stretch >= 1:
            raise ValueError(f"stretch is {stretch}, expected 1 or more")
        self.threshold = threshold
        self.ladders = PerTask(ladders)
        self.knapsack = Knapsack(self.ladders, elastic, weighted=False)
        self.weighted_knapsack = Knapsack(self.ladders, elastic, weighted=True)
        self._rule = look_up(COUNTS, "count rule", count)
        self._stretch = stretch
        self._kinds: dict[tuple[object, ...], int] = {}
        self._read: Callable[[TaskState, State], Courses]
        if self._rule in _CHANGING:
            self._read, self.kind = self._write, None
        else:
            self._read, self.kind = PerTask(self._write), PerTask(self._kind)

    def __call__(self, task: TaskState, state: State) -> Courses:
        """For each GPU type the acceptable rungs, largest first; at least one rung in all."""
        return self._read(task, state)

    def _write(self, task: TaskState, state: State) -> Courses:
        on_offer = self.ladders(task, state)
        if len(task.task.modes) == 1:
            return [(ladder, [*ladder.rungs]) for ladder in on_offer]
        chosen = [(ladder, self._rule(ladder, state, self)) for ladder in on_offer]
        longest = self._stretch * min([rung.duration for _, rung in chosen])
        return [
            (ladder, [r for r in reversed(ladder.rungs) if r.size <= wanted.size and r.duration <= longest])
            for ladder, wanted in chosen
        ]

    def _kind(self, task: TaskState, state: State) -> int:
        modes = task.task.modes
        needs = tuple([modes[rung.mode].needs for _, rungs in self(task, state) for rung in rungs])
        return self._kinds.setdefault(needs, len(self._kinds))


CountRule = Callable[[Ladder, State, Menu], Rung]


def minimum(ladder: Ladder, state: State, menu: Menu) -> Rung:
    """The smallest gang."""
    return ladder.rungs[0]


def maximum(ladder: Ladder, state: State, menu: Menu) -> Rung:
    """The fastest gang."""
    return ladder.rungs[-1]


def efficiency(ladder: Ladder, state: State, menu: Menu) -> Rung:
    """The largest gang whose GPUs are at least `threshold` times as effective as those of the smallest."""
    least_work, threshold = ladder.least_work, menu.threshold
    for rung in reversed(ladder.rungs):
        if least_work >= threshold * rung.size * rung.duration:
            return rung
    return ladder.rungs[0]


def marginal(ladder: Ladder, state: State, menu: Menu) -> Rung:
    """The largest gang whose every extra GPU is at least `threshold` times as effective as those of the smallest."""
    return _climb(ladder, menu.threshold)


def equal_share(ladder: Ladder, state: State, menu: Menu) -> Rung:
    """The largest gang within an even share of the cluster's GPUs for every member that has some or is ready."""
    if not ladder.on_gpus:
        return ladder.rungs[0]
    members = sum(run.mode.gpus > 0 for run in state.running.values())
    members += sum(len(task.waiting) for task in state.ready.values())
    share = state.cluster.gpu_count() / members
    return next((rung for rung in reversed(ladder.rungs) if rung.size <= share), ladder.rungs[0])


def water_filling(ladder: Ladder, state: State, menu: Menu) -> Rung:
    """`marginal` with the lowest threshold at which all ready tasks together fit on the free GPUs of the type.

    Free GPUs thus go step by step where they add most speed, as in Optimus (Peng et al., EuroSys 2018, sec. 4.1).
    """
    if not ladder.on_gpus:
        return ladder.rungs[0]
    free = state.pool.free_gpus(ladder.gpu_type)
    steps: list[tuple[float, int]] = []
    for task in state.ready.values():
        for rival in menu.ladders(task, state):
            if rival.on_gpus and rival.gpu_type == ladder.gpu_type:
                members = len(task.waiting)
                free -= members * rival.rungs[0].size
                if free <= 0:
                    return ladder.rungs[0]
                steps += ((-gain, members * more) for gain, more in _steps(rival))
    lowest = math.inf
    for gain, more in sorted(steps):
        free -= more
        if free < 0:
            break
        lowest = -gain
    return _climb(ladder, lowest)


def knapsack(ladder: Ladder, state: State, menu: Menu) -> Rung:
    """The gang in the fastest division of the free GPUs of the type (see `rlsched.policies.knapsack`)."""
    return menu.knapsack(ladder, state)


def weighted_knapsack(ladder: Ladder, state: State, menu: Menu) -> Rung:
    """The same where the speed of a job counts the more, the less work it has left."""
    return menu.weighted_knapsack(ladder, state)


def _steps(ladder: Ladder) -> Iterator[tuple[float, int]]:
    """For each step up the ladder, how effective its extra GPUs are (those of the smallest gang: 1), and their number.

    A step counts for no more than the one before, because nobody can take it alone.
    """
    least = 1.0
    for lower, upper in itertools.pairwise(ladder.rungs):
        more = upper.size - lower.size
        speed = (1 / upper.duration - 1 / lower.duration) * ladder.least_work
        least = min(least, speed / more)
        yield least, more


def _climb(ladder: Ladder, threshold: float) -> Rung:
    return ladder.rungs[sum(gain >= threshold for gain, _ in _steps(ladder))]


COUNTS: dict[str, CountRule] = {
    "minimum": minimum,
    "maximum": maximum,
    "efficiency": efficiency,
    "marginal": marginal,
    "equal-share": equal_share,
    "water-filling": water_filling,
    "knapsack": knapsack,
    "weighted-knapsack": weighted_knapsack,
}
_CHANGING = (equal_share, water_filling, knapsack, weighted_knapsack)  # with what runs and what is ready
