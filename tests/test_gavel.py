"""Gavel's policies: shares of time that can be worked out by hand, and turns that add up to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import TWO_TYPES, clusters, gpus, job, jobs, moldable, on_either, starts, task, tell, uncertainties
from conftest import Play
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsched.model import Allocation, Cluster, Job, Member, Mode, Node, Preemption, Task
from rlsched.policies import timeshares
from rlsched.policies.registry import load_policy, policy_names
from rlsched.policies.timeshares import Claim, Objective, Program, Resource, Way
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator, Uncertainty

GAVEL = [name for name in policy_names() if name.startswith("gavel-")]
ONE_OF_EACH: dict[Resource, float] = {("gpus", "fast"): 1.0, ("gpus", "slow"): 1.0}


def way(duration: float, gpu_type: str, gpus: int = 1) -> Way:
    """One gang all the time."""
    return Way(((0, 1.0),), 1 / duration, {("gpus", gpu_type): float(gpus)})


def claim(*ways: Way, members: int = 1, weight: float = 1.0, left: float = 1.0, age: float = 0.0) -> Claim:
    """A claim whose work is what it takes on its fastest GPU."""
    return Claim(members, ways, weight, min(1 / way.rate for way in ways), left, age)


def solve(objective: Objective, *claims: Claim, capacity: dict[Resource, float] | None = None) -> list[list[float]]:
    """Shares of each claim, by way, to four digits."""
    shares = iter(objective(Program(claims, capacity or ONE_OF_EACH)).tolist())
    return [[round(next(shares), 4) + 0.0 for _ in claim.ways] for claim in claims]


LITTLE = claim(way(10, "fast"), way(20, "slow"))  # loses little on the slow GPU
MUCH = claim(way(10, "fast"), way(40, "slow"))


def test_max_min_fairness_raises_the_smallest_throughput_relative_to_an_equal_share() -> None:
    """One that loses little on the slow GPU and two that lose much: equal shares give 1, and 21/19 is possible.

    With a part f of the fast GPU and the rest of its time on the slow one, the first is at 1 + f. The others share the
    rest: 2.4 (1 - f) + 0.6 f = 2 (1 + f).
    """
    little, much, as_much = solve(timeshares.max_min_fairness, LITTLE, MUCH, MUCH)
    assert little == [0.1053, 0.8947]
    assert [fast + as_fast for fast, as_fast in zip(much, as_much, strict=True)] == pytest.approx([0.8947, 0.1053])
    assert [(fast + slow / 4) * 2.4 for fast, slow in (much, as_much)] == pytest.approx([21 / 19] * 2, abs=1e-3)


def test_weights_divide_what_is_equal() -> None:
    """Three times the weight, three times the time."""
    assert solve(timeshares.max_min_fairness, claim(way(9, "fast"), weight=3.0), claim(way(5, "fast"))) == [
        [0.75],
        [0.25],
    ]


def test_gangs_get_as_much_gpu_time_as_single_gpus() -> None:
    """A gang of two beside two singles on two GPUs runs a third of the time, the others two thirds."""
    capacity: dict[Resource, float] = {("gpus", "fast"): 2.0}
    gang, single = claim(way(7, "fast", 2)), claim(way(5, "fast"))
    assert solve(timeshares.max_min_fairness, gang, single, single, capacity=capacity) == [[0.3333], [0.6667], [0.6667]]


def test_what_the_worst_off_cannot_use_goes_to_the_next() -> None:
    """Water filling: the first can only use the slow GPU, the others share the fast one and nothing is idle."""
    slow, fast = claim(way(10, "slow")), claim(way(10, "fast"))
    assert solve(timeshares.max_min_fairness, slow, fast, fast) == [[1.0], [0.5], [0.5]]


def test_makespan_lets_all_end_together() -> None:
    """0.05 + 0.05 f = 0.1 - 0.075 f: with f = 0.4 of the fast GPU for the first, both take 100 / 7 s."""
    assert solve(timeshares.makespan, LITTLE, MUCH) == [[0.4, 0.6], [0.6, 0.4]]


def test_makespan_goes_by_the_work_that_is_left() -> None:
    """Who has done half needs half the time."""
    done_half = claim(way(10, "fast"), left=0.5)
    assert solve(timeshares.makespan, done_half, claim(way(10, "fast"))) == [[0.3333], [0.6667]]


def test_total_throughput_gives_each_type_to_whom_it_helps_most() -> None:
    """1.5 jobs' worth of work a second instead of 1.25; nobody else gets anything."""
    assert solve(timeshares.total_throughput, LITTLE, MUCH) == [[0.0, 1.0], [1.0, 0.0]]
    capacity: dict[Resource, float] = {("gpus", "fast"): 1.0}
    urgent = claim(way(10, "fast"), weight=2.0)
    assert solve(timeshares.total_throughput, claim(way(10, "fast")), urgent, capacity=capacity) == [[0.0], [1.0]]


