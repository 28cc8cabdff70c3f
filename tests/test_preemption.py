"""Preemption and resizing in the greedy family: who is stopped for whom, when it is worth it, and who gets the room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import Story, gpus, job, task, tell

from rlsched.executor.devices import Machine
from rlsched.executor.executor import Executor
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.work import Unit, Work
from rlsched.model import Cluster, Job, Mode, Node, Task
from rlsched.policies.registry import load_policy
from rlsched.schedule import Outcome
from rlsched.scheduler import Scheduler

TWO_TYPES = Cluster((Node("n0", gpus=2, gpu_type="fast"), Node("n1", gpus=2, gpu_type="slow")))


def flexible(name: str, duration: float, gpus: int = 1, checkpoint_time: float = 1.0, **more: object) -> Job:
    """A job of one task `t` that may be stopped."""
    release = {"release": more.pop("release")} if "release" in more else {}
    return job(name, task("t", duration, gpus, preemptible=True, checkpoint_time=checkpoint_time, **more), **release)  # type: ignore[arg-type]


def malleable(name: str, *durations: float, checkpoint_time: float = 1.0, release: float = 0.0) -> Job:
    """A job of one task that may be stopped and takes so many seconds on 1, 2, 4 ... GPUs."""
    modes = tuple(Mode(duration, gpus=2**step) for step, duration in enumerate(durations))
    return job(name, Task("t", modes, preemptible=True, checkpoint_time=checkpoint_time), release=release)


def happens(policy: str, cluster: Cluster, *submitted: Job) -> list[tuple[float, str]]:
    """(time, sentence) of every start, stop and end."""
    story: Story = tell(submitted, cluster, load_policy(policy))
    return story.of("starts", "stop", "stops", "finishes")


def stopped(policy: str, cluster: Cluster, *submitted: Job) -> list[tuple[float, str]]:
    """(time, job) of every request to stop."""
    story: Story = tell(submitted, cluster, load_policy(policy))
    return [(time, line.split("/")[0]) for time, line in story.of("stop")]


def test_a_short_job_stops_a_long_one_which_goes_on_with_what_it_has_left() -> None:
    """Preemptive SRPT: a has 50 of 100 s left when b of 10 s comes; a checkpoint takes 1 s to write and 1 s to load."""
    assert happens("srpt:preempt=true", gpus(1), flexible("a", 100), job("b", release=50)) == [
        (0, "a/t starts on n0:0"),
        (50, "a/t is asked to stop"),
        (51, "a/t stops with 0.5 left"),
        (51, "b/t starts on n0:0"),
        (61, "b/t finishes"),
        (61, "a/t starts on n0:0"),
        (112, "a/t finishes"),
    ]


@pytest.mark.parametrize("policy", ["srpt", "srpt:preempt=true"])
def test_nobody_is_stopped_unless_policy_and_task_allow_it(policy: str) -> None:
    """The option is off by default, and the task is not preemptible by default."""
    long = flexible("a", 100) if policy == "srpt" else job("a", task("t", 100))
    assert stopped(policy, gpus(1), long, job("b", release=50)) == []


def test_what_is_nearly_done_is_left_to_end() -> None:
    """With 7 s left, stopping a would cost it 8 s; with 9 s it is worth it."""
    policy = "srpt:preempt=true"
    long = flexible("a", 100, checkpoint_time=4)
    assert stopped(policy, gpus(1), long, job("b", task("t", 2), release=93)) == []
    assert stopped(policy, gpus(1), long, job("b", task("t", 2), release=91)) == [(91, "a")]


def test_what_has_just_begun_is_stopped_as_soon_as_it_has_paid_for_that() -> None:
    """Ten times the 2 s that stopping and resuming cost; nothing happens at 20 s, the policy wakes up by itself."""
    assert stopped("srpt:preempt=true", gpus(1), flexible("a", 100), job("b", release=5)) == [(20, "a")]


@pytest.mark.parametrize(("ratio", "expected"), [(1, [(30, "a")]), (1.1, [(30, "a")]), (1.5, [])])
def test_a_job_that_is_only_a_little_shorter_stops_nobody(ratio: float, expected: list[tuple[float, str]]) -> None:
    """a has 70 s left, b takes 60 s."""
    policy = f"srpt:preempt=true,preempt_ratio={ratio}"
    assert stopped(policy, gpus(1), flexible("a", 100), job("b", task("t", 60), release=30)) == expected


def test_progress_counts() -> None:
    """Of 100 s a has 15 left when b of 20 s comes: a is the shorter one."""
    assert (
        stopped("srpt:preempt=true,preempt_ratio=1", gpus(1), flexible("a", 100), job("b", task("t", 20), release=85))
        == []
    )


def test_priorities_are_compared_without_a_factor() -> None:
    """5 is above 4 whatever the ratio."""
    low, high = flexible("low", 100, priority=4), job("high", task("t", priority=5), release=50)
    assert stopped("priority:preempt=true,preempt_ratio=9", gpus(1), low, high) == [(50, "low")]
    low, high = job("low", task("t", priority=4), release=50), flexible("high", 100, priority=5)
    assert stopped("priority:preempt=true", gpus(1), high, low) == []


def test_those_that_come_last_are_stopped_first_and_no_more_than_needed() -> None:
    """Of four on one node, the two longest make room for a gang of two."""
    long = [flexible(name, duration) for name, duration in [("a", 300), ("b", 500), ("c", 400), ("d", 200)]]
    gang = job("gang", task("t", 10, gpus=2), release=50)
    assert stopped("srpt:preempt=true", gpus(4), *long, gang) == [(50, "b"), (50, "c")]


def test_who_does_not_help_is_not_stopped() -> None:
    """Room is needed on one node: the longest job of all, alone on another one, would not make it."""
    longest, pair = flexible("longest", 900), [flexible("a", 300), flexible("b", 300)]
    cluster = Cluster((Node("n0", gpus=1), Node("n1", gpus=2)))
    gang = job("gang", task("t", 10, gpus=2), release=50)
    assert happens("srpt:preempt=true", cluster, *pair, longest, gang)[:3] == [
        (0, "a/t starts on n0:0"),
        (0, "b/t starts on n1:0"),
        (0, "longest/t starts on n1:1"),
    ]
    assert stopped("srpt:preempt=true", cluster, *pair, longest, gang) == [(50, "longest"), (50, "b")]


def test_only_the_right_type_is_made_free() -> None:
    """The task cannot run on the slow type, where the longer jobs are."""

    def on(gpu_type: str, name: str, duration: float, release: float = 0.0) -> Job:
        mode = Mode(duration, gpus=2, gpu_type=gpu_type)
        return job(name, Task("t", (mode,), preemptible=True, checkpoint_time=1.0), release=release)

    submitted = [on("fast", "a", 200), on("slow", "b", 900), on("fast", "short", 10, release=50)]
    assert stopped("srpt:preempt=true", TWO_TYPES, *submitted) == [(50, "a")]


def test_room_that_will_be_there_soon_is_waited_for() -> None:
    """The other GPU is free in 1 s; stopping a would cost it 2 s. Not so if it takes 30 s more."""
    policy, short = "srpt:preempt=true", job("short", release=50)
    assert stopped(policy, gpus(2), flexible("a", 500), job("b", task("t", 51)), short) == []
    assert stopped(policy, gpus(2), flexible("a", 500), job("b", task("t", 80)), short) == [(50, "a")]


@pytest.mark.parametrize("blocking", ["strict", "easy", "none"])
def test_room_that_is_being_made_is_kept_for_whom_it_is_made(blocking: str) -> None:
    """One of two stops later than the other; what would fit meanwhile and overtake may not take the first one's GPU."""
    quick, slow = flexible("quick", 500), flexible("slow", 500, checkpoint_time=9)
    gang, late = job("gang", task("t", 10, gpus=2), release=200), job("late", task("t", 290), release=202)
    assert happens(f"srpt:preempt=true,blocking={blocking}", gpus(2), quick, slow, gang, late)[2:7] == [
        (200, "slow/t is asked to stop"),
        (200, "quick/t is asked to stop"),
        (201, "quick/t stops with 0.6 left"),
        (209, "slow/t stops with 0.6 left"),
        (209, "gang/t starts on n0:0,1"),
    ]


