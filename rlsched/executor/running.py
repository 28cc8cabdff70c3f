"""A task that runs, in the hands of a driver: where its records are, and what it has told of itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from rlsched import progress
from rlsched.executor.backend import TaskProcess
from rlsched.executor.handover import beginning_of
from rlsched.executor.history import Ending
from rlsched.executor.journal import Record
from rlsched.executor.launcher import BEGUN
from rlsched.executor.paths import AttemptPaths
from rlsched.executor.process import Exit, move_failed
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.starter import Launch, NotStartedError, Stopping
from rlsched.executor.usage import Usage
from rlsched.executor.verdict import Verdict, judge
from rlsched.executor.work import Unit, Work
from rlsched.model import Cause

_LEAST_LEFT = 1e-3  # of its work, for a task that was stopped: its own report may be a step ahead of its end


class Held(NamedTuple):
    """The devices of a task: their ids, and what `CUDA_VISIBLE_DEVICES` says of them."""

    devices: tuple[str, ...]
    visible: str


@dataclass(slots=True, eq=False)
class Running:
    """An attempt that has begun and not ended, as far as is known.

    Attributes:
        directory: keeps its records.
        devices: ids.
        folder: where it runs.
        checkpoint: its folder for checkpoints.
        work_left: part of its work that it began with.
        stopping: it was asked to stop.
        reports: its first and its latest one.
    """

    directory: RunDirectory
    unit: Unit
    attempt: int
    devices: tuple[str, ...]
    folder: Path
    checkpoint: Path
    process: TaskProcess
    work_left: float
    stopping: bool = False
    reports: list[progress.Progress] = field(default_factory=list)

    def wait(self) -> tuple[Verdict, Exit | None]:
        """How it ended, once it has; None: nobody has seen how."""
        process = self.process
        try:
            end = process.wait()
        except NotStartedError as error:  # which is not the task's fault
            return Verdict(Ending.INTERRUPTED, str(error)), None
        except OSError as error:
            return Verdict(Ending.FAILED, f"could not be started: {error}", Cause.EXIT), None
        succeeded = end is not None and end.succeeded  # then it does not matter, and need not be looked up
        stopping = self.stopping or (not succeeded and process.was_asked_to_stop)
        return judge(self.unit, end, process.paths, stopping), end

    def left_after(self, end: Exit | None) -> float:
        """Part of the work that is left after a stop: what the task has reported counts if it ended in good order."""
        report = progress.read(self.process.paths.progress)
        requests = {signal.SIGTERM.value, self.unit.request}
        orderly = end is not None and (end.code == 0 or -end.code in requests or end.code - 128 in requests)
        if report is None or not orderly:
            return self.work_left
        return min(self.work_left, max(1.0 - report.fraction, _LEAST_LEFT))

    def seconds_left(self) -> float | None:
        """Until it ends, from the rate between its first and latest report; None: it has told nothing new."""
        report = progress.read(self.process.paths.progress)
        if report is None or (self.reports and report.time <= self.reports[-1].time):
            return None
        self.reports = [*self.reports[:1], report]
        first = self.reports[0]
        if report.fraction <= first.fraction:
            return None
        rate = (report.fraction - first.fraction) / (report.time - first.time)
        return (1.0 - report.fraction) / rate - max(0.0, time.time() - report.time)


def clear(running: Running, end: Exit | None, verdict: Verdict) -> None:
    """Put aside what an attempt has left that did not succeed."""
    if verdict.ending is not Ending.FINISHED:  # its launcher may have been killed, or has seen only a part of the gang
        move_failed(running.unit.outputs, running.folder, running.process.paths)
    if end is None:
        with suppress(OSError):  # it is not empty: the task has left a checkpoint
            running.checkpoint.rmdir()


def launch_of(
    work: Work,
    unit: Unit,
    directory: RunDirectory,
    attempt: int,
    checkpoint: Path,
    held: Held,
    record: Record,
    stopping: Stopping,
) -> Launch:
    """The start of an attempt.

    Args:
        checkpoint: its folder.
        record: the journal's of this start.
    """
    paths = directory.attempt(unit.name, attempt)
    return Launch(
        unit.argv,
        paths,
        record,
        _environment(work, unit, directory, attempt, paths, checkpoint, held),
        work.folder,
        checkpoint,
        unit.outputs,
        stopping,
        unit.timeout,
    )


def _environment(
    work: Work,
    unit: Unit,
    directory: RunDirectory,
    attempt: int,
    paths: AttemptPaths,
    checkpoint: Path,
    held: Held,
) -> Mapping[str, str]:
    """All environment variables of an attempt; docs/executor.md lists those that it gets from us."""
    return {
        **work.inherited,
        **unit.env,
        "CUDA_VISIBLE_DEVICES": held.visible,
        "RLSCHED_RUN_DIR": str(directory.path),
        "RLSCHED_TASK": unit.name,
        "RLSCHED_ATTEMPT": str(attempt),
        "RLSCHED_GPUS": str(len(held.devices)),
        "RLSCHED_DEVICES": ",".join(held.devices),
        "RLSCHED_PROGRESS_FILE": paths.text("progress"),
        "RLSCHED_PREEMPT_FILE": paths.text("preempt"),
        "RLSCHED_CHECKPOINT_DIR": str(checkpoint),
        BEGUN: paths.text("begun") if unit.is_function else "",  # not that of a task that has started this driver
    }


def record_end(
    directory: RunDirectory,
    at: float,
    unit: Unit,
    attempt: int,
    verdict: Verdict,
    end: Exit | None = None,
    sampled: Usage | None = None,
) -> None:
    """Journal how an attempt ended that a driver has seen.

    Args:
        at: seconds since the driver's start.
        end: None: it never began, or its launcher was killed.
        sampled: what was seen of it while it ran.

    Raises:
        JournalError: it could not be recorded.
    """
    usage = replace(sampled or Usage(), cpu=None if end is None else end.cpu)
    directory.append(
        "end",
        at=at,
        unit=unit.name,
        attempt=attempt,
        ending=verdict.ending,
        cause=verdict.cause,
        reason=verdict.reason,
        ended=end.time if end else time.time(),
        began=end and end.began,
        beginning=end and beginning_of(unit, end),
        code=end and end.code,
        killed=end and end.killed,
        strays=end and end.strays,
        usage=usage.as_record(),
    )
