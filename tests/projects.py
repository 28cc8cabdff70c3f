"""Projects of activities on one machine, which the tests of planning share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import strategies as st

from rlsched.model import Cluster, Job, Mode, Node, Task
from rlsched.policies.planning.instance import Instance, all_known
from rlsched.policies.planning.project import Project, as_project

MACHINE = Cluster((Node("machine", resources={"workers": 3, "crane": 1}),))


def activity(name: str, seconds: float, workers: int, needs: Sequence[str] = (), crane: int = 0) -> Task:
    """An activity on that machine."""
    takes = {"workers": workers} | ({"crane": crane} if crane else {})
    return Task(name, (Mode(seconds, resources=takes),), tuple(needs))


def alone(*activities: Task) -> Instance:
    """One project on that machine."""
    return all_known(MACHINE, [Job("project", activities)])


BY_HAND = alone(
    activity("a", 2, workers=2),
    activity("b", 3, workers=2),
    activity("c", 2, workers=1),
    activity("d", 3, workers=1, needs=["a"]),
)
"""Best done in 5 s, as long as a and d take: a beside c, then b beside d. If b is first, it takes 8 s."""


def project_of(instance: Instance) -> Project:
    """The instance as a project, which it is."""
    project = as_project(instance)
    assert project is not None
    return project


@st.composite
def instances(draw: st.DrawFn, most_jobs: int = 2, most_tasks: int = 4, most_members: int = 2) -> Instance:
    """Small projects with modes, array tasks, releases and deadlines on one machine."""
    modes = st.builds(
        lambda seconds, workers, crane: activity("_", seconds, workers, crane=crane).modes[0],
        st.integers(1, 4),
        st.integers(1, 3),
        st.integers(0, 1),
    )
    jobs = []
    for number in range(draw(st.integers(1, most_jobs))):
        tasks: list[Task] = []
        for index in range(draw(st.integers(1, most_tasks))):
            needs = draw(st.lists(st.sampled_from([t.name for t in tasks]), unique=True, max_size=2)) if tasks else []
            of = tuple(draw(st.lists(modes, min_size=1, max_size=2)))
            tasks.append(Task(f"t{index}", of, tuple(needs), array=draw(st.integers(1, most_members))))
        release = draw(st.sampled_from([0.0, 2.0]))
        jobs.append(Job(f"j{number}", tuple(tasks), release, deadline=draw(st.sampled_from([None, 4.0, 8.0]))))
    return all_known(MACHINE, jobs)


def least_cost(instance: Instance, objective: str) -> float:
    """By trying every list with every choice of modes: one of them gives an optimal schedule."""
    project = project_of(instance)
    start = min(job.release for job in instance.jobs)
    costs = []
    for order in itertools.permutations(range(len(project))):
        if list(order) == project.repaired(order):
            for chosen in itertools.product(*(range(len(modes)) for modes in project.modes)):
                ends = [0.0] * len(instance.jobs)
                timed = zip(project.origin, project.serial(order, chosen), project.ticks(chosen), strict=True)
                for (job, _, _), begin, ticks in timed:
                    ends[job] = max(ends[job], start + (begin + ticks) * project.tick)
                costs.append(instance.cost(ends, objective))
    return min(costs)
