"""Orders by attained service: who has had the least GPU time comes first. They need no estimates."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict

from rlsched.active import JobState, TaskState
from rlsched.policies.orders import Key, order
from rlsched.policies.outlook import WholeState
from rlsched.state import State


class _AttainedService:
    """GPU time that jobs have had, in runs that have ended and in those that have not."""

    def __init__(self) -> None:
        self._in_runs = WholeState(self._in_running_tasks)

    def attained(self, job: JobState, state: State) -> float:
        return job.service + self._in_runs(state).get(job.id, 0.0)

    @staticmethod
    def _in_running_tasks(state: State) -> dict[int, float]:
        attained: dict[int, float] = defaultdict(float)
        for run in state.running.values():
            attained[run.task.job.id] += run.mode.gpus * (state.now - run.start)
        return attained


@order("las")
class LeastAttainedService(_AttainedService):
    """Job that has had the least GPU time so far; needs no estimate (Gu et al., Tiresias, NSDI 2019)."""

    def __call__(self, task: TaskState, state: State) -> Key:
        return (self.attained(task.job, state), task.job.id)

    def wake_up(self, state: State, ratio: float) -> float:
        """When a job that runs will have had `ratio` times the GPU time of the one that has had the least and waits."""
        least = ratio * min(self.attained(task.job, state) for task in state.ready.values())
        jobs = (job for job in state.jobs.values() if job.gpus)
        ahead = ((least - self.attained(job, state)) / job.gpus for job in jobs)
        return state.now + min((seconds for seconds in ahead if seconds > 0), default=math.inf)


@order("tiresias", ordinal=True, preempt=True)
class Tiresias(_AttainedService):
    """Job in the first of a few queues, by the GPU time it has had; first in, first out within a queue.

    Discretised two-dimensional LAS (Gu et al., Tiresias, NSDI 2019, sec. 3.2): a job begins in the first queue and
    falls to the next one when its GPU time crosses a threshold. Jobs that are alike thus run one after the other
    instead of taking turns. Thresholds are quantum, quantum x growth, quantum x growth ^ 2 ..., in units of one GPU for
    the mean critical path of the jobs seen so far. Without the promotion of jobs that starve (PromoteKnob).

    Raises:
        ValueError: less than two queues, a quantum not above 0, a growth not above 1.
    """

    def __init__(self, *, queues: int = 2, quantum: float = 1.0, growth: float = 4.0) -> None:
        super().__init__()
        if queues < 2:
            raise ValueError(f"queues is {queues}, expected 2 or more")
        if not quantum > 0:
            raise ValueError(f"quantum is {quantum}, expected above 0")
        if not growth > 1:
            raise ValueError(f"growth is {growth}, expected above 1")
        self._thresholds = [quantum * growth**queue for queue in range(queues - 1)]

    def __call__(self, task: TaskState, state: State) -> Key:
        return (self._queue(task.job, state), task.job.id)

    def _queue(self, job: JobState, state: State) -> int:
        return bisect_right(self._thresholds, self.attained(job, state) / state.typical_time)

    def wake_up(self, state: State, ratio: float) -> float:
        """When the next job that runs falls to another queue."""
        seconds = math.inf
        for job in state.jobs.values():
            if job.gpus and (queue := self._queue(job, state)) < len(self._thresholds):
                missing = self._thresholds[queue] * state.typical_time - self.attained(job, state)
                seconds = min(seconds, missing / job.gpus)
        return state.now + seconds
