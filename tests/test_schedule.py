"""Schedule: what it refuses to believe, and every metric worked out by hand."""

from __future__ import annotations

import math

import pytest
from builders import at, first_fit, gpus, job, task, tell

from rlsched.model import Cluster, Job, Member, Mode, Node, Preemption, Share, Task
from rlsched.schedule import JobRecord, Outcome, Schedule, TaskRun
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator


def run(
    member: tuple[int, ...],
    start: float,
    end: float,
    shares: list[tuple[int, tuple[int, ...]]],
    ready_at: float = 0.0,
    outcome: Outcome = Outcome.FINISHED,
    mode: int = 0,
) -> TaskRun:
    """A run of Member(*member) on (node, GPUs) pairs."""
    return TaskRun(Member(*member), mode, tuple(Share(*s) for s in shares), ready_at, start, end, outcome)


def schedule(cluster: Cluster, jobs: list[Job], runs: list[TaskRun], completions: list[float | None]) -> Schedule:
    """A schedule made by hand."""
    result = Schedule(cluster, runs=runs, end=max(r.end for r in runs))
    for number, (owner, completion) in enumerate(zip(jobs, completions, strict=True)):
        first = min((r.start for r in runs if r.member.job == number), default=None)
        result.jobs[number] = JobRecord(number, owner, first, completion, failed=completion is None)
    return result


TWO_TYPES = Cluster((Node("v", gpus=2, gpu_type="v100", cpus=4), Node("k", gpus=1, gpu_type="k80", cpus=4)))


def by_hand() -> Schedule:
    """Three jobs on two V100 and one K80; the last one fails.

    a: released 0, weight 3, a gang of two V100 for 20 s, then one of them for 10 s: completes at 40.
    b: released 10, weight 1, deadline 30: one K80 for 20 s from 12 on, lost at 32; again from 40 to 60.
    c: released 30, deadline 45: fails at 55.
    """
    jobs = [
        job("a", task("x", 20, gpus=2), task("y", 10, needs=["x"]), weight=3),
        job("b", task("z", 20), release=10, deadline=30),
        job("c", task("w", 5), release=30, deadline=45),
    ]
    runs = [
        run((0, 0), 0, 20, [(0, (0, 1))]),
        run((1, 0), 12, 32, [(1, (0,))], ready_at=10, outcome=Outcome.LOST),
        run((0, 1), 30, 40, [(0, (0,))], ready_at=20),
        run((2, 0), 50, 55, [(0, (1,))], ready_at=30, outcome=Outcome.FAILED),
        run((1, 0), 40, 60, [(1, (0,))], ready_at=32),
    ]
    return schedule(TWO_TYPES, jobs, runs, [40, 60, None])


def test_every_metric_of_a_schedule_made_by_hand() -> None:
    made = by_hand()
    made.check()
    assert made.metrics() == pytest.approx(
        {
            "jobs": 3,
            "unfinished_jobs": 1,
            "failed_runs": 2,
            "preemptions": 0,
            "makespan": 60,
            "mean_jct": (40 + 50) / 2,
            "p50_jct": 45,
            "p99_jct": 40 + 0.99 * 10,
            "weighted_jct": (3 * 40 + 1 * 50) / 4,
            # a: 40 s of 30 s on the critical path; b: 50 s of 20 s
            "bounded_slowdown": (40 / 30 + 50 / 20) / 2,
            "queueing_delay": (0 + 2 + 10 + 20 + 8) / 5,
            # a meets 2.0 jobs on average: alone 50 x 2.0 / 3 = 33.3 s, so 40 / 33.3 = 1.2
            # b meets 2.2: alone max(20, 20 x 2.2 / 3) = 20 s
            "finish_time_fairness": 50 / 20,
            "utilisation.v100": (40 + 10 + 5) / (2 * 60),
            "utilisation.k80": 40 / 60,
            "utilisation": 95 / 180,
            "deadline_misses": 2,
            # b is 30 s late; c has not completed and is counted as late until the end, 15 s
            "weighted_tardiness": 30 + 15,
        }
    )


