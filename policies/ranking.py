"""The ready tasks in an order, kept from one decision to the next."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedList

from rlsched.policies.orders import Key, Order
from rlsched.state import JobState, State, Status, TaskState

Entry = tuple[Key, int, TaskState]  # the number is the task's own: tasks are never compared


class Ranking:
    """The ready tasks, those that an order puts first at the front; equals as they became ready.

    The answer of a local order (see `rlsched.policies.orders.order`) stands until something happens to the task's own
    job: then only the jobs that have changed since the last decision are ranked again. Other orders are asked anew
    about every task.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._local = getattr(order, "local", False)
        self._begin(None)

    def first(self, state: State) -> TaskState | None:
        """The task at the front; None if there is none."""
        if self._local:
            return next(iter(self(state)), None)
        first: Entry | None = min(self._entries(state), default=None)
        return None if first is None else first[2]

    def __call__(self, state: State) -> Iterator[TaskState]:
        """The ready tasks in order."""
        if not self._local:
            return (task for _, _, task in sorted(self._entries(state)))
        if state is not self._state:
            self._begin(state)
        self._update(state)
        return (task for _, _, task in self._ranked if task.status is Status.READY)

    def _begin(self, state: State | None) -> None:
        self._state = state
        self._seen = 0
        self._ranked: SortedList[Entry] = SortedList()
        self._of_job: dict[int, dict[int, Entry]] = {}  # by job, and by the number of the entry

    def _update(self, state: State) -> None:
        latest = self._seen
        for job_id in reversed(state.recent):
            job = state.recent[job_id]
            if job.changed <= self._seen:
                break
            latest = max(latest, job.changed)
            self._rank(job, state)
        self._seen = latest
        # A job that has ended is no longer among the recent ones; what is left of it is skipped, and
        # goes when it comes to the front.
        while self._ranked and self._ranked[0][2].status is not Status.READY:
            self._forget(self._ranked[0][2].job.id)

    def _rank(self, job: JobState, state: State) -> None:
        before = self._of_job.pop(job.id, {})
        if job.ready:
            self._of_job[job.id] = now = {}
            for task in job.ready.values():
                entry = (self._order(task, state), task.ready_number, task)
                if before.get(task.ready_number) == entry:
                    del before[task.ready_number]
                else:
                    self._ranked.add(entry)
                now[task.ready_number] = entry
        for entry in before.values():
            self._ranked.remove(entry)

    def _forget(self, job_id: int) -> None:
        for entry in self._of_job.pop(job_id, {}).values():
            self._ranked.remove(entry)

    def _entries(self, state: State) -> Iterator[Entry]:
        return ((self._order(task, state), task.ready_number, task) for task in state.ready.values())
