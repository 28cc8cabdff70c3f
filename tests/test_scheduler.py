"""The loop between policy and backend: who starts when, and what is refused."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import pytest
from builders import at, clusters, erratic, first_fit, gpus, job, jobs, lazy, task, tell, uncertainties
from conftest import Play
from hypothesis import given, settings

from rlsched.active import Status, TaskState
from rlsched.model import Allocation, Cluster, Job, Member, Mode, Node, Preemption, Share, Task, WakeUp
from rlsched.scheduler import Decision, Scheduler, StallError, WokeUp
from rlsched.simulator import Simulator, Uncertainty
from rlsched.state import State


def arrived(*jobs: Job, cluster: Cluster) -> Scheduler:
    """A scheduler with the jobs in the system and nothing started yet."""
    scheduler = Scheduler(Simulator(cluster, jobs))
    scheduler.advance()
    return scheduler


def snapshot(state: State) -> object:
    """Everything a decision could change."""
    pool = state.pool
    nodes = range(len(state.cluster.nodes))
    return (
        [(t.key, t.status, list(t.waiting), t.running) for j in state.jobs.values() for t in j.tasks],
        list(state.ready),
        list(state.running),
        [pool.free_on(node) for node in nodes],
        [pool.place(Mode(1.0, cpus=cpus, memory=memory)) for cpus in range(9) for memory in (0.0, 8.0, 16.0)],
        pool.free_resource("licence"),
    )


def test_tasks_wait_for_devices_and_for_what_they_need() -> None:
    """A chain and a single task on one GPU: first come, first served."""
    chain = job("a", task("x", 5), task("y", 3, needs=["x"]))
    single = job("b", task("z", 2), release=1)
    assert tell([chain, single], gpus(1)).lines == [
        (0, "a arrives"),
        (0, "a/x starts on n0:0"),
        (1, "b arrives"),
        (5, "a/x finishes"),
        (5, "b/z starts on n0:0"),
        (7, "b/z finishes"),
        (7, "a/y starts on n0:0"),
        (10, "a/y finishes"),
    ]


def test_all_gpus_of_a_gang_start_together() -> None:
    """A gang of two waits although one GPU is free."""
    story = tell([job("a", task("one", 4)), job("b", task("two", 3, gpus=2))], gpus(2))
    assert story.of("starts") == [(0, "a/one starts on n0:0"), (4, "b/two starts on n0:0,1")]


def test_a_gang_larger_than_any_node_spans_nodes_that_are_free() -> None:
    story = tell([job("a", task("one", 4)), job("b", task("three", 3, gpus=3))], gpus(2, nodes=2))
    assert story.of("starts") == [(0, "a/one starts on n0:0"), (4, "b/three starts on n1:0,1 n0:0")]


def test_members_of_an_array_task_run_side_by_side_and_its_successor_waits_for_all() -> None:
    sweep = job("a", task("sweep", 4, array=3), task("pick", 1, needs=["sweep"]))
    assert tell([sweep], gpus(2)).lines[1:] == [
        (0, "a/sweep[0] starts on n0:0"),
        (0, "a/sweep[1] starts on n0:1"),
        (4, "a/sweep[0] finishes"),
        (4, "a/sweep[1] finishes"),
        (4, "a/sweep[2] starts on n0:0"),
        (8, "a/sweep[2] finishes"),
        (8, "a/pick starts on n0:0"),
        (9, "a/pick finishes"),
    ]


@pytest.mark.parametrize(("first", "second"), [(13.02, 53.27), (14.09, 51.88)])
def test_jobs_released_at_one_instant_are_seen_together_and_on_time(first: float, second: float) -> None:
    """In floating point, 13.02 + (53.27 - 13.02) is less than 53.27, and the other pair errs the other way."""
    assert first + (second - first) != second
    seen: list[tuple[float, list[str]]] = []

    def policy(state: State) -> Sequence[Decision]:
        seen.append((state.now, [j.job.name for j in state.jobs.values()]))
        return first_fit(state)

    releases = {"a": first, "b": second, "c": second}
    tell([job(name, task("t", 1), release=release) for name, release in releases.items()], gpus(4), policy)
    assert seen[0] == (first, ["a"])
    assert next(names for _, names in seen if names != ["a"]) == ["b", "c"]
    assert {time for time, names in seen if names != ["a"]} == {second}


def test_tasks_without_gpus_are_started_by_the_scheduler_itself() -> None:
    """The policy is not asked, and they run first come, first served within the cores."""
    clean = Task("clean", (Mode(3.0, cpus=4),), array=3)
    cluster = Cluster((Node("n0", gpus=1, cpus=8),))
    assert tell([job("a", clean)], cluster, lazy).of("starts") == [
        (0, "a/clean[0] starts on n0:"),
        (0, "a/clean[1] starts on n0:"),
        (3, "a/clean[2] starts on n0:"),
    ]


def test_tasks_that_take_custom_resources_are_left_to_the_policy() -> None:
    licensed = Task("t", (Mode(3.0, resources={"licence": 1}),), array=2)
    cluster = Cluster((Node("n0", resources={"licence": 1}),))
    assert tell([job("a", licensed)], cluster).of("starts") == [
        (0, "a/t[0] starts on n0:"),
        (3, "a/t[1] starts on n0:"),
    ]
    with pytest.raises(StallError, match=r"starts none of: a/t$"):
        tell([job("a", licensed)], cluster, lazy)


def test_a_policy_that_waits_for_nothing_is_a_stall() -> None:
    """Nothing runs, nothing will arrive: the error names what could have been started."""
    with pytest.raises(StallError, match=r"nothing runs and nothing will arrive, .* none of: a/t, b/t"):
        tell([job("a"), job("b")], gpus(1), lazy)


def test_a_backend_without_events_is_a_stall_instead_of_an_endless_wait() -> None:
    """The only node is lost and will never be repaired."""
    uncertainty = Uncertainty(node_losses_per_hour=3600, repair_time=float("inf"))
    with pytest.raises(StallError, match="nothing will ever happen"):
        tell([job("a", task("t", 1e6))], gpus(1), uncertainty=uncertainty)


def test_a_job_that_cannot_ever_run_is_refused_on_arrival() -> None:
    with pytest.raises(ValueError, match="job 'a': task 't' asks for more than the cluster has"):
        tell([job("a", task("t", gpus=3))], gpus(2))


TASK = Task(
    "t",
    (
        Mode(1.0, gpus=2),
        Mode(1.0, gpus=1, gpu_type="a100"),
        Mode(1.0, gpus=1, gpu_memory=80),
        Mode(1.0, gpus=1, cpus=99),
        Mode(1.0, gpus=1, memory=99),
        Mode(1.0, gpus=1, resources={"licence": 3}),
    ),
    array=3,
    setup_time=1.0,
)
THREE_NODES = Cluster(
    (
        Node("v", gpus=2, gpu_type="v100", gpu_memory=16, cpus=8, memory=16, resources={"licence": 2}),
        Node("w", gpus=2, gpu_type="v100", gpu_memory=16, cpus=8, memory=16),
        Node("k", gpus=2, gpu_type="k80", gpu_memory=12, cpus=8, memory=16),
    )
)


@pytest.mark.parametrize(
    ("member", "mode", "shares", "complaint"),
    [
        (0, 0, [(0, (0,))], r"a/t\[0\]: the gang holds 1 GPUs, its mode takes 2"),
        (0, 0, [(0, (0, 0))], "node 'v': a GPU is named twice"),
        (0, 0, [(0, (1, 2))], "node 'v': GPU 2 is not free"),
        (0, 0, [(0, (1, -1))], "node 'v': GPU -1 is not free"),
        (0, 0, [(1, (0, 1))], "node 'w': GPU 0 is not free"),
        (0, 0, [(0, (0,)), (0, (1,))], "one share a node at the most"),
        (0, 0, [(7, (0, 1))], "there is no node 7"),
        (0, 0, [(-1, (0, 1))], "there is no node -1"),
        (0, 0, [(0, (0,)), (2, (0,))], "the gang mixes GPU types"),
        (0, 0, [], "the gang holds 0 GPUs, its mode takes 2"),
        (0, 1, [(0, (0,))], "node 'v' has GPUs of type 'v100', the mode is for another type"),
        (0, 2, [(0, (0,))], "node 'v' has 16 GiB a GPU of the 80 asked for"),
        (0, 3, [(0, (0,))], "node 'v' has 8 free CPUs of the 99 asked for"),
        (0, 4, [(0, (0,))], "node 'v' has 16 GiB of memory free of the 99 asked for"),
        (0, 5, [(0, (0,))], "node 'v' has 2 free 'licence' of the 3 asked for"),
        (0, 5, [(2, (1,))], "node 'k' has 0 free 'licence' of the 3 asked for"),
        (0, 6, [(0, (0,))], "has no mode 6"),
        (0, -1, [(0, (0,))], "has no mode -1"),
        (3, 0, [(0, (0, 1))], r"a/t\[3\] is not ready"),
        (-1, 0, [(0, (0, 1))], r"a/t\[-1\] is not ready"),
    ],
)
def test_an_infeasible_allocation_is_refused_by_name_and_changes_nothing(
    member: int, mode: int, shares: list[tuple[int, tuple[int, ...]]], complaint: str
) -> None:
    busy, sweep = job("busy", task("t", 5, gpus=2)), job("a", Task("u", TASK.modes), TASK)
    scheduler = arrived(busy, sweep, cluster=THREE_NODES)
    scheduler.apply([Allocation(Member(0, 0), 0, (Share(1, (0, 1)),))])
    before = snapshot(scheduler.state)
    bad = Allocation(Member(1, 1, member), mode, tuple(Share(*share) for share in shares))
    with pytest.raises(ValueError, match=complaint):
        scheduler.apply([bad])
    assert snapshot(scheduler.state) == before


@pytest.mark.parametrize("member", [Member(5, 0), Member(0, 7), Member(0, -1), Member(-1, 0)])
def test_an_allocation_of_an_unknown_task_is_refused(member: Member) -> None:
    scheduler = arrived(job("a"), cluster=gpus(1))
    with pytest.raises(ValueError, match="no such task in the system"):
        scheduler.apply([Allocation(member, 0, (Share(0, (0,)),))])


def test_a_task_that_is_blocked_or_running_or_done_is_not_ready() -> None:
    scheduler = arrived(job("a", task("x", 5), task("y", needs=["x"])), cluster=gpus(2))
    start_x, start_y = (Allocation(Member(0, index), 0, (Share(0, (index,)),)) for index in range(2))
    with pytest.raises(ValueError, match="a/y is not ready"):
        scheduler.apply([start_y])
    scheduler.apply([start_x])
    with pytest.raises(ValueError, match="a/x is not ready"):
        scheduler.apply([start_x])
    scheduler.advance()
    with pytest.raises(ValueError, match="a/x is not ready"):
        scheduler.apply([start_x])


def test_decisions_before_an_infeasible_one_stand() -> None:
    scheduler = arrived(job("a"), job("b"), cluster=gpus(1))
    both = [Allocation(Member(number, 0), 0, (Share(0, (0,)),)) for number in range(2)]
    with pytest.raises(ValueError, match="b/t: node 'n0': GPU 0 is not free"):
        scheduler.apply(both)
    assert list(scheduler.state.running) == [Member(0, 0)]


def test_only_running_preemptible_tasks_can_be_preempted() -> None:
    scheduler = arrived(job("a"), job("b"), cluster=gpus(1))
    scheduler.apply(first_fit(scheduler.state))
    with pytest.raises(ValueError, match="a/t is not preemptible"):
        scheduler.apply([Preemption(Member(0, 0))])
    with pytest.raises(ValueError, match="does not run and cannot be preempted"):
        scheduler.apply([Preemption(Member(1, 0))])


def test_asking_twice_to_stop_is_asking_once() -> None:
    stop = [Preemption(Member(0, 0))]
    policy = at({1: lambda state: stop, 2: lambda state: stop})
    patient = job("a", task("t", 10, preemptible=True, checkpoint_time=3))
    others = [job(name, task("t", 1), release=release) for release, name in ((1, "b"), (2, "c"))]
    assert tell([patient, *others], gpus(1), policy).lines[:6] == [
        (0, "a arrives"),
        (0, "a/t starts on n0:0"),
        (1, "b arrives"),
        (1, "a/t is asked to stop"),
        (2, "c arrives"),
        (4, "a/t stops with 0.9 left"),
    ]


def test_a_job_has_less_work_left_once_a_checkpoint_is_written() -> None:
    """At 40 s of 100 s on two GPUs; while the task runs, its job has all of its 200 GPU-seconds left."""
    left: dict[float, float] = {}
    stop = at({40: lambda state: [Preemption(Member(0, 0))]})

    def policy(state: State) -> Sequence[Decision]:
        left[state.now] = state.jobs[0].work_left
        return stop(state)

    long = job("a", task("t", 100, gpus=2, preemptible=True, checkpoint_time=1))
    tell([long, job("b", release=40)], gpus(2), policy)
    assert {time: left[time] for time in (0, 40, 41)} == {0: 200, 40: 200, 41: pytest.approx(120)}


def test_a_policy_is_asked_while_something_that_runs_may_be_preempted() -> None:
    """Nothing is ready when the other task ends, and yet the policy may stop the one that goes on."""
    pair = job("a", task("t", 9, preemptible=True), task("u", 2))
    asked: list[tuple[float, int]] = []

    def policy(state: State) -> Sequence[Decision]:
        asked.append((state.now, len(state.ready)))
        return first_fit(state)

    tell([pair], gpus(2), policy)
    assert asked == [(0, 2), (0, 1), (0, 0), (2, 0)]


def test_a_policy_can_be_woken_up_though_nothing_happens(play: Play) -> None:
    """It gives up an array's GPU for a moment; the last wish counts, and a wish is fulfilled once."""
    asked: list[float] = []

    def policy(state: State) -> Sequence[Decision]:
        asked.append(state.now)
        if len(asked) == 1:
            return [*first_fit(state), WakeUp(0.02), WakeUp(0.1)]
        return first_fit(state) if state.now >= 0.1 else []

    played = play([job("a", task("t", 0.3, array=2))], gpus(2), policy)
    starts, ends = ([time for time, what in played.happenings if isinstance(what, k)] for k in (Allocation, WokeUp))
    assert len(starts) == 2
    assert len(ends) == 1
    assert starts[1] >= ends[0] >= 0.1
    played.schedule.check()