def test_finish_time_fairness_takes_the_share_into_account_where_work_is_what_binds() -> None:
    """Two equal jobs of 4 x 10 s on two GPUs; one after the other. Alone on its share of one GPU each takes 40 s."""
    jobs = [job(name, task("t", 10, array=4)) for name in "ab"]
    made = schedule(
        gpus(2),
        jobs,
        [
            run((j, 0, 2 * i + g), 20 * j + 10 * i, 20 * j + 10 * i + 10, [(0, (g,))])
            for j in (0, 1)
            for i in (0, 1)
            for g in (0, 1)
        ],
        [20, 40],
    )
    made.check()
    # the first lives beside the other always: 20 s of 40 s. The second meets 1.5 jobs on average: 40 s of 30 s.
    assert made.metrics()["finish_time_fairness"] == pytest.approx(40 / 30)


def test_bounded_slowdown_is_bounded_for_short_jobs() -> None:
    """A job of 1 s that waited 4 s is not 5 times slowed down: below 10 s nobody minds."""
    short = schedule(gpus(1), [job("a", task("t", 1))], [run((0, 0), 4, 5, [(0, (0,))])], [5])
    assert short.metrics()["bounded_slowdown"] == 1


def test_queueing_delay_counts_from_when_a_run_became_ready() -> None:
    """A preempted member waits anew; the run it was stopped in has the delay it had."""
    long = job("a", task("t", 10, preemptible=True, checkpoint_time=1))
    policy = at({5: lambda state: [Preemption(Member(1, 0))]})
    scheduler = Scheduler(Simulator(gpus(1), [job("c", task("t", 2)), long, job("b", task("t", 4), release=5)]))
    made = scheduler.run(policy)
    assert [(r.member.job, r.ready_at, r.start, r.end) for r in made.runs] == [
        (0, 0, 0, 2),
        (1, 0, 2, 6),
        (2, 5, 6, 10),
        (1, 6, 10, 18),
    ]
    assert made.metrics()["queueing_delay"] == (0 + 2 + 1 + 4) / 4


def test_metrics_of_nothing_are_not_a_number_and_no_error() -> None:
    """With no job completed there is no mean, but counts are counts."""
    metrics = Schedule(gpus(1)).metrics()
    assert metrics["jobs"] == metrics["unfinished_jobs"] == metrics["weighted_tardiness"] == 0
    assert all(math.isnan(metrics[name]) for name in ("makespan", "mean_jct", "p99_jct", "finish_time_fairness"))


def test_jct_of_a_job_that_did_not_complete_is_infinite() -> None:
    assert [record.jct for record in by_hand().jobs.values()] == [40, 50, math.inf]


def test_names_tell_the_members_of_array_tasks_apart() -> None:
    made = schedule(
        gpus(2),
        [job("a", task("x", 1), task("sweep", 1, array=2))],
        [run((0, 0), 0, 1, [(0, (0,))]), run((0, 1, 1), 0, 1, [(0, (1,))])],
        [1],
    )
    assert [made.name_of(r) for r in made.runs] == ["a/x", "a/sweep[1]"]


def test_a_cluster_without_gpus_has_no_utilisation_to_divide_by() -> None:
    cluster = Cluster((Node("n", cpus=2),))
    made = schedule(cluster, [job("a", Task("t", (Mode(5.0, cpus=1),)))], [run((0, 0), 0, 5, [(0, ())])], [5])
    assert made.metrics()["utilisation"] == 0
    assert made.metrics()["finish_time_fairness"] == 1


X_THEN_Y = job("a", task("x", 5, array=2), task("y", 5, needs=["x"]), release=1)
SHARED = job("s", Task("t", (Mode(5.0, gpus=1, cpus=3, memory=9, resources={"licence": 1}),), array=2))
NODE = Cluster((Node("n", gpus=4, cpus=8, memory=16, resources={"licence": 2}),))


