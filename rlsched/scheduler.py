"""The loop between a policy and a backend, written once for simulation and for real machines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlsched.active import Run
from rlsched.collection import collecting_seldom
from rlsched.model import Allocation, Cause, Cluster, Job, Member, Preemption, WakeUp
from rlsched.schedule import JobRecord, Outcome, Schedule, TaskRun
from rlsched.state import State

Decision = Allocation | Preemption | WakeUp


class Policy(Protocol):
    """Answers a state with decisions. Without an allocation or a preemption in them: wait for the next event.

    It is asked while something is ready, or something that runs may be preempted.
    """

    def __call__(self, state: State, /) -> Sequence[Decision]: ...


@dataclass(frozen=True, slots=True)
class Arrived:
    """A job has been submitted; it is `job_id` from now on. Some of its members may be `running` already."""

    job_id: int
    job: Job
    running: tuple[Allocation, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A member has succeeded."""

    member: Member


@dataclass(frozen=True, slots=True)
class Failed:
    """A member has failed by itself; `reason` is for people."""

    member: Member
    reason: str
    cause: Cause = Cause.EXIT


@dataclass(frozen=True, slots=True)
class Preempted:
    """A member that was asked to stop has let go of its devices, with `work_left` in (0, 1] of its work to do."""

    member: Member
    work_left: float


@dataclass(frozen=True, slots=True)
class Progressed:
    """A running member expects to end at `expected_end`, seconds."""

    member: Member
    expected_end: float


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node is gone, and what ran there; each of those members has `work_left` (by member) of its work to do."""

    node: int
    work_left: tuple[tuple[Member, float], ...]


@dataclass(frozen=True, slots=True)
class NodeRestored:
    """A lost node is back, its devices cold."""

    node: int


@dataclass(frozen=True, slots=True)
class DevicesLost:
    """GPUs of a node are out of service: sick, or in use by others. What holds them runs on.

    Except for the members in `work_left`, which have ended with them, or could not be started there; each has that part
    of its work to do.
    """

    node: int
    gpus: tuple[int, ...]
    work_left: tuple[tuple[Member, float], ...] = ()


@dataclass(frozen=True, slots=True)
class DevicesRestored:
    """Lost GPUs of a node may be handed out again."""

    node: int
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody gives a job up: nothing of it starts any more, what runs is asked to stop, and it counts as failed."""

    job_id: int


@dataclass(frozen=True, slots=True)
class WokeUp:
    """The time has come at which the policy wanted to be asked again."""


Event = (
    Arrived
    | Finished
    | Failed
    | Preempted
    | Progressed
    | NodeLost
    | NodeRestored
    | DevicesLost
    | DevicesRestored
    | Cancelled
    | WokeUp
)


class Backend(Protocol):
    """Where tasks run: virtual time or real machines."""

    cluster: Cluster

    @property
    def now(self) -> float:
        """Seconds; never runs backwards."""

    @property
    def expecting(self) -> bool:
        """True while more jobs may arrive."""

    def launch(self, allocation: Allocation) -> None:
        """Start a member on the devices; they are free, the scheduler has seen to that."""

    def stop(self, member: Member) -> None:
        """Ask a running member to stop at a checkpoint; `Preempted` (or `Finished`) follows."""

    def wait(self, until: float = math.inf) -> list[Event]:
        """Block until something happens; all events of that instant. Empty: nothing will ever happen.

        If nothing happens until a time, seconds, that is the event (`WokeUp`).
        """


class StallError(RuntimeError):
    """Nothing runs, nothing will arrive, and the policy waits although jobs are unfinished."""


Observer = Callable[[float, Event | Decision], None]


