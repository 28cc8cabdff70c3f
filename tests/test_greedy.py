"""Greedy policies: who comes first, on how many GPUs, of which type, on which node, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from builders import Story, clusters, gpus, job, jobs, task, tell, uncertainties
from hypothesis import given, settings
from hypothesis import strategies as st
from witness import Witness

from rlsched.active import TaskState
from rlsched.model import Cluster, Job, Mode, Node, Task
from rlsched.policies.counts import COUNTS
from rlsched.policies.greedy import BLOCKING, GreedyPolicy
from rlsched.policies.orders import ORDERS, Order
from rlsched.policies.placement import GPU_TYPES, PLACEMENTS
from rlsched.policies.registry import load_policy
from rlsched.scheduler import Decision, Policy, Scheduler
from rlsched.simulator import Simulator, Uncertainty
from rlsched.state import State

TWO_TYPES = Cluster((Node("n0", gpus=1, gpu_type="fast"), Node("n1", gpus=1, gpu_type="slow")))


def order_of(policy: str, *submitted: Job, cluster: Cluster | None = None) -> str:
    """Names of the tasks in the order in which they start, on one GPU unless said otherwise."""
    story = tell(submitted, cluster or gpus(1), load_policy(policy))
    return " ".join(line.split()[0] for _, line in story.of("starts"))


def starts(policy: str, cluster: Cluster, *submitted: Job) -> list[tuple[float, str]]:
    """(time, sentence) of every start."""
    return tell(submitted, cluster, load_policy(policy)).of("starts")


def moldable(name: str, *durations: float, counts: tuple[int, ...] = (1, 2, 4, 8), gpu_type: str | None = None) -> Task:
    """A task that takes so many seconds on so many GPUs."""
    return Task(name, tuple(Mode(d, gpus=c, gpu_type=gpu_type) for d, c in zip(durations, counts, strict=False)))


def on_either(name: str, fast: float, slow: float) -> Task:
    """A task for one GPU of either type."""
    return Task(name, (Mode(fast, gpus=1, gpu_type="fast"), Mode(slow, gpus=1, gpu_type="slow")))


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
