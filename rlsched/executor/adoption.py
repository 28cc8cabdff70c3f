"""What an earlier driver has left: attempts that have ended without anybody to record it, and tasks that still run.

Nothing is started again, and nothing counts as dead, unless there is evidence; see `rlsched.executor.claim`.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlsched.executor.backend import Find, Over, TaskProcess
from rlsched.executor.claim import boot_id, discard, forbid, read_claim
from rlsched.executor.devices import Machine, host_name, is_slot
from rlsched.executor.handover import beginning_of
from rlsched.executor.history import Attempt, Ending, Place
from rlsched.executor.paths import AttemptPaths, claims_beyond
from rlsched.executor.process import Exit, Process, collect, move_failed
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.usage import Usage
from rlsched.executor.verdict import Verdict, judge
from rlsched.executor.work import Unit, Work
from rlsched.model import Mode, Share
from rlsched.pool import Pool

_log = logging.getLogger(__name__)
_CHANGED = "its task has changed while it ran"
NOT_BEGUN = "it had not begun when its driver was killed, or its node was lost"


@dataclass(frozen=True, slots=True)
class Adopted:
    """A task that an earlier driver has started, in the hands of this one.

    Attributes:
        mode: index of the mode it runs in.
        shares: the devices it holds.
    """

    attempt: Attempt
    process: TaskProcess
    mode: int
    shares: tuple[Share, ...]


def find_here(
    directory: RunDirectory, unit: str, attempt: Attempt, lost: frozenset[str] = frozenset()
) -> Process | Over:
    """What has become of an attempt, as far as this machine can tell; see `backend.Find`.

    Args:
        lost: names of machines that are gone for good, as the user says.

    Raises:
        ValueError: that cannot be told, because it runs elsewhere, among other reasons.
    """
    number = attempt.number
    if not attempt.places:
        if attempt.boot != boot_id():  # what had not been recorded may be only half on the disk
            return Over(reason="the machine was started anew")
        return look(directory.attempt(unit, number))
    parts = [directory.attempt(unit, number, part) for part in range(len(attempt.places))]
    if unknown := [place.host for place in attempt.places if place.boot != boot_id() and not is_gone(place, lost)]:
        raise cannot_tell(unit, unknown)
    places = zip(attempt.places, parts, strict=True)
    found = [look(paths) if place.boot == boot_id() else last_words(place.host, paths) for place, paths in places]
    if over := combine(found):
        return over
    if len(found) == 1 and isinstance(found[0], Process):
        return found[0]
    for process in found:
        if isinstance(process, Process):
            process.let_go()
    raise ValueError(
        f"task {unit!r} still runs on {len(found)} nodes: go on with --backend ray, or wait until it has ended"
    )


def look(paths: AttemptPaths) -> Process | Over:
    """What has become of a launcher on this machine; from now on it has begun, or never will.

    Raises:
        ValueError: that cannot be told, or its claim is damaged.
    """
    if not forbid(paths.claim) and (process := Process.find(paths)):
        return process
    claim = read_claim(paths.claim)
    if claim is not None and claim.pid is None:
        return Over(reason=NOT_BEGUN)
    return Over(collect(paths))


def last_words(host: str, paths: AttemptPaths) -> Over:
    """How a launcher ended that a lost machine had: by itself, if it could still say so."""
    try:
        if forbid(paths.claim):
            return Over(reason=NOT_BEGUN)
        if paths.exit.exists():
            return Over(collect(paths))
    except ValueError:
        pass  # a file came to the disk in part when it lost power
    return Over(reason=f"{host} was lost")


def is_gone(place: Place, lost: frozenset[str] = frozenset(), others: Iterable[str] = ()) -> bool:
    """True if a machine has been started anew since, or is among the `lost`.

    Args:
        others: names of other machines that run, none of which is as it was when `place` was noted.
    """
    return place.host in lost or place.host in (host_name(), *others)


def cannot_tell(unit: str, hosts: Iterable[str]) -> ValueError:
    """The refusal of a run one of whose tasks may live where nobody can look."""
    return ValueError(
        f"task {unit!r} may still run on {', '.join(sorted(set(hosts)))}, which cannot be asked from here: go on with "
        "--backend ray on a cluster with that machine, or say --lost MACHINE if it is gone for good"
    )


def combine(parts: Sequence[object]) -> Over | None:
    """How a gang ended: as the first of its parts that did not succeed, else as its first; None: it still runs."""
    overs = [part for part in parts if isinstance(part, Over)]
    if len(overs) < len(parts):
        return None
    for over in overs:
        if over.reason:
            return over
    ends = [over.end for over in overs]
    if None in ends:
        return Over()
    failed = [end for end in ends if end is not None and not end.succeeded]
    return Over(min(failed, key=lambda end: end.time) if failed else ends[0])


def settle(work: Work, directory: RunDirectory, find: Find = find_here) -> dict[str, TaskProcess]:
    """Record the ends that no driver has seen; returns what still runs, by unit.

    Args:
        find: tells what has become of an attempt.

    Raises:
        ValueError: whether something still runs cannot be told.
        JournalError: an end could not be recorded.
    """
    if directory.history.close is None:  # otherwise the last driver has seen the end of all that it has started
        _restore_starts(directory)
    units = {unit.name: unit for units in work.units for unit in units}
    found = {name: find(directory, name, attempt) for name, attempt in directory.history.open_attempts().items()}
    live: dict[str, TaskProcess] = {}
    for name, process in found.items():
        if not isinstance(process, Over):
            live[name] = process
            continue
        attempt = directory.history.attempts[name]
        unit = units.get(name)
        current = unit if unit is not None and unit.digest == attempt.digest else None
        paths = directory.attempt(name, attempt.number)
        verdict = _verdict_on(process, current, paths)
        if current is not None and verdict.ending is not Ending.FINISHED:
            move_failed(current.outputs, work.folder, paths)
        _record(directory, name, attempt, verdict, process.end, current)
    return live


def adopt(
    live: Mapping[str, TaskProcess],
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
    obsolete: dict[str, TaskProcess] = dict(live)
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
    CPU slots of a cluster's node that is not known here are exchanged for as many others.
    """
    shares = machine.shares(attempt.devices)
    exchange = bool(attempt.places) and not shares and all(is_slot(device) for device in attempt.devices)
    for mode in sorted(range(len(modes)), key=lambda mode: mode != attempt.mode):
        if exchange and modes[mode].gpus != len(attempt.devices):
            continue
        held = shares if attempt.devices and not exchange else pool.place(modes[mode])
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