def test_a_task_knows_its_status_through_its_life() -> None:
    scheduler = arrived(job("a", task("x", 2, array=2), task("y", needs=["x"])), cluster=gpus(1))
    x, y = scheduler.state.jobs[0].tasks
    assert (x.status, y.status) == (Status.READY, Status.BLOCKED)
    scheduler.apply(first_fit(scheduler.state))
    assert (x.status, y.status) == (Status.READY, Status.BLOCKED)
    scheduler.advance()
    scheduler.apply(first_fit(scheduler.state))
    assert (x.status, y.status) == (Status.RUNNING, Status.BLOCKED)
    scheduler.advance()
    assert (x.status, y.status) == (Status.DONE, Status.READY)


def test_a_job_knows_what_it_holds_and_what_it_has_attained() -> None:
    scheduler = arrived(job("a", task("x", 3, gpus=2), task("y", 4, needs=["x"])), cluster=gpus(2))
    entry = scheduler.state.jobs[0]
    assert (entry.work_left, entry.gpus, entry.service, entry.critical_path_left) == (10, 0, 0, 7)
    scheduler.apply(first_fit(scheduler.state))
    assert (entry.work_left, entry.gpus, entry.service, entry.first_start) == (10, 2, 0, 0)
    scheduler.advance()
    assert (entry.work_left, entry.gpus, entry.service, entry.critical_path_left) == (4, 0, 6, 4)


