"""Greedy policies: on how many GPUs, and of which type."""

from __future__ import annotations

import pytest
from builders import TWO_TYPES, gpus, job, moldable, on_either, starts, task, tell

from rlsched.model import Task
from rlsched.policies.registry import load_policy


def test_by_comparative_advantage_the_free_type_decides_who_is_next() -> None:
    """b loses most on the slow type and goes first, to the fast one; then a, which loses least, to the slow one."""
    a, b, c = (job(n, on_either("t", 10, slow)) for n, slow in [("a", 15), ("b", 30), ("c", 18)])
    assert starts("comparative", TWO_TYPES, c, a, b) == [
        (0, "b/t starts on n0:0"),
        (0, "a/t starts on n1:0"),
        (10, "c/t starts on n0:0"),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("count=minimum", "n0:0"),
        ("count=maximum", "n0:0,1,2,3,4,5,6,7"),
        ("count=efficiency,threshold=0.9", "n0:0"),
        ("count=efficiency,threshold=0.8", "n0:0,1"),
        ("count=efficiency,threshold=0.6", "n0:0,1,2,3"),
        ("count=efficiency,threshold=0.3", "n0:0,1,2,3,4,5,6,7"),
        ("count=marginal,threshold=0.7", "n0:0"),
        ("count=marginal,threshold=0.5", "n0:0,1"),
        ("count=marginal,threshold=0.4", "n0:0,1,2,3"),
        ("count=marginal,threshold=0.05", "n0:0,1,2,3,4,5,6,7"),
        ("count=equal-share", "n0:0,1,2,3,4,5,6,7"),
        ("count=water-filling", "n0:0,1,2,3,4,5,6,7"),
        ("count=knapsack", "n0:0,1,2,3,4,5,6,7"),
        ("count=weighted-knapsack", "n0:0,1,2,3,4,5,6,7"),
    ],
)
def test_the_count_rule_chooses_the_gang(options: str, expected: str) -> None:
    """100, 60, 40 and 35 s on 1, 2, 4, 8 GPUs: efficiency 1, 0.83, 0.63, 0.36; per extra GPU 0.67, 0.42, 0.09."""
    alone = job("a", moldable("t", 100, 60, 40, 35))
    assert starts(f"fifo:{options}", gpus(8), alone) == [(0, f"a/t starts on {expected}")]


@pytest.mark.parametrize("rule", ["equal-share", "water-filling", "knapsack", "weighted-knapsack"])
def test_two_tasks_share_the_gpus(rule: str) -> None:
    """What one task would get alone, 8, is divided."""
    twins = [job(name, moldable("t", 100, 60, 40, 35)) for name in "ab"]
    assert starts(f"fifo:count={rule}", gpus(8), *twins) == [
        (0, "a/t starts on n0:0,1,2,3"),
        (0, "b/t starts on n0:4,5,6,7"),
    ]


def test_water_filling_gives_to_those_who_gain_most() -> None:
    """a speeds up perfectly, b hardly: of four GPUs a gets two, then one is left for b, and one for nobody."""
    eager, slack = job("a", moldable("t", 100, 50, 30)), job("b", moldable("t", 100, 95, 90))
    assert starts("fifo:count=water-filling", gpus(4), eager, slack) == [
        (0, "a/t starts on n0:0,1"),
        (0, "b/t starts on n0:2,3"),
    ]
    assert starts("fifo:count=water-filling", gpus(3), eager, slack) == [
        (0, "a/t starts on n0:0,1"),
        (0, "b/t starts on n0:2"),
    ]


STEP = moldable("t", 100, 29, counts=(1, 4))  # per extra GPU 0.82
STEPS = moldable("t", 100, 54, counts=(1, 2))  # 0.85


