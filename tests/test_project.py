"""Lists on one machine: serial schedule generation, justification, priority rules, sampling."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from builders import gpus, job, task
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import BY_HAND, MACHINE, activity, alone, instances, project_of

from rlsched.model import Cluster, Job, Mode, Node, Task
from rlsched.policies.planning.decoding import SerialDecoder, Solution, decoder_for
from rlsched.policies.planning.instance import Instance, all_known
from rlsched.policies.planning.plan import PlayedPlan
from rlsched.policies.planning.project import as_project
from rlsched.policies.planning.rules import RULES, latest_finish, listed, sampled

ONE_MODE = [0, 0, 0, 0]


def names(instance: Instance, order: list[int]) -> str:
    """A list of one project's activities as a word."""
    return "".join(instance.jobs[0].tasks[project_of(instance).origin[i][1]].name for i in order)


def test_each_activity_starts_as_early_as_those_before_it_allow() -> None:
    """Not behind the one before it in the list: c slips in at 0 although b and a come first."""
    project = project_of(BY_HAND)
    assert project.serial([1, 0, 2, 3], ONE_MODE) == [3, 0, 0, 5]
    assert project.serial([0, 2, 3, 1], ONE_MODE) == [0, 2, 0, 2]


def test_double_justification_finds_the_optimum_from_the_worst_list() -> None:
    """To the right a, b, c and d start at 3, 5, 3 and 5; then to the left at 0, 2, 0 and 2."""
    project = project_of(BY_HAND)
    assert project.justify([3, 0, 0, 5], ONE_MODE) == [0, 2, 0, 2]


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        # a 2 s and 3 s of d behind it, b 3 s, c 2 s, d 3 s
        ("lft", "abcd"),
        ("lst", "abdc"),
        ("grpw", "abdc"),
        ("mts", "abcd"),
        ("spt", "acbd"),
        ("mslk", "adbc"),
    ],
)
def test_priority_rules_by_hand(rule: str, order: str) -> None:
    """a has d behind it; equals by number."""
    project = project_of(BY_HAND)
    assert names(BY_HAND, listed(project, RULES[rule](project, ONE_MODE))) == order


def test_sampling_prefers_what_the_rule_puts_first_and_draws_everything() -> None:
    """Of a (3 s of work behind it), b and c, a is drawn first with probability 4 / (4 + 1 + 1)."""
    project, luck = project_of(BY_HAND), random.Random(0)
    values = latest_finish(project, ONE_MODE)
    first = [sampled(project, values, luck)[0] for _ in range(3_000)]
    assert [first.count(i) / 3_000 for i in range(3)] == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=0.03)


@settings(max_examples=80, deadline=None)
@given(instance=instances(), seed=st.integers(0, 1_000), objective=st.sampled_from(["makespan", "mean_jct"]))
def test_every_list_gives_a_schedule_that_can_be_played(instance: Instance, seed: int, objective: str) -> None:
    """In the simulator it is feasible and costs what the decoder says, or less: members swap places at the most."""
    decoder, luck = decoder_for(instance, objective), random.Random(seed)
    assert isinstance(decoder, SerialDecoder)
    project = decoder.project
    chosen = [luck.randrange(count) for count in decoder.choices]
    order = sampled(project, [luck.random() for _ in chosen], luck)
    assert order == project.repaired(order), "precedence"
    solution = decoder.decode(order, chosen)
    schedule = instance.play(PlayedPlan(decoder.plan(solution)))
    schedule.check()
    assert instance.cost_of(schedule, objective) <= solution.cost + 1e-9
    assert decoder.bound <= solution.cost + 1e-9
    again = decoder.encode(schedule)
    assert decoder.decode(again.order, again.choices).cost <= solution.cost + 1e-9


@settings(max_examples=80, deadline=None)
@given(instance=instances(most_jobs=1), seed=st.integers(0, 1_000))
def test_justification_never_makes_a_project_longer(instance: Instance, seed: int) -> None:
    """Valls, Ballestin & Quintanilla, EJOR 2005, theorem 1."""
    project, luck = project_of(instance), random.Random(seed)
    chosen = [luck.randrange(len(modes)) for modes in project.modes]
    starts = project.serial(sampled(project, [luck.random() for _ in chosen], luck), chosen)
    justified = project.justify(starts, chosen)
    lengths = project.ticks(chosen)
    ends = [max(map(sum, zip(times, lengths, strict=True))) for times in (justified, starts)]
    assert ends[0] <= ends[1]


def test_times_that_are_no_multiples_of_a_tick_are_rounded_up() -> None:
    """The plan is made in coarser time, and played in real time."""
    odd = alone(activity("a", 1 / 3, 3), activity("b", 3.14159, 2, ["a"]), activity("c", 1e3, 1))
    decoder = decoder_for(odd, "makespan")
    assert isinstance(decoder, SerialDecoder)
    project = decoder.project
    seconds = [odd.jobs[0].tasks[index].shortest for _, index, _ in project.origin]
    lengths = [ticks * project.tick for ticks in project.ticks([0, 0, 0])]
    assert all(rounded >= exact for rounded, exact in zip(lengths, seconds, strict=True))
    plan = decoder.plan(Solution(0.0, [0, 1, 2], [0, 0, 0]))
    assert odd.cost_of(odd.play(PlayedPlan(plan)), "makespan") == pytest.approx(1 / 3 + 1e3)


def test_gpus_cores_and_memory_are_resources_too() -> None:
    """A mode that does not fit the machine is no choice."""
    cluster = Cluster((Node("n", gpus=2, cpus=4, memory=8.0),))
    modes = (Mode(2, gpus=2, cpus=2, memory=4.5), Mode(1, gpus=4), Mode(9, gpus=1, gpu_type="other"))
    instance = all_known(cluster, [Job("a", (Task("t", modes), Task("u", modes)))])
    project = project_of(instance)
    assert [[number for number, _, _ in of] for of in project.modes] == [[0], [0]]
    assert project.serial([0, 1], [0, 0]) == [0, 2]


@pytest.mark.parametrize(
    ("cluster", "tasks"),
    [
        (gpus(1, nodes=2), [task("t")]),
        (gpus(1), [replace(task("t"), setup_time=1.0)]),
        (gpus(1), [task("t", array=2_001)]),
    ],
)
def test_what_is_no_project(cluster: Cluster, tasks: list[Task]) -> None:
    """Several machines, set-up times, too many members: these are for the simulator."""
    assert as_project(all_known(cluster, [job("a", *tasks)])) is None


def test_a_machine_has_the_resources_that_its_name_says() -> None:
    """The shared machine of these tests."""
    assert project_of(all_known(MACHINE, [Job("a", (activity("a", 1, 3, crane=1),))])).horizon == 1
