"""An order for clusters of several GPU types: whoever is best suited to the type that is free comes first."""

from __future__ import annotations

import math
from typing import NamedTuple

from rlsched.active import TaskState
from rlsched.policies.ladders import PerTask, ladders
from rlsched.policies.orders import Key, order
from rlsched.state import State


class _Suited(NamedTuple):
    """To a GPU type: the smallest gang there, and what it loses there relative to the mean over its types."""

    gpu_type: str | None
    gpus: int
    loss: float


@order("comparative")
class ComparativeAdvantage:
    """Task that loses least on a type with GPUs free, compared with its others; then the job with the least work left.

    Ricardo's comparative advantage: what is slow on the slow type goes first to the fast one, and what is nearly as
    fast there goes first to the slow one. The loss on a type is the work (GPU-seconds of the smallest gang) there,
    relative to the geometric mean over the types that the task can run on. It is multiplied by the work left in the job
    to the power of `work_weight`; 0 looks at the types alone.
    """

    def __init__(self, *, work_weight: float = 1.0) -> None:
        self._work_weight = work_weight
        self._suited = PerTask(_suited)

    def __call__(self, task: TaskState, state: State) -> Key:
        pool = state.pool
        types = self._suited(task, state)
        free = [suited.loss for suited in types if pool.free_gpus(suited.gpu_type) >= suited.gpus]
        loss = min(free or (suited.loss for suited in types), default=1.0)
        return (loss * max(task.job.work_left, 1e-9) ** self._work_weight, task.job.id, -task.rank)


def _suited(task: TaskState, state: State) -> list[_Suited]:
    on_gpus = [ladder for ladder in ladders(task, state) if ladder.on_gpus]
    if len(on_gpus) < 2:
        return [_Suited(ladder.gpu_type, ladder.rungs[0].size, 1.0) for ladder in on_gpus]
    mean = math.exp(math.fsum(math.log(ladder.least_work) for ladder in on_gpus) / len(on_gpus))
    return [_Suited(ladder.gpu_type, ladder.rungs[0].size, ladder.least_work / mean) for ladder in on_gpus]
