"""What is left to do when a run is started again.

A unit is done if its last attempt finished, ran the same command on the same sources (equal digest), began after
everything that it needs had last finished, and its outputs are still there; and if all that it needs is done.
"""

from __future__ import annotations

from dataclasses import replace

from rlsched.executor.history import Ending, History
from rlsched.executor.work import Unit, Work
from rlsched.model import Job, Task


def done_units(work: Work, history: History) -> frozenset[str]:
    """Names of the units that need not run again."""
    done: set[str] = set()
    for index in work.job.topological:
        units = work.units[index]
        if done.issuperset(units[0].needs):
            newest = history.newest_end(units[0].needs)
            done.update(unit.name for unit in units if _is_done(unit, newest, history))
    return frozenset(done)


def remaining(work: Work, done: frozenset[str]) -> Work | None:
    """The work without what is done, as the scheduler is to see it; None if nothing is left.

    What is left of an array task that is done in part becomes single tasks, which keeps the members' names.
    """
    left = [tuple(unit for unit in units if unit.name not in done) for units in work.units]
    names = {  # by the name of a task: the tasks that are left of it
        task.name: (task.name,) if len(units) == task.array else tuple(unit.name for unit in units)
        for task, units in zip(work.job.tasks, left, strict=True)
    }
    tasks: list[Task] = []
    members: list[tuple[Unit, ...]] = []
    for task, units in zip(work.job.tasks, left, strict=True):
        needs = tuple(name for need in task.needs for name in names[need])
        if len(units) == task.array:
            tasks.append(replace(task, needs=needs))
            members.append(units)
        else:
            tasks += [replace(task, name=unit.name, array=1, needs=needs) for unit in units]
            members += [(unit,) for unit in units]
    if not tasks:
        return None
    job = work.job
    pruned = Job(job.name, tuple(tasks), release=job.release, weight=job.weight, deadline=job.deadline)
    return Work(pruned, tuple(members), work.folder)


def checkpoint_of(unit: Unit, history: History) -> int:
    """Number of the attempt whose checkpoint the unit's next attempt goes on with, or its own number.

    A checkpoint is good for the same work on the same inputs only.
    """
    last = history.attempts.get(unit.name)
    if last is None:
        return 1
    same = last.digest == unit.digest and last.began > history.newest_end(unit.needs)
    return last.checkpoint if same and last.ending is not Ending.FINISHED else last.number + 1


def _is_done(unit: Unit, newest: int, history: History) -> bool:
    last = history.attempts.get(unit.name)
    return (
        last is not None
        and last.ending is Ending.FINISHED
        and last.digest == unit.digest
        and last.began > newest
        and all(output.exists() for output in unit.outputs)
    )
