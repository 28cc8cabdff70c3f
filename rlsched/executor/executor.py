"""Executor: a backend that runs tasks as processes of this machine, in wall-clock time."""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlsched import progress
from rlsched.executor.adoption import Adopted
from rlsched.executor.call import BEGUN
from rlsched.executor.devices import Machine
from rlsched.executor.guard import Guard, Reason
from rlsched.executor.handover import Devices, beginning_of
from rlsched.executor.history import Ending
from rlsched.executor.journal import JournalError
from rlsched.executor.monitor import Monitor
from rlsched.executor.process import Exit, Process, move_failed
from rlsched.executor.resume import checkpoint_of
from rlsched.executor.rundir import FORKSERVER_LOG, RunDirectory
from rlsched.executor.starter import Launch, NotStartedError, Stopping
from rlsched.executor.usage import Usage
from rlsched.executor.verdict import Verdict, judge
from rlsched.executor.warm import Starters
from rlsched.executor.work import Unit, Work
from rlsched.model import Allocation, Cause, Member
from rlsched.scheduler import Arrived, Event, Failed, Finished, Preempted, Progressed, WokeUp

GRACE = 10.0
PROGRESS_INTERVAL = 1.0
_log = logging.getLogger(__name__)
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
    devices: tuple[str, ...]
    folder: Path
    checkpoint: Path
    process: Process
    work_left: float  # at its start
    stopping: bool = False
    reports: list[progress.Progress] = field(default_factory=list)  # the first and the latest