def test_memory_does_not_leak_through_rounding() -> None:
    """Amounts such as 0.1 GiB add up exactly, so that a task that takes all memory still fits after many others."""
    little = [job(f"j{k}", Task("t", (Mode(1.0, gpus=1, memory=0.1 * (k % 7 + 1)),))) for k in range(50)]
    everything = job("all", Task("t", (Mode(1.0, gpus=1, memory=33.3),)))
    story = tell([*little, everything], gpus(8, memory=33.3))
    assert story.lines[-1][1] == "all/t finishes"


def test_asking_for_none_of_a_resource_asks_for_nothing() -> None:
    story = tell([job("a", Task("t", (Mode(1.0, gpus=1, resources={"licence": 0}),)))], gpus(1))
    assert story.of("finishes") == [(1, "a/t finishes")]


def test_what_a_simulation_forgets_is_gone_at_once() -> None:
    """While one runs, Python seldom looks for garbage in cycles: there must not be any."""

    def watched(state: State) -> Sequence[Decision]:
        known.add(sum(type(found) is TaskState for found in gc.get_objects()))
        return first_fit(state)

    known: set[int] = set()
    before = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        arriving = [job(f"j{i}", task("x", 5), task("y", 3, needs=["x"]), release=20 * i) for i in range(30)]
        Scheduler(Simulator(gpus(1), arriving)).run(watched)
    finally:
        gc.enable()
    assert known == {2}, "the tasks of the one job that is in the system"
    assert gc.get_threshold() == before


