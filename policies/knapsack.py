"""GPU counts by dynamic programming: the free GPUs of a type are shared out for the highest total speed."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rlsched.active import TaskState
from rlsched.policies.ladders import Ladder, Rung
from rlsched.policies.outlook import WholeState
from rlsched.state import State

_TASKS = 32  # that take part, of the jobs with the least work left; the time it takes grows with their number


class _Item(NamedTuple):
    """A member, or what runs of one."""

    ladder: Ladder
    weight: float


class Knapsack:
    """The rung of every ready task, and of what may be restarted, if the GPUs of one type were shared out among them.

    Each member takes one rung of its ladder or nothing, the rungs taken have no more GPUs than there are, and the sum
    of weight x speed is the largest possible; speed is in GPUs as effective as those of the smallest gang. This is the
    multiple-choice knapsack problem, solved by dynamic programming over the number of GPUs (Kellerer, Pferschy &
    Pisinger, Knapsack Problems, 2004, sec. 11.5). Where every extra GPU adds less than the one before, and one can be
    added at a time, going up step by step is as good (Fox, Operations Research 1966; Ibaraki & Katoh, Resource
    Allocation Problems, 1988, ch. 4), which is what Optimus does (Peng et al., EuroSys 2018, sec. 4.1) and the rule
    `water-filling`; steps of 1, 2, 4 and 8 GPUs are not like that.

    Args:
        ladders: answers a task with its ladders.
        elastic: what runs and may be stopped takes part, with the GPUs that it holds.
        weighted: the weight of a member is that of its job / the work left there, so that short jobs get more, as they
            do in `rlsched.policies.lp`; otherwise all count the same.
    """

    def __init__(self, ladders: Callable[[TaskState, State], Sequence[Ladder]], elastic: bool, weighted: bool) -> None:
        self._ladders, self._elastic, self._weighted = ladders, elastic, weighted
        self._rungs = WholeState(self._solve)

    def __call__(self, ladder: Ladder, state: State) -> Rung:
        """The rung for a ladder, the lowest if the knapsack has no room for it."""
        return self._rungs(state).get(id(ladder), ladder.rungs[0])  # a ladder belongs to one task, which keeps it

    def _solve(self, state: State) -> dict[int, Rung]:
        """By ladder, as an object: the largest rung that one of the members gets."""
        tasks = heapq.nsmallest(_TASKS, state.ready.values(), key=lambda task: (task.job.work_left, task.job.id))
        takers = [(task, len(task.waiting)) for task in tasks]
        held: Counter[str | None] = Counter()
        if self._elastic:
            for run in state.running.values():
                if run.task.task.preemptible and not run.stopping:
                    takers.append((run.task, 1))
                    held[run.mode.gpu_type] += run.mode.gpus
        items: dict[str | None, list[_Item]] = defaultdict(list)
        for task, members in takers:
            weight = task.job.job.weight / max(task.job.work_left, 1e-9) if self._weighted else 1.0
            for ladder in self._ladders(task, state):
                if ladder.on_gpus:
                    items[ladder.gpu_type] += [_Item(ladder, weight)] * members
        chosen: dict[int, Rung] = {}
        for gpu_type, of_type in items.items():
            of_type.sort(key=lambda item: -item.weight)
            gpus = state.pool.free_gpus(gpu_type) + held[gpu_type]
            for item, rung in _fill(of_type[:gpus], gpus):
                key = id(item.ladder)
                if key not in chosen or rung.size > chosen[key].size:
                    chosen[key] = rung
        return chosen


def _fill(items: Sequence[_Item], gpus: int) -> Iterator[tuple[_Item, Rung]]:
    """The items in the fullest knapsack, each with its rung."""
    best = [0.0] * (gpus + 1)  # by number of GPUs, for the items so far
    taken: list[list[Rung | None]] = []
    for ladder, weight in items:
        before, best = best, best.copy()
        rungs: list[Rung | None] = [None] * (gpus + 1)
        for rung in ladder.rungs:
            value = weight * ladder.least_work / rung.duration
            for count in range(rung.size, gpus + 1):
                if before[count - rung.size] + value > best[count]:
                    best[count] = before[count - rung.size] + value
                    rungs[count] = rung
        taken.append(rungs)
    count = gpus
    for item, rungs in zip(reversed(items), reversed(taken), strict=True):
        if (chosen := rungs[count]) is not None:
            count -= chosen.size
            yield item, chosen