def test_several_members_of_a_sweep_have_claims_at_the_same_time() -> None:
    """Both trials get in, one for each job that is stopped."""
    sweep = job("sweep", task("t", 10, array=2), release=100)
    assert happens("srpt:preempt=true", gpus(2), flexible("a", 900), flexible("b", 900), sweep)[2:8] == [
        (100, "b/t is asked to stop"),
        (100, "a/t is asked to stop"),
        (101, "b/t stops with 0.888889 left"),
        (101, "a/t stops with 0.888889 left"),
        (101, "sweep/t[0] starts on n0:1"),
        (101, "sweep/t[1] starts on n0:0"),
    ]


def test_who_was_stopped_resumes_in_another_mode_if_that_is_what_fits() -> None:
    """Of two GPUs that a held, b needs one for long: a goes on with the other, at 100 instead of 60 s for the whole."""
    long, short = malleable("a", 1000, 600), job("b", task("t", 200), release=60)
    assert happens("srpt:preempt=true", gpus(2), long, short) == [
        (0, "a/t starts on n0:0,1"),
        (60, "a/t is asked to stop"),
        (61, "a/t stops with 0.9 left"),
        (61, "b/t starts on n0:0"),
        (61, "a/t starts on n0:1"),
        (261, "b/t finishes"),
        (962, "a/t finishes"),
    ]


