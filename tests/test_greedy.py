"""Greedy policies: who comes first, and on which node."""

from __future__ import annotations

import pytest
from builders import Story, clusters, gpus, job, jobs, order_of, starts, task, tell, uncertainties
from hypothesis import given, settings
from hypothesis import strategies as st
from witness import Witness

from rlsched.model import Cluster, Job, Mode, Task
from rlsched.policies.counts import COUNTS
from rlsched.policies.greedy import BLOCKING
from rlsched.policies.orders import ORDERS
from rlsched.policies.placement import GPU_TYPES, PLACEMENTS
from rlsched.policies.registry import load_policy
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator, Uncertainty

A = job("a", task("x", 8), task("y", 1, needs=["x"]))
B = job("b", task("x", 4), task("y", 4))
C = job("c", task("x", 5))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fifo", "a/x a/y b/x b/y c/x"),
        ("sjf", "b/x b/y c/x a/x a/y"),
        ("srpt", "c/x b/x b/y a/x a/y"),
        ("shortest-path", "b/x b/y c/x a/x a/y"),
        ("critical-path", "a/x c/x b/x b/y a/y"),
        ("las", "a/x b/x c/x b/y a/y"),
        ("tetris", "c/x b/x b/y a/x a/y"),
        ("heft", "a/x c/x b/x b/y a/y"),
        ("tiresias", "a/x b/x b/y c/x a/y"),
        ("comparative", "c/x b/x b/y a/x a/y"),
        ("comparative:work_weight=0", "a/x a/y b/x b/y c/x"),
        ("graphene", "c/x b/x b/y a/x a/y"),
    ],
)
def test_each_order_has_its_own_first(policy: str, expected: str) -> None:
    """A is a chain of 8 s and 1 s, B two tasks of 4 s, C one of 5 s; they arrive together at one GPU."""
    assert order_of(policy, A, B, C) == expected


def test_the_most_urgent_task_comes_first() -> None:
    """Priority counts before the order of arrival."""
    assert order_of("priority", job("a", task("x"), task("y", priority=1)), job("b", task("z", priority=2))) == (
        "b/z a/y a/x"
    )


def test_the_earliest_deadline_comes_first_and_none_last() -> None:
    """A job without a deadline can wait."""
    late, soon = job("late", deadline=90.0), job("soon", deadline=40.0)
    assert order_of("edf", job("never"), late, soon) == "soon/t late/t never/t"


def test_srpt_compares_paths_where_no_job_needs_gpus() -> None:
    """Work is measured in GPU time; without any, the shorter critical path goes first."""
    long, short = (
        job(name, Task("t", (Mode(d, resources={"disk": 1}),))) for name, d in [("long", 9.0), ("short", 1.0)]
    )
    assert order_of("srpt", long, short, cluster=gpus(0, resources={"disk": 1})) == "short/t long/t"


def three(name: str, duration: float = 10.0, weight: float = 1.0) -> Job:
    """A job of three tasks x, y, z for one GPU each."""
    return job(name, *(task(t, duration) for t in "xyz"), weight=weight)


@pytest.mark.parametrize(
    ("policy", "second", "expected"),
    [
        ("fair", three("b"), "a/x b/x a/y b/y a/z b/z"),
        ("fair", three("b", weight=2.0), "b/x a/x b/y b/z a/y a/z"),
        ("fair:exponent=-1", three("b", duration=5.0), "b/x a/x b/y b/z a/y a/z"),
        ("fair:exponent=1", three("b", duration=5.0), "a/x a/y b/x a/z b/y b/z"),
        ("fifo", three("b"), "a/x a/y a/z b/x b/y b/z"),
    ],
)
def test_fair_sharing_gives_to_whoever_is_furthest_below_its_share(policy: str, second: Job, expected: str) -> None:
    """Shares go by weight, and by total work if an exponent says so; here with a GPU for everybody."""
    assert order_of(policy, three("a"), second, cluster=gpus(6)) == expected


def test_attained_service_counts_what_still_runs() -> None:
    """At 3 s job a has had 3 GPU-seconds, in a task that is not done; so b, which has had none, goes first."""
    first = job("a", task("long", 9), task("short", 3), task("last", 1))
    assert starts("las", gpus(2), first, job("b", release=1)) == [
        (0, "a/long starts on n0:0"),
        (0, "a/short starts on n0:1"),
        (3, "b/t starts on n0:1"),
        (9, "a/last starts on n0:0"),
    ]


def test_tetris_packs_large_gangs_first_unless_little_work_counts_more() -> None:
    """Three tasks of one job for 1, 2 and 4 GPUs, and a small job."""
    packed = job("a", *(task(f"on{n}", 10, gpus=n) for n in (1, 2, 4)))
    assert order_of("tetris:work_weight=0", packed, job("b"), cluster=gpus(8)) == "a/on4 a/on2 a/on1 b/t"
    assert order_of("tetris:work_weight=9", packed, job("b"), cluster=gpus(8)) == "b/t a/on4 a/on2 a/on1"


def test_tetris_looks_at_custom_resources_as_well() -> None:
    """Of two tasks for one GPU, the one that also takes much of the disk fits best into what is free."""
    plain, heavy = task("plain"), Task("heavy", (Mode(10.0, gpus=1, resources={"disk": 3}),))
    cluster = gpus(2, resources={"disk": 4})
    assert order_of("tetris:work_weight=0", job("a", plain, heavy), cluster=cluster) == "a/heavy a/plain"


