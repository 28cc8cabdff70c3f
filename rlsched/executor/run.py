"""One workflow from start to end on this machine, with any policy."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rlsched.executor.devices import Machine, local_machine
from rlsched.executor.executor import GRACE, Executor, InterruptedRun
from rlsched.executor.journal import JournalError
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.session import Session, take_up
from rlsched.executor.status import RunState, RunStatus, read_status
from rlsched.executor.work import Work, work_of
from rlsched.model import Cluster
from rlsched.schedule import Schedule
from rlsched.scheduler import Observer, Policy, Scheduler
from rlsched.simulator import Simulator
from rlsched.workflow import Workflow, check_feasible, check_sources

_REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class RunResult:
    """A session of a run that has ended.

    Attributes:
        schedule: what ran where and when, in seconds since the session began; a unit that was kept is not in it.
        status: of every unit.
        interrupted_by: number of the signal that ended the session; None: it ended by itself.
    """

    schedule: Schedule
    status: RunStatus
    interrupted_by: int | None = None

    @property
    def nothing_to_do(self) -> bool:
        """True if everything had finished before."""
        return not self.schedule.jobs and self.interrupted_by is None

    @property
    def exit_code(self) -> int:
        """For the command line: 0; 1: a task failed; 128 + the signal's number: interrupted."""
        if self.interrupted_by is not None:
            return 128 + self.interrupted_by
        return 0 if self.status.state is RunState.COMPLETED else 1


def default_run_dir(workflow: Workflow) -> Path:
    """Where a workflow's run is kept unless somebody says otherwise: runs/NAME beside the workflow file."""
    return workflow.folder / "runs" / workflow.name.replace("/", "-")


def run_workflow(
    workflow: Workflow,
    policy: Policy,
    run_dir: Path | None = None,
    *,
    policy_name: str = "",
    slots: int | None = None,
    observe: Observer | None = None,
    grace: float = GRACE,
) -> RunResult:
    """Run what is left to run of a workflow, and wait for it. Tasks that a killed driver has left running are adopted.

    In the main thread, SIGINT, SIGTERM and SIGHUP end the session: tasks are stopped, what they have done is
    recorded, and the same call goes on from there later. A second signal kills them.

    Args:
        run_dir: keeps the records; None: see `default_run_dir`.
        policy_name: for the records.
        slots: see `local_machine`.
        observe: see `Scheduler`.
        grace: seconds that a task has between SIGTERM and SIGKILL.

    Raises:
        ValueError: a source file is missing, a task asks for more than the machine has, the directory is in use or
            damaged, a task still runs on devices that this run may not use. Then nothing has been started.
        JournalError: the journal cannot be written, as on a full disk. Tasks run on, and the same call adopts them.
        StallError: the policy waits for something that cannot happen.
    """
    machine = local_machine(slots)
    check_sources(workflow)
    check_feasible(workflow, machine.cluster)
    directory = RunDirectory(run_dir or default_run_dir(workflow))
    try:
        session = take_up(work_of(workflow), directory, machine)
        session.begin(workflow, policy_name, machine, predict_makespan(session.left, machine.cluster, policy))
        schedule, number = _run(session, machine, policy, observe, grace)
        return RunResult(schedule, read_status(directory.path), number)
    finally:
        directory.close()


def predict_makespan(work: Work | None, cluster: Cluster, policy: Policy) -> float:
    """Seconds that the work takes in simulation, if every estimate is right."""
    if work is None:
        return 0.0
    return Scheduler(Simulator(cluster, [work.job])).run(policy).end


def _run(
    session: Session, machine: Machine, policy: Policy, observe: Observer | None, grace: float
) -> tuple[Schedule, int | None]:
    number, state, reason = None, RunState.INTERRUPTED, ""
    works = [] if session.left is None else [session.left]
    executor = Executor(machine, session.directory, works, grace, session.adopted)
    scheduler = Scheduler(executor, observe)
    try:
        with signals_to(executor), executor:
            scheduler.run(policy)
        failed = any(record.failed for record in scheduler.schedule.jobs.values())
        state = RunState.FAILED if failed else RunState.COMPLETED
    except InterruptedRun as request:
        number, reason = request.signal, str(request)
    except JournalError:
        raise
    except BaseException as error:
        session.close(state, f"{type(error).__name__}: {error}", executor.now)
        raise
    session.close(state, reason, executor.now)
    return scheduler.schedule, number


@contextmanager
def signals_to(executor: Executor) -> Iterator[None]:
    """Requests to end go to the executor; those that the parent had us ignore (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        executor.interrupt(number)

    before = {n: signal.getsignal(n) for n in _REQUESTS if signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
