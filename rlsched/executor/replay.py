"""Re-enacts a real run in the simulator, from its journal alone, and says how far the two are apart."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlsched.active import Status
from rlsched.executor.devices import Machine
from rlsched.executor.history import Ending
from rlsched.executor.journal import Record, fold
from rlsched.executor.recording import cluster_of_record, job_of_record
from rlsched.executor.rundir import JOURNAL
from rlsched.executor.status import RunState
from rlsched.executor.work import unit_name
from rlsched.model import Allocation, Cause, Cluster, Job, Member
from rlsched.schedule import Schedule
from rlsched.scheduler import Decision, Failed, Finished, Policy, Scheduler
from rlsched.simulator import HostCosts, Simulator
from rlsched.state import State


@dataclass(frozen=True, slots=True)
class Comparison:
    """A simulation beside the run: seconds, and simulated / real - 1."""

    makespan: float
    mean_jct: float
    makespan_error: float
    mean_jct_error: float


@dataclass(frozen=True, slots=True)
class Replay:
    """A run, and what the simulator makes of it.

    Attributes:
        makespan, mean_jct: of the run, seconds.
        decisions: "policy": the same policy has decided anew; "recorded": in the order and the modes of the run.
        estimates: with what was known before the run.
        measured: with what each task has taken; what is left is the error of the simulator itself.
    """

    run_dir: Path
    workflow: str
    policy: str
    decisions: str
    tasks: int
    makespan: float
    mean_jct: float
    estimates: Comparison
    measured: Comparison


@dataclass(frozen=True)
class RecordedRun:
    """The last session of a run in which something ran.

    Attributes:
        run_dir: of the run.
        begin: its first record.
        starts: its start records, in order.
        ends: its end records, in order.
    """

    run_dir: Path
    begin: Record
    starts: Sequence[Record]
    ends: Sequence[Record]

    @property
    def machine(self) -> Machine:
        nodes = self.begin["nodes"]
        return Machine(cluster_of_record(nodes), tuple(tuple(node["devices"]) for node in nodes))

    @property
    def job(self) -> Job:
        return job_of_record(self.begin["job"])

    @property
    def makespan(self) -> float:
        """Seconds from the session's start to its last end."""
        return max(float(end["at"]) for end in self.ends)


def read_recorded(run_dir: Path) -> RecordedRun:
    """The run in a directory.

    Raises:
        ValueError: there is none that can be played again; says why.
    """
    sessions: list[dict[str, Any]] = []

    def enter(record: Record) -> None:
        if record["record"] == "begin":
            sessions.append({"begin": record, "start": [], "end": [], "adopt": [], "close": []})
        elif sessions and record["record"] in sessions[-1]:
            sessions[-1][record["record"]].append(record)

    try:
        fold(run_dir / JOURNAL, enter)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{run_dir} is not a run directory, it has no {JOURNAL}") from None
    played = [session for session in sessions if session["start"] or session["adopt"]]
    if not played:
        raise ValueError(f"{run_dir}: expected a run in which a task was started, found none")
    last = played[-1]
    if last["begin"].get("job") is None:
        raise ValueError(f"{run_dir}: the run was recorded by a version that did not keep its job")
    if last["adopt"]:
        raise ValueError(f"{run_dir}: the last driver has adopted tasks, half a run cannot be compared")
    state = last["close"][-1]["state"] if last["close"] else "not closed"
    if state != RunState.COMPLETED:
        raise ValueError(f"{run_dir}: expected a run that has completed, found one that is {state}")
    return RecordedRun(run_dir, last["begin"], last["start"], last["end"])


def replay(run_dir: Path, policy: Policy | None) -> Replay:
    """Play the last run in a directory again; see `reenact`.

    Raises:
        ValueError: the run cannot be played again.
    """
    return reenact(read_recorded(run_dir), policy)


