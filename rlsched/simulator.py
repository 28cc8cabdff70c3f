"""Simulator: a backend in virtual time, on SimPy.

SimPy is used as timeouts with callbacks: one process a task would cost several times as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import simpy

from rlsched.active import run_time
from rlsched.contention import Contention
from rlsched.model import Allocation, Cluster, Job, Member, Share
from rlsched.scheduler import (
    Arrived,
    DevicesLost,
    DevicesRestored,
    Event,
    Failed,
    Finished,
    NodeLost,
    NodeRestored,
    Preempted,
    WokeUp,
)
from rlsched.state import State

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How reality departs from the estimates.

    Attributes:
        duration_noise: sigma of the log-normal factor (mean 1) between estimated and true duration of a member.
        failures_per_hour: rate at which a running member fails (exponential).
        node_losses_per_hour: rate at which each node is lost (exponential).
        device_losses_per_hour: rate at which each GPU is lost, and what runs on it (exponential).
        repair_time: seconds until a lost node or GPU is back.

    Raises:
        ValueError: a negative value.
    """

    duration_noise: float = 0.0
    failures_per_hour: float = 0.0
    node_losses_per_hour: float = 0.0
    device_losses_per_hour: float = 0.0
    repair_time: float = HOUR

    def __post_init__(self) -> None:
        rates = ("duration_noise", "failures_per_hour", "node_losses_per_hour", "device_losses_per_hour", "repair_time")
        for name in rates:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")


@dataclass(frozen=True, slots=True)
class HostCosts:
    """What running tasks on one host costs beyond their estimates.

    Attributes:
        launch_overhead: seconds that every run holds its devices beyond its set-up and work.
        slowdown: how many times as long everything takes while 1, 2, 3 ... slots of a node are busy (see `Contention`);
            with still more it is the last number. Empty: sharing a node costs nothing.

    Raises:
        ValueError: a negative time, or a slow-down that is not above 0.
    """

    launch_overhead: float = 0.0
    slowdown: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.launch_overhead < 0:
            raise ValueError(f"launch_overhead is {self.launch_overhead}, expected 0 or more")
        if min(self.slowdown, default=1.0) <= 0:
            raise ValueError(f"slowdown is {self.slowdown}, expected numbers above 0")


_DURATIONS, _FAILURES, _NODE_LOSSES, _DEVICE_LOSSES = range(4)  # streams of random numbers


@dataclass(slots=True, eq=False)
class _Run:
    allocation: Allocation
    start: float
    overhead: float  # seconds of set-up and restore before the work begins
    work: float  # true seconds of work in this run
    work_left: float  # part of the member's whole work that this run began with