@settings(max_examples=50, deadline=None)
@given(cluster=clusters, submitted=jobs(), uncertainty=uncertainties)
def test_what_the_state_keeps_count_of_is_what_counting_finds(
    cluster: Cluster, submitted: list[Job], uncertainty: Uncertainty
) -> None:
    """Sums that are kept up to date event by event: GPUs that are free and asked for, and who changed last."""
    decide = erratic(0)

    def policy(state: State) -> Sequence[Decision]:
        ready, pool, nodes = list(state.ready.values()), state.pool, range(len(cluster.nodes))
        assert state.without_gpus == sum(not t.task.least_gpus for t in ready)
        assert state.demand == sum(t.task.least_gpus * len(t.waiting) for t in ready)
        assert state.preemptible == sum(r.task.task.preemptible and not r.stopping for r in state.running.values())
        assert pool.free_gpus() == sum(map(pool.free_on, nodes))
        for gpu_type in cluster.gpu_types:
            of_type = [node for node in nodes if cluster.nodes[node].gpu_type == gpu_type]
            assert pool.free_gpus(gpu_type) == sum(map(pool.free_on, of_type))
        assert sorted(state.recent.values(), key=lambda j: j.changed) == list(state.recent.values())
        assert all(j.changed <= state.changes for j in state.jobs.values())
        assert state.recent.keys() == state.jobs.keys()
        return decide(state)

    Scheduler(Simulator(cluster, submitted, 1, uncertainty)).run(policy)
