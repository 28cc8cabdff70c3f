"""Greedy scheduling as one composable family: an order x a rule for the GPU count x blocking x a placement."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rlsched.model import Allocation
from rlsched.policies.counts import Menu
from rlsched.policies.options import look_up
from rlsched.policies.orders import Order
from rlsched.policies.placement import GPU_TYPES, PLACEMENTS
from rlsched.policies.ranking import Ranking
from rlsched.state import State, TaskState


class GreedyPolicy:
    """Starts the task that comes first, one task at a time.

    A menu (see `Menu`) says which gangs the task accepts. Of these the largest that fits now on each GPU type is a
    candidate, and the task starts in the best candidate. If there is none it waits; with `blocking`, everything behind
    it waits as well (strict head-of-line blocking). That ends: once nothing runs, whatever fits the cluster at all
    fits now, and nothing else is on the menu.

    Args:
        order: which ready task comes first.
        count: name of a rule in `rlsched.policies.counts`.
        threshold: of the rules `efficiency` and `marginal`, in [0, 1].
        stretch: how many times longer than in the chosen gang a task may take to start sooner, at least 1.
        blocking: without it, a task that fits overtakes those that do not (back-fill).
        gpu_type: name of a rule in `rlsched.policies.placement` that says which candidate is best: `fastest` or
            `comparative`.
        placement: name of a rule there for the node: `pack` or `spread`.

    Raises:
        ValueError: a name that does not exist, or a number out of range.
    """

    def __init__(
        self,
        order: Order,
        *,
        count: str = "efficiency",
        threshold: float = 0.5,
        stretch: float = 4.0,
        blocking: bool = True,
        gpu_type: str = "fastest",
        placement: str = "pack",
    ) -> None:
        self._menu = Menu(count, threshold, stretch)
        self._blocking = blocking
        self._ranking = Ranking(order, None if blocking else self._menu.kind)
        self._handicap = look_up(GPU_TYPES, "rule for the GPU type", gpu_type)
        self._place = look_up(PLACEMENTS, "placement", placement)

    def __call__(self, state: State) -> Sequence[Allocation]:
        free = state.pool.free_gpus()
        if not free and not state.without_gpus:
            return ()
        for task in self._queue(state):
            if task.task.least_gpus <= free:
                allocation = self._start(task, state)
                if allocation is not None:
                    return (allocation,)
        return ()

    def _queue(self, state: State) -> Iterable[TaskState]:
        """The ready tasks in order; with blocking the first alone, and otherwise one of those that need the same."""
        if self._blocking or self._menu.kind is not None:
            return self._ranking.fronts(state)
        return self._ranking(state)

    def _start(self, task: TaskState, state: State) -> Allocation | None:
        candidates = []
        for ladder, rungs in self._menu(task, state):
            free = state.pool.free_gpus(ladder.gpu_type) if ladder.on_gpus else math.inf
            for rung in rungs:
                if rung.size <= free and (shares := self._place(state, task, rung.mode)):
                    candidates.append((ladder, rung, shares))
                    break
        if not candidates:
            return None
        if len(candidates) > 1:
            candidates.sort(key=lambda c: c[1].duration / self._handicap(c[0], state, self._menu))
        _, rung, shares = candidates[0]
        return Allocation(task.next_member(), rung.mode, shares)
