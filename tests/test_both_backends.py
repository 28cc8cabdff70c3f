"""The rules of scheduling, on the simulator and on real processes alike."""

from __future__ import annotations

import pytest
from builders import first_fit, job, lazy, task
from conftest import Play

from rlsched.model import Allocation, Cluster, Job, Mode, Node, Task
from rlsched.policies.registry import describe, load_policy
from rlsched.scheduler import Arrived, Finished, StallError

TWO_KINDS = Cluster(
    (
        Node("a", gpus=2, gpu_type="fast", gpu_memory=16.0, cpus=4, memory=16.0, resources={"licence": 1}),
        Node("b", gpus=2, gpu_type="slow", gpu_memory=16.0, cpus=4, memory=16.0),
    )
)
ONE_GPU = Cluster((Node("a", gpus=1, cpus=4),))


def pipeline(name: str, release: float) -> Job:
    """Cleaning on a CPU, a sweep of three, a gang of two that may also be one, and an export that needs a licence."""
    return Job(
        name,
        (
            Task("clean", (Mode(0.02, cpus=1),)),
            Task("sweep", (Mode(0.05, gpus=1, cpus=1),), ("clean",), array=3),
            Task("train", (Mode(0.05, gpus=2, cpus=1), Mode(0.08, gpus=1, cpus=1)), ("clean",)),
            Task("gang", (Mode(0.03, gpus=2, gpu_type="fast"),), ("sweep",)),
            Task("export", (Mode(0.02, resources={"licence": 1}),), ("train", "gang")),
        ),
        release,
    )


@pytest.mark.parametrize("policy", list(describe()))
def test_every_policy_keeps_every_rule(policy: str, play: Play) -> None:
    """No device is held twice, what is needed has finished, gangs are whole and on one type, and every job ends."""
    jobs = [pipeline("a", 0.0), pipeline("b", 0.1)]
    played = play(jobs, TWO_KINDS, load_policy(policy, seed=1))
    played.schedule.check()
    assert [record.failed for record in played.schedule.jobs.values()] == [False, False]
    assert [record.completion is None for record in played.schedule.jobs.values()] == [False, False]
    assert len(played.of(Finished)) == 2 * 7
    assert [arrived.job for arrived in played.of(Arrived)] == jobs


@pytest.mark.parametrize("policy", ["fifo", "sjf"])
def test_on_one_gpu_the_order_follows_from_the_policy(policy: str, play: Play) -> None:
    """Estimates alone decide, so that simulation and reality agree on who goes first."""
    together = job("a", task("long", 0.12), task("short", 0.03), task("medium", 0.06))
    orders = {"fifo": ["long", "short", "medium"], "sjf": ["short", "medium", "long"]}
    starts = play([together], ONE_GPU, load_policy(policy, seed=0)).of(Allocation)
    assert [together.tasks[start.member.task].name for start in starts] == orders[policy]


def test_a_job_arrives_at_its_release(play: Play) -> None:
    """Not before, although the GPU is free."""
    played = play([job("a", task("x", 0.02)), job("b", task("y", 0.02), release=0.2)], ONE_GPU, first_fit)
    assert [time >= 0.2 for time, what in played.happenings if isinstance(what, Arrived)] == [False, True]
    played.schedule.check()


def test_waiting_for_nothing_is_an_error(play: Play) -> None:
    """A policy that never starts anything is told so, on either backend."""
    with pytest.raises(StallError, match="starts none of: a/t"):
        play([job("a")], ONE_GPU, lazy)


def test_an_impossible_request_is_refused_on_arrival(play: Play) -> None:
    with pytest.raises(ValueError, match="task 'x' asks for more than the cluster has"):
        play([job("a", task("x", gpus=2))], ONE_GPU, first_fit)