class Scheduler:
    """Owns the state; applies decisions and advances to the next event.

    Tasks that take neither GPUs nor custom resources are started by the scheduler itself, first come, first served:
    policies share out what is scarce.

    Args:
        backend: where tasks run.
        observe: called with the time and each event and decision, in order.
        state: to go on from, which is the backend's too; default: nothing has arrived yet.

    Attributes:
        paused: nothing is started or preempted any more, and what runs goes on.
    """

    def __init__(self, backend: Backend, observe: Observer | None = None, state: State | None = None) -> None:
        self.backend = backend
        self.state = State(backend.cluster, backend.now) if state is None else state
        records = {job.id: JobRecord(job.id, job.job, job.first_start) for job in self.state.jobs.values()}
        self.schedule = Schedule(backend.cluster, records, end=backend.now)
        self.paused = False
        self._observe = observe
        self._wake_up = math.inf

    @property
    def finished(self) -> bool:
        """True if no job is in the system and none will arrive."""
        return not self.state.jobs and not self.backend.expecting

    def run(self, policy: Policy) -> Schedule:
        """Schedule with the policy until every job has ended.

        Raises:
            StallError: the policy waits for something that cannot happen.
            ValueError: a decision is infeasible.
        """
        with collecting_seldom():
            while not self.finished:
                self.step(policy)
        return self.schedule

    def step(self, policy: Policy) -> list[Event]:
        """Carry out what the policy decides now; if it waits, do so, and return what happened.

        Raises:
            StallError: the policy waits for something that cannot happen.
            ValueError: a decision is infeasible.
        """
        state = self.state
        if not self.paused and (state.ready or state.preemptible):
            decisions = policy(state)
            if decisions and self.apply(decisions):
                return []
        return self.advance()

    def apply(self, decisions: Sequence[Decision]) -> bool:
        """Carry decisions out, in order; True if one of them was a start or a stop.

        Raises:
            ValueError: a decision is infeasible; names what is over-subscribed. Decisions before it stand.
        """
        acted = False
        for decision in decisions:
            if isinstance(decision, Allocation):
                acted = True
                self.state.start(decision)
                self._note(decision)
                self.backend.launch(decision)
            elif isinstance(decision, WakeUp):
                self._wake_up = decision.at
                self._note(decision)
            else:
                acted = True
                run = self.state.running.get(decision.member)
                if run is None:
                    raise ValueError(f"{decision.member} does not run and cannot be preempted")
                if not run.task.task.preemptible:
                    raise ValueError(f"{self.state.describe(decision.member)} is not preemptible")
                if not run.stopping:
                    self._note(decision)
                    self._stop(decision.member, run)
        return acted

    def advance(self) -> list[Event]:
        """Wait for the next event and enter what happened.

        Raises:
            StallError: nothing can happen any more although jobs are unfinished.
        """
        state = self.state
        if not state.running and not self.backend.expecting and state.pool.whole:
            waiting = ", ".join(f"{t.job.job.name}/{t.task.name}" for t in list(state.ready.values())[:5])
            raise StallError(
                f"nothing runs and nothing will arrive, but the policy starts none of: {waiting or 'nothing'}"
            )
        events = self.backend.wait(self._wake_up)
        if not events:
            raise StallError("nothing will ever happen again, but jobs are unfinished")
        state.now = self.schedule.end = now = self.backend.now
        if now >= self._wake_up:
            self._wake_up = math.inf
        for event in events:
            self._note(event)
            self._enter(event)
        if state.ready_cpu:
            self._start_cpu_tasks()
        return events

    def _enter(self, event: Event) -> None:
        state = self.state
        match event:
            case Finished(member):
                self._ended(member, state.finish(member), Outcome.FINISHED)
            case Arrived(job_id, job, running):
                state.arrive(job_id, job)
                self.schedule.jobs[job_id] = JobRecord(job_id, job)
                for allocation in running:
                    state.start(allocation)
            case Progressed(member, expected_end):
                if run := state.running.get(member):
                    run.expected_end = max(expected_end, state.now)
            case Failed(member, _, cause):
                self._ended(member, state.fail(member, cause), Outcome.FAILED)
            case Preempted(member, work_left):
                self._ended(member, state.interrupt(member, work_left), Outcome.PREEMPTED)
            case NodeLost(node, work_left):
                state.pool.lose(node)
                for member, left in work_left:
                    self._ended(member, state.interrupt(member, left), Outcome.LOST)
            case NodeRestored(node):
                state.pool.restore(node)
            case DevicesLost(node, gpus, work_left):
                state.pool.withdraw(node, gpus)
                for member, left in work_left:
                    self._ended(member, state.interrupt(member, left), Outcome.LOST)
            case DevicesRestored(node, gpus):
                state.pool.reinstate(node, gpus)
            case Cancelled(job_id) if job_id in state.jobs:
                for run in state.cancel(job_id):
                    self._stop(run.allocation.member, run)
                self._drop_if_ended(job_id)

    def _stop(self, member: Member, run: Run) -> None:
        if not run.stopping:
            run.stopping = True
            self.state.preemptible -= run.task.task.preemptible
            self.backend.stop(member)

    def _ended(self, member: Member, run: Run, outcome: Outcome) -> None:
        now = self.state.now
        allocation = run.allocation
        self.schedule.runs.append(
            TaskRun(member, allocation.mode, allocation.shares, run.ready_at, run.start, now, outcome)
        )
        self.schedule.jobs[member.job].first_start = run.task.job.first_start
        self._drop_if_ended(member.job)

    def _drop_if_ended(self, job_id: int) -> None:
        if ended := self.state.drop_if_ended(job_id):
            record = self.schedule.jobs[job_id]
            record.failed = ended.failed
            record.completion = None if ended.failed else self.state.now

    def _start_cpu_tasks(self) -> None:
        while self.state.ready_cpu and not self.paused:
            task = next(iter(self.state.ready_cpu.values()))
            fitting = (self.state.allocate(task, mode) for mode in range(len(task.task.modes)))
            allocation = next((a for a in fitting if a is not None), None)
            if allocation is None:
                return
            self.apply([allocation])

    def _note(self, what: Event | Decision) -> None:
        if self._observe is not None:
            self._observe(self.state.now, what)
