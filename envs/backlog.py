"""The jobs in the system, least work left first, kept from one decision to the next."""

from __future__ import annotations

from bisect import bisect_left

from rlsched.active import JobState
from rlsched.state import State


class Backlog:
    """The jobs of a state, those with the least work left first; among equals by their number.

    `update` moves only the jobs that have changed since it was last called, whatever the number of jobs.

    Attributes:
        jobs: in that order.
        work: GPU-seconds left of all of them.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._begin(None)

    def update(self, state: State) -> None:
        """Enter what has happened in a state since the last update, or everything if it is another state."""
        if state is not self._state:
            self._begin(state)
        if state.changes == self._seen:
            return
        for job in reversed(state.recent.values()):
            if job.changed <= self._seen:
                break
            key = (job.work_left, job.id)
            known = self._key_of.get(job.id)
            if key != known:
                if known is not None:
                    self._remove(known)
                self._insert(key, job)
        if len(self.jobs) > len(state.jobs):
            for ended in self._key_of.keys() - state.jobs.keys():
                self._remove(self._key_of.pop(ended))
        self._seen = state.changes
        self.work = sum(self._works)

    def rank(self, job: JobState) -> int:
        """How many jobs come before it."""
        return bisect_left(self._keys, (job.work_left, job.id))

    def _begin(self, state: State | None) -> None:
        self._state = state
        self._seen = 0
        self._key_of: dict[int, tuple[float, int]] = {}  # by job
        self._keys: list[tuple[float, int]] = []  # of the jobs, in their order
        self._works: list[float] = []
        self.jobs: list[JobState] = []
        self.work = 0.0

    def _insert(self, key: tuple[float, int], job: JobState) -> None:
        place = bisect_left(self._keys, key)
        self._keys.insert(place, key)
        self._works.insert(place, job.work_left)
        self.jobs.insert(place, job)
        self._key_of[job.id] = key

    def _remove(self, key: tuple[float, int]) -> None:
        place = bisect_left(self._keys, key)
        del self._keys[place], self._works[place], self.jobs[place]
