"""What the encoder keeps from decision to decision never shows: an observation depends on the state alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from builders import clusters, erratic, first_fit, jobs, uncertainties
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsched.envs.backlog import Backlog
from rlsched.envs.encoding import SHORTLIST, Encoder
from rlsched.envs.rows import COLUMNS
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


def test_stopping_is_seen_with_whom_it_lets_in_and_what_the_run_itself_would_save() -> None:
    """A run on one of two GPUs, 80 s from its end; a task that needs both for 10 s; the run would be twice as fast."""
    long = Task("long", (Mode(100.0, gpus=1), Mode(50.0, gpus=2)), preemptible=True)
    arriving = [Job("a", (long,), 0.0), Job("b", (Task("short", (Mode(10.0, gpus=2),)),), 20.0)]
    rows: list[dict[str, float]] = []

    def look(state: State) -> Sequence[Decision]:
        encoder = Encoder(preemption=True)
        candidates = encoder.candidates(state)
        if state.now == 20 and candidates:
            (row,) = encoder.encode(state, candidates)["candidates"][1 : 1 + len(candidates)]
            rows.append(dict(zip([name for name, _ in COLUMNS], row.tolist(), strict=True)))
        return first_fit(state)

    Scheduler(Simulator(Cluster((Node("n", gpus=2),)), arriving, 0)).run(look)
    row, unit = rows[0], (50 + 10) / 2
    assert row["is_stop"] == 1
    assert row["mode.delay"] == pytest.approx(np.log1p(80 / unit))  # what the short task waits now
    assert row["mode.best_delay"] == pytest.approx(np.log1p(80 / unit))  # and would save
    assert row["mode.share_of_free"] == 1
    assert 0 < row["mode.best_finish"] < 1  # it has less work
    assert row["mode.node_remainder"] == pytest.approx(0.5)
