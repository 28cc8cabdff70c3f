"""What is left to do when a run is started again.

A unit is done if its last attempt finished, ran the same command on the same sources (equal digest), began after
everything that it needs had last finished, and its outputs are still there; and if all that it needs is done.

Who starts a run again by hand gives everything that failed another chance. A job in a queue goes on as if its scheduler
had never been away: what has failed for good stays failed, and what has failed before has fewer retries left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from rlsched.executor.history import Ending, History
from rlsched.executor.work import Unit, Work
from rlsched.model import Cause, Job, Task


def done_units(work: Work, history: History, boot: str = "") -> frozenset[str]:
    """Names of the units that need not run again.

    Args:
        boot: what finished since that start of the machine is done, although its outputs may have been taken away.
    """
    done: set[str] = set()
    for index in work.job.topological:
        units = work.units[index]
        if done.issuperset(units[0].needs):
            newest = history.newest_end(units[0].needs)
            done.update(unit.name for unit in units if _is_done(unit, newest, history, boot))
    return frozenset(done)


def lost_units(work: Work, history: History, done: frozenset[str], live: Collection[str]) -> frozenset[str]:
    """Names of the units that have failed for good, and of those that will not start because of it.

    Args:
        done: see `done_units`.
        live: units that run; they may end.
    """
    lost: set[str] = set()
    for index in work.job.topological:
        task, units = work.job.tasks[index], work.units[index]
        names = {unit.name for unit in units}
        if not lost.isdisjoint(units[0].needs):
            lost |= names
        elif any(_has_failed(unit, task, history) for unit in units if unit.name not in done):
            lost |= names.difference(done, live)
    return frozenset(lost)


def remaining(
    work: Work, settled: frozenset[str], failures: Mapping[str, Mapping[Cause, int]] | None = None
) -> Work | None:
    """The work without what is settled, as the scheduler is to see it; None if nothing is left.

    What is left of an array task that is settled in part becomes single tasks, which keeps the members' names.

    Args:
        failures: what has been used up of the retries, by unit and cause.
    """
    used = failures or {}
    if not settled and not used:
        return work
    left = [tuple(unit for unit in units if unit.name not in settled) for units in work.units]
    whole = [
        len(units) == task.array and not any(unit.name in used for unit in units)
        for task, units in zip(work.job.tasks, left, strict=True)
    ]
    names = {  # by the name of a task: the tasks that are left of it
        task.name: (task.name,) if as_it_was else tuple(unit.name for unit in units)
        for task, units, as_it_was in zip(work.job.tasks, left, whole, strict=True)
    }
    tasks: list[Task] = []
    members: list[tuple[Unit, ...]] = []
    for task, units, as_it_was in zip(work.job.tasks, left, whole, strict=True):
        needs = tuple(name for need in task.needs for name in names[need])
        if as_it_was:
            tasks.append(replace(task, needs=needs))
            members.append(units)
        else:
            tasks += [
                replace(
                    task, name=unit.name, array=1, needs=needs, retries=_retries_left(task, used.get(unit.name, {}))
                )
                for unit in units
            ]
            members += [(unit,) for unit in units]
    if not tasks:
        return None
    job = work.job
    pruned = Job(job.name, tuple(tasks), release=job.release, weight=job.weight, deadline=job.deadline)
    return replace(work, job=pruned, units=tuple(members))


def checkpoint_of(unit: Unit, history: History, attempt: int) -> int:
    """Number of the attempt whose checkpoint the unit's next `attempt` goes on with, or its own.

    A checkpoint is good for the same work on the same inputs only.
    """
    last = history.attempts.get(unit.name)
    if last is None:
        return attempt
    same = last.digest == unit.digest and last.began > history.newest_end(unit.needs)
    return last.checkpoint if same and last.ending is not Ending.FINISHED else attempt


def _has_failed(unit: Unit, task: Task, history: History) -> bool:
    last = history.attempts.get(unit.name)
    return (
        last is not None
        and last.ending is Ending.FAILED
        and last.digest == unit.digest
        and not task.may_retry(last.failures)
    )


def _retries_left(task: Task, used: Mapping[Cause, int]) -> int | dict[Cause, int]:
    if isinstance(task.retries, int):
        return task.retries - sum(used.values())
    return {cause: budget - used.get(cause, 0) for cause, budget in task.retries.items()}


def _is_done(unit: Unit, newest: int, history: History, boot: str) -> bool:
    last = history.attempts.get(unit.name)
    return (
        last is not None
        and last.ending is Ending.FINISHED
        and last.digest == unit.digest
        and last.began > newest
        and (history.was_seen_finished(unit.name, boot) or all(output.exists() for output in unit.outputs))
    )
