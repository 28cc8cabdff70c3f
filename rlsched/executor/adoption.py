"""What an earlier driver has left: attempts that have ended without anybody to record it, and tasks that still run.

Nothing is started again, and nothing counts as dead, unless there is evidence; see `rlsched.executor.claim`.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Mapping
from dataclasses import dataclass

from rlsched.executor.claim import boot_id, forbid, read_claim
from rlsched.executor.devices import Machine
from rlsched.executor.handover import beginning_of
from rlsched.executor.history import Attempt, Ending
from rlsched.executor.paths import AttemptPaths
from rlsched.executor.process import Exit, Process, collect, move_failed
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.usage import Usage
from rlsched.executor.verdict import Verdict, judge
from rlsched.executor.work import Unit, Work
from rlsched.model import Mode, Share
from rlsched.pool import Pool

_log = logging.getLogger(__name__)
_CHANGED = "its task has changed while it ran"


@dataclass(frozen=True, slots=True)
class Adopted:
    """A task that an earlier driver has started, in the hands of this one.

    Attributes:
        mode: index of the mode it runs in.
        shares: the devices it holds.
    """

    attempt: Attempt
    process: Process
    mode: int
    shares: tuple[Share, ...]


def settle(work: Work, directory: RunDirectory) -> dict[str, Process]:
    """Record the ends that no driver has seen; returns what still runs, by unit.

    Raises:
        ValueError: whether something still runs cannot be told.
        JournalError: an end could not be recorded.
    """
    if directory.repaired:
        _restore_starts(directory)
    units = {unit.name: unit for units in work.units for unit in units}
    live: dict[str, Process] = {}
    for name, attempt in directory.history.open_attempts().items():
        unit = units.get(name)
        current = unit if unit is not None and unit.digest == attempt.digest else None
        paths = directory.attempt(name, attempt.number)
        if attempt.boot == boot_id() and not forbid(paths.claim) and (process := Process.find(paths)):
            live[name] = process
            continue
        verdict, end = _verdict_on(attempt, current, paths)
        if current is not None and verdict.ending is not Ending.FINISHED:
            move_failed(current.outputs, work.folder, paths)
        _record(directory, name, attempt, verdict, end, current)
    return live


def adopt(
    live: Mapping[str, Process],
    left: Work | None,
    done: frozenset[str],
    directory: RunDirectory,
    machine: Machine,
    pool: Pool,
) -> dict[str, Adopted]:
    """Take over what still runs, and stop what nobody wants any more: its task has changed, or what it needs has.

    Args:
        live: what still runs.
        left: what there is to run; it has all of `live` that is wanted.
        done: what need not run again.
        pool: what is free; what the tasks hold is taken out of it.

    Raises:
        ValueError: a task holds devices that this run may not use. Nothing has been stopped then.
    """
    adopted: dict[str, Adopted] = {}
    obsolete: dict[str, Process] = dict(live)
    for task, units in zip(left.job.tasks, left.units, strict=True) if left is not None else ():
        for unit in units:
            if unit.name in live and _is_wanted(unit, directory.history.attempts[unit.name], done, directory):
                attempt, process = directory.history.attempts[unit.name], obsolete.pop(unit.name)
                mode, shares = _devices_of(unit.name, attempt, task.modes, machine, pool)
                adopted[unit.name] = Adopted(attempt, process, mode, shares)
    _stop(obsolete, directory)
    return adopted


def _is_wanted(unit: Unit, attempt: Attempt, done: frozenset[str], directory: RunDirectory) -> bool:
    return (
        unit.digest == attempt.digest
        and done.issuperset(unit.needs)
        and attempt.began > directory.history.newest_end(unit.needs)
    )


def _devices_of(
    name: str, attempt: Attempt, modes: tuple[Mode, ...], machine: Machine, pool: Pool
) -> tuple[int, tuple[Share, ...]]:
    """The mode and shares of a running task, taken out of the pool.

    What a task takes may be written differently in the workflow file by now: any mode that suits the devices will do.
    """
    shares = machine.shares(attempt.devices)
    for mode in sorted(range(len(modes)), key=lambda mode: mode != attempt.mode):
        held = shares if attempt.devices else pool.place(modes[mode])
        try:
            if held:
                pool.take(held, modes[mode], 0)
                return mode, held
        except ValueError:
            continue
    held_by = f"on {', '.join(attempt.devices)}" if attempt.devices else "from before"
    raise ValueError(
        f"task {name!r} still runs {held_by}, and this run has no such place for it: "
        "let it have the same devices as before, or wait until the task has ended"
    )


def _stop(obsolete: Mapping[str, Process], directory: RunDirectory) -> None:
    for name, process in obsolete.items():
        _log.warning("%s still runs from before, but its task has changed: it is stopped", name)
        process.stop()
    for name, process in obsolete.items():
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
        end = process.wait()
        verdict = Verdict(Ending.INTERRUPTED, _CHANGED)
        _record(directory, name, directory.history.attempts[name], verdict, end)


def _verdict_on(attempt: Attempt, unit: Unit | None, paths: AttemptPaths) -> tuple[Verdict, Exit | None]:
    """How an attempt ended whose launcher is gone; `unit` is None if its result is of no use."""
    if attempt.boot != boot_id():  # what had not been recorded may be only half on the disk
        return Verdict(Ending.INTERRUPTED, "the machine was started anew"), None
    claim = read_claim(paths.claim)
    if claim is not None and claim.pid is None:
        return Verdict(Ending.INTERRUPTED, "it had not begun when its driver was killed"), None
    end = collect(paths)
    if unit is None:
        return Verdict(Ending.INTERRUPTED, _CHANGED), end
    return judge(unit, end, paths, stopping=paths.preempt.exists()), end


def _record(
    directory: RunDirectory, name: str, attempt: Attempt, verdict: Verdict, end: Exit | None, unit: Unit | None = None
) -> None:
    directory.append(
        "end",
        unit=name,
        attempt=attempt.number,
        ending=verdict.ending,
        cause=verdict.cause,
        reason=verdict.reason,
        ended=end and end.time,
        began=end and end.began,
        usage=Usage(cpu=None if end is None else end.cpu).as_record(),
        beginning=beginning_of(unit, end) if unit is not None and end is not None else None,
    )


def _restore_starts(directory: RunDirectory) -> None:
    """Enter the starts again that were lost with the journal's end: launchers have copies in their claims."""
    for path in sorted(directory.path.glob("attempts/*.claim.json")):
        claim = read_claim(path)
        if claim is None or claim.pid is None:
            continue
        known = directory.history.attempts.get(claim.record["unit"])
        if known is None or known.number < claim.record["attempt"]:
            directory.restore(claim.record)
