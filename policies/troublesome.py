"""An order that looks for the tasks of a DAG that are hard to fit in later, and starts with them."""

from __future__ import annotations

from rlsched.active import TaskState
from rlsched.policies.ladders import PerTask
from rlsched.policies.orders import Key, order
from rlsched.policies.outlook import WholeState
from rlsched.state import State


@order("graphene")
class TroublesomeFirst:
    """Troublesome task, or one that leads to some, less a penalty for much work left in its job (Graphene, OSDI 2016).

    After Grandl et al., Graphene, sec. 4: tasks are troublesome that are long (`long` times the longest of their job at
    least, in the fastest modes) or hard to pack (the smallest gang takes at least the part `wide` of the largest node).
    They and all that they wait for go first, so that the others fill the gaps around them. Graphene plans this ahead in
    a virtual resource-time space and tries many thresholds; this is the order alone, for what is ready now. Between
    jobs, work left counts relative to its mean over the ready tasks, times `work_weight`, as in Tetris.

    Raises:
        ValueError: `long` or `wide` outside [0, 1].
    """

    def __init__(self, *, long: float = 0.5, wide: float = 0.5, work_weight: float = 1.0) -> None:
        for name, value in (("long", long), ("wide", wide)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected 0 to 1")
        self._long, self._wide, self._work_weight = long, wide, work_weight
        self._mean_work = WholeState(_mean_work_left)
        self._comes_first = PerTask(self._leads_to_trouble)

    def __call__(self, task: TaskState, state: State) -> Key:
        work = task.job.work_left / self._mean_work(state)
        return (self._work_weight * work - self._comes_first(task, state), task.job.id, -task.rank)

    def _leads_to_trouble(self, task: TaskState, state: State) -> bool:
        """True if the task is troublesome, or something troublesome depends on it."""
        job = task.job.job
        longest = max(other.shortest for other in job.tasks)
        node = max(node.gpus for node in state.cluster.nodes)
        queue = [task.index]
        reached = {task.index}
        for index in queue:
            at = job.tasks[index]
            if at.shortest >= self._long * longest or (at.least_gpus and at.least_gpus >= self._wide * node):
                return True
            fresh = [successor for successor in job.successors[index] if successor not in reached]
            reached.update(fresh)
            queue += fresh
        return False


def _mean_work_left(state: State) -> float:
    tasks = state.ready.values()
    return sum(task.job.work_left for task in tasks) / max(1, len(tasks)) or 1.0