def test_the_knapsack_leaves_no_gpu_idle_for_the_sake_of_the_first_step() -> None:
    """Of five GPUs, four and one make the total speed 4.4; two and one, where going up step by step ends, 2.9."""
    submitted = [job("a", STEP), job("b", STEPS)]
    assert starts("fifo:count=water-filling", gpus(5), *submitted) == [
        (0, "a/t starts on n0:0"),
        (0, "b/t starts on n0:1,2"),
    ]
    assert starts("fifo:count=knapsack", gpus(5), *submitted) == [
        (0, "a/t starts on n0:0,1,2,3"),
        (0, "b/t starts on n0:4"),
    ]


def test_the_weighted_knapsack_gives_more_to_the_job_with_less_work_left() -> None:
    """a adds more speed with the third GPU, but b is ten times as short."""
    submitted = [job("a", moldable("t", 1000, 510)), job("b", moldable("t", 100, 60))]
    assert starts("fifo:count=knapsack", gpus(3), *submitted)[0] == (0, "a/t starts on n0:0,1")
    assert starts("fifo:count=weighted-knapsack", gpus(3), *submitted) == [
        (0, "a/t starts on n0:0"),
        (0, "b/t starts on n0:1,2"),
    ]


def test_the_knapsack_counts_on_what_may_be_restarted() -> None:
    """Without the two GPUs of a, b would get one; with them there are four for both."""
    large = job("a", Task("t", moldable("t", 1000, 600).modes, preemptible=True))
    later = job("b", moldable("t", 100, 60), release=200)
    assert starts("srpt:count=knapsack", gpus(3), large, later)[1] == (200, "b/t starts on n0:2")
    told = tell([large, later], gpus(3), load_policy("srpt:count=knapsack,preempt=true,stretch=1")).of("starts", "stop")
    assert told[1:3] == [(200, "a/t is asked to stop"), (200, "b/t starts on n0:0,1")]


def test_a_larger_gang_that_is_no_faster_is_never_taken() -> None:
    """Nor is one that the cluster does not have."""
    odd = job("a", moldable("t", 100, 60, 60, 1))
    assert starts("fifo:count=maximum", gpus(4), odd) == [(0, "a/t starts on n0:0,1")]


def test_a_task_takes_fewer_gpus_than_chosen_up_to_its_stretch() -> None:
    """Two of four GPUs are free until 20 s; with them the task takes 1.5 times as long as with all four."""
    held, flexible = job("a", task("t", 20, gpus=2)), job("b", moldable("t", 100, 60, 40))
    assert starts("fifo:stretch=1.5", gpus(4), held, flexible)[1] == (0, "b/t starts on n0:2,3")
    assert starts("fifo:stretch=1.4", gpus(4), held, flexible)[1] == (20, "b/t starts on n0:0,1,2,3")


def test_the_fastest_type_is_taken_and_a_slower_one_up_to_the_stretch() -> None:
    """While the fast GPU is busy, what loses little goes to the slow one, and what loses much waits."""
    first, little, much = (job(n, on_either("t", 10, slow)) for n, slow in [("a", 99), ("b", 15), ("c", 30)])
    assert starts("fifo:stretch=2", TWO_TYPES, first, little, much) == [
        (0, "a/t starts on n0:0"),
        (0, "b/t starts on n1:0"),
        (10, "c/t starts on n0:0"),
    ]


def test_by_comparative_advantage_the_slow_type_gets_who_loses_least() -> None:
    """a loses less on the slow GPU than b does, so it leaves the fast one to b."""
    little, much = job("a", on_either("t", 10, 15)), job("b", on_either("t", 10, 30))
    assert starts("fifo", TWO_TYPES, little, much) == [(0, "a/t starts on n0:0"), (0, "b/t starts on n1:0")]
    assert starts("fifo:gpu_type=comparative", TWO_TYPES, little, much) == [
        (0, "a/t starts on n1:0"),
        (0, "b/t starts on n0:0"),
    ]


def test_alone_there_is_nobody_to_leave_the_fast_type_to() -> None:
    """Comparative advantage needs somebody to compare with."""
    assert starts("fifo:gpu_type=comparative", TWO_TYPES, job("a", on_either("t", 10, 15))) == [
        (0, "a/t starts on n0:0")
    ]