class Simulator:
    """Runs jobs in virtual time.

    The true factor on each member's duration is drawn when its job arrives, in order of arrival: it depends on the
    seed alone, so that policies are compared on equal luck.

    Args:
        cluster: the machines.
        jobs: in order of release; consumed lazily, so that a long trace need not fit in memory.
        seed: of all randomness in the simulation.
        uncertainty: how reality departs from the estimates.
        costs: of the host; default: none.

    Raises:
        ValueError: on `wait`, when a job is released before the one that came before it.
    """

    def __init__(
        self,
        cluster: Cluster,
        jobs: Iterable[Job],
        seed: int = 0,
        uncertainty: Uncertainty | None = None,
        costs: HostCosts | None = None,
    ) -> None:
        self.cluster = cluster
        self.uncertainty = uncertainty or Uncertainty()
        self._launch_overhead = 0.0 if costs is None else costs.launch_overhead
        self._env = simpy.Environment()
        self._contention = Contention(costs.slowdown, self._env) if costs is not None and costs.slowdown else None
        self._arrivals = iter(jobs)
        self._seed = seed
        self._generators: dict[int, np.random.Generator] = {}
        self._jobs: dict[int, Job] = {}
        self._factors: dict[int, list[list[float]]] = {}
        self._arrived = 0
        self._last_release = 0.0
        self._now = 0.0
        self._runs: dict[Member, _Run] = {}
        self._work_left: dict[Member, float] = {}
        self._last_job: list[list[int | None]] = [[None] * node.gpus for node in cluster.nodes]
        self._events: list[Event] = []
        self._expecting = True
        self._await_next_arrival()
        if self.uncertainty.node_losses_per_hour:
            for node in range(len(cluster.nodes)):
                self._await_loss(node)
        if self.uncertainty.device_losses_per_hour:
            for node, spec in enumerate(cluster.nodes):
                for gpu in range(spec.gpus):
                    self._await_device_loss(node, gpu)

    @classmethod
    def onwards(cls, state: State) -> Simulator:
        """What follows from a state where every estimate is right, no job arrives, and what is lost stays lost.

        A run that has outlived its estimate ends at once; one that was asked to stop has just been asked.
        """
        simulator = cls(state.cluster, ())
        simulator._env, simulator._now = simpy.Environment(state.now), state.now
        simulator._jobs = {job.id: job.job for job in state.jobs.values()}
        simulator._last_job = state.pool.served()
        for job in state.jobs.values():
            for task in job.tasks:
                for number, left in (task.work_left or {}).items():
                    simulator._work_left[Member(job.id, task.index, number)] = left
        for member, running in state.running.items():
            seconds, left = max(0.0, running.expected_end - state.now), running.part_left(state.now, state.cluster)
            simulator._runs[member] = run = _Run(running.allocation, state.now, 0.0, seconds, left)
            simulator._let_run(run, seconds, Finished(member))
            if running.stopping:
                simulator.stop(member)
        return simulator

    def _random(self, stream: int) -> np.random.Generator:
        """A stream of random numbers, whatever has become of the others; few simulations need any."""
        if stream not in self._generators:
            self._generators[stream] = np.random.default_rng([self._seed, stream])
        return self._generators[stream]

    @property
    def now(self) -> float:
        return self._now

    @property
    def expecting(self) -> bool:
        return self._expecting

    def launch(self, allocation: Allocation) -> None:
        member, shares = allocation.member, allocation.shares
        job_id, index, _ = member
        task = self._jobs[job_id].tasks[index]
        cold = False
        for node, gpus in shares:
            last = self._last_job[node]
            for gpu in gpus:
                if last[gpu] != job_id:
                    last[gpu] = job_id
                    cold = True
        work_left = self._work_left.get(member, 1.0)
        overhead, work = run_time(task, task.modes[allocation.mode], self.cluster, len(shares), work_left, cold)
        if (factors := self._factors.get(job_id)) is not None:
            work *= factors[index][member.member]
        self._runs[member] = run = _Run(allocation, self._now, overhead + self._launch_overhead, work, work_left)
        self._let_run(run, *self._fate(run))

    def stop(self, member: Member) -> None:
        run = self._runs[member]
        checkpoint_time = self._jobs[member.job].tasks[member.task].checkpoint_time
        left = self._left_now(run)
        if left * run.work > checkpoint_time * run.work_left:  # otherwise it ends before the checkpoint would
            self._runs[member] = stopped = _Run(run.allocation, self.now, 0.0, 0.0, run.work_left)
            self._leave_host(run)
            self._let_run(stopped, checkpoint_time, Preempted(member, left))

    def wait(self, until: float = math.inf) -> list[Event]:
        events: list[Event] = []
        self._events = events
        env = self._env
        at = following = env.peek()
        while not events and following <= until and following < math.inf:
            at = following
            env.step()
            following = env.peek()
        if not events and until < math.inf:
            if until > env.now:
                env.run(until)
                following = env.peek()
            at = env.now
            events.append(WokeUp())
        while following == at < math.inf:
            env.step()
            following = env.peek()
        self._now = max(env.now, self._last_release)  # see _await_next_arrival
        return events

    def _after(self, seconds: float, action: Callable[..., None], *arguments: object) -> None:
        callbacks = self._env.timeout(seconds).callbacks
        assert callbacks is not None
        callbacks.append(lambda _: action(*arguments))

    def _fate(self, run: _Run) -> tuple[float, Finished | Failed]:
        """After how many seconds a run ends, on a host of its own, and how."""
        member, seconds = run.allocation.member, run.overhead + run.work
        if self.uncertainty.failures_per_hour:
            fails_after = self._random(_FAILURES).exponential(HOUR / self.uncertainty.failures_per_hour)
            if fails_after < seconds:
                return fails_after, Failed(member, "simulated failure")
        return seconds, Finished(member)

    def _let_run(self, run: _Run, seconds: float, event: Finished | Failed | Preempted) -> None:
        if self._contention is None:
            self._after(seconds, self._end, run, event)
        else:
            self._contention.enter(run, run.allocation.shares, seconds, lambda: self._end(run, event))

    def _leave_host(self, run: _Run) -> None:
        if self._contention is not None:
            self._contention.leave(run)

    def _left_now(self, run: _Run) -> float:
        """Part of the member's whole work that is left, given how long the run has been working."""
        held = self.now - run.start if self._contention is None else self._contention.done(run)
        worked = max(0.0, held - run.overhead)
        return run.work_left * max(0.0, 1.0 - worked / run.work) if run.work else run.work_left

    def _end(self, run: _Run, event: Finished | Failed | Preempted) -> None:
        """Report the end of a run, unless it was stopped or lost in the meantime."""
        if self._runs.get(event.member) is run:
            del self._runs[event.member]
            self._leave_host(run)
            if isinstance(event, Preempted):
                self._work_left[event.member] = event.work_left
            self._events.append(event)

    def _await_next_arrival(self) -> None:
        job = next(self._arrivals, None)
        if job is None:
            self._expecting = False
            return
        if job.release < self._last_release:
            raise ValueError(f"job {job.name!r} is released at {job.release:g} s, before the job ahead of it")
        # SimPy adds delays up, and a sum can miss the release by its last bit. Here it may fall short, for `now` makes
        # up for that, but not exceed it; and jobs released together arrive together.
        now = self._env.now
        delay = max(0.0, job.release - now) if job.release > self._last_release else 0.0
        if now + delay > job.release:
            delay = math.nextafter(delay, 0.0)

        self._after(delay, self._arrive, job)

    def _arrive(self, job: Job) -> None:
        job_id = self._arrived
        self._arrived += 1
        self._jobs[job_id] = job
        self._last_release = job.release
        if self.uncertainty.duration_noise:
            self._factors[job_id] = self._draw_factors(job)
        self._events.append(Arrived(job_id, job))
        self._await_next_arrival()

    def _draw_factors(self, job: Job) -> list[list[float]]:
        sigma = self.uncertainty.duration_noise
        members = sum(task.array for task in job.tasks)
        drawn = iter(self._random(_DURATIONS).lognormal(-sigma * sigma / 2, sigma, members).tolist())
        return [[next(drawn) for _ in range(task.array)] for task in job.tasks]

    def _await_loss(self, node: int) -> None:
        seconds = self._random(_NODE_LOSSES).exponential(HOUR / self.uncertainty.node_losses_per_hour)
        self._after(seconds, self._lose, node)

    def _lose(self, node: int) -> None:
        work_left = self._drop(run for run in self._runs.values() if any(s.node == node for s in run.allocation.shares))
        self._events.append(NodeLost(node, work_left))
        self._last_job[node] = [None] * len(self._last_job[node])
        self._after(self.uncertainty.repair_time, self._restore, node)

    def _restore(self, node: int) -> None:
        self._events.append(NodeRestored(node))
        self._await_loss(node)

    def _drop(self, runs: Iterable[_Run]) -> tuple[tuple[Member, float], ...]:
        """Forget runs that have ended with their devices; what each of their members has left to do."""
        lost = list(runs)
        for run in lost:
            del self._runs[run.allocation.member]
            self._leave_host(run)
        return tuple((run.allocation.member, run.work_left) for run in lost)

    def _await_device_loss(self, node: int, gpu: int) -> None:
        seconds = self._random(_DEVICE_LOSSES).exponential(HOUR / self.uncertainty.device_losses_per_hour)
        self._after(seconds, self._lose_device, node, gpu)

    def _lose_device(self, node: int, gpu: int) -> None:
        holding = (run for run in self._runs.values() if (node, gpu) in _devices(run.allocation.shares))
        self._events.append(DevicesLost(node, (gpu,), self._drop(holding)))
        self._after(self.uncertainty.repair_time, self._restore_device, node, gpu)

    def _restore_device(self, node: int, gpu: int) -> None:
        self._events.append(DevicesRestored(node, (gpu,)))
        self._await_device_loss(node, gpu)


def _devices(shares: Sequence[Share]) -> list[tuple[int, int]]:
    return [(share.node, gpu) for share in shares for gpu in share.gpus]