def test_las_shares_the_time_between_two_jobs() -> None:
    """Whoever has had twice as much is stopped: at 10 s, then in ever longer turns, without anything happening."""
    jobs = [flexible(name, 100, checkpoint_time=0) for name in "ab"]
    late = flexible("b", 100, checkpoint_time=0, release=10)
    assert [time for time, _ in stopped("las:preempt=true", gpus(1), jobs[0], late)] == pytest.approx([10, 30, 60, 120])


def test_tiresias_serves_in_order_of_arrival_within_a_queue() -> None:
    """After 10 s of GPU time a job falls to the second queue, where the first come is served first."""
    jobs = [flexible(name, 100, checkpoint_time=0) for name in "ab"]
    assert happens("tiresias:quantum=0.1", gpus(1), *jobs) == [
        (0, "a/t starts on n0:0"),
        (10, "a/t is asked to stop"),
        (10, "a/t stops with 0.9 left"),
        (10, "b/t starts on n0:0"),
        (20, "b/t is asked to stop"),
        (20, "b/t stops with 0.9 left"),
        (20, "a/t starts on n0:0"),
        (110, "a/t finishes"),
        (110, "b/t starts on n0:0"),
        (200, "b/t finishes"),
    ]
    assert stopped("tiresias:quantum=0.1,preempt=false", gpus(1), *jobs) == []


def test_tiresias_has_as_many_queues_as_it_is_told() -> None:
    """With thresholds at 10 and 40 s, both jobs fall twice."""
    jobs = [flexible(name, 100, checkpoint_time=0) for name in "ab"]
    assert stopped("tiresias:quantum=0.1,queues=3", gpus(1), *jobs) == [(10, "a"), (20, "b"), (50, "a"), (80, "b")]


def test_what_runs_is_restarted_on_gpus_that_idle() -> None:
    """a began on the one GPU that b left; on all four it has 36 instead of 90 s to go, less 2 s for the checkpoint."""
    assert happens(
        "fifo:resize=true,stretch=9", gpus(4), job("b", task("t", 10, gpus=3)), malleable("a", 100, 60, 40)
    ) == [
        (0, "b/t starts on n0:0,1,2"),
        (0, "a/t starts on n0:3"),
        (10, "b/t finishes"),
        (20, "a/t is asked to stop"),
        (21, "a/t stops with 0.8 left"),
        (21, "a/t starts on n0:0,1,2,3"),
        (54, "a/t finishes"),
    ]


@pytest.mark.parametrize(("checkpoint_time", "expected"), [(3, [(60, "a")]), (10, [])])
def test_but_not_if_that_gains_too_little(checkpoint_time: float, expected: list[tuple[float, str]]) -> None:
    """40 s are left at 60 s, 16 s on four GPUs: 24 s less, for 6 s or 20 s of stopping and resuming."""
    small = malleable("a", 100, 60, 40, checkpoint_time=checkpoint_time)
    assert stopped("fifo:resize=true,stretch=9", gpus(4), job("b", task("t", 60, gpus=3)), small) == expected


