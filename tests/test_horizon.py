"""The rolling-horizon program: what it reserves, what may go ahead meanwhile, what happens when it takes too long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from builders import TWO_TYPES, clusters, gpus, job, jobs, moldable, on_either, starts, task, uncertainties
from hypothesis import given, settings
from scipy.optimize import linprog

from rlsched.model import Cluster, Job, Mode, Task
from rlsched.policies import horizon
from rlsched.policies.registry import load_policy
from rlsched.policies.timeline import Timeline
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator, Uncertainty

GPUS = ("gpus", None)


def test_a_timeline_finds_the_first_gap_that_is_long_enough() -> None:
    """One GPU of two is free, the other from 10 s on; one is reserved from 20 s to 25 s."""
    timeline = Timeline({GPUS: 1.0})
    timeline.give({GPUS: 1.0}, 10.0)
    timeline.take({GPUS: 1.0}, 20.0, 5.0)
    assert timeline.earliest({GPUS: 1.0}, 0.0, 100.0) == 0.0
    assert timeline.earliest({GPUS: 1.0}, 3.0, 100.0) == 3.0
    assert timeline.earliest({GPUS: 2.0}, 0.0, 10.0) == 10.0
    assert timeline.earliest({GPUS: 2.0}, 0.0, 11.0) == 25.0
    assert timeline.earliest({GPUS: 3.0}, 0.0, 1.0) is None
    assert timeline.earliest({("gpus", "other"): 1.0}, 0.0, 1.0) is None
    assert timeline.mean_free(GPUS, 5.0, 15.0) == 1.5
    assert timeline.mean_free(GPUS, 20.0, 30.0) == 1.5


def test_jobs_with_little_work_left_come_first_and_weights_count() -> None:
    """As under SRPT; an important job goes before a shorter one."""
    long, short = job("long", task("t", 9)), job("short", task("t", 2))
    assert starts("lp-horizon", gpus(1), long, short)[0] == (0, "short/t starts on n0:0")
    important = job("important", task("t", 9), weight=8.0)
    assert starts("lp-horizon", gpus(1), short, important)[0] == (0, "important/t starts on n0:0")


def test_a_gang_keeps_its_place_and_what_does_not_delay_it_goes_ahead() -> None:
    """One GPU is free until 10 s: the task of 8 s may have it, that of 40 s waits for the gang."""
    held = job("held", task("t", 10))
    gang = job("gang", task("t", 5, gpus=2), release=1)
    filler, long = job("filler", task("t", 8), release=1, weight=0.1), job("long", task("t", 40), release=1)
    assert starts("lp-horizon", gpus(2), held, gang, filler, long) == [
        (0, "held/t starts on n0:0"),
        (1, "filler/t starts on n0:1"),
        (10, "gang/t starts on n0:0,1"),
        (15, "long/t starts on n0:0"),
    ]


def test_a_place_is_kept_for_what_will_be_ready_soon() -> None:
    """The gang that waits for a running task comes before a less important job that could start at once."""
    chain = job("chain", task("x", 2), task("y", 2, gpus=2, needs=["x"]))
    long = job("long", task("t", 50), release=1, weight=0.1)
    assert starts("lp-horizon", gpus(2), chain, long) == [
        (0, "chain/x starts on n0:0"),
        (2, "chain/y starts on n0:0,1"),
        (4, "long/t starts on n0:0"),
    ]


def test_each_type_goes_to_whom_it_helps_most() -> None:
    """The one that loses less on the slow GPU leaves the fast one to the other."""
    little, much = job("a", on_either("t", 10, 15)), job("b", on_either("t", 10, 30))
    assert sorted(starts("lp-horizon", TWO_TYPES, little, much)) == [
        (0, "a/t starts on n1:0"),
        (0, "b/t starts on n0:0"),
    ]


def test_gpus_are_divided_where_speed_ups_are_concave() -> None:
    """Two equal tasks on four GPUs end sooner on two each, at 52 s, than one after the other, at 40 s and 80 s."""
    twins = [job(name, moldable("t", 100, 52, 40)) for name in "ab"]
    assert starts("lp-horizon", gpus(4), *twins) == [(0, "a/t starts on n0:0,1"), (0, "b/t starts on n0:2,3")]
    assert len(starts("lp-horizon", gpus(4), *(job(name, moldable("t", 100, 52, 30)) for name in "ab"))) == 2


def test_for_makespan_long_paths_come_first() -> None:
    """The chain of 12 s starts at once; for mean JCT the two short jobs do."""
    chain = job("chain", task("x", 2), task("y", 10, needs=["x"]))
    short = [job(name, task("t", 4)) for name in "ab"]
    assert starts("lp-horizon:objective=makespan", gpus(1), *short, chain)[0] == (0, "chain/x starts on n0:0")
    assert starts("lp-horizon", gpus(1), *short, chain)[2] == (8, "chain/x starts on n0:0")


def test_what_the_program_has_seen_is_not_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions only move the plan; the arrival at 15 s needs a solution of its own."""
    solved = []

    def counting(*args: Any, **options: Any) -> Any:
        solved.append(args)
        return linprog(*args, **options)

    monkeypatch.setattr(horizon, "linprog", counting)
    chain = job("chain", *(task(name) for name in "stuv"), task("w", needs=["s"]))
    assert len(starts("lp-horizon", gpus(1), chain, job("late", release=15))) == 6
    assert len(solved) == 3  # at 0 s, at 15 s, and at 20 s, when w is near that waits for s


