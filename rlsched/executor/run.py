"""One workflow from start to end on this machine, with any policy."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rlsched.collection import collecting_seldom
from rlsched.executor.devices import Machine, local_machine
from rlsched.executor.executor import GRACE, Executor
from rlsched.executor.experience import NOTHING, learn, recall
from rlsched.executor.interruption import InterruptedRun
from rlsched.executor.journal import JournalError
from rlsched.executor.monitor import SAMPLE_INTERVAL, Monitor
from rlsched.executor.prediction import predict
from rlsched.executor.recording import job_as_record
from rlsched.executor.rundir import FORKSERVER_LOG, JOURNAL, RunDirectory
from rlsched.executor.session import Session, take_up
from rlsched.executor.site import Connect, Here, Site
from rlsched.executor.status import RunState, RunStatus, status_of
from rlsched.executor.work import work_of
from rlsched.schedule import Schedule
from rlsched.scheduler import Observer, Policy, Scheduler
from rlsched.workflow import Workflow, check_feasible, check_sources

if TYPE_CHECKING:
    from rlsched.executor.metrics import Metrics, MetricsServer  # only where they are asked for: prometheus-client

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


@collecting_seldom()
def run_workflow(
    workflow: Workflow,
    policy: Policy,
    run_dir: Path | None = None,
    *,
    policy_name: str = "",
    slots: int | None = None,
    observe: Observer | None = None,
    grace: float = GRACE,
    history: bool = True,
    sample_interval: float = SAMPLE_INTERVAL,
    metrics: MetricsServer | None = None,
    connect: Connect | None = None,
    lost: Collection[str] = (),
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
        history: plan with what earlier runs took instead of the file's hints, see `experience`.
        sample_interval: seconds between two samples of devices and tasks; 0: take none.
        metrics: shows how it goes to Prometheus.
        connect: gets at the machines to run on; None: this one. `slots` and `lost` are its business then.
        lost: names of other machines on which an earlier session had tasks, and which are gone for good.

    Raises:
        ValueError: a source file is missing, a task asks for more than the machine has, the directory is in use or
            damaged, a task still runs on devices that this run may not use. Then nothing has been started.
        JournalError: the journal cannot be written, as on a full disk. Tasks run on, and the same call adopts them.
        StallError: the policy waits for something that cannot happen.
    """
    check_sources(workflow)
    connect = connect or _here(workflow, slots, lost)
    directory = RunDirectory(run_dir or default_run_dir(workflow))
    try:
        with closing(connect(directory, workflow.folder)) as site:
            machine = site.machine
            check_feasible(workflow, machine.cluster)
            known = recall(workflow) if history else NOTHING
            # memory that was not counted when a task started must not keep it from being adopted
            undisturbed = not directory.history.open_attempts()
            work, learned = known.applied_to(work_of(workflow), machine.cluster, memory=undisturbed)
            session = take_up(work, directory, machine, site.find)
            job = None if session.left is None else session.left.job
            costs = known.calibration.costs(machine.cluster)
            predicted = 0.0 if job is None else predict([job], machine.cluster, policy, costs).end
            session.begin(
                workflow,
                policy_name,
                machine,
                predicted,
                learned=sorted(learned),
                job=job and job_as_record(job),
                costs={"launch_overhead": costs.launch_overhead, "slowdown": costs.slowdown},
            )
            monitor = Monitor(directory.path, machine, sample_interval) if job is not None and sample_interval else None
            with closing(monitor) if monitor is not None else nullcontext():
                schedule, number = _run(session, site, policy, observe, grace, monitor, metrics)
        if schedule.runs:
            learn(workflow, directory.path / JOURNAL, machine.cluster)
        return RunResult(schedule, status_of(directory.path, directory.history, running=True), number)
    finally:
        directory.close()


def _here(workflow: Workflow, slots: int | None, lost: Collection[str]) -> Connect:
    """This machine, which is there to be asked before a directory is."""
    machine = local_machine(slots)
    check_feasible(workflow, machine.cluster)
    return lambda directory, folder: Here(machine, lost, directory.path / FORKSERVER_LOG)


def _run(
    session: Session,
    site: Site,
    policy: Policy,
    observe: Observer | None,
    grace: float,
    monitor: Monitor | None,
    metrics: MetricsServer | None,
) -> tuple[Schedule, int | None]:
    number, state, reason = None, RunState.INTERRUPTED, ""
    works = [] if session.left is None else [session.left]
    executor = Executor(
        site.machine, session.directory, works, grace, session.adopted, monitor=monitor, launchers=site.launchers
    )
    site.attach(executor)
    shown = None if metrics is None else _metrics(metrics, site.machine, executor, monitor, session.directory)
    scheduler = Scheduler(executor, observe if shown is None else shown.beside(observe))
    if shown is not None:
        shown.watch(scheduler)
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


def _metrics(
    server: MetricsServer, machine: Machine, executor: Executor, monitor: Monitor | None, directory: RunDirectory
) -> Metrics:
    from rlsched.executor.metrics import Metrics

    return Metrics(
        server.registry,
        machine,
        lambda: executor.out_of_service,
        lambda: None if monitor is None else monitor.latest,
        lambda: directory.journal_errors,
    )


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
