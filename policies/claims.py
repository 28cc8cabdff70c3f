"""Room that is being made: devices that a task will have once those that hold them have been stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rlsched.active import Run, Status, TaskState
from rlsched.model import Allocation, Share
from rlsched.pool import Pool
from rlsched.state import State


class Gang(NamedTuple):
    """A mode of a task, by its number, and the devices for it."""

    mode: int
    shares: tuple[Share, ...]


class Claim(NamedTuple):
    """A gang that a member of a task gets as soon as all of these runs have ended."""

    task: TaskState
    gang: Gang
    awaited: Sequence[Run]


class Claims:
    """All claims of one policy. Until it is settled, what is claimed is nobody else's."""

    def __init__(self) -> None:
        self._claims: list[Claim] = []
        self._state: State | None = None

    def __bool__(self) -> bool:
        return bool(self._claims)

    def add(self, claim: Claim) -> None:
        self._claims.append(claim)

    def cover(self, task: TaskState) -> bool:
        """True if there is a claim for every member of the task that waits."""
        return sum(claim.task is task for claim in self._claims) >= len(task.waiting)

    def settle(
        self, state: State, place: Callable[[Pool, TaskState, int], tuple[Share, ...] | None]
    ) -> Allocation | None:
        """The next start that is due. A claim lapses if its task is gone, or if its room is: a node may be lost.

        Claims of another state are forgotten.
        """
        if state is not self._state:
            self._state, self._claims = state, []
        for claim in tuple(self._claims):
            if any(state.running.get(run.allocation.member) is run for run in claim.awaited):
                continue
            self._claims.remove(claim)
            if claim.task.status is not Status.READY:
                continue
            if shares := place(self.unclaimed(state), claim.task, claim.gang.mode):
                return Allocation(claim.task.next_member(), claim.gang.mode, shares)
        return None

    def unclaimed(self, state: State) -> Pool:
        """What is free and not claimed; to be looked at only."""
        return self._without_claims(state.pool.copy()) if self._claims else state.pool

    def after_stops(self, state: State) -> Pool:
        """A copy of what will be free and not claimed once all that is stopping has stopped."""
        pool = state.pool.copy()
        for run in state.running.values():
            if run.stopping:
                pool.give(run.allocation.shares, run.mode)
        return self._without_claims(pool)

    def _without_claims(self, pool: Pool) -> Pool:
        for claim in self._claims:
            pool.withhold(claim.gang.shares, claim.task.task.modes[claim.gang.mode])
        return pool
