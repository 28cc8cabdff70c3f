"""Virtual time: durations, set-up, checkpoints, failures and lost nodes; and what holds for every workload."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import Story, at, clusters, erratic, first_fit, gpus, job, jobs, task, tell, uncertainties
from hypothesis import given, settings
from hypothesis import strategies as st
from witness import Witness

from rlsched.model import Allocation, Cluster, Job, Member, Mode, Node, Preemption, Share, Task
from rlsched.report.events import EventLog
from rlsched.schedule import Outcome, Schedule
from rlsched.scheduler import (
    Decision,
    Policy,
    Scheduler,
)
from rlsched.simulator import Simulator, Uncertainty
from rlsched.state import State


def test_setup_time_is_paid_exactly_when_a_device_changes_job() -> None:
    """The second task of a job runs warm, the next job on the same device does not, nor does a half-warm gang."""
    a = job("a", task("x", 10, setup_time=2), task("y", 10, needs=["x"], setup_time=2))
    b = job("b", task("z", 10, setup_time=3))
    c = job("c", task("v", 5, gpus=1), task("w", 10, gpus=2, needs=["v"], setup_time=1))
    assert tell([a], gpus(1)).of("finishes") == [(12, "a/x finishes"), (22, "a/y finishes")]
    assert tell([a, b], gpus(1)).of("finishes") == [(12, "a/x finishes"), (25, "b/z finishes"), (37, "a/y finishes")]
    assert tell([c], gpus(2)).of("finishes") == [(5, "c/v finishes"), (16, "c/w finishes")]


def test_devices_that_are_warm_for_the_job_are_taken_first() -> None:
    a = job("a", task("x", 4), task("y", 5, needs=["x"], setup_time=100))
    b = job("b", task("z", 2))
    assert tell([b, a], gpus(2)).of("starts")[-1] == (4, "a/y starts on n0:1")


def test_a_gang_that_spans_nodes_runs_at_the_clusters_span_speed() -> None:
    spanning = Cluster(gpus(2, nodes=2).nodes, span_speed=0.5)
    assert tell([job("a", task("t", 10, gpus=4))], spanning).of("finishes") == [(20, "a/t finishes")]
    assert tell([job("a", task("t", 10, gpus=2))], spanning).of("finishes") == [(10, "a/t finishes")]


def test_preemption_costs_a_checkpoint_to_write_and_one_to_load_and_loses_no_work() -> None:
    """Of 10 s of work 4 are done when it is asked to stop; 6 are left. The device then serves another job: set-up."""
    long = job("a", task("t", 10, preemptible=True, checkpoint_time=1, setup_time=2))
    short = job("b", task("t", 3), release=6)
    policy = at({6: lambda state: [Preemption(Member(0, 0))], 7: start("b")})
    assert tell([long, short], gpus(1), policy).lines == [
        (0, "a arrives"),
        (0, "a/t starts on n0:0"),
        (6, "b arrives"),
        (6, "a/t is asked to stop"),
        (7, "a/t stops with 0.6 left"),
        (7, "b/t starts on n0:0"),
        (10, "b/t finishes"),
        (10, "a/t starts on n0:0"),
        (19, "a/t finishes"),  # 2 to set up, 1 to load, 6 to work
    ]


def start(name: str) -> Policy:
    """Start the first ready task of the job with this name."""

    def policy(state: State) -> list[Decision]:
        ready = next(t for t in state.ready.values() if t.job.job.name == name)
        allocation = state.allocate(ready, 0)
        return [allocation] if allocation else []

    return policy


def test_a_task_stopped_during_its_setup_has_all_its_work_left() -> None:
    long = job("a", task("t", 10, preemptible=True, setup_time=5))
    waker = job("b", task("t", 1), release=3)
    story = tell([long, waker], gpus(1), at({3: lambda state: [Preemption(Member(0, 0))]}))
    assert story.lines[3:] == [
        (3, "a/t is asked to stop"),
        (3, "a/t stops with 1 left"),
        (3, "b/t starts on n0:0"),
        (4, "b/t finishes"),
        (4, "a/t starts on n0:0"),
        (19, "a/t finishes"),
    ]


def test_a_task_that_ends_before_its_checkpoint_would_is_let_to_finish() -> None:
    long = job("a", task("t", 10, preemptible=True, checkpoint_time=2))
    policy = at({9: lambda state: [Preemption(Member(0, 0))]})
    story = tell([long, job("b", task("t", 1), release=9)], gpus(1), policy)
    assert story.of("asked", "stops") == [(9, "a/t is asked to stop")]
    assert story.of("finishes")[0] == (10, "a/t finishes")


class Losing(Simulator):
    """Loses node 0 at the given times, and has it back after the repair time."""

    def __init__(self, cluster: Cluster, jobs: Sequence[Job], times: Sequence[float], repair_time: float = 5) -> None:
        super().__init__(cluster, jobs, uncertainty=Uncertainty(node_losses_per_hour=1e-9, repair_time=repair_time))
        for time in times:
            self._after(time, lambda: self._lose(0))


def losing(
    jobs: Sequence[Job], cluster: Cluster, times: Sequence[float], policy: Policy = first_fit
) -> list[tuple[float, str]]:
    story = Story()
    Witness(Losing(cluster, jobs, times), story).scheduler.run(policy).check()
    return story.lines


def test_a_lost_node_returns_its_tasks_with_all_their_work() -> None:
    """They run again, elsewhere if there is room, at no cost in retries."""
    assert losing([job("a", task("t", 4))], gpus(1, nodes=2), [2]) == [
        (0, "a arrives"),
        (0, "a/t starts on n0:0"),
        (2, "n0 is lost, a/t has 1 left"),
        (2, "a/t starts on n1:0"),
        (6, "a/t finishes"),
    ]


def test_a_restored_node_is_cold() -> None:
    chain = job("a", task("x", 3, setup_time=1), task("y", 4, needs=["x"], setup_time=1))
    assert losing([chain], gpus(1), [6])[3:] == [
        (4, "a/y starts on n0:0"),
        (6, "n0 is lost, a/y has 1 left"),
        (11, "n0 is back"),
        (11, "a/y starts on n0:0"),
        (16, "a/y finishes"),
    ]


def test_a_gang_over_several_nodes_is_lost_as_a_whole() -> None:
    wide = job("a", task("t", 10, gpus=4))
    assert losing([wide], gpus(2, nodes=2), [3]) == [
        (0, "a arrives"),
        (0, "a/t starts on n0:0,1 n1:0,1"),
        (3, "n0 is lost, a/t has 1 left"),
        (8, "n0 is back"),
        (8, "a/t starts on n1:0,1 n0:0,1"),
        (18, "a/t finishes"),
    ]


def test_a_lost_node_takes_a_task_back_to_its_last_complete_checkpoint() -> None:
    """Stopped at 4 s and again at 17 s; the node is lost at 18 s, while the second checkpoint is being written."""
    long = job("a", task("t", 20, preemptible=True, checkpoint_time=2))
    stop = [Preemption(Member(0, 0))]
    wakers = [job(f"b{release}", task("t", 1, gpus=1), release=release) for release in (4, 17)]
    policy = at({4: lambda state: stop, 6: start("b4"), 17: lambda state: stop})
    assert losing([long, *wakers], gpus(1), [18], policy) == [
        (0, "a arrives"),
        (0, "a/t starts on n0:0"),
        (4, "b4 arrives"),
        (4, "a/t is asked to stop"),
        (6, "a/t stops with 0.8 left"),
        (6, "b4/t starts on n0:0"),
        (7, "b4/t finishes"),
        (7, "a/t starts on n0:0"),
        (17, "b17 arrives"),
        (17, "a/t is asked to stop"),
        (18, "n0 is lost, a/t has 0.8 left"),
        (23, "n0 is back"),
        (23, "b17/t starts on n0:0"),
        (24, "b17/t finishes"),
        (24, "a/t starts on n0:0"),
        (42, "a/t finishes"),  # 2 to load, 16 to work
    ]


def finished(schedule: Schedule) -> dict[Member, float]:
    """How long each member's successful run took."""
    return {run.member: run.end - run.start for run in schedule.runs if run.outcome is Outcome.FINISHED}