class Executor:
    """Runs work on this machine, every task as a process group of its own.

    Use it as a context manager: whatever still runs when the context ends is stopped, unless the journal cannot be
    written any more: then tasks run on, for a later driver to find. One thread uses it all the time, except for
    `interrupt`, which may be called from a signal handler.

    Args:
        machine: the devices.
        directory: keeps the records.
        works: what to run; each arrives at its job's release, seconds after the start.
        grace: seconds that a task has from when it is asked to stop, unless it has its own; see `launcher.Supervisor`.
        adopted: units that run already, by name.
        monitor: is told what runs; closed by whoever has made it.
    """

    def __init__(
        self,
        machine: Machine,
        directory: RunDirectory,
        works: Iterable[Work],
        grace: float = GRACE,
        adopted: Mapping[str, Adopted] | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self.cluster = machine.cluster
        self._machine = machine
        self._directory = directory
        self._grace = grace
        self._adopted = dict(adopted or {})
        self._coming = sorted(works, key=lambda work: work.job.release)
        self._arrived: list[Work] = []
        self._running: dict[Member, _Running] = {}
        self._work_left: dict[Member, float] = {}
        self._events: list[Event] = []
        self._interrupted: int | None = None
        self._closed = False
        self._hurried = False
        self._starters = Starters(directory.path / FORKSERVER_LOG)
        self._devices = Devices()
        self._guard = Guard(machine, self._note_device)
        self._monitor = monitor
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._zero = time.monotonic()
        self._began = time.time()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, JournalError):
            self._let_go()
        else:
            self.close()

    @property
    def out_of_service(self) -> Mapping[str, Reason]:
        """The devices that are not handed out now, by id."""
        return self._guard.out

    @property
    def now(self) -> float:
        return time.monotonic() - self._zero

    @property
    def expecting(self) -> bool:
        return bool(self._coming)

    def launch(self, allocation: Allocation) -> None:
        member = allocation.member
        if refused := self._guard.refuse(allocation.shares, member, self._work_left.get(member, 1.0)):
            self._events += refused
            return
        started = self._start(allocation)
        if isinstance(started, NotStartedError):  # which is not the task's fault
            started = self._start(allocation)
        if isinstance(started, OSError):
            self._events.append(Failed(member, f"could not be started: {started}", Cause.EXIT))
            self._events += self._guard.release(self._machine.held(allocation.shares))
        else:
            self._enter(member, started)

    def _start(self, allocation: Allocation) -> _Running | OSError:
        """Begin an attempt; its end is recorded if it could not be started."""
        member = allocation.member
        work = self._arrived[member.job]
        unit = work.units[member.task][member.member]
        attempts = self._directory.history.attempts
        last = attempts.get(unit.name)
        attempt = 1 if last is None else last.number + 1
        checkpoint = checkpoint_of(unit, self._directory.history)
        devices = tuple(self._machine.held(allocation.shares))
        ends = (attempts[name].end for name in (*unit.needs, unit.name) if name in attempts)
        ready = max((end for end in ends if end is not None), default=0.0)
        folder = self._directory.checkpoint(unit.name, checkpoint)
        record = self._directory.append(
            "start",
            at=self.now,
            unit=unit.name,
            attempt=attempt,
            digest=unit.digest,
            checkpoint=checkpoint,
            resumed=folder.exists(),
            mode=allocation.mode,
            devices=devices,
            free=self._devices.free_since(devices, max(ready, self._began + work.job.release)),
        )
        launch = Launch(
            unit.argv,
            self._directory.attempt(unit.name, attempt),
            record,
            self._environment(allocation, unit, attempt, folder),
            work.folder,
            folder,
            unit.outputs,
            Stopping(unit.request, self._grace_of(unit), self._grace),
            unit.timeout,
        )
        try:
            for path in (folder, *(output.parent for output in unit.outputs)):
                path.mkdir(parents=True, exist_ok=True)
            process = self._starters.start(launch, unit)
        except OSError as error:
            ending = Ending.INTERRUPTED if isinstance(error, NotStartedError) else Ending.FAILED
            self._record_end(unit, attempt, Verdict(ending, f"could not be started: {error}", Cause.EXIT))
            return error
        work_left = self._work_left.get(member, 1.0)
        return _Running(unit, attempt, devices, work.folder, folder, process, work_left)

    def stop(self, member: Member) -> None:
        running = self._running[member]
        running.stopping = True
        running.process.stop()

    def interrupt(self, number: int) -> None:
        """Make `wait` raise `InterruptedRun`; a second call kills what has not yet stopped. For signal handlers."""
        if self._interrupted is not None:
            self._hurried = True
            for running in list(self._running.values()):
                running.process.kill()
        elif not self._closed:
            self._interrupted = number
            os.eventfd_write(self._wake, 1)

    def wait(self, until: float = math.inf) -> list[Event]:
        """Block until something happens, or until a time (`WokeUp`).

        Raises:
            InterruptedRun: `interrupt` was called.
        """
        while True:
            if self._interrupted is not None:
                raise InterruptedRun(self._interrupted)
            events = [*self._events, *self._arrivals(), *self._guard.look()]
            self._events = []
            if not events:
                if not self._running and not self._coming and not self._guard.out and until == math.inf:
                    return []
                events = [*self._ends(self._seconds_to_wait(until)), *self._progress()]
            if not events and self.now >= until:
                events = [WokeUp()]
            if events:
                return events

    def close(self) -> None:
        """Ask what still runs to stop, record how it ended, and give everything back.

        A preemptible task writes a checkpoint, and a later run goes on from there.
        """
        if self._interrupted is not None and self._running:
            longest = max(self._grace_of(running.unit) for running in self._running.values())
            _log.warning(
                "%s: what runs is asked to save its work and stop, within %g s; a second signal kills it",
                signal.Signals(self._interrupted).name,
                longest,
            )
        for member in self._running:
            self.stop(member)
        if self._hurried:  # somebody has asked twice before this has even begun
            for running in self._running.values():
                running.process.kill()
        self._selector.unregister(self._wake)
        while self._running:
            self._ends(None, Ending.INTERRUPTED)
        self._shut()

    def _let_go(self) -> None:
        """Leave what still runs to itself, and give everything else back."""
        for running in self._running.values():
            running.process.let_go()
        self._running.clear()
        self._shut()

    def _shut(self) -> None:
        self._closed = True
        self._guard.close()
        self._starters.close()
        self._selector.close()
        os.close(self._wake)

    def _seconds_to_wait(self, until: float) -> float | None:
        waits = [self._guard.seconds_to_next_look] if self._guard.seconds_to_next_look < math.inf else []
        if self._running:
            waits.append(PROGRESS_INTERVAL)
        if until < math.inf:
            waits.append(max(0.0, until - self.now))
        if self._coming:
            waits.append(max(0.0, self._coming[0].job.release - self.now))
        return min(waits, default=None)

    def _arrivals(self) -> list[Event]:
        arrivals: list[Event] = []
        while self._coming and self._coming[0].job.release <= self.now:
            work = self._coming.pop(0)
            job_id = len(self._arrived)
            self._arrived.append(work)
            self._starters.prepare((unit for units in work.units for unit in units), work.folder)
            running = dict(self._take_over(job_id, work))
            arrivals.append(Arrived(job_id, work.job, tuple(running)))
            arrivals += [Progressed(allocation.member, end) for allocation, end in running.items()]
        return arrivals

    def _take_over(self, job_id: int, work: Work) -> Iterator[tuple[Allocation, float]]:
        """The allocations of its members that run already, and when they are expected to end."""
        for index, units in enumerate(work.units):
            for number, unit in enumerate(units):
                if (adopted := self._adopted.pop(unit.name, None)) is None:
                    continue
                member, attempt = Member(job_id, index, number), adopted.attempt
                self._directory.append("adopt", at=self.now, unit=unit.name, attempt=attempt.number)
                folder = self._directory.checkpoint(unit.name, attempt.checkpoint)
                devices, stopping = attempt.devices, adopted.process.was_asked_to_stop
                self._guard.hold(devices)
                running = _Running(unit, attempt.number, devices, work.folder, folder, adopted.process, 1.0, stopping)
                self._enter(member, running, adopted=True)
                age = max(0.0, time.time() - attempt.start)
                expected = work.job.tasks[index].modes[adopted.mode].duration - age
                yield Allocation(member, adopted.mode, adopted.shares), self.now + expected

    def _enter(self, member: Member, running: _Running, adopted: bool = False) -> None:
        self._running[member] = running
        if self._monitor is not None:
            claim = running.process.paths.claim
            self._monitor.started(running.unit.name, running.attempt, claim, running.devices, adopted)
        self._selector.register(running.process, selectors.EVENT_READ, member)

    def _ends(self, timeout: float | None, stopped: Ending = Ending.PREEMPTED) -> list[Event]:
        """The ends within the next `timeout` seconds, up to the first instant that has any."""
        ready = [key.data for key, _ in self._selector.select(timeout) if key.data is not None]
        ended = [self._running[member] for member in ready]
        events = [self._end(member, stopped) for member in ready]
        return [*events, *(event for running in ended for event in self._guard.release(running.devices))]

    def _end(self, member: Member, stopped: Ending) -> Event:
        running = self._running.pop(member)
        self._selector.unregister(running.process)
        end = running.process.wait()
        paths = running.process.paths
        verdict = judge(running.unit, end, paths, running.stopping or running.process.was_asked_to_stop)
        if verdict.ending is Ending.PREEMPTED:
            verdict = Verdict(stopped)
        if end is None:  # its launcher could not do this
            move_failed(running.unit.outputs, running.folder, paths)
            with suppress(OSError):  # it is not empty: the task has left a checkpoint
                running.checkpoint.rmdir()
        usage = Usage() if self._monitor is None else self._monitor.ended(running.unit.name)
        self._record_end(running.unit, running.attempt, verdict, end, usage)
        self._devices.give_back(running.devices, time.time() if end is None else end.time)
        match verdict:
            case Verdict(Ending.FINISHED):
                return Finished(member)
            case Verdict(Ending.FAILED, reason, Cause() as cause):
                return Failed(member, reason, cause)
        self._work_left[member] = self._left_of(running, end)
        return Preempted(member, self._work_left[member])

    def _note_device(self, device: str, reason: str) -> None:
        """Journal that a device is not handed out, or, without a reason, that it is again."""
        self._directory.append("device", at=self.now, device=device, reason=reason)

    def _record_end(
        self, unit: Unit, attempt: int, verdict: Verdict, end: Exit | None = None, usage: Usage | None = None
    ) -> None:
        usage = replace(usage or Usage(), cpu=None if end is None else end.cpu)
        self._directory.append(
            "end",
            at=self.now,
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

    def _left_of(self, running: _Running, end: Exit | None) -> float:
        """Part of the work that is left after a stop: what the task has reported counts if it ended in good order."""
        report = progress.read(running.process.paths.progress)
        requests = {signal.SIGTERM.value, running.unit.request}
        orderly = end is not None and (end.code == 0 or -end.code in requests or end.code - 128 in requests)
        if report is None or not orderly:
            return running.work_left
        return min(running.work_left, max(1.0 - report.fraction, _LEAST_LEFT))

    def _progress(self) -> list[Event]:
        """New expectations from the rate between a task's first and latest report."""
        events: list[Event] = []
        for member, running in self._running.items():
            report = progress.read(running.process.paths.progress)
            if report is None or (running.reports and report.time <= running.reports[-1].time):
                continue
            running.reports = [*running.reports[:1], report]
            first = running.reports[0]
            if report.fraction > first.fraction:
                rate = (report.fraction - first.fraction) / (report.time - first.time)
                age = max(0.0, time.time() - report.time)
                events.append(Progressed(member, self.now + (1.0 - report.fraction) / rate - age))
        return events

    def _grace_of(self, unit: Unit) -> float:
        return self._grace if unit.grace is None else unit.grace

    def _environment(self, allocation: Allocation, unit: Unit, attempt: int, checkpoint: Path) -> dict[str, str]:
        devices = self._machine.held(allocation.shares)
        paths = self._directory.attempt(unit.name, attempt)
        begun = {BEGUN: str(paths.begun)} if unit.is_function else {}
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
            "RLSCHED_PROGRESS_FILE": str(paths.progress),
            "RLSCHED_PREEMPT_FILE": str(paths.preempt),
            "RLSCHED_CHECKPOINT_DIR": str(checkpoint),
            **begun,
        }