def test_graphene_begins_with_what_is_long_or_wide_and_what_leads_there() -> None:
    """Where the small task has the longer path to the end than the two in the middle."""
    dag = job(
        "a",
        task("small", 3),
        task("long", 10),
        task("wide", 2, gpus=4),
        task("lead", 1),
        task("wide2", 1, gpus=4, needs=["lead"]),
    )
    assert order_of("graphene", dag, cluster=gpus(8)) == "a/long a/wide a/lead a/small a/wide2"
    assert order_of("graphene:wide=1", dag, cluster=gpus(8)) == "a/long a/small a/wide a/lead a/wide2"
    assert order_of("graphene:long=0.1", dag, cluster=gpus(8)) == "a/long a/small a/wide a/lead a/wide2"


def test_packing_keeps_room_together_and_spreading_keeps_tasks_apart() -> None:
    """Two tasks on two nodes of four GPUs, and then one for four."""
    small = job("a", task("x", 9), task("y", 9, gpus=2), task("z", 9, gpus=4))
    assert starts("fifo", gpus(4, nodes=2), small) == [
        (0, "a/x starts on n0:0"),
        (0, "a/y starts on n0:1,2"),
        (0, "a/z starts on n1:0,1,2,3"),
    ]
    assert starts("fifo:placement=spread", gpus(4, nodes=2), small) == [
        (0, "a/x starts on n0:0"),
        (0, "a/y starts on n1:0,1"),
        (9, "a/z starts on n0:0,1,2,3"),
    ]


def test_spreading_prefers_warm_gpus_of_the_node() -> None:
    """y goes back to the GPU that x of the same job has warmed up, although that is not the first one."""
    other = job("b", task("t", 1))
    chain = job("a", task("x", 2), task("y", 1, needs=["x"]))
    assert starts("fifo:placement=spread", gpus(3), other, chain)[1:] == [
        (0, "a/x starts on n0:1"),
        (2, "a/y starts on n0:1"),
    ]


def test_tasks_for_custom_resources_alone_are_scheduled() -> None:
    """Two of three members at a time, as many as there are licences, on a machine without GPUs."""
    licensed = Task("t", (Mode(4.0, resources={"licence": 1}),), array=3)
    assert starts("srpt", gpus(0, resources={"licence": 2}), job("a", licensed)) == [
        (0, "a/t[0] starts on n0:"),
        (0, "a/t[1] starts on n0:"),
        (4, "a/t[2] starts on n0:"),
    ]


def test_a_task_that_can_do_without_gpus_need_not_wait_for_one() -> None:
    """The only GPU is taken; cores are free."""
    either = Task("t", (Mode(3.0, gpus=1), Mode(9.0, cpus=1)))
    assert starts("fifo", gpus(1), job("a"), job("b", either)) == [
        (0, "a/t starts on n0:0"),
        (0, "b/t starts on n0:"),
    ]


def test_a_policy_that_is_used_again_remembers_nothing_of_the_first_run() -> None:
    """Job numbers start from 0 again; what was learned about the first job 0 does not hold for the second."""
    policy = load_policy("fifo")
    tell([job("a")], gpus(1), policy)
    either = Task("t", (Mode(3.0, gpus=1), Mode(9.0, cpus=1)))
    story: Story = tell([job("b", task("x"), either)], gpus(1), policy)
    assert story.of("starts") == [(0, "b/x starts on n0:0"), (0, "b/t starts on n0:")]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (2, [(0, "a/t[0]"), (0, "b/t"), (15, "a/t[1]")]),
        (
            6,
            [(0, "a/t[0]"), (0, "a/t[1]"), (15, "a/t[2]"), (15, "a/t[3]"), (20, "a/t[4]"), (20, "a/t[5]"), (25, "b/t")],
        ),
    ],
    ids=["little-work", "much-work"],
)
def test_amortise_sets_a_device_up_for_more_of_a_job_only_if_enough_of_it_waits(
    members: int, expected: list[tuple[float, str]]
) -> None:
    """Two devices, set-up 10 s, members of 5 s: the second device is worth a set-up only for as much work as that."""
    a = job("a", task("t", 5, array=members, setup_time=10))
    b = job("b", task("t", 100, setup_time=10))
    found = starts("srpt:amortise=1", gpus(2), a, b)
    assert [(time, sentence.split()[0]) for time, sentence in found] == expected


def test_amortise_leaves_no_job_without_a_device() -> None:
    """However little there is of it."""
    small = job("a", task("t", 1, setup_time=1000))
    assert starts("srpt:amortise=9", gpus(1), small) == [(0, "a/t starts on n0:0")]


policies = st.builds(
    "{}:count={},threshold={},stretch={},blocking={},gpu_type={},placement={},preempt={},preempt_ratio={},"
    "resize={},amortise={}".format,
    st.sampled_from(list(ORDERS)),
    st.sampled_from(list(COUNTS)),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([1.0, 1.5, 99.0]),
    st.sampled_from(list(BLOCKING)),
    st.sampled_from(list(GPU_TYPES)),
    st.sampled_from(list(PLACEMENTS)),
    st.sampled_from(["true", "false"]),
    st.sampled_from([1.0, 2.0]),
    st.sampled_from(["true", "false"]),
    st.sampled_from([0.0, 2.0]),
)


@settings(deadline=None)
@given(submitted=jobs(), cluster=clusters, uncertainty=uncertainties, policy=policies)
def test_every_member_of_the_family_ends_every_job(
    submitted: list[Job], cluster: Cluster, uncertainty: Uncertainty, policy: str
) -> None:
    """Whatever arrives, fails or breaks down: nothing stalls, no rule is broken, and a repetition is equal."""
    witness = Witness(Simulator(cluster, submitted, 1, uncertainty))
    schedule = witness.scheduler.run(load_policy(policy))
    assert [record.completion is None for record in schedule.jobs.values()] == [
        record.failed for record in schedule.jobs.values()
    ]
    assert schedule.runs == Scheduler(Simulator(cluster, submitted, 1, uncertainty)).run(load_policy(policy)).runs