def last_first(state: State) -> list[Decision]:
    """Starts the last ready task that fits."""
    for ready in reversed(state.ready.values()):
        if allocation := state.allocate(ready, 0):
            return [allocation]
    return []


def test_durations_depend_on_the_seed_and_not_on_the_policy() -> None:
    """Paired luck: whoever schedules, and in whatever order, meets the same true durations."""
    workload = [job(f"j{k}", task("x", 10, array=3), task("y", 5, needs=["x"]), release=k) for k in range(20)]

    def durations(policy: Policy, seed: int) -> dict[Member, float]:
        simulator = Simulator(gpus(3), workload, seed, Uncertainty(duration_noise=0.5))
        return finished(Scheduler(simulator).run(policy))

    luck = durations(first_fit, 1)
    assert durations(last_first, 1) == pytest.approx(luck)
    assert durations(first_fit, 2) != pytest.approx(luck)
    assert len(set(luck.values())) == 80


def test_noise_has_mean_one_and_the_sigma_asked_for() -> None:
    workload = [job("a", task("t", 1, array=4000))]
    simulator = Simulator(gpus(8, nodes=500), workload, 3, Uncertainty(duration_noise=0.8))
    durations = list(finished(Scheduler(simulator).run(first_fit)).values())
    assert statistics.fmean(durations) == pytest.approx(1.0, abs=0.05)
    assert statistics.stdev(map(math.log, durations)) == pytest.approx(0.8, abs=0.05)


