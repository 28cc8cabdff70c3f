"""Executor: a backend that runs tasks as processes of this machine, in wall-clock time."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rlsched import progress
from rlsched.executor.devices import Machine
from rlsched.executor.history import Ending
from rlsched.executor.process import Exit, Process
from rlsched.executor.resume import checkpoint_of
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.work import Unit, Work
from rlsched.model import Allocation, Member
from rlsched.scheduler import Arrived, Event, Failed, Finished, Preempted, Progressed

GRACE = 10.0
PROGRESS_INTERVAL = 1.0
_TERMINATED = 128 + signal.SIGTERM
_LEAST_LEFT = 1e-3  # of its work, for a task that was stopped: its own report may be a step ahead of its end


class InterruptedRun(Exception):  # noqa: N818  # it is a request, no error
    """Somebody asked the run to end.

    Attributes:
        signal: with which signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.signal = number


@dataclass(slots=True, eq=False)
class _Running:
    unit: Unit
    attempt: int
    checkpoint: Path
    process: Process
    work_left: float  # at its start
    stopping: bool = False
    reports: list[progress.Progress] = field(default_factory=list)  # the first and the latest


class Executor:
    """Runs work on this machine, every task as a process group of its own.

    Use it as a context manager: whatever still runs when the context ends is stopped. One thread uses it all the
    time, except for `interrupt`, which may be called from a signal handler.

    Args:
        machine: the devices.
        directory: keeps the records.
        works: what to run; each arrives at its job's release, seconds after the start.
        grace: seconds that a task has between SIGTERM and SIGKILL.
    """

    def __init__(self, machine: Machine, directory: RunDirectory, works: Iterable[Work], grace: float = GRACE) -> None:
        self.cluster = machine.cluster
        self._machine = machine
        self._directory = directory
        self._grace = grace
        self._coming = sorted(works, key=lambda work: work.job.release)
        self._arrived: list[Work] = []
        self._running: dict[Member, _Running] = {}
        self._work_left: dict[Member, float] = {}
        self._events: list[Event] = []
        self._interrupted: int | None = None
        self._closed = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._start = time.monotonic()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def now(self) -> float:
        return time.monotonic() - self._start

    @property
    def expecting(self) -> bool:
        return bool(self._coming)

    def launch(self, allocation: Allocation) -> None:
        member = allocation.member
        work = self._arrived[member.job]
        unit = work.units[member.task][member.member]
        last = self._directory.history.attempts.get(unit.name)
        attempt = 1 if last is None else last.number + 1
        checkpoint = checkpoint_of(unit, self._directory.history)
        self._directory.append(
            "start",
            at=self.now,
            unit=unit.name,
            attempt=attempt,
            digest=unit.digest,
            checkpoint=checkpoint,
            mode=allocation.mode,
            devices=self._machine.held(allocation.shares),
        )
        folder = self._directory.checkpoint(unit.name, checkpoint)
        try:
            for path in (folder, *(output.parent for output in unit.outputs)):
                path.mkdir(parents=True, exist_ok=True)
            process = Process(
                unit.argv,
                env=self._environment(allocation, unit, attempt, folder),
                folder=work.folder,
                log=self._directory.log(unit.name, attempt),
                exit_file=self._directory.exit_file(unit.name, attempt),
                grace=self._grace,
                timeout=unit.timeout,
                held=self._directory.lock,
            )
        except OSError as error:
            reason = f"could not be started: {error}"
            self._record_end(unit, attempt, Ending.FAILED, reason)
            self._events.append(Failed(member, reason))
            return
        work_left = self._work_left.get(member, 1.0)
        self._running[member] = _Running(unit, attempt, folder, process, work_left)
        self._selector.register(process, selectors.EVENT_READ, member)

    def stop(self, member: Member) -> None:
        running = self._running[member]
        running.stopping = True
        running.process.stop()

    def interrupt(self, number: int) -> None:
        """Make `wait` raise `InterruptedRun`; a second call kills what has not yet stopped. For signal handlers."""
        if self._interrupted is not None:
            for running in list(self._running.values()):
                running.process.stop()
        elif not self._closed:
            self._interrupted = number
            os.eventfd_write(self._wake, 1)

    def wait(self) -> list[Event]:
        """Block until something happens.

        Raises:
            InterruptedRun: `interrupt` was called.
        """
        while True:
            if self._interrupted is not None:
                raise InterruptedRun(self._interrupted)
            events = [*self._events, *self._arrivals()]
            self._events = []
            if not events:
                if not self._running and not self._coming:
                    return []
                events = [*self._ends(self._seconds_to_wait()), *self._progress()]
            if events:
                return events

    def close(self) -> None:
        """Stop what still runs, record how it ended, and give everything back."""
        for running in self._running.values():
            running.stopping = True
            running.process.stop()
        self._selector.unregister(self._wake)
        while self._running:
            self._ends(None, Ending.INTERRUPTED)
        self._closed = True
        self._selector.close()
        os.close(self._wake)

    def _seconds_to_wait(self) -> float | None:
        waits = [PROGRESS_INTERVAL] if self._running else []
        if self._coming:
            waits.append(max(0.0, self._coming[0].job.release - self.now))
        return min(waits, default=None)

    def _arrivals(self) -> list[Event]:
        arrivals: list[Event] = []
        while self._coming and self._coming[0].job.release <= self.now:
            work = self._coming.pop(0)
            arrivals.append(Arrived(len(self._arrived), work.job))
            self._arrived.append(work)
        return arrivals

    def _ends(self, timeout: float | None, stopped: Ending = Ending.PREEMPTED) -> list[Event]:
        """The ends within the next `timeout` seconds, up to the first instant that has any."""
        ready = [key.data for key, _ in self._selector.select(timeout) if key.data is not None]
        return [self._end(member, stopped) for member in ready]

    def _end(self, member: Member, stopped: Ending) -> Event:
        running = self._running.pop(member)
        self._selector.unregister(running.process)
        end = running.process.wait()
        ending, reason = _judge(running, end)
        if ending is Ending.PREEMPTED:
            ending = stopped
        self._record_end(running.unit, running.attempt, ending, reason, end)
        with suppress(OSError):  # it is not empty: the task has left a checkpoint
            running.checkpoint.rmdir()
        match ending:
            case Ending.FINISHED:
                return Finished(member)
            case Ending.FAILED:
                return Failed(member, reason)
        self._work_left[member] = self._left_of(running, end)
        return Preempted(member, self._work_left[member])

    def _record_end(self, unit: Unit, attempt: int, ending: Ending, reason: str, end: Exit | None = None) -> None:
        self._directory.append(
            "end",
            at=self.now,
            unit=unit.name,
            attempt=attempt,
            ending=ending,
            reason=reason,
            code=end and end.code,
            killed=end and end.killed,
            strays=end and end.strays,
        )

    def _left_of(self, running: _Running, end: Exit | None) -> float:
        """Part of the work that is left after a stop: what the task has reported counts if it ended in good order."""
        path = self._directory.progress_file(running.unit.name, running.attempt)
        report = progress.read(path)
        orderly = end is not None and end.code in (0, _TERMINATED, -signal.SIGTERM)
        if report is None or not orderly:
            return running.work_left
        return min(running.work_left, max(1.0 - report.fraction, _LEAST_LEFT))

    def _progress(self) -> list[Event]:
        """New expectations from the rate between a task's first and latest report."""
        events: list[Event] = []
        for member, running in self._running.items():
            report = progress.read(self._directory.progress_file(running.unit.name, running.attempt))
            if report is None or (running.reports and report.time <= running.reports[-1].time):
                continue
            running.reports = [*running.reports[:1], report]
            first = running.reports[0]
            if report.fraction > first.fraction:
                rate = (report.fraction - first.fraction) / (report.time - first.time)
                age = max(0.0, time.time() - report.time)
                events.append(Progressed(member, self.now + (1.0 - report.fraction) / rate - age))
        return events

    def _environment(self, allocation: Allocation, unit: Unit, attempt: int, checkpoint: Path) -> dict[str, str]:
        devices = self._machine.held(allocation.shares)
        return {
            "OMP_NUM_THREADS": "1",
            **os.environ,
            **unit.env,
            "CUDA_VISIBLE_DEVICES": self._machine.visible(allocation.shares),
            "RLSCHED_RUN_DIR": str(self._directory.path),
            "RLSCHED_TASK": unit.name,
            "RLSCHED_ATTEMPT": str(attempt),
            "RLSCHED_GPUS": str(len(devices)),
            "RLSCHED_DEVICES": ",".join(devices),
            "RLSCHED_PROGRESS_FILE": str(self._directory.progress_file(unit.name, attempt)),
            "RLSCHED_CHECKPOINT_DIR": str(checkpoint),
        }


def _judge(running: _Running, end: Exit | None) -> tuple[Ending, str]:
    """What an exit means; a stop that was asked for is PREEMPTED."""
    missing = [output for output in running.unit.outputs if not output.exists()]
    if end is not None and end.timed_out:
        return Ending.FAILED, f"exceeded its timeout of {running.unit.timeout:g} s"
    if end is not None and end.code == 0 and not missing:
        return Ending.FINISHED, ""
    if running.stopping:
        return Ending.PREEMPTED, ""
    if end is None:
        return Ending.FAILED, "its launcher was killed"
    if end.code == 0:
        return Ending.FAILED, f"exit code 0, but its output {str(missing[0])!r} is missing"
    if end.code < 0:
        return Ending.FAILED, f"killed by {signal.Signals(-end.code).name}"
    return Ending.FAILED, f"exit code {end.code}"