def test_finish_time_fairness_makes_up_for_the_time_waited() -> None:
    """On one GPU, one new and one that has waited for 10 s: 10 / x = 10 + 10 / (1 - x)."""
    share = round((3 - math.sqrt(5)) / 2, 4)
    waited = claim(way(10, "fast"), age=10.0)
    assert solve(timeshares.finish_time_fairness, claim(way(10, "fast")), waited) == [[share], [1 - share]]


def test_first_come_first_served_and_shortest_first_serve_one_at_a_time() -> None:
    """The first in the queue has the fast GPU, the next one the slow GPU."""
    long, short = claim(way(50, "fast"), way(60, "slow")), claim(way(5, "fast"), way(6, "slow"))
    assert solve(timeshares.first_come_first_served, long, short, short) == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    assert solve(timeshares.shortest_first, long, short, short) == [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("objective", ["max_min_fairness", "makespan", "total_throughput", "finish_time_fairness"])
def test_who_can_have_everything_at_once_has_it(objective: str) -> None:
    """Without contention all objectives agree."""
    assert solve(getattr(timeshares, objective), claim(way(9, "fast"), way(7, "slow")), claim(way(2, "fast"))) == [
        [0.0, 1.0],
        [1.0],
    ]


claims = st.builds(
    lambda fast, slow, sizes, members, left, age: claim(
        *(w for d, t, n in zip((fast, slow), ("fast", "slow"), sizes, strict=True) if d for w in [way(d, t, n)]),
        members=members,
        left=left,
        age=age,
    ),
    st.sampled_from([0.5, 10.0, 3600.0, 1e6]),
    st.sampled_from([0.0, 1.0, 40.0, 1e5]),
    st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2])),
    st.sampled_from([1, 1, 5]),
    st.sampled_from([1.0, 0.3, 0.01]),
    st.sampled_from([0.0, 10.0, 1e5]),
)


@settings(max_examples=60, deadline=None)
@given(
    of=st.lists(claims, min_size=1, max_size=12),
    name=st.sampled_from(
        [
            "max_min_fairness",
            "makespan",
            "total_throughput",
            "finish_time_fairness",
            "first_come_first_served",
            "shortest_first",
        ]
    ),
)
def test_shares_respect_the_capacity_and_max_min_gives_everybody_an_equal_share(of: list[Claim], name: str) -> None:
    """Whatever the claims: nobody runs more than all of the time, no GPU is shared out twice, and fair is fair."""
    capacity: dict[Resource, float] = {("gpus", "fast"): 4.0, ("gpus", "slow"): 2.0}
    program = Program(of, capacity)
    shares = getattr(timeshares, name)(program)
    taken = dict.fromkeys(capacity, 0.0)
    values = iter(shares.tolist())
    for owner, entry in enumerate(of):
        own = [next(values) for _ in entry.ways]
        assert min(own) > -1e-6
        assert sum(own) < entry.members + 1e-5
        for amount, used in zip(own, entry.ways, strict=True):
            for resource, units in used.takes.items():
                taken[resource] += amount * units
        throughput = np.dot(own, [used.rate for used in entry.ways]) / entry.members
        if name == "max_min_fairness":
            assert throughput / program.equal[owner] > 1 - 1e-4
    assert all(taken[resource] < capacity[resource] + 1e-4 for resource in capacity)


def forever(name: str, *modes: Mode, **more: float) -> Job:
    """A job of one preemptible task."""
    return Job(name, (Task("t", modes, preemptible=True, **more),))  # type: ignore[arg-type]


def parts(policy: str, cluster: Cluster, submitted: list[Job], until: float) -> dict[tuple[str, int], float]:
    """The part of the time until then that each job spent in each of its modes."""
    scheduler = Scheduler(Simulator(cluster, submitted))
    plan = load_policy(policy)
    while scheduler.state.now < until:
        decisions = plan(scheduler.state) if scheduler.state.ready or scheduler.state.preemptible else ()
        scheduler.apply(decisions)
        if not any(isinstance(decision, Allocation | Preemption) for decision in decisions):
            scheduler.advance()
    spent: dict[tuple[str, int], float] = {}
    runs = [(run.member, run.mode, run.start, run.end) for run in scheduler.schedule.runs]
    runs += [(m, run.allocation.mode, run.start, until) for m, run in scheduler.state.running.items()]
    for member, mode, start, end in runs:
        key = (submitted[member.job].name, mode)
        spent[key] = spent.get(key, 0.0) + (min(end, until) - start) / until
    return spent


