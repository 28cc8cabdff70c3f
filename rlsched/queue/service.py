"""The scheduler that stays up: one state, one policy, one executor, and jobs that keep arriving."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from rlsched.executor.devices import Machine
from rlsched.executor.executor import GRACE, Executor
from rlsched.executor.history import Ending, History
from rlsched.executor.interruption import InterruptedRun
from rlsched.executor.monitor import Monitor
from rlsched.executor.run import signals_to
from rlsched.executor.rundir import FORKSERVER_LOG, RunDirectory
from rlsched.executor.session import Session, carry_on
from rlsched.executor.status import RunState
from rlsched.executor.work import Work, work_of
from rlsched.fitting import misfit
from rlsched.pool import Pool
from rlsched.queue.files import JobFiles
from rlsched.queue.protocol import Refusal
from rlsched.queue.records import Entry, JobState, QueueDirectory
from rlsched.queue.submission import Submission, digest_of
from rlsched.scheduler import Observer, Policy, Scheduler
from rlsched.workflow import Workflow, check_feasible, check_sources


class User(NamedTuple):
    """Who asks for something."""

    uid: int
    name: str


_RUN_STATES = {JobState.COMPLETED: RunState.COMPLETED, JobState.FAILED: RunState.FAILED}


class Door(Protocol):
    """Where clients come in, a `Listener`: `serve` answers them whenever something can be read from it."""

    def fileno(self) -> int: ...

    def serve(self) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Active:
    """A job that has not ended. It has no `number` for the scheduler if it is held, which is because of `held`."""

    entry: Entry
    workflow: Workflow
    session: Session
    files: JobFiles
    began: float
    number: int | None = None
    held: str = ""

    @property
    def done(self) -> int:
        history = self.session.directory.history
        return sum(attempt.ending is Ending.FINISHED for attempt in history.attempts.values())


class Service:
    """Runs the jobs of a queue. One thread uses it.

    When it is made, jobs from before are taken up where they were: tasks that run are adopted, and nothing that has
    ended runs again.

    Args:
        directory: keeps the records.
        policy_name: for the records.
        observe: see `Scheduler`.
        ended: called with each job that has ended, and the number that `observe` knows it by; None: it never arrived.
        grace: seconds that a task has between SIGTERM and SIGKILL.
        monitor: is told what runs.

    Raises:
        ValueError: a job's records are damaged, or a task runs on devices that may not be used any more; nothing has
            been started or stopped.
        JournalError: something could not be recorded. Tasks run on.
    """

    def __init__(
        self,
        directory: QueueDirectory,
        machine: Machine,
        policy: Policy,
        policy_name: str,
        observe: Observer | None = None,
        ended: Callable[[Entry, int | None], None] = lambda entry, number: None,
        grace: float = GRACE,
        monitor: Monitor | None = None,
    ) -> None:
        self._directory = directory
        self._machine = machine
        self._policy = policy
        self._policy_name = policy_name
        self._active: dict[int, _Active] = {}
        self._ended = ended
        self._stop = False
        self.executor = Executor(machine, grace=grace, log=directory.path / FORKSERVER_LOG, monitor=monitor)
        self.executor.accepting = True
        self.scheduler = Scheduler(self.executor, observe)
        _allow_many_files()
        try:
            self._recover()
        except BaseException:
            self._let_go()
            raise

    @property
    def draining(self) -> bool:
        """True once nothing is started any more."""
        return self.scheduler.paused

    @property
    def journal_errors(self) -> int:
        """How often the journal of a job in the queue could not be written."""
        return sum(active.session.directory.journal_errors for active in list(self._active.values()))

    @property
    def running(self) -> int:
        """Number of tasks that run."""
        return len(self.scheduler.state.running)

    def run(self, door: Door) -> None:
        """Run jobs until somebody drains the queue.

        Args:
            door: who comes in there is served from now on; it is closed at the end.

        Raises:
            InterruptedRun: a signal asked it to end; tasks were stopped, and the next scheduler goes on from there.
            JournalError: something could not be recorded. Tasks run on, and the next scheduler adopts them.
        """
        self.executor.watch(door, door.serve)
        try:
            with signals_to(self.executor):
                try:
                    while not (self.draining and (self._stop or not self.running)):
                        self.scheduler.step(self._policy)
                        self._close_ended()
                    self._leave("drained", door)
                except InterruptedRun as request:
                    self._leave(str(request), door)  # in reach of a second signal
                    raise
        except InterruptedRun:
            raise
        except BaseException:
            self._let_go()
            raise
        finally:
            door.close()

    def submit(
        self, key: str, user: User, workflow: Workflow, priority: float, environment: Mapping[str, str] | None
    ) -> Entry:
        """Take a job in; once this returns it will run, come what may. A second time with the same key: the first job.

        Args:
            key: see `protocol.Submit`.
            workflow: with the name, the priorities and the deadline (seconds from now) that it is to have.
            priority: what its tasks have on top of their own.
            environment: variables that its tasks inherit; None: those of the scheduler.

        Raises:
            Refusal: the queue drains, the key was used for something else, another job touches the same files.
            ValueError: it cannot run here.
            OSError: it cannot be written. The job is not taken in.
        """
        digest = digest_of(workflow, priority)
        if known := self._directory.submitted(user.uid, key):
            if known.digest != digest:
                raise Refusal(f"something else was submitted as {key!r} before, it is job {known.id}")
            return known
        if self.draining:
            raise Refusal("the scheduler drains and takes no jobs any more: submit again when another one is up")
        check_feasible(workflow, self._machine.cluster)
        work = replace(work_of(workflow, stamped=False), environment=environment)
        files = JobFiles(workflow, work)
        for active in self._active.values():
            if path := files.clash(active.files):
                raise Refusal(
                    f"job {active.entry.id} ({active.entry.name}) uses '{path}' as well, and one of the two writes it: "
                    "wait until that job has ended, or cancel it"
                )
        check_sources(workflow)  # after that: a running job's outputs are on their way
        number = self._directory.next_id()
        run_directory = RunDirectory(self._directory.run_dir(number))
        try:
            session = carry_on(work, run_directory, self._machine, Pool(self._machine.cluster), False)
            session.begin(workflow, self._policy_name, self._machine, None)
            about = Submission(number, key, digest, *user, priority, time.time(), workflow, environment)
            entry = self._directory.add(about)
        except BaseException:
            run_directory.close()
            raise
        self._enter(_Active(entry, workflow, session, files, self.executor.now))
        return entry

    def cancel(self, entry: Entry, user: str) -> None:
        """Give a job up: what runs of it is stopped, and nothing more is started.

        Raises:
            Refusal: it has ended.
            JournalError: it could not be recorded.
        """
        if entry.end is not None:
            raise Refusal(f"job {entry.id} ({entry.name}) has ended, it is {entry.end}")
        if entry.cancelled_by:
            return
        self._directory.cancel(entry.id, user)
        active = self._active[entry.id]
        if active.number is None:
            self._end(active)
        else:
            self.executor.cancel(active.number)

    def drain(self, stop: bool) -> None:
        """Start nothing any more, and end `run` when nothing runs; or at once, with what runs stopped."""
        self.scheduler.paused = True
        self._stop = self._stop or stop
        self.executor.wake()

    def state_of(self, entry: Entry) -> JobState:
        """Where a job stands."""
        if entry.end is not None:
            return entry.end
        active = self._active[entry.id]
        if entry.cancelled_by:
            return JobState.CANCELLING
        if active.number is None:
            return JobState.HELD
        return JobState.WAITING if active.session.directory.history.first_start is None else JobState.RUNNING

    def progress_of(self, entry: Entry) -> tuple[int, int, float | None, str]:
        """Of a job: how many tasks have finished, how many run, when the first started, why it failed or is held."""
        active = self._active.get(entry.id)
        if active is None:
            return entry.done, 0, entry.started, entry.reason
        running = sum(member.job == active.number for member in self.scheduler.state.running)
        return active.done, running, active.session.directory.history.first_start, active.held

    def entry_of(self, job: str) -> Entry:
        """The job of that number or name; ValueError: there is none, or several."""
        return self._directory.find(job)

    def entries(self, keep: float) -> Iterator[Entry]:
        """The jobs that have not ended, or less than `keep` seconds ago."""
        return self._directory.listed(keep)

    def history_of(self, entry: Entry) -> History | None:
        """What has become of a job's tasks; None once it has ended: its run directory tells."""
        active = self._active.get(entry.id)
        return None if active is None else active.session.directory.history

    def run_dir_of(self, entry: Entry) -> Path:
        """The folder of a job's run."""
        return self._directory.run_dir(entry.id)

    def _recover(self) -> None:
        pool = Pool(self._machine.cluster)
        found: list[_Active] = []
        try:
            for entry in [entry for entry in self._directory.entries.values() if entry.end is None]:
                found.append(self._reopen(entry, pool))
        except BaseException:
            for active in found:
                active.session.directory.close()
            raise
        self._directory.begin(self._policy_name)
        for active in found:
            active.session.begin(active.workflow, self._policy_name, self._machine, None)
            self._enter(active)

    def _reopen(self, entry: Entry, pool: Pool) -> _Active:
        about = self._directory.submission(entry.id)
        work = replace(work_of(about.workflow, stamped=False), environment=about.environment)
        run_directory = RunDirectory(self._directory.run_dir(entry.id))
        try:
            session = carry_on(work, run_directory, self._machine, pool, bool(entry.cancelled_by))
            active = _Active(entry, about.workflow, session, JobFiles(about.workflow, work), self.executor.now)
            if session.left and (lack := misfit(session.left.job, Pool(self._machine.cluster))):
                active.held = f"task {lack[0]!r}: {lack[1]}, which this machine has not (any more)"
                if session.adopted:
                    raise ValueError(f"job {entry.id} ({entry.name}) has tasks that run, but {active.held}")
        except ValueError as error:
            run_directory.close()
            raise ValueError(f"{error} (job {entry.id}, {entry.name!r})") from None
        except BaseException:
            run_directory.close()
            raise
        return active

    def _enter(self, active: _Active) -> None:
        """Let a job arrive, unless it has ended, or cannot go on here."""
        self._active[active.entry.id] = active
        left = active.session.left
        if left is None:
            self._end(active)
        elif not active.held:
            dated = self._dated(left, active)
            active.number = self.executor.submit(dated, active.session.directory, active.session.adopted)
            if active.entry.cancelled_by:
                self.executor.cancel(active.number)

    def _dated(self, work: Work, active: _Active) -> Work:
        """The work with its release and deadline on this executor's clock."""
        release = self.executor.now - max(0.0, time.time() - active.entry.submitted)
        deadline = active.workflow.job.deadline
        return replace(
            work, job=replace(work.job, release=release, deadline=None if deadline is None else release + deadline)
        )

    def _close_ended(self) -> None:
        schedule, running = self.scheduler.schedule, self.scheduler.state.jobs
        ended = {number for number in schedule.jobs if number not in running}
        if not ended:
            return
        for active in [active for active in self._active.values() if active.number in ended]:
            self._end(active)
        for number in ended:  # what has ended is in the job's own records: a scheduler may be up for years
            del schedule.jobs[number]
            self.executor.forget(number)
        schedule.runs[:] = [run for run in schedule.runs if run.member.job not in ended]

    def _end(self, active: _Active) -> None:
        entry, session = active.entry, active.session
        state, reason = JobState.FAILED, _why_failed(session)
        if active.done == entry.total:
            state, reason = JobState.COMPLETED, ""
        elif entry.cancelled_by:
            state, reason = JobState.CANCELLED, f"cancelled by {entry.cancelled_by}"
        session.close(_RUN_STATES.get(state, RunState.INTERRUPTED), reason, self.executor.now - active.began)
        self._directory.end(entry.id, state, session.directory.history.first_start, active.done, reason)
        session.directory.close()
        del self._active[entry.id]
        self._ended(entry, active.number)

    def _leave(self, reason: str, door: Door) -> None:
        """Let nobody in any more, stop what runs, and record that the jobs are to go on later."""
        self.executor.unwatch(door)
        door.close()
        self.executor.close()
        for active in self._active.values():
            active.session.close(RunState.INTERRUPTED, reason, self.executor.now - active.began)
            active.session.directory.close()
        self._active.clear()

    def _let_go(self) -> None:
        """Leave what runs to itself: the next scheduler adopts it."""
        self.executor.let_go()
        for active in self._active.values():
            active.session.directory.close()
        self._active.clear()


def _why_failed(session: Session) -> str:
    attempts = session.directory.history.attempts
    units = (unit.name for units in session.whole.units for unit in units)
    failed = [name for name in units if name in attempts and attempts[name].ending is Ending.FAILED]
    if not failed:
        return ""
    more = f" (and {len(failed) - 1} more)" if failed[1:] else ""
    return f"{failed[0]}: {attempts[failed[0]].reason}{more}"


def _allow_many_files() -> None:
    """Every job that has not ended holds two files open, every task one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