def _stop(obsolete: Mapping[str, TaskProcess], directory: RunDirectory) -> None:
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


def _verdict_on(over: Over, unit: Unit | None, paths: AttemptPaths) -> Verdict:
    """How an attempt ended; `unit` is None if its result is of no use."""
    if over.reason:
        return Verdict(Ending.INTERRUPTED, over.reason)
    if unit is None:
        return Verdict(Ending.INTERRUPTED, _CHANGED)
    return judge(unit, over.end, paths, stopping=paths.preempt.exists())


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
    """Enter starts that the journal has not, or not any more: launchers have copies of them in their claims.

    Of an earlier start of the machine nothing lives, and what the journal has not of it is no result.

    Raises:
        ValueError: a claim is damaged, and not by a loss of power: its launcher may live.
    """
    history = directory.history

    def newest(unit: str) -> int:
        attempt = history.attempts.get(unit)
        return 0 if attempt is None else attempt.number

    for path in claims_beyond(directory.path, newest):
        try:
            claim = read_claim(path)
        except ValueError:
            if history.begin is None or history.begin["boot"] == boot_id():
                raise
            discard(path)
            continue
        if claim is None or claim.pid is None or (claim.boot != boot_id() and not claim.record.get("places")):
            continue
        if newest(claim.record["unit"]) < claim.record["attempt"]:
            directory.restore({**claim.record, "boot": claim.boot})