def test_turns_add_up_to_the_shares() -> None:
    """After 500 rounds everybody has had the shares of the first test above, on each GPU type."""
    either = {name: (1e6, slow) for name, slow in [("little", 2e6), ("much", 4e6), ("as much", 4e6)]}
    submitted = [
        forever(name, Mode(fast, gpus=1, gpu_type="fast"), Mode(slow, gpus=1, gpu_type="slow"))
        for name, (fast, slow) in either.items()
    ]
    spent = parts("gavel-max-min:round=10", TWO_TYPES, submitted, 5000.0)
    assert spent["little", 0] == pytest.approx(2 / 19, abs=0.01)
    assert spent["little", 1] == pytest.approx(17 / 19, abs=0.01)
    for name in ("much", "as much"):
        value = (spent[name, 0] + spent.get((name, 1), 0.0) / 4) * 2.4
        assert value == pytest.approx(21 / 19, abs=0.02)


def test_gangs_take_turns_with_single_gpus() -> None:
    """The gang of two has both GPUs every third round."""
    submitted = [forever("gang", Mode(1e6, gpus=2)), *(forever(name, Mode(1e6, gpus=1)) for name in "ab")]
    spent = parts("gavel-max-min:round=10", gpus(2), submitted, 3000.0)
    assert spent == {
        ("gang", 0): pytest.approx(1 / 3, abs=0.01),
        **{(n, 0): pytest.approx(2 / 3, abs=0.01) for n in "ab"},
    }


def test_who_does_not_see_gpu_types_spreads_over_all() -> None:
    """Half of the time on either, although the second loses much more on the slow one."""
    submitted = [
        forever(name, Mode(1e6, gpus=1, gpu_type="fast"), Mode(slow, gpus=1, gpu_type="slow"))
        for name, slow in [("a", 2e6), ("b", 8e6)]
    ]
    blind = parts("gavel-throughput:round=10,aware=false", TWO_TYPES, submitted, 2000.0)
    assert blind == {(name, mode): pytest.approx(0.5, abs=0.01) for name in "ab" for mode in (0, 1)}
    assert parts("gavel-throughput:round=10", TWO_TYPES, submitted, 2000.0) == {("a", 1): 1.0, ("b", 0): 1.0}


def test_who_goes_on_keeps_its_devices() -> None:
    """A lease is renewed without a stop: two tasks on two GPUs are never interrupted, however short the rounds."""
    submitted = [forever(name, Mode(100.0, gpus=1), checkpoint_time=5.0) for name in "ab"]
    story = tell(submitted, gpus(2), load_policy("gavel-max-min:round=1"))
    assert story.of("stop", "finishes") == [(100, "a/t finishes"), (100, "b/t finishes")]


def test_rounds_end_on_time_and_turns_cost_a_checkpoint() -> None:
    """One GPU for two tasks of 30 s, rounds of 20 s, 1 s to write a checkpoint and 1 s to read it."""
    submitted = [forever(name, Mode(30.0, gpus=1), checkpoint_time=1.0) for name in "ab"]
    story = tell(submitted, gpus(1), load_policy("gavel-max-min:round=20"))
    assert story.of("starts", "stop", "stops", "finishes") == [
        (0, "a/t starts on n0:0"),
        (20, "a/t is asked to stop"),
        (21, "a/t stops with 0.333333 left"),
        (21, "b/t starts on n0:0"),
        (51, "b/t finishes"),
        (51, "a/t starts on n0:0"),
        (62, "a/t finishes"),
    ]


def test_a_gang_gets_the_node_that_single_gpus_lie_across() -> None:
    """One task on each node: when the gang's turn comes, one of them moves over to the other."""
    cluster = Cluster(tuple(Node(f"n{i}", gpus=2, cpus=2) for i in range(2)))
    apart = [Job(name, (Task("t", (Mode(60.0, gpus=1, cpus=1),), preemptible=True),)) for name in "ab"]
    held = [Job(name, (Task("t", (Mode(1.0, gpus=1, cpus=1),)),)) for name in "cd"]
    gang = Job("gang", (Task("t", (Mode(30.0, gpus=2),), preemptible=True),), release=2.0)
    order = [apart[0], held[0], apart[1], held[1], gang]
    story = tell(order, cluster, load_policy("gavel-max-min:round=10"))
    assert [line for line in story.of("stop", "starts") if line[0] == 10] == [
        (10, "a/t is asked to stop"),
        (10, "gang/t starts on n0:0,1"),
        (10, "a/t starts on n1:1"),
    ]


