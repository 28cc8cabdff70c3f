"""The linear program: whom it serves, on how many GPUs, and how its fractions become gangs."""

from __future__ import annotations

from typing import Any

import pytest
from builders import TWO_TYPES, clusters, gpus, job, jobs, moldable, on_either, starts, task, tell, uncertainties
from hypothesis import given, settings
from scipy.optimize import milp

from rlsched.model import Cluster, Job, Mode, Task
from rlsched.policies import lp
from rlsched.policies.registry import load_policy
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator, Uncertainty


def test_gpus_are_divided_where_speed_ups_are_concave() -> None:
    """Two equal tasks on four GPUs are faster on two each than one on four and the other on none."""
    twins = [job(name, moldable("t", 100, 55, 35)) for name in "ab"]
    assert starts("lp", gpus(4), *twins) == [(0, "a/t starts on n0:0,1"), (0, "b/t starts on n0:2,3")]


def test_a_task_alone_gets_what_it_uses_well() -> None:
    """On eight GPUs it would be no more than 0.31 as effective as on one."""
    alone = job("a", moldable("t", 100, 55, 35, 40))
    assert starts("lp", gpus(8), alone) == [(0, "a/t starts on n0:0,1,2,3")]
    assert starts("lp:threshold=0.9", gpus(8), alone) == [(0, "a/t starts on n0:0,1")]


def test_jobs_with_little_work_left_count_most() -> None:
    """As under SRPT."""
    assert starts("lp", gpus(1), job("long", task("t", 9)), job("short", task("t", 2))) == [
        (0, "short/t starts on n0:0"),
        (2, "long/t starts on n0:0"),
    ]


def test_weights_of_jobs_count() -> None:
    """An important job goes before a shorter one."""
    important, short = job("important", task("t", 9), weight=8.0), job("short", task("t", 2))
    assert starts("lp", gpus(1), short, important)[0] == (0, "important/t starts on n0:0")


def test_each_type_goes_to_whom_it_helps_most() -> None:
    """The one that loses less on the slow GPU leaves the fast one to the other."""
    little, much = job("a", on_either("t", 10, 15)), job("b", on_either("t", 10, 30))
    assert starts("lp", TWO_TYPES, little, much) == [(0, "a/t starts on n1:0"), (0, "b/t starts on n0:0")]


def test_what_loses_too_much_on_a_type_waits_for_another() -> None:
    """Up to its stretch a task takes the slow GPU."""
    first, second = job("a", on_either("t", 10, 50)), job("b", on_either("t", 11, 50))
    assert starts("lp:stretch=4", TWO_TYPES, first, second)[1] == (10, "b/t starts on n0:0")
    assert starts("lp:stretch=6", TWO_TYPES, first, second)[1] == (0, "b/t starts on n1:0")


def test_a_gang_of_which_only_a_part_fits_keeps_that_part() -> None:
    """One GPU is free from 1 s on; the short gang of two needs it more than the long single task."""
    held = job("a", task("t", 10))
    gang, single = job("b", task("t", 2, gpus=2), release=1), job("c", task("t", 40), release=1)
    assert starts("lp", gpus(2), held, gang, single) == [
        (0, "a/t starts on n0:0"),
        (10, "b/t starts on n0:0,1"),
        (12, "c/t starts on n0:0"),
    ]


def test_a_gang_that_fits_no_single_node_starts_smaller() -> None:
    """Four GPUs are free, two on each node."""
    held = [job(name, task("t", 9, gpus=2)) for name in "ab"]
    flexible = job("c", moldable("t", 80, 50, 30), release=1)
    assert tell([*held, flexible], gpus(4, nodes=2), load_policy("fifo:placement=spread")).of("starts")[:2] == [
        (0, "a/t starts on n0:0,1"),
        (0, "b/t starts on n1:0,1"),
    ]
    held_apart = job("a", *(Task(t, (Mode(9.0, gpus=2, cpus=5),)) for t in "xy"))
    assert starts("lp", gpus(4, nodes=2), held_apart, flexible)[2] == (1, "c/t starts on n0:2,3")


def test_custom_resources_are_shared_out_like_gpus() -> None:
    """Three licences: two members of the small job and, once those are back, the large one."""
    small = Task("t", (Mode(2.0, resources={"licence": 1}),), array=2)
    large = Task("t", (Mode(30.0, resources={"licence": 2}),))
    assert starts("lp", gpus(0, resources={"licence": 3}), job("a", large), job("b", small)) == [
        (0, "b/t[0] starts on n0:"),
        (0, "b/t[1] starts on n0:"),
        (2, "a/t starts on n0:"),
    ]


def test_only_so_many_tasks_take_part() -> None:
    """With one at a time, the job with the least work left has the program for itself."""
    twins = [job("a", moldable("t", 100, 50, 25)), job("b", moldable("t", 101, 50.5, 25.25))]
    assert starts("lp:tasks=1", gpus(4), *twins)[0] == (0, "a/t starts on n0:0,1,2,3")


def test_one_instant_is_solved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tasks start at 0 s by one solution; then the state has changed, at 10 s, and nothing is left to solve."""
    solved = []

    def counting(*args: Any, **options: Any) -> Any:
        solved.append(args)
        return milp(*args, **options)

    monkeypatch.setattr(lp, "milp", counting)
    assert len(starts("lp", gpus(4), job("a", *(task(name) for name in "stuv")))) == 4
    assert len(solved) == 1


def test_amounts_far_apart_do_not_drown_in_the_tolerance() -> None:
    """Progress is at best a billionth of a job a second here, less than what HiGHS calls zero."""
    ages = [job("a", task("t", 2e9)), job("b", task("t", 1e9))]
    assert starts("lp", gpus(1), *ages) == [(0, "b/t starts on n0:0"), (1e9, "a/t starts on n0:0")]


@settings(max_examples=30, deadline=None)
@given(submitted=jobs(), cluster=clusters, uncertainty=uncertainties)
def test_every_job_ends(submitted: list[Job], cluster: Cluster, uncertainty: Uncertainty) -> None:
    """Whatever arrives, fails or breaks down: nothing stalls, the schedule is possible, and a repetition is equal."""
    schedules = [
        Scheduler(Simulator(cluster, submitted, 1, uncertainty)).run(load_policy("lp:tasks=4")) for _ in range(2)
    ]
    schedules[0].check()
    assert [record.completion is None for record in schedules[0].jobs.values()] == [
        record.failed for record in schedules[0].jobs.values()
    ]
    assert schedules[0].runs == schedules[1].runs
