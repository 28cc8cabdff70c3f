"""Generated projects have the characteristics that they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import project_of

from rlsched.generator.generator import Generator
from rlsched.generator.workload import Workload
from rlsched.model import Cluster, Job, Node
from rlsched.policies.planning.instance import all_known
from rlsched.scenario import load_scenario

FOUR = Cluster((Node("machine", resources={f"R{k}": 60 for k in range(1, 5)}),))


def drawn(seed: int, cluster: Cluster = FOUR, **fields: Any) -> Job:
    """One project."""
    workload = Workload.model_validate({"jobs": 1, "kinds": {"own": {"weight": 1, "project": fields}}})
    (job,) = Generator(workload, cluster).jobs(seed)
    return job


def ancestors(job: Job) -> list[set[int]]:
    """All activities that come before each one."""
    number = {task.name: i for i, task in enumerate(job.tasks)}
    before: list[set[int]] = []
    for task in job.tasks:
        direct = {number[need] for need in task.needs}
        before.append(direct.union(*(before[i] for i in direct)))
    return before


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 20), resources=st.integers(1, 4))
def test_no_arc_is_redundant_and_every_activity_fits(seed: int, count: int, resources: int) -> None:
    """Arcs go forwards, three to and from an activity at most; something is asked of everyone, and never too much."""
    cluster = Cluster((Node("machine", resources={f"R{k}": 9 + k for k in range(resources)}),))
    job = drawn(seed, cluster, activities=count)
    number = {task.name: i for i, task in enumerate(job.tasks)}
    before = ancestors(job)
    assert len(job.tasks) == count
    for i, task in enumerate(job.tasks):
        direct = [number[need] for need in task.needs]
        assert all(j < i for j in direct)
        assert len(direct) <= 3
        assert len(job.successors[i]) <= 3
        assert not any(j in before[other] for j in direct for other in direct), "implied by another arc"
        takes = task.modes[0].resources
        assert takes
        assert all(1 <= units <= cluster.nodes[0].resources[name] for name, units in takes.items())
        assert 1 <= task.shortest <= 10


def test_complexity_and_factor_are_as_asked_for() -> None:
    """Arcs per activity with those of the two dummies, and the part of the resources that an activity takes."""
    for complexity, factor in ((1.5, 0.25), (1.8, 0.5), (2.1, 1.0)):
        jobs = [drawn(seed, complexity=[complexity] * 2, factor=[factor] * 2) for seed in range(20)]
        arcs = [
            sum(len(t.needs) for t in job.tasks)
            + sum(not t.needs for t in job.tasks)
            + sum(not s for s in job.successors)
            for job in jobs
        ]
        assert np.mean(arcs) / 32 == pytest.approx(complexity, abs=0.1)
        assert {sum(len(t.modes[0].resources) for t in job.tasks) for job in jobs} == {round(factor * 4 * 30)}


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_strength_goes_from_just_enough_to_no_conflict(strength: float) -> None:
    """At 1 everything can start as early as its needs allow; at 0 the largest demand takes all there is."""
    for seed in range(10):
        job = drawn(seed, strength=[strength] * 2, factor=[1.0, 1.0])
        project = project_of(all_known(FOUR, [job]))
        starts = project.serial(range(len(project)), project.fastest)
        if strength:
            assert starts == project.earliest(project.fastest)
        else:
            largest = [max(task.modes[0].resources[name] for task in job.tasks) for name in ("R1", "R2", "R3", "R4")]
            assert largest == [60] * 4
            assert starts != project.earliest(project.fastest)


def test_the_packaged_scenario_draws_another_project_for_every_seed() -> None:
    """Thirty activities, the same again for the same seed."""
    scenario = load_scenario("rcpsp")
    assert [len(job.tasks) for job in scenario.jobs(5)] == [30]
    assert scenario.jobs(5) == load_scenario("rcpsp").jobs(5) != scenario.jobs(6)
