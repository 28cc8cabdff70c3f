"""Greedy scheduling as one composable family: an order x a rule for the GPU count x blocking x placement x stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial

from rlsched.active import TaskState
from rlsched.model import Allocation, Preemption, Share, WakeUp
from rlsched.policies.backfill import Reservation
from rlsched.policies.claims import Claims, Gang
from rlsched.policies.counts import Menu
from rlsched.policies.options import look_up
from rlsched.policies.orders import Order
from rlsched.policies.outlook import when_fits
from rlsched.policies.placement import GPU_TYPES, PLACEMENTS
from rlsched.policies.preemption import preempt_for
from rlsched.policies.ranking import Ranking
from rlsched.policies.resizing import grow, shrink_for
from rlsched.policies.stopping import Stopping
from rlsched.pool import Pool
from rlsched.state import State

Find = Callable[[TaskState, int], tuple[Share, ...] | None]
"""Answers a task and the number of a mode with the shares of the gang, or None if it may not start now."""

_SOONEST = 1e-6  # of the mean critical path: the least time from one wake-up to the next, whatever rounding does


class Blocking(Enum):
    """Who may overtake a task that waits: nobody, whoever does not delay it, or whatever fits."""

    STRICT = "strict"
    EASY = "easy"
    NONE = "none"


BLOCKING = {blocking.value: blocking for blocking in Blocking}


class GreedyPolicy:
    """Starts the task that comes first, one task at a time.

    A menu (see `Menu`) says which gangs the task accepts. Of these the largest that fits now on each GPU type is a
    candidate, and the task starts in the best candidate. If there is none it waits, and `blocking` says who may
    overtake it. That ends: once nothing runs, whatever fits the cluster at all fits now, and nothing else is on the
    menu.

    With `preempt`, a task that cannot start stops what comes last in the order (see `rlsched.policies.preemption`).
    With `resize`, what runs is restarted in another mode (see `rlsched.policies.resizing`). Both concern preemptible
    tasks alone. Room that is being made for a task is kept for it.

    Args:
        order: which ready task comes first.
        count: name of a rule in `rlsched.policies.counts`.
        threshold: of the rules `efficiency` and `marginal`, in [0, 1].
        stretch: how many times longer than in the chosen gang a task may take to start sooner, at least 1.
        blocking: who may overtake a task that waits: nobody (`strict`), whoever does not delay it by the estimates
            (`easy`), or whatever fits (`none`).
        gpu_type: name of a rule in `rlsched.policies.placement` that says which candidate is best: `fastest` or
            `comparative`.
        placement: name of a rule there for the node: `pack` or `spread`.
        preempt: stop runs for tasks that come before them.
        preempt_ratio: by what factor the key of a task must beat that of a run to stop it, at least 1.
        resize: restart runs with several modes on more GPUs when some idle and nothing waits, and on fewer to let
            others in.
        amortise: of a job that runs, a task is given devices that have to be set up for it only if what waits of it,
            shared among all devices of the job, takes at least so many times the set-up. 0: it always is.

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
        blocking: str = "strict",
        gpu_type: str = "fastest",
        placement: str = "pack",
        preempt: bool = False,
        preempt_ratio: float = 2.0,
        resize: bool = False,
        amortise: float = 0.0,
    ) -> None:
        if not preempt_ratio >= 1:
            raise ValueError(f"preempt_ratio is {preempt_ratio}, expected 1 or more")
        if not amortise >= 0:
            raise ValueError(f"amortise is {amortise}, expected 0 or more")
        self._order = order
        self._stops = preempt or resize
        self._menu = Menu(count, threshold, stretch, elastic=self._stops)
        self._blocking = look_up(BLOCKING, "blocking", blocking)
        # Otherwise only the first of those tasks is looked at of which either all can start or none.
        kind = self._menu.kind if self._blocking is Blocking.NONE else None
        self._one_by_one = (
            self._stops
            or amortise > 0
            or self._blocking is Blocking.EASY
            or (self._blocking is Blocking.NONE and kind is None)
        )
        self._ranking = Ranking(order, None if self._one_by_one else kind)
        self._handicap = look_up(GPU_TYPES, "rule for the GPU type", gpu_type)
        self._place = look_up(PLACEMENTS, "placement", placement)
        self._preempt, self._preempt_ratio, self._resize = preempt, preempt_ratio, resize
        self._amortise = amortise
        self._claims = Claims()

    def __call__(self, state: State) -> Sequence[Allocation | Preemption | WakeUp]:
        stopping = None
        if self._stops:
            if due := self._claims.settle(state, self._place):
                return (due,)
            if state.preemptible:
                stopping = Stopping(state, self._claims, self._order, partial(self._choose, state), self._place)
        return self._decide(state, stopping)

    def _decide(self, state: State, stopping: Stopping | None) -> Sequence[Allocation | Preemption | WakeUp]:
        pool = self._claims.unclaimed(state) if self._stops else state.pool
        free = pool.free_gpus()
        if stopping is None and not free and not state.without_gpus:
            return ()
        queue = self._ranking(state) if self._one_by_one else self._ranking.fronts(state)
        find: Find = partial(self._place, pool)
        waiting: TaskState | None = None
        for task in queue:
            if self._stops and self._claims.cover(task):
                continue
            if task.task.least_gpus <= free and (gang := self._gang(state, task, pool, find)):
                if self._amortise and _rest_after_setup(task, gang, pool) < self._amortise * task.task.setup_time:
                    continue
                return (Allocation(task.next_member(), *gang),)
            if stopping is not None:
                stops = self._make_room(task, stopping, waiting is None)
                if stops is not None:
                    return stops or self._decide(state, stopping)
            if waiting is None:
                waiting = task
                if self._blocking is Blocking.STRICT:
                    break
                if self._blocking is Blocking.EASY and free:
                    find = self._behind(task, state, pool)
        if stopping is None:
            return ()
        if self._resize and waiting is None and free and (decisions := grow(stopping)):
            return decisions
        return self._wake_up(state, stopping)

    def _gang(self, state: State, task: TaskState, pool: Pool, find: Find) -> Gang | None:
        """The best of the gangs on the task's menu that are found room for; `find` looks nowhere but in the pool."""
        if len(task.task.modes) == 1:
            only = find(task, 0)
            return None if only is None else Gang(0, only)
        candidates = []
        for ladder, rungs in self._menu(task, state):
            free = pool.free_gpus(ladder.gpu_type) if ladder.on_gpus else math.inf
            for rung in rungs:
                if rung.size <= free and (shares := find(task, rung.mode)):
                    candidates.append((ladder, rung, shares))
                    break
        if not candidates:
            return None
        if len(candidates) > 1:
            candidates.sort(key=lambda c: c[1].duration / self._handicap(c[0], state, self._menu))
        _, rung, shares = candidates[0]
        return Gang(rung.mode, shares)

    def _choose(self, state: State, task: TaskState, pool: Pool) -> Gang | None:
        return self._gang(state, task, pool, partial(self._place, pool))

    def _behind(self, head: TaskState, state: State, pool: Pool) -> Find:
        """Where there is room for those that may not delay the head of the queue."""
        forecast = when_fits(state, self._claims.after_stops(state), partial(self._choose, state, head))
        if forecast is None:  # it waits for a node that is down: nobody knows how long
            return partial(self._place, pool)
        return Reservation(head, forecast, state, pool, self._place).find

    def _make_room(self, task: TaskState, stopping: Stopping, first: bool) -> Sequence[Preemption] | None:
        stops = preempt_for(task, stopping, self._preempt_ratio) if self._preempt else None
        if stops is None and self._resize and first:
            stops = shrink_for(task, stopping)
        return stops

    def _wake_up(self, state: State, stopping: Stopping) -> Sequence[WakeUp]:
        """A time at which the answer may be another one although nothing has happened."""
        at = stopping.wake_up
        if self._preempt and state.ready and hasattr(self._order, "wake_up"):
            at = min(at, self._order.wake_up(state, self._preempt_ratio))
        if at == math.inf:
            return ()
        return (WakeUp(max(at, state.now + _SOONEST * state.typical_time)),)


def _rest_after_setup(task: TaskState, gang: Gang, pool: Pool) -> float:
    """Seconds that a gang which has to be set up would work on what waits of the task, shared with the job's others.

    Infinite if it need not be set up, or the job has no other devices.
    """
    mode, job = task.task.modes[gang.mode], task.job
    if not job.gpus or not pool.is_cold(gang.shares, job.id):
        return math.inf
    return sum(map(task.left, task.waiting)) * mode.duration * mode.gpus / (job.gpus + mode.gpus)
