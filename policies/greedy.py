"""Greedy scheduling as one composable family: an order x a rule for the GPU count x blocking x a placement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rlsched.model import Allocation
from rlsched.policies.counts import Menu
from rlsched.policies.options import look_up
from rlsched.policies.orders import Order
from rlsched.policies.placement import PLACEMENTS
from rlsched.state import State, TaskState


class GreedyPolicy:
    """Starts the task that comes first, one task at a time.

    A menu (see `Menu`) says which gangs the task accepts. Of these the largest that fits now on each GPU type is a
    candidate, and the task starts in the fastest candidate. If there is none it waits; with `blocking`, everything
    behind it waits as well (strict head-of-line blocking). That ends: once nothing runs, whatever fits the cluster
    at all fits now, and nothing else is on the menu.

    Args:
        order: which ready task comes first.
        count: name of a rule in `rlsched.policies.counts`.
        threshold: of the rules `efficiency` and `marginal`, in [0, 1].
        stretch: how many times longer than in the chosen gang a task may take to start sooner, at least 1.
        blocking: without it, a task that fits overtakes those that do not (back-fill).
        placement: name of a rule in `rlsched.policies.placement`.

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
        placement: str = "pack",
    ) -> None:
        self._order = order
        self._menu = Menu(count, threshold, stretch)
        self._blocking = blocking
        self._place = look_up(PLACEMENTS, "placement", placement)

    def __call__(self, state: State) -> Sequence[Allocation]:
        for task in self._queue(state):
            allocation = self._start(task, state)
            if allocation is not None:
                return (allocation,)
        return ()

    def _queue(self, state: State) -> Iterable[TaskState]:
        tasks, order = state.ready.values(), self._order
        if not tasks:
            return ()
        if self._blocking:
            return (min(tasks, key=lambda task: order(task, state)),)
        return sorted(tasks, key=lambda task: order(task, state))

    def _start(self, task: TaskState, state: State) -> Allocation | None:
        fastest: tuple[float, Allocation] | None = None
        for rungs in self._menu(task, state):
            for rung in rungs:
                if shares := self._place(state, task, rung.mode):
                    if fastest is None or rung.duration < fastest[0]:
                        fastest = (rung.duration, Allocation(task.next_member(), rung.mode, shares))
                    break
        return None if fastest is None else fastest[1]
