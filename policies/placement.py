"""Where a gang goes: rules that choose among the GPU types and the nodes that have room for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rlsched.active import TaskState
from rlsched.model import Share
from rlsched.policies.counts import Menu
from rlsched.policies.ladders import Ladder
from rlsched.pool import Pool
from rlsched.state import State

Handicap = Callable[[Ladder, State, Menu], float]
"""Answers a task's ladder on a GPU type with what its duration there is divided by before types are compared."""


def fastest(ladder: Ladder, state: State, menu: Menu) -> float:
    """The GPU type on which the task ends first."""
    return 1.0


def comparative(ladder: Ladder, state: State, menu: Menu) -> float:
    """The GPU type on which the task loses least, compared with what the ready tasks lose there on average.

    Ricardo's comparative advantage: a slow type is for the tasks that suffer least from it.
    """
    losses, members = 0.0, 0
    for task in state.ready.values():
        works = {(other.on_gpus, other.gpu_type): other.least_work for other in menu.ladders(task, state)}
        if (work := works.get((ladder.on_gpus, ladder.gpu_type))) is not None:
            losses += len(task.waiting) * work / min(works.values())
            members += len(task.waiting)
    return losses / members


Placement = Callable[[Pool, TaskState, int], tuple[Share, ...] | None]
"""Answers what is free, a task and the number of a mode with the shares of the gang, or None if it does not fit."""


def pack(pool: Pool, task: TaskState, mode: int) -> tuple[Share, ...] | None:
    """The node with the fewest GPUs to spare, which keeps room together for large gangs."""
    return pool.place(task.task.modes[mode], task.job.id)


def spread(pool: Pool, task: TaskState, mode: int) -> tuple[Share, ...] | None:
    """The node with the most GPUs to spare, which keeps tasks out of each other's way."""
    wanted, job = task.task.modes[mode], task.job.id
    if wanted.gpus:
        # Best fit for ever smaller gangs finds the node with the most free GPUs first.
        largest = max(node.gpus for node in pool.cluster.nodes)
        for gpus in range(min(largest, pool.free_gpus(wanted.gpu_type)), wanted.gpus, -1):
            shares = pool.place(replace(wanted, gpus=gpus), job)
            if shares is not None and len(shares) == 1:
                node, free = shares[0]
                warm_first = sorted(free, key=lambda gpu: pool.is_cold((Share(node, (gpu,)),), job))
                return (Share(node, tuple(sorted(warm_first[: wanted.gpus]))),)
    return pack(pool, task, mode)


GPU_TYPES: dict[str, Handicap] = {"fastest": fastest, "comparative": comparative}
PLACEMENTS: dict[str, Placement] = {"pack": pack, "spread": spread}
