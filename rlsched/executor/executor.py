"""Executor: a backend that runs tasks as processes, in wall-clock time."""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlsched.executor.adoption import Adopted
from rlsched.executor.backend import Launchers, TaskProcess, Watched
from rlsched.executor.devices import Machine
from rlsched.executor.guard import Guard, Reason
from rlsched.executor.handover import Devices
from rlsched.executor.history import Ending
from rlsched.executor.interruption import InterruptedRun
from rlsched.executor.journal import JournalError
from rlsched.executor.monitor import Monitor
from rlsched.executor.process import Exit
from rlsched.executor.resume import checkpoint_of
from rlsched.executor.rundir import FORKSERVER_LOG, RunDirectory
from rlsched.executor.running import Held, Running, clear, launch_of, record_end
from rlsched.executor.starter import NotStartedError, Stopping
from rlsched.executor.usage import Usage
from rlsched.executor.verdict import Verdict
from rlsched.executor.warm import Starters
from rlsched.executor.work import Unit, Work
from rlsched.model import Allocation, Cause, Member
from rlsched.scheduler import Arrived, Cancelled, Event, Failed, Finished, NodeLost, Preempted, Progressed, WokeUp

GRACE = 10.0
PROGRESS_INTERVAL = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Arrival:
    work: Work
    directory: RunDirectory
    adopted: dict[str, Adopted]


