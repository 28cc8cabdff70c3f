"""Tasks that share a host slow one another down in the simulation, and work is neither lost nor won by that."""

from __future__ import annotations

import itertools

import pytest
from builders import at, clusters, first_fit, gpus, job, jobs, task, tell
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsched.model import Cluster, Job, Member, Preemption
from rlsched.schedule import Schedule
from rlsched.scheduler import Scheduler
from rlsched.simulator import HostCosts, Simulator

TWICE = HostCosts(slowdown=(1.0, 2.0))


def test_two_tasks_on_one_host_take_longer_while_both_run() -> None:
    """Until 8 s each has done 4 s of work; the longer one does the rest alone."""
    both = job("a", task("long", 10), task("short", 4))
    assert tell([both], gpus(2), costs=TWICE).of("finishes") == [(8, "a/short finishes"), (14, "a/long finishes")]


def test_tasks_on_different_hosts_do_not_slow_one_another_down() -> None:
    both = job("a", task("long", 10), task("short", 4))
    assert tell([both], gpus(1, nodes=2), costs=TWICE).of("finishes") == [
        (4, "a/short finishes"),
        (10, "a/long finishes"),
    ]


def test_a_gang_keeps_as_many_slots_busy_as_it_has_devices() -> None:
    """Beyond the end of the list, the last number holds."""
    alone = tell([job("a", task("t", 10, gpus=2))], gpus(4), costs=TWICE)
    assert alone.of("finishes") == [(20, "a/t finishes")]
    beside = tell([job("a", task("t", 10, gpus=2), task("u", 10, gpus=2))], gpus(4), costs=TWICE)
    assert beside.of("finishes") == [(20, "a/t finishes"), (20, "a/u finishes")]


def test_launching_costs_its_time_in_every_run() -> None:
    chain = job("a", task("x", 3), task("y", 4, needs=["x"]))
    assert tell([chain], gpus(1), costs=HostCosts(launch_overhead=0.5)).of("finishes") == [
        (3.5, "a/x finishes"),
        (8, "a/y finishes"),
    ]


def test_a_task_that_is_stopped_under_contention_keeps_what_it_has_done() -> None:
    """Stopped at 6 s, after 3 s of its 12: 3/4 are left, and 9 s alone do them."""
    stopped, other = job("a", task("t", 12, preemptible=True)), job("b", task("t", 3))
    waker = job("c", task("t", 1), release=6)
    policy = at({6: lambda state: [Preemption(Member(0, 0))], 6.1: lambda state: []})
    story = tell([stopped, other, waker], gpus(2), policy, costs=TWICE)
    assert story.of("stops") == [(6, "a/t stops with 0.75 left")]


@pytest.mark.parametrize("costs", [{"launch_overhead": -1}, {"slowdown": (1.0, 0.0)}])
def test_impossible_costs_are_refused(costs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        HostCosts(**costs)  # type: ignore[arg-type]


def played(cluster: Cluster, workload: list[Job], costs: HostCosts | None) -> Schedule:
    return Scheduler(Simulator(cluster, workload, costs=costs)).run(first_fit)


@settings(max_examples=60, deadline=None)
@given(clusters, jobs(), st.lists(st.floats(0.5, 3.0), min_size=1, max_size=4))
def test_every_run_takes_what_the_busy_slots_make_of_its_work(
    cluster: Cluster, workload: list[Job], slowdown: list[float]
) -> None:
    """From the schedule alone: the time at each number of busy slots, divided by its slow-down, adds up to the work."""
    schedule = played(cluster, workload, HostCosts(slowdown=tuple(slowdown)))
    schedule.check()
    served: dict[tuple[int, int], int] = {}
    for run in sorted(schedule.runs, key=lambda run: run.start):
        of = schedule.jobs[run.member.job].job.tasks[run.member.task]
        devices = [(share.node, gpu) for share in run.shares for gpu in share.gpus]
        cold = any(served.get(device) != run.member.job for device in devices)
        served |= dict.fromkeys(devices, run.member.job)
        speed = cluster.span_speed if len(run.shares) > 1 else 1.0
        work = schedule.mode_of(run).duration / speed + of.setup_time * cold
        times = sorted({t for other in schedule.runs for t in (other.start, other.end) if run.start <= t <= run.end})
        total = 0.0
        for begin, end in itertools.pairwise(times):
            busy = [
                sum(
                    max(1, len(s.gpus))
                    for other in schedule.runs
                    for s in other.shares
                    if s.node == share.node and other.start <= begin and other.end >= end
                )
                for share in run.shares
            ]
            total += (end - begin) / max(slowdown[min(k, len(slowdown)) - 1] for k in busy)
        assert total == pytest.approx(work, rel=1e-6, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(clusters, jobs())
def test_a_slow_down_of_one_changes_nothing(cluster: Cluster, workload: list[Job]) -> None:
    """Not even the last bit of a time."""
    plain, flat = (played(cluster, workload, costs) for costs in (None, HostCosts(slowdown=(1.0,))))
    assert plain.runs == flat.runs
