"""What a failure costs: retries, members of an array task, and what comes after them."""

from __future__ import annotations

import math

from builders import Story, at, first_fit, gpus, job, task

from rlsched.model import Cluster, Job, Member, Mode, Preemption, Task
from rlsched.scheduler import Decision, Event, Failed, Finished, Policy, Scheduler
from rlsched.simulator import Simulator
from rlsched.state import State


def failing(
    *jobs: Job, cluster: Cluster, fails: dict[str, int], policy: Policy = first_fit
) -> tuple[Scheduler, list[tuple[float, str]]]:
    """Run with the simulator, but the first so many ends of a task, by name, are failures."""
    left = dict(fails)

    class Failing(Simulator):
        def wait(self, until: float = math.inf) -> list[Event]:
            events: list[Event] = []
            for event in super().wait(until):
                if isinstance(event, Finished):
                    name = jobs[event.member.job].tasks[event.member.task].name
                    if left.get(name, 0) > 0:
                        left[name] -= 1
                        event = Failed(event.member, "exit code 1")
                events.append(event)
            return events

    story = Story()
    scheduler = Scheduler(Failing(cluster, jobs), story)
    scheduler.run(policy).check()
    return scheduler, story.lines


def test_a_failed_task_is_tried_again_as_often_as_it_may() -> None:
    scheduler, lines = failing(job("a", task("t", 2, retries=2)), cluster=gpus(1), fails={"t": 2})
    assert lines[1:] == [
        (0, "a/t starts on n0:0"),
        (2, "a/t fails: exit code 1"),
        (2, "a/t starts on n0:0"),
        (4, "a/t fails: exit code 1"),
        (4, "a/t starts on n0:0"),
        (6, "a/t finishes"),
    ]
    record = scheduler.schedule.jobs[0]
    assert (record.failed, record.completion) == (False, 6)


def test_when_retries_are_used_up_dependants_are_skipped_and_the_job_has_failed() -> None:
    """What does not depend on the failed task still runs to its end."""
    diamond = job(
        "a",
        task("bad", 2, retries=1),
        task("good", 1),
        task("after_good", 5, needs=["good"]),
        task("after_bad", needs=["bad"]),
        task("last", needs=["after_bad", "after_good"]),
    )
    scheduler, lines = failing(diamond, cluster=gpus(2), fails={"bad": 2})
    assert lines[1:] == [
        (0, "a/bad starts on n0:0"),
        (0, "a/good starts on n0:1"),
        (1, "a/good finishes"),
        (1, "a/after_good starts on n0:1"),
        (2, "a/bad fails: exit code 1"),
        (2, "a/bad starts on n0:0"),
        (4, "a/bad fails: exit code 1"),
        (6, "a/after_good finishes"),
    ]
    record = scheduler.schedule.jobs[0]
    assert (record.failed, record.completion, record.first_start) == (True, None, 0)
    assert scheduler.finished


def test_each_member_of_an_array_task_has_its_own_retries() -> None:
    scheduler, _ = failing(job("a", task("t", 2, array=3, retries=1)), cluster=gpus(3), fails={"t": 3})
    assert scheduler.schedule.jobs[0].completion == 4


def test_members_beside_one_that_failed_for_good_run_to_their_end_and_the_rest_never_starts() -> None:
    scheduler, lines = failing(job("a", task("t", 2, array=4), task("u", needs=["t"])), cluster=gpus(2), fails={"t": 1})
    assert lines[1:] == [
        (0, "a/t[0] starts on n0:0"),
        (0, "a/t[1] starts on n0:1"),
        (2, "a/t[0] fails: exit code 1"),
        (2, "a/t[1] finishes"),
    ]
    assert scheduler.schedule.jobs[0].failed


def in_mode(mode: int) -> Policy:
    """Starts the first ready task in this mode."""

    def policy(state: State) -> list[Decision]:
        allocation = state.allocate(next(iter(state.ready.values())), mode)
        return [allocation] if allocation else []

    return policy


def test_a_member_that_stops_after_another_has_failed_for_good_does_not_come_back() -> None:
    """The first member runs for 2 s and fails; the second is asked to stop at 1 s and has written its state at 6 s."""
    modes = Mode(2.0, gpus=1), Mode(9.0, gpus=1)
    sweep = job("a", Task("t", modes, array=2, preemptible=True, checkpoint_time=5))
    waker = job("b", task("u", 1), release=1)
    policy = at({-1: in_mode(0), 0: in_mode(1), 1: lambda state: [Preemption(Member(0, 0, 1))]})
    scheduler, lines = failing(sweep, waker, cluster=gpus(3), fails={"t": 1}, policy=policy)
    assert [line for line in lines if "b" not in line[1]] == [
        (0, "a arrives"),
        (0, "a/t[0] starts on n0:0"),
        (0, "a/t[1] starts on n0:1"),
        (1, "a/t[1] is asked to stop"),
        (2, "a/t[0] fails: exit code 1"),
        (6, "a/t[1] stops with 0.888889 left"),
    ]
    assert scheduler.schedule.jobs[0].failed


def test_a_long_chain_behind_a_failure_is_skipped() -> None:
    """Thousands of dependants are no problem for the interpreter's stack."""
    chain = [task("t0", 1), *(task(f"t{i}", 1, needs=[f"t{i - 1}"]) for i in range(1, 3000))]
    scheduler, lines = failing(job("a", *chain), cluster=gpus(1), fails={"t0": 1})
    assert len(lines) == 3
    assert scheduler.schedule.jobs[0].failed
