"""The DAGs of the candidates' jobs as arrays, for networks over graphs."""

from __future__ import annotations

from collections.abc import Sequence
from math import log1p

import numpy as np
from numpy.typing import NDArray

from rlsched.active import Status, TaskState
from rlsched.envs.facts import facts_of
from rlsched.state import State

MAX_TASKS = 96
MAX_EDGES = 192
TASK_FEATURES = 8


def encode_graph(state: State, candidates: Sequence[TaskState], rows: int) -> dict[str, NDArray[np.generic]]:
    """The unsettled tasks of the candidates' jobs, job by job in the shortlist's order, and their edges.

    Args:
        candidates: the task of each candidate.
        rows: of the observation, `wait` and padding included.

    Returns:
        tasks (MAX_TASKS, TASK_FEATURES), edges (MAX_EDGES, 2), candidate_task (rows,); see `rlsched.envs.encoding`.
    """
    unit = state.typical_time
    tasks = np.zeros((MAX_TASKS, TASK_FEATURES), dtype=np.float32)
    edges = np.full((MAX_EDGES, 2), -1, dtype=np.int32)
    row_of: dict[tuple[int, int], int] = {}
    edge = 0
    for job in {task.job.id: task.job for task in candidates}.values():
        unsettled = [t for t in job.tasks if t.status in (Status.BLOCKED, Status.READY, Status.RUNNING)]
        facts = facts_of(job.job)
        for task in unsettled[: MAX_TASKS - len(row_of)]:
            row_of[task.key] = row = len(row_of)
            tasks[row] = (
                1.0,
                log1p(task.work / task.task.array / unit),
                log1p(task.task.shortest / unit),
                log1p(task.rank / unit),
                log1p(facts[task.index].descendant_work / unit),
                log1p(len(task.waiting)),
                task.status is Status.READY,
                task.status is Status.RUNNING,
            )
        for task in unsettled:
            for successor in job.job.successors[task.index]:
                start, end = row_of.get(task.key), row_of.get((job.id, successor))
                if start is not None and end is not None and edge < MAX_EDGES:
                    edges[edge] = start, end
                    edge += 1
    candidate_task = np.full(rows, -1, dtype=np.int32)
    candidate_task[1 : 1 + len(candidates)] = [row_of.get(task.key, -1) for task in candidates]
    return {"tasks": tasks, "edges": edges, "candidate_task": candidate_task}
