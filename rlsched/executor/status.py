"""What has become of a run, read from its directory alone, while it runs or afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rlsched import progress
from rlsched.executor.claim import boot_id
from rlsched.executor.handover import Beginning, Handovers, summarise
from rlsched.executor.history import Attempt, Ending, History
from rlsched.executor.journal import fold
from rlsched.executor.paths import attempt_paths
from rlsched.executor.process import runs
from rlsched.executor.rundir import JOURNAL, is_locked
from rlsched.executor.usage import Usage


class RunState(StrEnum):
    """Where a run stands. ABANDONED: its driver has died, and may be started again; tasks may run on."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    ABANDONED = "abandoned"


class UnitState(StrEnum):
    """Where a unit stands. KEPT: it had finished in an earlier session. SKIPPED: something that it needs failed."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    KEPT = "kept"
    FAILED = "failed"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """One task, or member of an array task.

    Attributes:
        attempts: over all sessions; what follows is of the last one.
        start, end: seconds since the epoch; None: not yet.
        devices: ids.
        beginning: how it was begun; None: not yet known.
        handover: seconds from when its devices were free for it to its first statement; None: not yet known, or
            nothing had run there before.
        reason: why it failed.
        log: its output.
        progress: its latest report, while it runs and afterwards.
        usage: what it has taken, once it has ended.
    """

    name: str
    state: UnitState
    attempts: int = 0
    start: float | None = None
    end: float | None = None
    devices: tuple[str, ...] = ()
    beginning: Beginning | None = None
    handover: float | None = None
    reason: str = ""
    log: Path | None = None
    progress: progress.Progress | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The last session of a run.

    Attributes:
        start, end: seconds since the epoch.
        predicted_makespan, makespan: seconds of this session; `makespan` is None while it is open, and the other for a
            job in a queue.
        devices: ids of everything that could be used.
        handovers: how long devices waited between two tasks, by how the second was begun.
        reason: why it was interrupted.
        learned: the tasks whose estimates are from earlier runs.
        units: in the order of the workflow file.
    """

    run_dir: Path
    workflow: str
    policy: str
    state: RunState
    start: float
    end: float | None
    predicted_makespan: float | None
    makespan: float | None
    devices: tuple[str, ...]
    handovers: dict[str, Handovers]
    reason: str
    units: tuple[UnitStatus, ...]
    learned: tuple[str, ...] = ()


def read_status(run_dir: Path) -> RunStatus:
    """The status of the run that is kept in a directory.

    Raises:
        ValueError: it is not a run directory, or its journal is damaged.
    """
    try:
        running = is_locked(run_dir)  # before the journal is read: a run that ends meanwhile is not an abandoned one
        history = History()
        fold(run_dir / JOURNAL, history.enter)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{run_dir} is not a run directory, it has no {JOURNAL}") from None
    if history.begin is None:
        raise ValueError(f"{run_dir} holds no run yet")
    return status_of(run_dir, history, running)


def status_of(run_dir: Path, history: History, running: bool) -> RunStatus:
    """The status that follows from a journal that has a session.

    Args:
        running: some driver uses the directory.
    """
    begin, close = history.begin, history.close
    assert begin is not None
    if close is None:
        close = {
            "state": RunState.RUNNING if running else RunState.ABANDONED,
            "time": None,
            "makespan": None,
            "reason": "",
        }
    state = RunState(close["state"])
    return RunStatus(
        run_dir=run_dir,
        workflow=begin["workflow"],
        policy=begin["policy"],
        state=state,
        start=begin["time"],
        end=close["time"],
        predicted_makespan=begin["predicted_makespan"],
        makespan=close["makespan"],
        devices=tuple(device for node in begin["nodes"] for device in node["devices"]),
        handovers={str(kind): summarise(gaps) for kind, gaps in sorted(history.handovers.items())},
        reason=close["reason"],
        units=tuple(_unit_status(run_dir, name, history, state) for name in begin["units"]),
        learned=tuple(begin.get("learned", ())),
    )


def _unit_status(run_dir: Path, name: str, history: History, run: RunState) -> UnitStatus:
    assert history.begin is not None
    attempt = history.attempts.get(name)
    if name in history.begin["kept"]:
        state = UnitState.KEPT
    elif name in history.begin.get("lost", ()):
        state = UnitState.FAILED if attempt is not None and attempt.ending is Ending.FAILED else UnitState.SKIPPED
    elif attempt is None or attempt.session < history.session:
        state = UnitState.SKIPPED if run is RunState.FAILED else UnitState.WAITING
    else:
        state = _state_of(attempt, run)
        if attempt.ending is None and run is RunState.ABANDONED and _may_run(run_dir, name, attempt):
            state = UnitState.RUNNING
    if attempt is None:
        return UnitStatus(name, state)
    paths = attempt_paths(run_dir, name, attempt.number)
    return UnitStatus(
        name,
        state,
        attempts=attempt.number,
        start=attempt.start,
        end=attempt.end,
        devices=attempt.devices,
        beginning=attempt.beginning,
        handover=attempt.handover,
        reason=attempt.reason,
        log=paths.log,
        progress=progress.read(paths.text("progress")),
        usage=attempt.usage,
    )


def _may_run(run_dir: Path, name: str, attempt: Attempt) -> bool:
    """What is on another machine may run, for all that is known here."""
    elsewhere = any(place.boot != boot_id() for place in attempt.places)
    return elsewhere or runs(attempt_paths(run_dir, name, attempt.number))


def _state_of(attempt: Attempt, run: RunState) -> UnitState:
    match attempt.ending:
        case None:
            return UnitState.RUNNING if run is RunState.RUNNING else UnitState.INTERRUPTED
        case Ending.PREEMPTED | Ending.INTERRUPTED:  # the second: its node was lost
            return UnitState.WAITING if run is RunState.RUNNING else UnitState.INTERRUPTED
        case ending:
            return UnitState(ending.value)