def test_what_cannot_be_preempted_runs_to_its_end() -> None:
    """The priorities then say who starts: the shares that they have waited for longest."""
    short, long = job("short", task("t", 5)), job("long", task("t", 50))
    assert starts("gavel-sjf", gpus(1), long, short) == [(0, "short/t starts on n0:0"), (5, "long/t starts on n0:0")]
    assert starts("gavel-fifo", gpus(1), long, short) == [(0, "long/t starts on n0:0"), (50, "short/t starts on n0:0")]


def test_what_cannot_be_preempted_waits_for_the_type_that_suits_it() -> None:
    """The second has no share of the slow GPU, for it would take more than four times as long there."""
    first, second = job("a", on_either("t", 10, 90)), job("b", on_either("t", 10, 90))
    assert [time for time, _ in starts("gavel-max-min", TWO_TYPES, first, second)] == [0, 10]
    assert [time for time, _ in starts("gavel-max-min:stretch=9", TWO_TYPES, first, second)] == [0, 0]


def test_large_gangs_that_cannot_be_preempted_are_not_overtaken_for_ever() -> None:
    """The gang is first in the queue: the GPU that is free stays so until it has both."""
    held = job("held", task("t", 10))
    gang, single = job("gang", task("t", 2, gpus=2), release=1), job("single", task("t", 40), release=2)
    assert starts("gavel-fifo", gpus(2), held, gang, single) == [
        (0, "held/t starts on n0:0"),
        (10, "gang/t starts on n0:0,1"),
        (12, "single/t starts on n0:0"),
    ]


def test_moldable_tasks_use_gpus_well() -> None:
    """The threshold keeps a task that wants to be fast from four GPUs of which it uses little."""
    alone = job("a", moldable("t", 100, 55, 50))
    assert starts("gavel-max-min", gpus(4), alone) == [(0, "a/t starts on n0:0,1,2,3")]
    assert starts("gavel-max-min:threshold=0.8", gpus(4), alone) == [(0, "a/t starts on n0:0,1")]


def test_the_shares_are_computed_once_for_each_arrival_or_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each round: two tasks of 100 s that arrive together take two solutions."""
    solved = []
    policy = load_policy("gavel-max-min:round=10")

    def counting(program: Program) -> timeshares.Vector:
        solved.append(program)
        return timeshares.max_min_fairness(program)

    monkeypatch.setattr(type(policy), "objective", staticmethod(counting))
    tell([forever(name, Mode(100.0, gpus=1)) for name in "ab"], gpus(1), policy)
    assert len(solved) == 2


def test_only_so_many_waiting_tasks_take_part_but_all_that_run() -> None:
    """With one at a time everybody starts all the same, and nobody is stopped for want of a place in the program."""
    submitted = [forever(name, Mode(100.0, gpus=1)) for name in "abc"]
    story = tell(submitted, gpus(3), load_policy("gavel-max-min:round=10,tasks=1"))
    assert [time for time, _ in story.of("starts")] == [0, 0, 0]
    assert story.of("stop") == []


def test_tasks_take_turns_on_either_backend(play: Play) -> None:
    """At the end of a round the long task gives way to the short one that has arrived."""
    long = Job("long", (Task("t", (Mode(0.6, gpus=1),), preemptible=True),))
    short = Job("short", (Task("t", (Mode(0.1, gpus=1),), preemptible=True),), release=0.05)
    played = play([long, short], gpus(1), load_policy("gavel-max-min:round=0.3"))
    played.schedule.check()
    assert Preemption(Member(0, 0)) in played.of(Preemption)
    ends = [record.completion for record in played.schedule.jobs.values()]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[1] < ends[0]


@pytest.mark.parametrize("name", GAVEL)
@settings(max_examples=12, deadline=None)
@given(
    submitted=jobs(), cluster=clusters, uncertainty=uncertainties, options=st.sampled_from(["tasks=4", "aware=false"])
)
def test_every_job_ends(
    name: str, submitted: list[Job], cluster: Cluster, uncertainty: Uncertainty, options: str
) -> None:
    """Whatever arrives, fails or breaks down: nothing stalls, the schedule is possible, and a repetition is equal."""
    schedules = [
        Scheduler(Simulator(cluster, submitted, 1, uncertainty)).run(load_policy(f"{name}:round=7,{options}"))
        for _ in range(2)
    ]
    schedules[0].check()
    assert [record.completion is None for record in schedules[0].jobs.values()] == [
        record.failed for record in schedules[0].jobs.values()
    ]
    assert schedules[0].runs == schedules[1].runs
