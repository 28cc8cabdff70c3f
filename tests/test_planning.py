"""Plans: what is left to plan, how a plan is played, and when a new one is made."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from builders import at, clusters, erratic, first_fit, gpus, job, jobs, task, tell
from conftest import Play
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsched.model import Allocation, Cluster, Job, Member, Mode, Node, Preemption, Share, Task
from rlsched.policies.planning.instance import Instance, Terms, all_known, what_is_left
from rlsched.policies.planning.plan import Plan, PlanningPolicy, PlayedPlan, Start, plan_of
from rlsched.scheduler import Decision, Scheduler
from rlsched.simulator import Simulator, Uncertainty
from rlsched.state import State


def on(node: int, *jobs_and_tasks: tuple[int, int], gpus: int = 1) -> list[Start]:
    """Starts in mode 0 on a node."""
    return [Start(job, index, 0, ((node, gpus),)) for job, index in jobs_and_tasks]


def left_at(time: float, submitted: Sequence[Job], cluster: Cluster, **simulation: object) -> Instance:
    """What is left of jobs under first-fit, at the first decision from a time on."""
    seen: list[Instance] = []

    def look(state: State) -> Sequence[Decision]:
        seen.append(what_is_left(state))
        return first_fit(state)

    Scheduler(Simulator(cluster, submitted, **simulation)).run(at({time: look}))  # type: ignore[arg-type]
    return seen[0]


def test_what_is_left_of_a_job_is_what_runs_and_what_waits() -> None:
    """At 7 s first and other are done, a member of the sweep has 8 s to go, two wait, and last needs all three."""
    swept = job(
        "a",
        task("first", 4),
        task("sweep", 10, needs=["first"], array=3),
        task("other", 6, gpus=2),
        task("last", 5, needs=["sweep"]),
        release=1.0,
        weight=2.0,
        deadline=50.0,
    )
    left = left_at(7, [swept], gpus(3))
    assert left.terms == (Terms(1.0, 2.0, 50.0),)
    (rest,) = left.jobs
    assert rest.release == 7.0
    assert [(part.name, part.array, part.modes[0].duration, part.needs) for part in rest.tasks] == [
        ("1.0", 1, 8.0, ()),
        ("1.1", 2, 10.0, ()),
        ("3.0", 1, 5.0, ("1.0", "1.1")),
    ]
    assert left.held == {(0, 0): (Share(0, (0,)),)}
    assert left.origin == ((0, (1, 1, 3)),)
    schedule = left.play(first_fit)
    schedule.check()
    assert left.cost_of(schedule, "makespan") == 7 + 10 + 5 - 1


def test_a_member_that_was_stopped_has_its_work_left_and_what_is_overdue_ends_at_once() -> None:
    """Half of 10 s, and 1 s to load the checkpoint."""
    stopped = job("a", task("t", 10, preemptible=True, checkpoint_time=1.0))

    def policy(state: State) -> Sequence[Decision]:
        if state.now == 5 and state.running and not next(iter(state.running.values())).stopping:
            return [Preemption(Member(0, 0))]
        return first_fit(state) if state.now < 5 else []

    seen: list[Instance] = []

    def watch(state: State) -> Sequence[Decision]:
        if state.now >= 6 and state.ready:
            seen.append(what_is_left(state))
            return first_fit(state)
        return policy(state)

    second = job("b", task("t", 1), release=5.0)
    Scheduler(Simulator(gpus(2), [stopped, second])).run(watch)
    assert seen[0].jobs[0].tasks[0].modes[0].duration == pytest.approx(0.5 * 10 + 1)


@settings(max_examples=25, deadline=None)
@given(submitted=jobs(), cluster=clusters, seed=st.integers(0, 100), number=st.integers(0, 12))
def test_what_is_left_can_be_played_at_any_time(submitted: list[Job], cluster: Cluster, seed: int, number: int) -> None:
    """Whatever has started, waits or has been stopped: every job that is in the system ends in the simulation."""
    policy, asked = erratic(seed), 0
    uncertainty = Uncertainty(duration_noise=0.5, failures_per_hour=30.0)

    def watch(state: State) -> Sequence[Decision]:
        nonlocal asked
        asked += 1
        if asked == number:
            left = what_is_left(state)
            schedule = left.play(first_fit)
            schedule.check()
            assert {record.completion is None for record in schedule.jobs.values()} == {False}
            assert len(left.jobs) == len(state.jobs)
        return policy(state)

    Scheduler(Simulator(cluster, submitted, seed, uncertainty)).run(watch)


def test_a_plan_is_played_in_its_order_in_its_modes_and_on_its_nodes() -> None:
    """Although the other node and the other modes are free."""
    flexible = Task("t", (Mode(10, gpus=2), Mode(16, gpus=1)))
    plan = [Start(1, 0, 1, ((1, 1),)), Start(0, 0, 0, ((1, 2),))]
    submitted = [Job("a", (flexible,)), Job("b", (flexible,))]
    assert tell(submitted, gpus(2, nodes=2), PlayedPlan(plan)).of("starts") == [
        (0, "b/t starts on n1:0"),
        (16, "a/t starts on n1:0,1"),
    ]


def test_a_member_overtakes_only_what_it_takes_nothing_from() -> None:
    """Beside first and what wide will need one of four GPUs is free: for small, and third waits."""
    submitted = job("a", task("first", 5), task("wide", 5, gpus=2, needs=["first"]), task("small", 9), task("third", 9))
    plan = [*on(0, (0, 0)), *on(0, (0, 1), gpus=2), *on(0, (0, 2), (0, 3))]
    assert tell([submitted], gpus(4), PlayedPlan(plan)).of("starts") == [
        (0, "a/first starts on n0:0"),
        (0, "a/small starts on n0:1"),
        (5, "a/wide starts on n0:0,2"),
        (5, "a/third starts on n0:3"),
    ]


def test_the_order_holds_where_tasks_take_longer_than_planned() -> None:
    """Noise moves the times, not the order; the other node does not wait."""
    submitted = job("a", task("x", 10), task("y", 1), task("z", 1))
    for seed in range(5):
        story = tell(
            [submitted],
            gpus(1, nodes=2),
            PlayedPlan([*on(0, (0, 0), (0, 1)), *on(1, (0, 2))]),
            seed=seed,
            uncertainty=Uncertainty(duration_noise=1.0),
        )
        assert [line.split()[0] for _, line in story.of("starts")] == ["a/x", "a/z", "a/y"]


def test_nobody_overtakes_a_job_that_is_to_come() -> None:
    """It is known, and first in the plan."""
    submitted = [job("a", task("t", 10)), job("b", task("t", 10), release=3.0)]
    assert tell(submitted, gpus(1), PlayedPlan(on(0, (1, 0), (0, 0)))).of("starts") == [
        (3, "b/t starts on n0:0"),
        (13, "a/t starts on n0:0"),
    ]


def test_a_plan_for_no_node_in_particular_keeps_its_order() -> None:
    """Best fit, and nobody overtakes."""
    submitted = job("a", task("x", 4), task("wide", 4, gpus=2), task("y", 4))
    plan = [Start(0, 0, 0), Start(0, 1, 0), Start(0, 2, 0)]
    assert [time for time, _ in tell([submitted], gpus(2), PlayedPlan(plan)).of("starts")] == [0, 4, 8]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_played_again_nothing_starts_later(seed: int, data: st.DataObject) -> None:
    """Of any schedule, the plan behind it gives one in which no task starts later."""
    nodes = data.draw(st.lists(st.sampled_from([2, 4]), min_size=1, max_size=3))
    cluster = Cluster(tuple(Node(f"n{i}", gpus=count) for i, count in enumerate(nodes)))
    luck = random.Random(seed)
    submitted = [
        Job(
            f"j{number}",
            tuple(
                Task(
                    f"t{index}",
                    (Mode(luck.randint(1, 9), gpus=luck.randint(1, 2)), Mode(luck.randint(1, 9), gpus=1)),
                    tuple(f"t{before}" for before in range(index) if luck.random() < 0.3),
                    array=luck.randint(1, 2),
                )
                for index in range(luck.randint(1, 5))
            ),
            release=2.0 * number,
        )
        for number in range(luck.randint(1, 3))
    ]
    instance = all_known(cluster, submitted)
    before = instance.play(erratic(seed))
    after = instance.play(PlayedPlan(plan_of(before, instance)))
    after.check()
    for number, record in after.jobs.items():
        assert record.completion is not None
        assert record.completion <= before.jobs[number].completion  # type: ignore[operator]


def test_a_plan_is_made_for_every_arrival_and_for_what_comes_back(play: Play) -> None:
    """Not for what it holds already; on either backend."""
    planned: list[list[str]] = []

    def planner(instance: Instance) -> Plan:
        planned.append([of.name for of in instance.jobs])
        return plan_of(instance.play(first_fit), instance)

    submitted = [job("a", task("x", 0.05), task("y", 0.05, needs=["x"])), job("b", task("z", 0.3), release=0.02)]
    played = play(submitted, gpus(1, cpus=4), PlanningPolicy(planner))
    played.schedule.check()
    assert planned == [["a"], ["a", "b"]]
    assert [start.member[:2] for start in played.of(Allocation)] in ([(0, 0), (0, 1), (1, 0)], [(0, 0), (1, 0), (0, 1)])


def test_a_lost_node_makes_a_new_plan_and_nothing_stalls() -> None:
    """Members that lost their node come back, and are planned again."""
    calls = 0

    def planner(instance: Instance) -> Plan:
        nonlocal calls
        calls += 1
        return plan_of(instance.play(first_fit), instance)

    submitted = [job("a", task("t", 3600, array=6), task("u", 3600, needs=["t"]))]
    lossy = Uncertainty(node_losses_per_hour=1.0, repair_time=600.0)
    schedule = Scheduler(Simulator(gpus(2, nodes=2), submitted, 3, lossy)).run(PlanningPolicy(planner))
    schedule.check()
    assert schedule.metrics()["unfinished_jobs"] == 0
    assert schedule.metrics()["failed_runs"] > 0
    assert calls > 1


def test_an_objective_that_does_not_exist_is_refused() -> None:
    """With those that do."""
    with pytest.raises(ValueError, match="objective is 'speed', expected mean_jct, makespan, weighted_tardiness"):
        all_known(gpus(1), [job("a")]).cost([1.0], "speed")


def test_objectives_by_hand() -> None:
    """Two jobs that end at 10 and 20, the second released at 4 with weight 3 and due at 12."""
    instance = all_known(gpus(1), [job("a"), job("b", release=4.0, weight=3.0, deadline=12.0)])
    costs = {name: instance.cost([10.0, 20.0], name) for name in ("mean_jct", "makespan", "weighted_tardiness")}
    assert costs == {"mean_jct": 13.0, "makespan": 20.0, "weighted_tardiness": 24.0}
