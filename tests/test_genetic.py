"""The genetic algorithm: its operators, what it finds, and its policy."""

from __future__ import annotations

import random

import pytest
from builders import clusters, gpus, job, jobs, task, uncertainties
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import BY_HAND, instances, least_cost, project_of

from rlsched.model import Cluster, Job, Mode, Task
from rlsched.policies import options
from rlsched.policies.genetic import crossed, evolve, improve, mutated
from rlsched.policies.planning.budget import Budget
from rlsched.policies.planning.decoding import decoder_for
from rlsched.policies.planning.instance import Instance, all_known
from rlsched.policies.planning.rollouts import GREEDY, rollouts, sampled_rollouts
from rlsched.policies.registry import load_policy
from rlsched.scenario import load_scenario
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator, Uncertainty

OBJECTIVES = ("makespan", "mean_jct", "weighted_tardiness")


def test_crossover_takes_the_middle_in_the_order_of_the_father() -> None:
    """The mother's first gene, the father's next two, the rest as in the mother's; choices go with their genes."""
    mother, father = ([0, 1, 2, 3, 4], [0, 0, 0, 0, 0]), ([4, 0, 3, 2, 1], [1, 1, 1, 1, 1])
    assert crossed(mother, father, (1, 3)) == ([0, 4, 3, 1, 2], [0, 0, 0, 1, 1])


@settings(max_examples=60, deadline=None)
@given(instance=instances(), seed=st.integers(0, 1_000))
def test_children_of_feasible_lists_are_feasible(instance: Instance, seed: int) -> None:
    """Whatever the cuts and swaps: every gene once, behind its predecessors."""
    decoder, luck = decoder_for(instance, "mean_jct"), random.Random(seed)
    project, genes = project_of(instance), len(decoder.predecessors)
    parents = []
    for _ in range(2):
        order = project.repaired(luck.sample(range(genes), genes))
        parents.append((order, [luck.randrange(count) for count in decoder.choices]))
    cuts = sorted(luck.randrange(genes + 1) for _ in range(2))
    child = crossed(parents[0], parents[1], cuts)
    mutant = mutated(child, [frozenset(before) for before in decoder.predecessors], decoder.choices, luck)
    for order, choices in (child, mutant):
        assert order == project.repaired(order)
        assert all(0 <= choice < count for choice, count in zip(choices, decoder.choices, strict=True))


@settings(max_examples=12, deadline=None)
@given(instance=instances(most_tasks=2, most_members=1), objective=st.sampled_from(OBJECTIVES))
def test_it_finds_the_optimum_of_tiny_projects(instance: Instance, objective: str) -> None:
    """As trying everything does."""
    found = improve(instance, objective, rollouts(instance, GREEDY), Budget(300))
    found.schedule.check()
    assert found.cost == pytest.approx(least_cost(instance, objective))


def test_where_the_scheduler_starts_everything_itself_there_is_nothing_to_plan() -> None:
    """Tasks that take cores alone are none of a plan's business."""
    found = improve(
        all_known(gpus(1, nodes=2), [Job("a", (Task("t", (Mode(3, cpus=1),)),))]), "makespan", [], Budget(9)
    )
    assert (found.plan, found.cost) == ([], 3.0)


def test_a_budget_is_kept_and_the_search_stops_at_the_bound() -> None:
    """A list for makespan costs three schedules, as it is justified; nothing is better than the critical path."""
    decoder = decoder_for(BY_HAND, "makespan")
    assert evolve(decoder, [([1, 0, 2, 3], [0] * 4)], Budget(1)).cost == decoder.bound == 5.0
    with pytest.raises(ValueError, match="expected a number of schedules, or of seconds"):
        Budget()
    with pytest.raises(ValueError, match="seconds is 0, expected above 0"):
        Budget(seconds=0)
    spent = Budget(10)
    spent.spend(9)
    assert spent.left
    spent.spend(3)
    assert not spent.left


def waiting_pays() -> Instance:
    """Two GPUs; a job of one long task, and a little later a short one: who starts first on both decides."""
    flexible = (Mode(60, gpus=2), Mode(100, gpus=1))
    return all_known(gpus(2), [Job("a", (Task("t", flexible), Task("u", flexible))), job("b", task("t", 30, gpus=2))])


@pytest.mark.parametrize("objective", OBJECTIVES[:2])
def test_equal_seeds_give_equal_plans_and_no_search_is_worse_than_where_it_began(objective: str) -> None:
    """On several machines too, where lists are played in the simulator."""
    scenario = load_scenario("makespan").with_(jobs=2)
    for instance in (waiting_pays(), all_known(scenario.cluster, scenario.jobs(7))):
        first, second = (improve(instance, objective, rollouts(instance, GREEDY), Budget(60), seed=3) for _ in range(2))
        assert first.plan == second.plan
        assert first.schedule.runs == second.schedule.runs
        first.schedule.check()
        greedy = min(instance.cost_of(schedule, objective) for schedule in rollouts(instance, GREEDY))
        assert first.cost == instance.cost_of(first.schedule, objective) <= greedy


@settings(max_examples=10, deadline=None)
@given(submitted=jobs(), cluster=clusters, uncertainty=uncertainties)
def test_every_job_ends_under_its_policy(submitted: list[Job], cluster: Cluster, uncertainty: Uncertainty) -> None:
    """Whatever arrives, fails or breaks down: nothing stalls, the schedule is possible, and a repetition is equal."""
    schedules = [
        Scheduler(Simulator(cluster, submitted, 1, uncertainty)).run(load_policy("ga:schedules=12,population=4"))
        for _ in range(2)
    ]
    schedules[0].check()
    assert [record.completion is None for record in schedules[0].jobs.values()] == [
        record.failed for record in schedules[0].jobs.values()
    ]
    assert schedules[0].runs == schedules[1].runs


def test_it_can_begin_with_the_lists_of_any_policy() -> None:
    """`start` names it."""
    scenario = load_scenario("tiny").with_(jobs=2)
    schedule = Scheduler(scenario.simulator(3)).run(load_policy("ga:start=sjf,schedules=10,objective=makespan"))
    schedule.check()
    assert schedule.metrics()["unfinished_jobs"] == 0


def test_a_policy_that_cannot_be_sampled_from_is_played_once() -> None:
    """One that can gives as many schedules as are wanted: see test_learned.py."""
    assert len(list(sampled_rollouts(BY_HAND, "fifo", 4))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ga:objective=latency", "objective is 'latency', expected mean_jct, makespan, weighted_tardiness"),
        ("ga:schedules=0", "expected schedules of 1 or more"),
        ("ga:population=3", "a population of 4 or more"),
        ("ga:seconds=-1", "seconds of 0 or more"),
        ("ga:start=fastest", "unknown policy 'fastest'"),
    ],
)
def test_what_it_cannot_do_is_said_when_it_is_loaded(text: str, message: str) -> None:
    """In one sentence."""
    with pytest.raises(ValueError, match=message):
        load_policy(text)


@pytest.mark.parametrize(("policy", "package"), [("ga", "pymoo"), ("cp-sat", "ortools")])
def test_a_package_that_is_not_installed_is_named(policy: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"policy '{policy}': needs the package {package}: pip install 'rlsched\["):
        load_policy(policy)
