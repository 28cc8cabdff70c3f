"""Back-fill with a reservation: who overtakes may not delay the first task that waits."""

from __future__ import annotations

from rlsched.active import TaskState, run_time
from rlsched.model import Share
from rlsched.policies.claims import Gang
from rlsched.policies.outlook import Forecast
from rlsched.policies.placement import Placement
from rlsched.pool import Pool
from rlsched.state import State


class Reservation:
    """Finds room beside what the head of the queue will get, or before it gets it.

    EASY back-fill (Lifka, The ANL/IBM SP scheduling system, JSSPP 1995; Mu'alem & Feitelson, IEEE TPDS 2001, sec. 2):
    the head's start, the shadow time, follows from the expected ends of what runs. Who is behind may use what the head
    will leave over or, if it is expected to end by then, anything. Here the head is promised certain devices on
    certain nodes, all of them in the case of a gang that spans nodes: what is to spare elsewhere does not help it.

    Args:
        head: the task that waits.
        forecast: when it can start, and how.
        pool: what is free now.
        place: the rule for placement.
    """

    def __init__(self, head: TaskState, forecast: Forecast[Gang], state: State, pool: Pool, place: Placement) -> None:
        self._shadow_time = forecast.time
        self._state, self._pool, self._place = state, pool, place
        self._beside = pool.copy()
        self._beside.withhold(forecast.what.shares, head.task.modes[forecast.what.mode])

    def find(self, task: TaskState, mode: int) -> tuple[Share, ...] | None:
        """Where a mode of a task may go now; None if nowhere."""
        beside = self._place(self._beside, task, mode)
        if beside is not None:
            return beside
        before = self._place(self._pool, task, mode)
        if before is not None and self._state.now + self._seconds(task, mode, before) <= self._shadow_time:
            return before
        return None

    def _seconds(self, task: TaskState, mode: int, shares: tuple[Share, ...]) -> float:
        cold = self._state.pool.is_cold(shares, task.job.id)
        left = task.left(task.waiting[-1])
        return sum(run_time(task.task, task.task.modes[mode], self._state.cluster, len(shares), left, cold))