class Executor:
    """Runs work, every task as a process group of its own: on this machine, or where its `launchers` say.

    Use it as a context manager: whatever still runs when the context ends is stopped, unless the journal cannot be
    written any more: then tasks run on, for a later driver to find. One thread uses it all the time, except for
    `interrupt`, which may be called from a signal handler.

    Args:
        machine: the devices.
        directory: keeps the records of `works`; None: there are none.
        works: what to run; each arrives at its job's release, seconds after the start. More may be submitted later.
        grace: seconds that a task has from when it is asked to stop, unless it has its own; see `Supervisor`.
        adopted: units of `works` that run already, by name.
        log: where the processes that start tasks write; None: in `directory`.
        monitor: is told what runs; closed by whoever has made it.
        launchers: start tasks; None: on this machine, each device of `machine` is one of its own.

    Attributes:
        accepting: more may be submitted: that nothing is left to do is not the end.
    """

    def __init__(
        self,
        machine: Machine,
        directory: RunDirectory | None = None,
        works: Iterable[Work] = (),
        grace: float = GRACE,
        adopted: Mapping[str, Adopted] | None = None,
        log: Path | None = None,
        monitor: Monitor | None = None,
        launchers: Launchers | None = None,
    ) -> None:
        self.cluster = machine.cluster
        self._machine = machine
        self.accepting = False
        self._grace = grace
        running, ordered = dict(adopted or {}), sorted(works, key=lambda work: work.job.release)
        self._coming = [] if directory is None else [_Arrival(work, directory, running) for work in ordered]
        self._arrived: dict[int, _Arrival] = {}
        self._arrivals_so_far = 0
        self._running: dict[Member, Running] = {}
        self._work_left: dict[Member, float] = {}
        self._events: list[Event] = []
        self._interrupted: int | None = None
        self._closed = False
        self._hurried = False
        log = log or (Path(os.devnull) if directory is None else directory.path / FORKSERVER_LOG)
        self._launchers: Launchers = Starters(log) if launchers is None else launchers
        self._devices = Devices()
        self._directory = directory
        self._guard = Guard(machine, self._note_device)
        self._monitor = monitor
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._next_progress = PROGRESS_INTERVAL
        self._zero = time.monotonic()
        self._began = time.time()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, JournalError):
            self.let_go()
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
        return self.accepting or bool(self._coming)

    def submit(self, work: Work, directory: RunDirectory, adopted: Mapping[str, Adopted] | None = None) -> int:
        """Let a job arrive now, whatever its release; returns the number that the scheduler will know it by.

        Args:
            directory: keeps its records.
            adopted: units of it that run already, by name.
        """
        self._events += self._arrive(_Arrival(work, directory, dict(adopted or {})))
        return self._arrivals_so_far - 1

    def cancel(self, job: int) -> None:
        """Let the scheduler know that somebody gives a job up."""
        self._events.append(Cancelled(job))

    def wake(self) -> None:
        """Make `wait` return, if only with the news that nothing has happened."""
        self._events.append(WokeUp())

    def forget(self, job: int) -> None:
        """Let go of what is kept of a job that has ended."""
        del self._arrived[job]
        self._work_left = {member: left for member, left in self._work_left.items() if member.job != job}

    def watch(self, watched: Watched, ready: Callable[[], None]) -> None:
        """Call `ready` in `wait`, whenever something can be read from `watched`."""
        self._selector.register(watched, selectors.EVENT_READ, ready)

    def unwatch(self, watched: Watched) -> None:
        """Undo `watch`."""
        self._selector.unregister(watched)

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

    def _start(self, allocation: Allocation) -> Running | OSError:
        """Begin an attempt; its end is recorded if it could not be started."""
        member = allocation.member
        work, directory = self._arrived[member.job].work, self._arrived[member.job].directory
        unit = work.units[member.task][member.member]
        attempt = directory.next_attempt(unit.name)
        checkpoint = checkpoint_of(unit, directory.history, attempt)
        folder = directory.checkpoint(unit.name, checkpoint)
        devices = tuple(self._machine.held(allocation.shares))
        ready = max(directory.history.time_of_end((*unit.needs, unit.name)), self._began + work.job.release)
        record = directory.append(
            "start",
            at=self.now,
            unit=unit.name,
            attempt=attempt,
            digest=unit.digest,
            checkpoint=checkpoint,
            resumed=folder.exists(),
            mode=allocation.mode,
            devices=devices,
            free=self._devices.free_since(devices, ready),
            **self._launchers.whereabouts(allocation.shares),
        )
        held = Held(devices, self._machine.visible(allocation.shares))
        stopping = Stopping(unit.request, self._grace_of(unit), self._grace)
        launch = launch_of(work, unit, directory, attempt, folder, held, record, stopping)
        try:
            for output in unit.outputs:
                output.parent.mkdir(parents=True, exist_ok=True)
            process = self._launchers.start(launch, unit, work.inherited, allocation.shares)
        except OSError as error:
            ending = Ending.INTERRUPTED if isinstance(error, NotStartedError) else Ending.FAILED
            verdict = Verdict(ending, f"could not be started: {error}", Cause.EXIT)
            record_end(directory, self.now, unit, attempt, verdict)
            return error
        work_left = self._work_left.get(member, 1.0)
        return Running(directory, unit, attempt, devices, work.folder, folder, process, work_left)

    def lose(self, node: int, processes: Collection[TaskProcess], reason: str) -> None:
        """Enter that a node is gone, and with it tasks that will be started again, at no cost in retries.

        Args:
            processes: those of the tasks. Nothing of them lives any more.
            reason: for people.
        """
        lost = {member: run for member, run in self._running.items() if run.process in processes}
        self._events.append(NodeLost(node, tuple((member, running.work_left) for member, running in lost.items())))
        for member, running in lost.items():
            self._leave(member).process.let_go()
            self._close_attempt(running, None, Verdict(Ending.INTERRUPTED, reason))
            self._events += self._guard.release(running.devices)

    def stop(self, member: Member) -> None:
        if (running := self._running.get(member)) is not None:  # otherwise the news of its end is on the way
            running.stopping = True
            running.process.stop()

    def interrupt(self, number: int) -> None:
        """Make `wait` raise `InterruptedRun`; a second call kills what has not yet stopped. For signal handlers."""
        if self._interrupted is not None:
            self._hurried = True
            self._kill_all()
        elif not self._closed:
            self._interrupted = number
            os.eventfd_write(self._wake, 1)

    def _kill_all(self) -> None:
        for running in list(self._running.values()):
            running.process.kill()

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
                if not self._running and not self.expecting and not self._guard.out and until == math.inf:
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
            asked = "%s: what runs is asked to save its work and stop, within %g s; a second signal kills it"
            _log.warning(asked, signal.Signals(self._interrupted).name, longest)
        for member in self._running:
            self.stop(member)
        if self._hurried:  # somebody has asked twice before this has even begun
            self._kill_all()
        self._selector.unregister(self._wake)
        while self._running:
            self._ends(None, Ending.INTERRUPTED)
        self._shut()

    def let_go(self) -> None:
        """Leave what still runs to itself, and give everything else back."""
        for running in self._running.values():
            running.process.let_go()
        self._running.clear()
        self._shut()

    def _shut(self) -> None:
        self._closed = True
        self._guard.close()
        self._launchers.close()
        self._selector.close()
        os.close(self._wake)

    def _seconds_to_wait(self, until: float) -> float | None:
        waits = [self._guard.seconds_to_next_look, until - self.now, PROGRESS_INTERVAL if self._running else math.inf]
        waits += [arrival.work.job.release - self.now for arrival in self._coming[:1]]
        return None if min(waits) == math.inf else max(0.0, min(waits))

    def _arrivals(self) -> list[Event]:
        arrivals: list[Event] = []
        while self._coming and self._coming[0].work.job.release <= self.now:
            arrivals += self._arrive(self._coming.pop(0))
        return arrivals

    def _arrive(self, arrival: _Arrival) -> list[Event]:
        job_id = self._arrivals_so_far
        self._arrivals_so_far += 1
        self._arrived[job_id] = arrival
        work = arrival.work
        self._launchers.prepare((unit for units in work.units for unit in units), work.folder, work.inherited)
        running = dict(self._take_over(job_id, arrival))
        expected = [Progressed(allocation.member, end) for allocation, end in running.items()]
        return [Arrived(job_id, work.job, tuple(running)), *expected]

    def _take_over(self, job_id: int, arrival: _Arrival) -> Iterator[tuple[Allocation, float]]:
        """The allocations of its members that run already, and when they are expected to end."""
        work, directory = arrival.work, arrival.directory
        for index, units in enumerate(work.units):
            for number, unit in enumerate(units):
                if (adopted := arrival.adopted.pop(unit.name, None)) is None:
                    continue
                member, attempt = Member(job_id, index, number), adopted.attempt
                directory.append("adopt", at=self.now, unit=unit.name, attempt=attempt.number)
                folder = directory.checkpoint(unit.name, attempt.checkpoint)
                process, devices = adopted.process, attempt.devices
                running = Running(directory, unit, attempt.number, devices, work.folder, folder, process, 1.0)
                running.stopping = process.was_asked_to_stop
                self._guard.hold(devices)
                self._enter(member, running, adopted=True)
                left = work.job.tasks[index].modes[adopted.mode].duration - max(0.0, time.time() - attempt.start)
                yield Allocation(member, adopted.mode, adopted.shares), self.now + left

    def _enter(self, member: Member, running: Running, adopted: bool = False) -> None:
        self._running[member] = running
        if self._monitor is not None:
            name, paths = self._name_of(running), running.process.paths
            self._monitor.started(name, running.attempt, paths, running.devices, adopted)
        self._selector.register(running.process, selectors.EVENT_READ, member)

    def _ends(self, timeout: float | None, stopped: Ending = Ending.PREEMPTED) -> list[Event]:
        """The ends within the next `timeout` seconds, up to the first instant that has any."""
        events: list[Event] = []
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, Member):
                if key.data in self._running:  # otherwise it was lost in this instant
                    devices = self._running[key.data].devices
                    events += [self._end(key.data, stopped), *self._guard.release(devices)]
            elif key.data is not None:
                key.data()
        return events

    def _end(self, member: Member, stopped: Ending) -> Event:
        running = self._leave(member)
        verdict, end = running.wait()
        if verdict.ending is Ending.PREEMPTED:
            verdict = Verdict(stopped)
        self._close_attempt(running, end, verdict)
        match verdict:
            case Verdict(Ending.FINISHED):
                return Finished(member)
            case Verdict(Ending.FAILED, reason, Cause() as cause):
                return Failed(member, reason, cause)
        self._work_left[member] = running.left_after(end)
        return Preempted(member, self._work_left[member])

    def _leave(self, member: Member) -> Running:
        """Watch a member no more."""
        running = self._running.pop(member)
        self._selector.unregister(running.process)
        return running

    def _close_attempt(self, running: Running, end: Exit | None, verdict: Verdict) -> None:
        clear(running, end, verdict)
        sampled = Usage() if self._monitor is None else self._monitor.ended(self._name_of(running))
        record_end(running.directory, self.now, running.unit, running.attempt, verdict, end, sampled)
        self._devices.give_back(running.devices, time.time() if end is None else end.time)

    def _name_of(self, running: Running) -> str:
        """What samples call it: its unit's name; of a job that was submitted, with that of the run directory."""
        return ("" if running.directory is self._directory else f"{running.directory.path.name}/") + running.unit.name

    def _note_device(self, device: str, reason: str) -> None:
        """Journal that a device is not handed out, or, without a reason, that it is again."""
        if self._directory is not None:
            self._directory.append("device", at=self.now, device=device, reason=reason)

    def _progress(self) -> list[Event]:
        """New expectations, of tasks that have reported; once a second, however much happens."""
        if self.now < self._next_progress:
            return []
        self._next_progress = self.now + PROGRESS_INTERVAL
        left = {member: seconds for member, run in self._running.items() if (seconds := run.seconds_left()) is not None}
        return [Progressed(member, self.now + seconds) for member, seconds in left.items()]

    def _grace_of(self, unit: Unit) -> float:
        return self._grace if unit.grace is None else unit.grace
