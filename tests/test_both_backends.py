"""The rules of scheduling, on the simulator and on real processes alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import first_fit, gpus, job, lazy, task
from conftest import Happening, Play, Plug, sleeps
from fake_nvml import FakeGpu

from rlsched.executor import guard
from rlsched.executor.devices import local_machine
from rlsched.executor.executor import Executor
from rlsched.executor.rundir import RunDirectory
from rlsched.model import Allocation, Cluster, Job, Mode, Node, Preemption, Task
from rlsched.policies.registry import describe, load_policy
from rlsched.schedule import Outcome
from rlsched.scheduler import (
    Arrived,
    Backend,
    Cancelled,
    Decision,
    DevicesLost,
    DevicesRestored,
    Event,
    Finished,
    Preempted,
    Scheduler,
    StallError,
)
from rlsched.simulator import Simulator, Uncertainty
from rlsched.state import State

TWO_KINDS = Cluster(
    (
        Node("a", gpus=2, gpu_type="fast", gpu_memory=16.0, cpus=4, memory=16.0, resources={"licence": 1}),
        Node("b", gpus=2, gpu_type="slow", gpu_memory=16.0, cpus=4, memory=16.0),
    )
)
ONE_GPU = Cluster((Node("a", gpus=1, cpus=4),))


def pipeline(name: str, release: float) -> Job:
    """Cleaning on a CPU, a sweep of three, a malleable training, a gang of two, and an export that needs a licence."""
    return Job(
        name,
        (
            Task("clean", (Mode(0.02, cpus=1),)),
            Task("sweep", (Mode(0.05, gpus=1, cpus=1),), ("clean",), array=3),
            Task("train", (Mode(0.05, gpus=2, cpus=1), Mode(0.08, gpus=1, cpus=1)), ("clean",), preemptible=True),
            Task("gang", (Mode(0.03, gpus=2, gpu_type="fast"),), ("sweep",)),
            Task("export", (Mode(0.02, resources={"licence": 1}),), ("train", "gang")),
        ),
        release,
    )


@pytest.mark.parametrize("policy", list(describe()))
def test_every_policy_keeps_every_rule(policy: str, play: Play) -> None:
    """No device is held twice, what is needed has finished, gangs are whole and on one type, and every job ends."""
    jobs = [pipeline("a", 0.0), pipeline("b", 0.1)]
    played = play(jobs, TWO_KINDS, load_policy(policy, seed=1))
    played.schedule.check()
    assert [record.failed for record in played.schedule.jobs.values()] == [False, False]
    assert [record.completion is None for record in played.schedule.jobs.values()] == [False, False]
    assert len(played.of(Finished)) == 2 * 7
    assert [arrived.job for arrived in played.of(Arrived)] == jobs


@pytest.mark.parametrize("policy", ["fifo", "sjf"])
def test_on_one_gpu_the_order_follows_from_the_policy(policy: str, play: Play) -> None:
    """Estimates alone decide, so that simulation and reality agree on who goes first."""
    together = job("a", task("long", 0.12), task("short", 0.03), task("medium", 0.06))
    orders = {"fifo": ["long", "short", "medium"], "sjf": ["short", "medium", "long"]}
    starts = play([together], ONE_GPU, load_policy(policy, seed=0)).of(Allocation)
    assert [together.tasks[start.member.task].name for start in starts] == orders[policy]


def test_a_job_arrives_at_its_release(play: Play) -> None:
    """Not before, although the GPU is free."""
    played = play([job("a", task("x", 0.02)), job("b", task("y", 0.02), release=0.2)], ONE_GPU, first_fit)
    assert [time >= 0.2 for time, what in played.happenings if isinstance(what, Arrived)] == [False, True]
    played.schedule.check()


def test_waiting_for_nothing_is_an_error(play: Play) -> None:
    """A policy that never starts anything is told so, on either backend."""
    with pytest.raises(StallError, match="starts none of: a/t"):
        play([job("a")], ONE_GPU, lazy)


def test_an_impossible_request_is_refused_on_arrival(play: Play) -> None:
    with pytest.raises(ValueError, match="task 'x' asks for more than the cluster has"):
        play([job("a", task("x", gpus=2))], ONE_GPU, first_fit)


def test_a_preempted_task_goes_on_with_another_number_of_gpus(play: Play) -> None:
    """Both backends tell the same story: it gives way, and takes what is left, with the work that it has left."""
    malleable = (Mode(0.8, gpus=2, cpus=1), Mode(1.2, gpus=1, cpus=1))
    tasks = (
        Task("train", malleable, preemptible=True, checkpoint_time=0.01),
        Task("notice", (Mode(0.3, cpus=1),)),
        Task("urgent", (Mode(0.2, gpus=1, cpus=1),), ("notice",)),
    )

    def urgent_first(state: State) -> Sequence[Decision]:
        for ready in sorted(state.ready.values(), key=lambda ready: ready.task.name, reverse=True):
            for mode in range(len(ready.task.modes)):
                if allocation := state.allocate(ready, mode):
                    return [allocation]
        preemptible = [m for m, run in state.running.items() if run.task.task.preemptible and not run.stopping]
        return [Preemption(member) for member in preemptible if state.ready]

    played = play([Job("a", tasks)], Cluster((Node("n", gpus=2, cpus=4),)), urgent_first)
    told = [
        (type(what).__name__, tasks[what.member.task].name, what.mode if isinstance(what, Allocation) else None)
        for _, what in played.happenings
        if isinstance(what, Allocation | Preemption | Preempted | Finished)
    ]
    assert told == [
        ("Allocation", "notice", 0),
        ("Allocation", "train", 0),
        ("Finished", "notice", None),
        ("Preemption", "train", None),
        ("Preempted", "train", None),
        ("Allocation", "urgent", 0),
        ("Allocation", "train", 1),
        ("Finished", "urgent", None),
        ("Finished", "train", None),
    ]
    (stopped,) = played.of(Preempted)
    assert 0 < stopped.work_left < 1
    played.schedule.check()
    outcomes = [run.outcome for run in played.schedule.runs if run.member.task == 0]
    assert outcomes == [Outcome.PREEMPTED, Outcome.FINISHED]


@pytest.mark.parametrize("backend", ["simulator", "executor"])
def test_a_gpu_that_is_out_of_service_is_not_handed_out(
    backend: str, plug: Plug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two is lost from the beginning until two tasks have ended; the gang of two waits for it."""
    monkeypatch.setattr(guard, "CHECK_INTERVAL", 0.01)
    work = job("a", task("one", 0.05, array=2), task("wide", 0.02, gpus=2))
    happenings: list[Happening] = []
    finished: list[Event] = []

    def observe(time: float, what: Event | Decision) -> None:
        happenings.append((time, what))
        if isinstance(what, Finished):
            finished.append(what)
        if len(finished) == 2:
            first.processes.clear()

    first = FakeGpu("GPU-aaaa", processes=[4711])
    if backend == "simulator":
        simulator = Simulator(gpus(2), [work], uncertainty=Uncertainty(repair_time=0.11))
        simulator._after(0.0, lambda: simulator._lose_device(0, 0))
        simulator._await_device_loss = lambda node, gpu: None  # type: ignore[method-assign]  # not again
        schedule = Scheduler(simulator, observe).run(first_fit)
    else:
        plug([first, FakeGpu("GPU-bbbb")])
        directory = RunDirectory(tmp_path / "run")
        with Executor(local_machine(), directory, [sleeps(work, tmp_path)]) as executor:
            schedule = Scheduler(executor, observe).run(first_fit)
        directory.close()
    schedule.check()
    told = [type(what) for _, what in happenings if isinstance(what, DevicesLost | DevicesRestored | Allocation)]
    assert told == [DevicesLost, Allocation, Allocation, DevicesRestored, Allocation]
    starts = [what.shares[0].gpus for _, what in happenings if isinstance(what, Allocation)]
    assert starts == [(1,), (1,), (0, 1)]