def test_failures_come_at_the_rate_asked_for() -> None:
    """At 60 an hour, a task of a minute survives with probability 1/e."""
    workload = [job("a", task("t", 60, array=4000))]
    simulator = Simulator(gpus(8, nodes=500), workload, 3, Uncertainty(failures_per_hour=60))
    schedule = Scheduler(simulator).run(first_fit)
    assert schedule.metrics()["failed_runs"] / 4000 == pytest.approx(1 - math.exp(-1), abs=0.03)


def test_node_losses_come_at_the_rate_asked_for() -> None:
    """Each of ten nodes is up for half an hour and down for half an hour on average, over a thousand hours."""
    uncertainty = Uncertainty(node_losses_per_hour=2, repair_time=1800)
    workload = [job("a", task("t", 1), release=1000 * 3600.0)]
    story = tell(workload, gpus(1, nodes=10), uncertainty=uncertainty, seed=1)
    assert len(story.of("lost")) / 10_000 == pytest.approx(1, abs=0.05)


def test_jobs_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="job 'b' is released at 3 s, before the job ahead of it"):
        tell([job("a", release=5), job("b", release=3)], gpus(1))


def test_a_lost_gpu_returns_what_runs_on_it_and_is_not_handed_out() -> None:
    """The other GPU of the node goes on; a gang waits until both are there."""
    one, wide = job("a", task("t", 4)), job("b", task("t", 5), task("wide", 2, gpus=2))
    simulator = Simulator(gpus(2), [one, wide], uncertainty=Uncertainty(repair_time=7))
    simulator._after(1, lambda: simulator._lose_device(0, 0))
    simulator._await_device_loss = lambda node, gpu: None  # type: ignore[method-assign]  # not again
    story = Story()
    Witness(simulator, story).scheduler.run(first_fit).check()
    assert story.lines[4:] == [
        (1, "n0:0 is lost, a/t has 1 left"),
        (5, "b/t finishes"),
        (5, "a/t starts on n0:1"),
        (8, "n0:0 is back"),
        (9, "a/t finishes"),
        (9, "b/wide starts on n0:0,1"),
        (11, "b/wide finishes"),
    ]