@pytest.mark.parametrize(
    ("cluster", "owner", "runs", "complaint"),
    [
        (
            gpus(2),
            X_THEN_Y,
            [run((0, 0, 0), 1, 6, [(0, (0,))]), run((0, 0, 1), 5.9, 10.9, [(0, (0,))])],
            r"node 'n0': GPU 0 is held by a/x\[0\] and a/x\[1\] at 5.9 s",
        ),
        (gpus(2), X_THEN_Y, [run((0, 0, 0), 0.9, 5, [(0, (0,))])], r"a/x\[0\]: time runs backwards"),
        (gpus(2), X_THEN_Y, [run((0, 0, 0), 6, 5, [(0, (0,))])], r"a/x\[0\]: time runs backwards"),
        (gpus(2), X_THEN_Y, [run((0, 0, 0), 1, 6, [(0, (0, 1))])], r"a/x\[0\]: the gang is not whole"),
        (gpus(2), X_THEN_Y, [run((0, 0, 0), 1, 6, [(0, (2,))])], "node 'n0' has no GPU 2"),
        (gpus(2), X_THEN_Y, [run((0, 1), 1, 6, [(0, (0,))])], "a/y: started before 'x' had finished"),
        (
            gpus(2),
            X_THEN_Y,
            [run((0, 0, 0), 1, 6, [(0, (0,))]), run((0, 1), 6, 9, [(0, (0,))])],
            "a/y: started before 'x' had finished",
        ),
        (
            gpus(3),
            X_THEN_Y,
            [run((0, 0, i), 1, 6, [(0, (i,))]) for i in (0, 1)] + [run((0, 1), 5, 9, [(0, (2,))])],
            "a/y: started before 'x' had finished",
        ),
        (TWO_TYPES, job("a", task("g", gpus=2)), [run((0, 0), 1, 2, [(0, (0,)), (1, (0,))])], "GPUs of the wrong type"),
        (
            TWO_TYPES,
            job("a", Task("g", (Mode(1.0, gpus=1, gpu_type="k80"),))),
            [run((0, 0), 1, 2, [(0, (0,))])],
            "a/g: GPUs of the wrong type",
        ),
        (
            NODE,
            SHARED,
            [run((0, 0, i), i, i + 5, [(0, (i,))]) for i in (0, 1)],
            "node 'n': 18 of 16 memory taken at 1 s",
        ),
        (
            Cluster((Node("n", gpus=4, cpus=5, memory=32, resources={"licence": 2}),)),
            SHARED,
            [run((0, 0, i), i, i + 5, [(0, (i,))]) for i in (0, 1)],
            "node 'n': 6 of 5 CPU taken at 1 s",
        ),
        (
            Cluster((Node("n", gpus=4, cpus=8, memory=32, resources={"licence": 1}),)),
            SHARED,
            [run((0, 0, i), i, i + 5, [(0, (i,))]) for i in (0, 1)],
            "node 'n': 2 of 1 licence taken at 1 s",
        ),
    ],
)
def test_a_schedule_that_cannot_have_happened_is_refused(
    cluster: Cluster, owner: Job, runs: list[TaskRun], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        schedule(cluster, [owner], runs, [None]).check()


def test_what_is_given_back_at_an_instant_can_be_taken_at_that_instant() -> None:
    tight = [run((0, 0, i), 5 * i, 5 * i + 5, [(0, (0,))]) for i in (0, 1)]
    schedule(NODE, [SHARED], tight, [10]).check()


def test_little_law_connects_mean_jct_and_the_number_of_jobs_in_the_system() -> None:
    """The sum of JCTs is the integral of active jobs: what an agent is rewarded for is what is reported."""
    jobs = [job(f"j{k}", task("t", 3 + k), release=2 * k) for k in range(6)]
    active = area = last = 0.0
    for time, line in tell(jobs, gpus(2)).of("arrives", "finishes"):
        area += active * (time - last)
        active, last = active + (1 if line.endswith("arrives") else -1), time
    metrics = Scheduler(Simulator(gpus(2), jobs)).run(first_fit).metrics()
    assert area == pytest.approx(6 * metrics["mean_jct"])