def test_when_the_program_takes_too_long_the_work_left_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has least left comes first, reservations hold as always, and every job ends."""
    monkeypatch.setattr(horizon, "linprog", lambda *_, **__: SimpleNamespace(x=None))
    gang, short, long = job("gang", task("t", 5, gpus=2)), job("short", task("t", 2)), job("long", task("t", 40))
    assert starts("lp-horizon", gpus(2), long, gang, short) == [
        (0, "short/t starts on n0:0"),
        (2, "gang/t starts on n0:0,1"),
        (7, "long/t starts on n0:0"),
    ]


def test_members_of_an_array_are_spread_over_their_modes() -> None:
    """Three members on two types of GPU: two start, the third takes whichever ends it first."""
    sweep = Job("sweep", (Task("t", on_either("t", 10, 15).modes, array=3),))
    assert [time for time, _ in starts("lp-horizon", TWO_TYPES, sweep)] == [0, 0, 10]


def test_custom_resources_are_reserved_like_gpus() -> None:
    """Two of three licences are taken; who needs two waits, and who needs one and is done in time does not."""
    held, large, small = (
        Job(name, (Task("t", (Mode(d, resources={"licence": n}),)),), release)
        for name, d, n, release in [("held", 10.0, 2, 0.0), ("large", 5.0, 2, 1.0), ("small", 6.0, 1, 1.0)]
    )
    assert starts("lp-horizon", gpus(0, resources={"licence": 3}), held, large, small) == [
        (0, "held/t starts on n0:"),
        (1, "small/t starts on n0:"),
        (10, "large/t starts on n0:"),
    ]


@pytest.mark.parametrize("objective", ["mean_jct", "makespan"])
@settings(max_examples=20, deadline=None)
@given(submitted=jobs(), cluster=clusters, uncertainty=uncertainties)
def test_every_job_ends(objective: str, submitted: list[Job], cluster: Cluster, uncertainty: Uncertainty) -> None:
    """Whatever arrives, fails or breaks down: nothing stalls, the schedule is possible, and a repetition is equal."""
    policy = f"lp-horizon:objective={objective},tasks=4,slots=6"
    schedules = [Scheduler(Simulator(cluster, submitted, 1, uncertainty)).run(load_policy(policy)) for _ in range(2)]
    schedules[0].check()
    assert [record.completion is None for record in schedules[0].jobs.values()] == [
        record.failed for record in schedules[0].jobs.values()
    ]
    assert schedules[0].runs == schedules[1].runs
