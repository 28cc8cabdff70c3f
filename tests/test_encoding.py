"""What the encoder keeps from decision to decision never shows: an observation depends on the state alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from builders import clusters, erratic, jobs, uncertainties
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsched.envs.backlog import Backlog
from rlsched.envs.encoding import SHORTLIST, Encoder
from rlsched.model import Cluster, Job, Mode, Node, Task
from rlsched.policies.registry import load_policy
from rlsched.scheduler import Decision, Scheduler
from rlsched.simulator import Simulator, Uncertainty
from rlsched.state import State


@settings(max_examples=40, deadline=None)
@given(jobs(), clusters, uncertainties, st.booleans(), st.integers(0, 99))
def test_an_observation_depends_on_the_state_alone(
    arriving: list[Job], cluster: Cluster, uncertainty: Uncertainty, graph: bool, seed: int
) -> None:
    """An encoder that has seen much, but not everything, sees what a new one sees, bit for bit.

    With preemption, arrays, custom resources, failures, and nodes and GPUs that are lost.
    """
    old, policy, luck = Encoder(preemption=True, graph=graph), erratic(seed), random.Random(seed)

    def compared(state: State) -> Sequence[Decision]:
        if luck.random() < 0.7:
            new = Encoder(preemption=True, graph=graph)
            candidates, expected = old.candidates(state), new.candidates(state)
            assert candidates == expected
            seen, fresh = old.encode(state, candidates), new.encode(state, expected)
            assert seen.keys() == fresh.keys()
            for key, array in seen.items():
                assert array.tobytes() == fresh[key].tobytes(), key
                assert np.isfinite(array).all(), key
        return policy(state)

    Scheduler(Simulator(cluster, arriving, seed, uncertainty)).run(compared)
    Scheduler(Simulator(cluster, arriving, seed + 1, uncertainty)).run(compared)  # another state for the same encoder


@settings(max_examples=40, deadline=None)
@given(jobs(), clusters, uncertainties, st.integers(0, 99))
def test_the_backlog_is_what_sorting_finds(
    arriving: list[Job], cluster: Cluster, uncertainty: Uncertainty, seed: int
) -> None:
    """Least work left first, and among equals those that came first, however many events lie between two looks."""
    backlog, policy, luck = Backlog(), erratic(seed), random.Random(seed)

    def compared(state: State) -> Sequence[Decision]:
        if luck.random() < 0.7:
            backlog.update(state)
            in_order = sorted(state.jobs.values(), key=lambda job: job.work_left)
            assert backlog.jobs == in_order
            assert backlog.work == sum(job.work_left for job in in_order)
            assert [backlog.rank(job) for job in in_order] == list(range(len(in_order)))
        return policy(state)

    Scheduler(Simulator(cluster, arriving, seed, uncertainty)).run(compared)


def test_for_the_makespan_the_longest_jobs_are_on_the_shortlist() -> None:
    """With more jobs than it has room for; for mean completion time those with the least work left are."""
    arriving = [Job(f"{i}", (Task("train", (Mode(100.0 + i, gpus=1),)),), 0.0) for i in range(40)]
    seen: dict[str, list[str]] = {}

    def look(state: State) -> Sequence[Decision]:
        for objective in ("mean_jct", "makespan"):
            found = Encoder(objective).candidates(state)
            seen.setdefault(objective, [candidate.task.job.job.name for candidate in found])
        return first_come(state)

    first_come = load_policy("fifo")
    Scheduler(Simulator(Cluster((Node("n", gpus=4),)), arriving, 0)).run(look)
    assert seen["mean_jct"] == [f"{i}" for i in range(SHORTLIST)]
    assert seen["makespan"] == [f"{i}" for i in range(39, 39 - SHORTLIST, -1)]
