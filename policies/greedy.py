"""Greedy scheduling as one composable family: an order x a rule for the GPU count x blocking x a placement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rlsched.model import Allocation
from rlsched.policies.counts import Menu
from rlsched.policies.options import look_up
from rlsched.policies.orders import Order
from rlsched.policies.placement import GPU_TYPES, PLACEMENTS
from rlsched.policies.ranking import Ranking
from rlsched.state import State, TaskState


class _AllNeedGpus:
    """Whether no job has a task that a policy could start without GPUs; looks at each job once, as it arrives."""

    def __init__(self) -> None:
        self._state: State | None = None
        self._newest = -1
        self._so_far = True

    def __call__(self, state: State) -> bool:
        if state is not self._state:
            self._state, self._newest, self._so_far = state, -1, True
        for job_id, job in reversed(state.jobs.items()):
            if job_id <= self._newest:
                break
            tasks = (task for task in job.job.tasks if not task.cpu_only)
            self._so_far = self._so_far and all(mode.gpus for task in tasks for mode in task.modes)
        self._newest = next(reversed(state.jobs), self._newest)
        return self._so_far


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
        self._ranking = Ranking(order)
        self._menu = Menu(count, threshold, stretch)
        self._blocking = blocking
        self._all_need_gpus = _AllNeedGpus()
        self._handicap = look_up(GPU_TYPES, "rule for the GPU type", gpu_type)
        self._place = look_up(PLACEMENTS, "placement", placement)

    def __call__(self, state: State) -> Sequence[Allocation]:
        if not state.pool.free_gpus() and self._all_need_gpus(state):
            return ()
        for task in self._queue(state):
            allocation = self._start(task, state)
            if allocation is not None:
                return (allocation,)
        return ()

    def _queue(self, state: State) -> Iterable[TaskState]:
        """The ready tasks in order; with blocking, the first alone."""
        if not self._blocking:
            return self._ranking(state)
        first = self._ranking.first(state)
        return () if first is None else (first,)

    def _start(self, task: TaskState, state: State) -> Allocation | None:
        candidates = []
        for ladder, rungs in self._menu(task, state):
            for rung in rungs:
                if shares := self._place(state, task, rung.mode):
                    candidates.append((ladder, rung, shares))
                    break
        if not candidates:
            return None
        if len(candidates) > 1:
            candidates.sort(key=lambda c: c[1].duration / self._handicap(c[0], state, self._menu))
        _, rung, shares = candidates[0]
        return Allocation(task.next_member(), rung.mode, shares)