class Interrupted:
    """A backend with one more event, at a time."""

    def __init__(self, backend: Backend, at: float, event: Event) -> None:
        self._backend = backend
        self._at = at
        self._event: Event | None = event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def wait(self, until: float = math.inf) -> list[Event]:
        if self._event is None:
            return self._backend.wait(until)
        events = self._backend.wait(min(until, self._at))
        if self._backend.now >= self._at:
            events, self._event = [*events, self._event], None
        return events


def test_a_cancelled_job_starts_nothing_and_lets_go(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs is asked to stop, preemptible or not; everything else is skipped, and other jobs go on."""
    original = Scheduler.__init__

    def interrupted(self: Scheduler, backend: Backend, observe: Any = None) -> None:
        original(self, Interrupted(backend, 0.3, Cancelled(0)), observe)

    monkeypatch.setattr(Scheduler, "__init__", interrupted)
    doomed = job(
        "doomed", task("runs", 60.0), task("waits", 60.0), task("after", 1.0, needs=["runs"]), task("cpu", 60.0, gpus=0)
    )
    played = play([doomed, job("other", task("t", 0.02))], ONE_GPU, first_fit)
    played.schedule.check()
    started = [doomed.tasks[start.member.task].name for start in played.of(Allocation) if start.member.job == 0]
    assert sorted(started) == ["cpu", "runs"]
    assert [(record.failed, record.completion is None) for record in played.schedule.jobs.values()] == [
        (True, True),
        (False, False),
    ]
    assert {run.outcome for run in played.schedule.runs if run.member.job == 0} == {Outcome.PREEMPTED}


def test_a_job_that_has_not_begun_ends_as_it_is_cancelled(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs that could end later. A cancellation of a job that has ended already is no news."""
    original = Scheduler.__init__

    def interrupted(self: Scheduler, backend: Backend, observe: Any = None) -> None:
        original(self, Interrupted(Interrupted(backend, 0.02, Cancelled(1)), 0.4, Cancelled(1)), observe)

    monkeypatch.setattr(Scheduler, "__init__", interrupted)
    played = play([job("a", task("t", 0.5)), job("b", task("t", 0.02), task("u", 0.02))], ONE_GPU, first_fit)
    assert [(record.failed, record.first_start is None) for record in played.schedule.jobs.values()] == [
        (False, False),
        (True, True),
    ]


def test_a_scheduler_that_pauses_starts_nothing(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the policy nor the scheduler itself, until it goes on; what runs does."""
    original = Scheduler.__init__

    class Pausing(Interrupted):
        def __init__(self, backend: Backend, scheduler: Scheduler) -> None:
            super().__init__(backend, math.inf, Cancelled(0))
            self._scheduler = scheduler
            self._ended = 0

        def wait(self, until: float = math.inf) -> list[Event]:
            events = self._backend.wait(until)
            self._ended += sum(isinstance(event, Finished) for event in events)
            self._scheduler.paused = self._ended == 1
            return events

    def pausing(self: Scheduler, backend: Backend, observe: Any = None) -> None:
        original(self, Pausing(backend, self), observe)

    monkeypatch.setattr(Scheduler, "__init__", pausing)
    two = Cluster((Node("a", gpus=2, cpus=4),))
    after = (task("c", 0.02, needs=["a"]), task("d", 0.02, gpus=0, needs=["a"]), task("e", 0.02, needs=["c", "d"]))
    work = job("j", task("a", 0.05), task("b", 0.5), *after)
    played = play([work], two, first_fit)
    runs = {work.tasks[run.member.task].name: run for run in played.schedule.runs}
    assert sorted(runs) == ["a", "b", "c", "d", "e"]
    assert min(runs["c"].start, runs["d"].start) >= runs["b"].end > runs["a"].end