def test_nor_while_somebody_waits_for_them() -> None:
    """The gang of four is next; a does not take the three GPUs that idle."""
    others = [job("b", task("t", 30, gpus=3)), malleable("a", 100, 60, 40), job("gang", task("t", 10, gpus=4))]
    assert stopped("fifo:resize=true,stretch=9", gpus(4), *others) == []


def test_what_runs_is_restarted_on_fewer_gpus_to_let_somebody_in() -> None:
    """b is spared 440 s of waiting, more than a loses by going on with half its GPUs; and then a gets them back."""
    large = malleable("a", 1800, 1000, 550)
    told = happens("fifo:resize=true", gpus(4), large, job("b", task("t", 300), release=110))
    assert [(round(time, 6), line) for time, line in told] == [
        (0, "a/t starts on n0:0,1,2,3"),
        (110, "a/t is asked to stop"),
        (111, "a/t stops with 0.8 left"),
        (111, "a/t starts on n0:0,1"),
        (111, "b/t starts on n0:2"),
        (411, "b/t finishes"),
        (411, "a/t is asked to stop"),
        (412, "a/t stops with 0.501 left"),
        (412, "a/t starts on n0:0,1,2,3"),
        (688.55, "a/t finishes"),
    ]


def test_nobody_is_let_in_where_that_costs_more_than_it_gains() -> None:
    """With one of two GPUs a would lose 360 s, and b would be spared 240."""
    assert stopped("fifo:resize=true", gpus(2), malleable("a", 900, 360), job("b", release=120)) == []


UNTIL_STOPPED = "test -e pid && exit 0; trap 'exit 143' TERM; echo $$ > pid; sleep 60 & wait"
ONCE_IT_RUNS = "until test -s pid; do sleep 0.02; done"


def executed(policy: str, folder: Path, *submitted: tuple[Job, Sequence[str]]) -> list[tuple[str, int, Outcome]]:
    """Runs jobs as shell scripts, one a task, on two GPUs; tells for every run its task, its GPUs and how it ended."""
    works = [
        Work(
            j,
            tuple((Unit(f"{j.name}-{t.name}", ("bash", "-c", text)),) for t, text in zip(j.tasks, texts, strict=True)),
            folder,
        )
        for j, texts in submitted
    ]
    machine = Machine(gpus(2), (("gpu:0", "gpu:1"),))
    directory = RunDirectory(folder / "run")
    with Executor(machine, directory, works) as executor:
        schedule = Scheduler(executor).run(load_policy(policy))
    directory.close()
    schedule.check()
    return [(schedule.name_of(run), sum(len(share.gpus) for share in run.shares), run.outcome) for run in schedule.runs]


@pytest.mark.parametrize("policy", ["srpt:preempt=true", "las:preempt=true,blocking=none", "fair:preempt=true"])
def test_real_processes_are_preempted(policy: str, tmp_path: Path) -> None:
    """The long task makes way for the short one, and then runs again."""
    long = flexible("long", 100, gpus=2, checkpoint_time=0)
    short = job("short", task("notice", 1, gpus=0), task("t", 1, gpus=2, needs=["notice"]))
    assert executed(policy, tmp_path, (long, [UNTIL_STOPPED]), (short, [ONCE_IT_RUNS, "true"])) == [
        ("short/notice", 0, Outcome.FINISHED),
        ("long/t", 2, Outcome.PREEMPTED),
        ("short/t", 2, Outcome.FINISHED),
        ("long/t", 2, Outcome.FINISHED),
    ]


def test_real_processes_are_resized(tmp_path: Path) -> None:
    """A task that began on one GPU is restarted on both when the other one is free."""
    small, other = malleable("small", 100, 50, checkpoint_time=0), job("other")
    assert executed("fifo:resize=true", tmp_path, (other, [ONCE_IT_RUNS]), (small, [UNTIL_STOPPED])) == [
        ("other/t", 1, Outcome.FINISHED),
        ("small/t", 1, Outcome.PREEMPTED),
        ("small/t", 2, Outcome.FINISHED),
    ]