def test_device_losses_come_at_the_rate_asked_for() -> None:
    """Each of ten GPUs is in service for half an hour and out of it for half an hour on average."""
    uncertainty = Uncertainty(device_losses_per_hour=2, repair_time=1800)
    workload = [job("a", task("t", 1), release=1000 * 3600.0)]
    story = tell(workload, gpus(5, nodes=2), uncertainty=uncertainty, seed=1)
    assert len(story.of("lost")) / 10_000 == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "name",
    ["duration_noise", "failures_per_hour", "node_losses_per_hour", "device_losses_per_hour", "repair_time"],
)
def test_negative_uncertainty_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1, expected 0 or more"):
        Uncertainty(**{name: -1})


def test_jobs_are_taken_from_the_stream_one_at_a_time() -> None:
    """An endless trace can be simulated for as long as one likes."""
    endless = (job(f"j{k}", task("t", 1), release=float(k)) for k in itertools.count())
    scheduler = Scheduler(Simulator(gpus(1), endless))
    while scheduler.state.now < 100:
        scheduler.advance()
        scheduler.apply(first_fit(scheduler.state))
    assert len(scheduler.schedule.jobs) == 101


@settings(max_examples=120, deadline=None)
@given(clusters, jobs(), uncertainties, st.integers(0, 2**16))
def test_no_workload_and_no_policy_breaks_the_rules(
    cluster: Cluster, workload: list[Job], uncertainty: Uncertainty, seed: int
) -> None:
    """Devices, gangs, precedence, clock, work, set-up and checkpoints are kept, and every accepted job ends."""
    witness = Witness(Simulator(cluster, workload, seed, uncertainty))
    schedule = witness.scheduler.run(erratic(seed))
    schedule.check()
    assert not witness.running
    assert witness.scheduler.finished
    for record in schedule.jobs.values():
        ended = all(len(witness.done[record.id, i]) == t.array for i, t in enumerate(record.job.tasks))
        assert ended == (record.completion is not None) == (not record.failed)
    assert len(schedule.jobs) == len(workload)


@settings(max_examples=20, deadline=None)
@given(clusters, jobs(), uncertainties, st.integers(0, 2**16))
def test_equal_seeds_give_identical_event_logs(
    tmp_path_factory: pytest.TempPathFactory,
    cluster: Cluster,
    workload: list[Job],
    uncertainty: Uncertainty,
    seed: int,
) -> None:
    folder: Path = tmp_path_factory.mktemp("logs")
    for name in ("one", "two"):
        with EventLog(folder / name) as log:
            Scheduler(Simulator(cluster, workload, seed, uncertainty), log).run(erratic(seed))
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 30), max_size=5), st.sampled_from([0.0, 0.5]))
def test_however_often_a_task_is_stopped_it_does_its_work_once(pauses: list[float], checkpoint_time: float) -> None:
    """Busy time = the work + a checkpoint written and loaded for each stop."""
    stops = list(itertools.accumulate(pause + 2 for pause in pauses))
    long = job("a", task("t", 40, preemptible=True, checkpoint_time=checkpoint_time))
    wakers = [job(f"b{time}", Task("t", (Mode(0.001, gpus=1),)), release=time) for time in stops]

    def stop(state: State) -> list[Decision]:
        return [Preemption(m) for m in state.running if m == Member(0, 0)] or first_fit(state)

    scheduler = Scheduler(Simulator(gpus(2), [long, *wakers]))
    schedule = scheduler.run(at(dict.fromkeys(stops, stop)))
    mine = [run for run in schedule.runs if run.member.job == 0]
    busy = sum(run.end - run.start for run in mine)
    assert busy == pytest.approx(40 + 2 * checkpoint_time * (len(mine) - 1))


def test_a_node_that_is_down_takes_nothing() -> None:
    scheduler = Scheduler(Losing(Cluster((Node("n0", gpus=1),)), [job("a", task("t", 10))], [3]))
    while not scheduler.state.jobs:
        scheduler.advance()
    scheduler.apply(first_fit(scheduler.state))
    while scheduler.state.running:
        scheduler.advance()
    with pytest.raises(ValueError, match="a/t: node 'n0' is down"):
        scheduler.apply([Allocation(Member(0, 0), 0, (Share(0, (0,)),))])
