"""What preemption and resizing have in common: which runs may be stopped, and what would be free then."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

from rlsched.active import Run, TaskState
from rlsched.model import Preemption
from rlsched.policies.claims import Claim, Claims, Gang
from rlsched.policies.orders import Key, KeyOfRun, Order
from rlsched.policies.outlook import when_fits
from rlsched.policies.placement import Placement
from rlsched.pool import Pool
from rlsched.state import State

Choose = Callable[[TaskState, Pool], Gang | None]
"""Answers a task and what is free with the gang that the task would start with."""

_PATIENCE = 10.0  # a run is left alone for so many times its toll: little time is lost to stopping and resuming
_LEAST_TIME = 1e-3  # and for this part of the mean critical path at least: where stopping is free, work gets done too


class Stopping:
    """Good for one decision.

    A run that is young, nearly done or stopping already is not stopped. Every run therefore gets some work done, and
    whatever the order, tasks cannot stop each other for ever.

    Attributes:
        wake_up: when the next run comes of age that would have been stopped now, seconds.
        all_ahead: nothing that may be stopped comes behind a task that was asked about, nor behind those after it.
    """

    def __init__(self, state: State, claims: Claims, order: Order, choose: Choose, place: Placement) -> None:
        self.wake_up = math.inf
        self.all_ahead = False
        self.state, self.claims, self.order, self.choose, self.place = state, claims, order, choose, place

    @cached_property
    def runs(self) -> list[tuple[Key, Run]]:
        """What may be preempted by its key in the order, the last first."""
        of_run: KeyOfRun = getattr(self.order, "of_run", lambda run, state: self.order(run.task, state))
        runs = (run for run in self.state.running.values() if run.task.task.preemptible and not run.stopping)
        keyed = [(of_run(run, self.state), run) for run in runs]
        return sorted(keyed, key=lambda key_and_run: (key_and_run[0], key_and_run[1].start), reverse=True)

    def may_stop(self, run: Run) -> bool:
        """True if a run is old enough, and has so much left that waiting for its end is no better."""
        of_age = run.start + max(_PATIENCE * run.toll, _LEAST_TIME * self.state.typical_time)
        if self.state.now < of_age:
            self.wake_up = min(self.wake_up, of_age)
            return False
        return run.expected_end - self.state.now > run.toll

    def pool(self) -> Pool:
        """A copy of what will be free and not claimed once all that is stopping has stopped."""
        return self.claims.after_stops(self.state)

    def wait(self, task: TaskState) -> float:
        """Seconds until a task can start if nothing more is stopped; infinite if that is not in sight."""
        forecast = when_fits(self.state, self.pool(), lambda pool: self.choose(task, pool))
        return math.inf if forecast is None else forecast.time - self.state.now

    def claim(self, task: TaskState, gang: Gang, stopped: Sequence[Run]) -> Sequence[Preemption]:
        """Enter a claim on what some runs, and those that stop already, leave; the decisions that stop the former."""
        nodes = {share.node for share in gang.shares}
        awaited = [*stopped]
        for run in self.state.running.values():
            if run.stopping and not nodes.isdisjoint(share.node for share in run.allocation.shares):
                awaited.append(run)
        self.claims.add(Claim(task, gang, awaited))
        return [Preemption(run.allocation.member) for run in stopped]