def reenact(run: RecordedRun, policy: Policy | None) -> Replay:
    """Play a run again, on virtual time.

    Args:
        policy: decides as it did; a new one. None: the recorded decisions are taken.
    """
    cluster, job = run.machine.cluster, run.job
    costs = run.begin["costs"]
    before = Simulator(cluster, [job], costs=HostCosts(costs["launch_overhead"], tuple(costs["slowdown"])))
    after = Reenactment(cluster, job, run)

    def decide(failures: bool) -> Policy:
        return _Recorded(run, job, failures) if policy is None else copy.deepcopy(policy)

    real = run.makespan
    return Replay(
        run_dir=run.run_dir,
        workflow=run.begin["workflow"],
        policy=run.begin["policy"],
        decisions="recorded" if policy is None else "policy",
        tasks=len(run.begin["units"]) - len(run.begin["kept"]),
        makespan=real,
        mean_jct=real - job.release,
        estimates=_compare(Scheduler(before).run(decide(failures=False)), real, job),
        measured=_compare(Scheduler(after).run(decide(failures=True)), real, job),
    )


def _compare(schedule: Schedule, real: float, job: Job) -> Comparison:
    metrics = schedule.metrics()
    makespan, jct = metrics["makespan"], metrics["mean_jct"]
    return Comparison(makespan, jct, makespan / (real - job.release) - 1, jct / (real - job.release) - 1)


class Reenactment(Simulator):
    """A simulation in which each member takes, and fails, as it did in a run.

    A member that the policy starts in another mode takes as many times the estimate of that as it did in its own.
    """

    def __init__(self, cluster: Cluster, job: Job, run: RecordedRun) -> None:
        bare = [replace(task, setup_time=0.0) for task in job.tasks]  # it is in what was measured
        super().__init__(cluster, [replace(job, tasks=tuple(bare))])
        members = {unit: member for member, unit in _units(job).items()}
        self._measured: dict[Member, float] = {}
        self._failures: dict[Member, deque[float]] = {}
        starts = {(start["unit"], start["attempt"]): start for start in run.starts}
        held: dict[Member, float] = {}
        for end in run.ends:
            start = starts[end["unit"], end["attempt"]]
            member = members[end["unit"]]
            seconds = max(float(end["at"]) - float(start["at"]), 1e-6)
            if end["ending"] == Ending.FAILED:
                self._failures.setdefault(member, deque()).append(seconds)
                continue
            held[member] = held.get(member, 0.0) + seconds  # of a member that was preempted, all stays together
            mode = job.tasks[member.task].modes[start["mode"]]
            self._measured[member] = held[member] / mode.duration

    def _fate(self, run: Any) -> tuple[float, Finished | Failed]:
        member = run.allocation.member
        if failures := self._failures.get(member):
            return failures.popleft(), Failed(member, "as recorded", Cause.EXIT)
        run.work *= self._measured.get(member, 1.0)
        return run.overhead + run.work, Finished(member)


class _Recorded:
    """Starts what the run has started, in its order and modes; where, is left to best fit.

    Args:
        failures: members fail as they did, and are started again after that.
    """

    def __init__(self, run: RecordedRun, job: Job, failures: bool) -> None:
        members = {unit: member for member, unit in _units(job).items()}
        failed = {(end["unit"], end["attempt"]) for end in run.ends if end["ending"] == Ending.FAILED}
        seen: set[str] = set()
        self._left: deque[tuple[Member, int]] = deque()
        for start in run.starts:
            unit, member = start["unit"], members[start["unit"]]
            again = failures and (unit, start["attempt"] - 1) in failed
            if (unit not in seen or again) and not job.tasks[member.task].cpu_only:  # those the scheduler starts itself
                self._left.append((member, int(start["mode"])))
            seen.add(unit)

    def __call__(self, state: State) -> Sequence[Decision]:
        if not self._left:
            return ()
        member, mode = self._left[0]
        task = state.jobs[member.job].tasks[member.task]
        if task.status is not Status.READY or member.member not in task.waiting:
            return ()
        allocation = state.allocate(task, mode)
        if allocation is None:
            return ()
        self._left.popleft()
        return [Allocation(member, mode, allocation.shares)]


def _units(job: Job) -> Mapping[Member, str]:
    """The name of each member's unit."""
    return {
        Member(0, index, number): unit_name(task, number)
        for index, task in enumerate(job.tasks)
        for number in range(task.array)
    }
