"""The ready tasks in an order, kept from one decision to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from heapq import heapify, heappop, heappush

from rlsched.active import JobState, Status, TaskState
from rlsched.policies.orders import Key, Order
from rlsched.state import State

Entry = tuple[Key, int, TaskState]  # the number is the task's own: tasks are never compared


class Ranking:
    """The ready tasks, those that an order puts first at the front; equals as they became ready.

    The answer of a local order (see `rlsched.policies.orders.order`) stands until something happens to the task's own
    job: then only the jobs that have changed since the last decision are ranked again. Other orders are asked anew
    about every task.

    Args:
        order: which ready task comes first.
        kind: answers a task with its kind, which never changes; None: all are of one kind. See `fronts`.
    """

    def __init__(self, order: Order, kind: Callable[[TaskState, State], Hashable] | None = None) -> None:
        self._order = order
        self._kind = kind
        self._local = getattr(order, "local", False)
        self._begin(None)

    def fronts(self, state: State) -> list[TaskState]:
        """The first task of each kind, in order: what to look at where tasks of one kind can start or wait alike."""
        if not self._local:
            return [task for _, _, task in sorted(self._first_of_kinds(state))]
        self._update(state)
        entries: list[Entry] = []
        emptied: list[Hashable] = []
        for kind, queue in self._queues.items():
            while queue and not self._stands(queue[0]):
                self._drop(heappop(queue))
            if queue:
                entries.append(queue[0])
            else:
                emptied.append(kind)
        for kind in emptied:
            del self._queues[kind]
        if len(entries) > 1:
            entries.sort()
        return [entry[2] for entry in entries]

    def __call__(self, state: State) -> Iterator[TaskState]:
        """The ready tasks in order."""
        if self._local:
            self._update(state)
            entries = [entry for queue in self._queues.values() for entry in queue if self._stands(entry)]
        else:
            entries = list(self._entries(state))
        heapify(entries)  # cheaper than sorting, if the first few are all that is asked for
        while entries:
            yield heappop(entries)[2]

    def _begin(self, state: State | None) -> None:
        self._state = state
        self._seen = 0
        self._current: dict[int, Entry] = {}  # of each task, by the number under which it became ready
        self._queues: dict[Hashable, list[Entry]] = {}  # by kind: heaps; of what is in them, some no longer stands
        self._queued = 0

    def _update(self, state: State) -> None:
        if state is not self._state:
            self._begin(state)
        seen, self._seen = self._seen, state.changes
        for job in reversed(state.recent.values()):
            if job.changed <= seen:
                break
            if job.ready:
                self._rank(job, state)
        if self._queued > 2 * len(state.ready) + 64:
            self._tidy()

    def _rank(self, job: JobState, state: State) -> None:
        order, current = self._order, self._current
        for task in job.ready.values():
            key, number = order(task, state), task.ready_number
            known = current.get(number)
            if known is None or known[0] != key:
                current[number] = entry = (key, number, task)
                kind = None if self._kind is None else self._kind(task, state)
                if (queue := self._queues.get(kind)) is None:
                    queue = self._queues[kind] = []
                heappush(queue, entry)
                self._queued += 1

    def _stands(self, entry: Entry) -> bool:
        """True if the task waits still, and at this place."""
        _, number, task = entry
        return task.status is Status.READY and self._current.get(number) is entry and task.ready_number == number

    def _drop(self, entry: Entry) -> None:
        self._queued -= 1
        if self._current.get(entry[1]) is entry:
            del self._current[entry[1]]

    def _tidy(self) -> None:
        """Drop what no longer stands, wherever in the queues it is."""
        for queue in self._queues.values():
            for entry in queue:
                if not self._stands(entry):
                    self._drop(entry)
            queue[:] = filter(self._stands, queue)
            heapify(queue)

    def _entries(self, state: State) -> Iterator[Entry]:
        return ((self._order(task, state), task.ready_number, task) for task in state.ready.values())

    def _first_of_kinds(self, state: State) -> list[Entry]:
        if self._kind is None:
            first = min(self._entries(state), default=None)
            return [] if first is None else [first]
        fronts: dict[Hashable, Entry] = {}
        for entry in self._entries(state):
            kind = self._kind(entry[2], state)
            if kind not in fronts or entry < fronts[kind]:
                fronts[kind] = entry
        return list(fronts.values())
