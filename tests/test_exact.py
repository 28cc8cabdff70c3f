"""CP-SAT: optimal where that is known, a bound that holds, plans that can be played."""

from __future__ import annotations

import math
import time

import pytest
from builders import clusters, gpus, job, jobs, task, uncertainties
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import BY_HAND, instances, least_cost

from rlsched.model import Cluster, Job, Mode, Node, Task
from rlsched.policies.exact import solve
from rlsched.policies.planning import parts
from rlsched.policies.planning.instance import Instance, all_known
from rlsched.policies.planning.parts import parts_of
from rlsched.policies.registry import load_policy
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator, Uncertainty

TWO_TYPES = Cluster((Node("a", gpus=2, gpu_type="fast"), Node("b", gpus=2, gpu_type="slow")))


def test_the_optimum_by_hand() -> None:
    """Five seconds, proved."""
    found = solve(BY_HAND, "makespan", effort=5)
    found.schedule.check()
    assert (found.status, found.cost, found.bound) == ("optimal", 5.0, 5.0)


@settings(max_examples=20, deadline=None)
@given(
    instance=instances(most_tasks=2, most_members=1),
    objective=st.sampled_from(["makespan", "mean_jct", "weighted_tardiness"]),
)
def test_it_is_optimal_where_everything_can_be_tried(instance: Instance, objective: str) -> None:
    """The cost is what trying everything finds, and so is the bound."""
    found = solve(instance, objective, effort=5)
    found.schedule.check()
    assert found.cost == pytest.approx(least_cost(instance, objective))
    assert found.bound == pytest.approx(found.cost)
    assert found.status == "optimal"


def test_a_deadline_in_the_middle_of_a_task_is_kept_in_mind() -> None:
    """Three seconds of work, due after two: one second late, and there is proof of it."""
    late = Job("late", (Task("t", (Mode(3.0, resources={"workers": 1}),)),), release=2.0, deadline=4.0)
    cluster = Cluster((Node("machine", resources={"workers": 3}),))
    found = solve(all_known(cluster, [late]), "weighted_tardiness", effort=5)
    assert (found.status, found.cost, found.bound) == ("optimal", 1.0, 1.0)


def test_it_chooses_modes_types_and_nodes_together() -> None:
    """Two tasks, each fast where the other is slow, and a gang that fits one node only: 6 s, which is the work."""
    first = Task("t", (Mode(4, gpus=2, gpu_type="fast"), Mode(9, gpus=2, gpu_type="slow")))
    second = Task("t", (Mode(4, gpus=2, gpu_type="fast"), Mode(5, gpus=2, gpu_type="slow")))
    found = solve(all_known(TWO_TYPES, [Job("a", (first,)), Job("b", (second,))]), "makespan", effort=5)
    assert (found.status, found.cost) == ("optimal", 5.0)
    assert sorted((run.member.job, run.mode, run.shares[0].node) for run in found.schedule.runs) == [
        (0, 0, 0),
        (1, 1, 1),
    ]


def test_a_gang_that_spans_nodes_takes_whole_ones() -> None:
    """Three GPUs on nodes of two, at half the speed, beside a task on the third node."""
    cluster = Cluster(tuple(Node(f"n{i}", gpus=2) for i in range(3)), span_speed=0.5)
    found = solve(all_known(cluster, [job("a", task("wide", 4, gpus=3), task("t", 8, gpus=2))]), "makespan", effort=5)
    found.schedule.check()
    assert found.cost == 8.0
    assert found.bound == -math.inf  # whole nodes are more than it needs: a better schedule is not ruled out


@settings(max_examples=12, deadline=None)
@given(submitted=jobs(), cluster=clusters, objective=st.sampled_from(["makespan", "mean_jct"]))
def test_any_jobs_on_any_cluster(submitted: list[Job], cluster: Cluster, objective: str) -> None:
    """The schedule is feasible, costs what is said and no less than the bound, and a repetition is equal."""
    instance = all_known(cluster, submitted)
    found, again = (solve(instance, objective, effort=0.05, seed=1) for _ in range(2))
    found.schedule.check()
    assert found.cost == instance.cost_of(found.schedule, objective)
    assert found.bound <= found.cost * (1 + 1e-9)
    assert found.plan == again.plan


@pytest.mark.parametrize(("limit", "value"), [("MOST_OPTIONS", 5), ("MOST_PARTS", 3)])
def test_large_instances_are_made_coarser(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal nodes as one place, or members one after the other in lanes: what comes out can still be played."""
    monkeypatch.setattr(parts, limit, value)
    instance = all_known(gpus(2, nodes=3), [job("a", task("t", 7, array=9), task("u", 7, gpus=2, needs=["t"]))])
    cut = parts_of(instance)
    assert (len(cut.places), len(cut.parts), cut.complete) == (
        (1, 10, True) if limit == "MOST_OPTIONS" else (3, 3, False)
    )
    found = solve(instance, "makespan", effort=1)
    found.schedule.check()
    assert found.cost == 21.0
    assert found.bound in (21.0, -math.inf)


def test_seconds_limit_the_cpu_time() -> None:
    """Without it this would go on for minutes; the greedy policies' plan is there in any case."""
    many = [
        job(f"j{n}", *(task(f"t{i}", 7 + (5 * i + 3 * n) % 11, gpus=1 + i % 2) for i in range(12))) for n in range(8)
    ]
    began = time.process_time()
    found = solve(all_known(gpus(4, nodes=2), many), "mean_jct", seconds=0.5)
    assert time.process_time() - began < 10
    assert found.status in ("feasible", "unknown")
    found.schedule.check()


@settings(max_examples=8, deadline=None)
@given(submitted=jobs(), cluster=clusters, uncertainty=uncertainties)
def test_every_job_ends_under_its_policy(submitted: list[Job], cluster: Cluster, uncertainty: Uncertainty) -> None:
    """Whatever arrives, fails or breaks down: nothing stalls, the schedule is possible, and a repetition is equal."""
    schedules = [
        Scheduler(Simulator(cluster, submitted, 1, uncertainty)).run(load_policy("cp-sat:effort=0.02"))
        for _ in range(2)
    ]
    schedules[0].check()
    assert [record.completion is None for record in schedules[0].jobs.values()] == [
        record.failed for record in schedules[0].jobs.values()
    ]
    assert schedules[0].runs == schedules[1].runs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cp-sat:objective=latency", "objective is 'latency', expected mean_jct"),
        ("cp-sat:effort=0", "effort is 0.0, expected above 0"),
        ("cp-sat:seconds=-1", "seconds is -1.0, expected 0 or more"),
    ],
)
def test_what_it_cannot_do_is_said_when_it_is_loaded(text: str, message: str) -> None:
    """In one sentence."""
    with pytest.raises(ValueError, match=message):
        load_policy(text)
