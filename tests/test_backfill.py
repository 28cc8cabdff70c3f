"""Greedy policies: who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from builders import clusters, gpus, job, jobs, starts, task, uncertainties
from hypothesis import given, settings

from rlsched.active import TaskState
from rlsched.model import Cluster, Job, Mode, Task
from rlsched.policies.greedy import GreedyPolicy
from rlsched.policies.orders import ORDERS, Order
from rlsched.policies.registry import load_policy
from rlsched.scheduler import Decision, Policy, Scheduler
from rlsched.simulator import Simulator, Uncertainty
from rlsched.state import State


def test_behind_a_gang_that_waits_everybody_waits() -> None:
    """Strict head-of-line blocking, the default: the single task could start at once but does not."""
    held, gang, single = job("a", task("t", 5)), job("b", task("t", 5, gpus=2)), job("c", task("t", 9))
    assert starts("fifo", gpus(2), held, gang, single) == [
        (0, "a/t starts on n0:0"),
        (5, "b/t starts on n0:0,1"),
        (10, "c/t starts on n0:0"),
    ]


def test_without_blocking_who_fits_overtakes() -> None:
    """Back-fill: the gang waits for both."""
    held, gang, single = job("a", task("t", 5)), job("b", task("t", 5, gpus=2)), job("c", task("t", 9))
    assert starts("fifo:blocking=none", gpus(2), held, gang, single) == [
        (0, "a/t starts on n0:0"),
        (0, "c/t starts on n0:1"),
        (9, "b/t starts on n0:0,1"),
    ]


def overtakers(cluster: Cluster, *submitted: Job, policy: str = "fifo:blocking=easy") -> str:
    """Names of the jobs that start at 0 s."""
    return " ".join(line[0] for time, line in starts(policy, cluster, *submitted) if time == 0)


def single(name: str, duration: float, gpus: int = 1) -> Job:
    """A job of one rigid task."""
    return job(name, task("t", duration, gpus=gpus))


def test_easy_back_fill_lets_pass_who_ends_before_the_first_that_waits_can_start() -> None:
    """b can start at 5 s; c would end at 9 s and has to wait, d at 5 s and has not."""
    held, gang = single("a", 5), single("b", 5, gpus=2)
    assert overtakers(gpus(2), held, gang, single("c", 9)) == "a"
    assert overtakers(gpus(2), held, gang, single("c", 9), single("d", 5)) == "a d"


def test_easy_back_fill_lets_pass_who_takes_what_the_first_that_waits_leaves() -> None:
    """At 5 s four GPUs are free and b takes three: there is room for one long task beside it."""
    held, gang = single("a", 5, gpus=2), single("b", 5, gpus=3)
    assert overtakers(gpus(4), held, gang, single("c", 99)) == "a c"
    assert overtakers(gpus(4), held, gang, single("c", 99), single("d", 99)) == "a c"


def test_easy_back_fill_keeps_whole_nodes_for_a_gang_that_spans_them() -> None:
    """b takes two nodes at 5 s, so c may not begin on the one that is free until then, nor beside a."""
    held, gang, long = single("a", 5), single("b", 5, gpus=4), single("c", 9)
    assert overtakers(gpus(2, nodes=2), held, gang, long) == "a"
    assert overtakers(gpus(2, nodes=2), held, gang, single("c", 4)) == "a c"
    assert overtakers(gpus(2, nodes=3), held, single("x", 9, gpus=2), gang, long) == "a x"


def test_easy_back_fill_sees_what_is_scarce_beside_gpus() -> None:
    """b waits for the licence that a holds until 5 s; c would hold it until 9 s."""
    a, b, c = (
        job(n, Task("t", (Mode(d, gpus=1, resources={"licence": 1}),))) for n, d in [("a", 5), ("b", 5), ("c", 9)]
    )
    cluster = gpus(3, resources={"licence": 1})
    assert overtakers(cluster, a, b, c, single("d", 9)) == "a d"


def test_easy_back_fill_does_not_delay_the_first_that_waits() -> None:
    """Here nobody starts later than under strict head-of-line blocking."""
    queue = [
        single("a", 5),
        single("b", 5, gpus=2),
        *(single(name, duration) for name, duration in zip("cdefg", [9, 5, 1, 2, 3], strict=True)),
    ]
    strict, easy = (
        {line[0]: time for time, line in starts(f"fifo:blocking={b}", gpus(2), *queue)} for b in ("strict", "easy")
    )
    assert strict["b"] == easy["b"] == 5
    assert all(easy[name] <= strict[name] for name in easy)


def one_by_one(order: Order) -> Policy:
    """Back-fill as it is defined: every task in turn, ranked anew at each decision, asks whether it can start."""

    def policy(state: State) -> Sequence[Decision]:
        for waiting in sorted(state.ready.values(), key=lambda t: (order(t, state), t.ready_number)):
            if answer := GreedyPolicy(partial(_first, waiting))(state):
                return answer
        return []

    return policy


def _first(wanted: TaskState, task: TaskState, state: State) -> float:
    return 0.0 if task is wanted else 1.0


@pytest.mark.parametrize(("name", "order"), [("srpt", ORDERS["srpt"]()), ("fair", ORDERS["fair"])])
@settings(max_examples=25, deadline=None)
@given(submitted=jobs(), cluster=clusters, uncertainty=uncertainties)
def test_back_fill_misses_no_task_that_could_start(
    name: str, order: Order, submitted: list[Job], cluster: Cluster, uncertainty: Uncertainty
) -> None:
    """It looks at one of the tasks that need the same, and ranks what has changed: the result must not show it."""
    quick, plain = (
        Scheduler(Simulator(cluster, submitted, 1, uncertainty)).run(policy)
        for policy in (load_policy(f"{name}:blocking=none"), one_by_one(order))
    )
    assert quick.runs == plain.runs
