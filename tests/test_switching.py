"""Policy switching: what is foreseen is what happens, and looking again never makes it worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import gpus, job, task
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsched.model import Job
from rlsched.policies.learned import LearnedPolicy, save_policy
from rlsched.policies.network import NetworkConfig, SchedulingNetwork
from rlsched.policies.registry import load_policy
from rlsched.policies.switching import SwitchingPolicy
from rlsched.scenario import load_scenario
from rlsched.schedule import Schedule, TaskRun
from rlsched.scheduler import Policy, Scheduler
from rlsched.simulator import Simulator, Uncertainty

TINY = load_scenario("tiny")
LONG_AND_SHORT = [job("long", task("t", 100)), job("short", task("t", 1))]


@pytest.fixture
def trained(tmp_path: Path) -> str:
    torch.manual_seed(3)
    return str(save_policy(tmp_path / "some", SchedulingNetwork(NetworkConfig(hidden=8)), {"objective": "mean_jct"}))


def play(policy: Policy, jobs: list[Job]) -> Schedule:
    return Scheduler(Simulator(gpus(1), jobs)).run(policy)


def later(runs: list[TaskRun], time: float) -> list[tuple[object, ...]]:
    return [(run.member, run.mode, run.shares, pytest.approx(run.end)) for run in runs if run.end > time]


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(0, 60),
    seed=st.integers(0, 5),
    policy=st.sampled_from(["srpt", "fifo:blocking=none", "srpt:blocking=easy,preempt=true,resize=true"]),
    scenario=st.sampled_from(["tiny", "preemptive16"]),
)
def test_a_simulation_that_goes_on_from_a_state_ends_as_the_one_it_is_of(
    steps: int, seed: int, policy: str, scenario: str
) -> None:
    """Whatever runs, waits, has been stopped or is stopping: if every estimate is right and nothing else arrives."""
    jobs = list(load_scenario(scenario).jobs(seed))[:12]
    whole = Scheduler(Simulator(load_scenario(scenario).cluster, jobs))
    deciding = load_policy(policy)
    while not whole.finished and (steps > 0 or whole.backend.expecting):
        steps -= 1
        whole.step(deciding)
    stopping = any(run.stopping for run in whole.state.running.values())
    state, now = whole.state, whole.state.now
    before = (state.pool.served(), [*state.running], [*state.ready], state.changes)
    ahead = Scheduler(Simulator.onwards(state), state=state.copy()).run(load_policy(policy))
    assert before == (state.pool.served(), [*state.running], [*state.ready], state.changes), "the state itself is left"
    if not stopping:  # when they were asked is not known, so they end later here
        assert later(ahead.runs, now) == later(whole.run(load_policy(policy)).runs, now)


@pytest.mark.parametrize("uncertainty", [Uncertainty(0.5), Uncertainty(0.3, 0.2, 0.05, 0.05, 600.0)])
def test_every_job_ends_whatever_happens(uncertainty: Uncertainty, trained: str) -> None:
    policy = SwitchingPolicy(of=f"{trained}+srpt", variants=2, few=3)
    jobs = list(TINY.jobs(TINY.seeds.report))
    schedule = Scheduler(Simulator(TINY.cluster, jobs, 1, uncertainty)).run(policy)
    schedule.check()
    assert all(record.failed or record.completion is not None for record in schedule.jobs.values())


def test_the_best_is_followed_by_the_objective() -> None:
    assert play(SwitchingPolicy(of="fifo+srpt"), LONG_AND_SHORT).runs == play(load_policy("srpt"), LONG_AND_SHORT).runs
    by_makespan = play(SwitchingPolicy(of="fifo+srpt", objective="makespan"), LONG_AND_SHORT)
    assert by_makespan.runs == play(load_policy("fifo"), LONG_AND_SHORT).runs, "equally good: the first"


def test_with_many_jobs_in_the_system_the_first_policy_is_followed() -> None:
    played = play(SwitchingPolicy(of="fifo+srpt", many=1), LONG_AND_SHORT)
    assert played.runs == play(load_policy("fifo"), LONG_AND_SHORT).runs
    assert play(SwitchingPolicy(of="fifo+srpt", many=2), LONG_AND_SHORT).runs != played.runs


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_looking_again_never_makes_what_is_foreseen_worse(seed: int) -> None:
    """All jobs are known from the start and every estimate is right: no worse than the best of them."""
    jobs = [Job(j.name, j.tasks) for j in list(TINY.jobs(seed))[:8]]

    def score(policy: Policy) -> float:
        return Scheduler(Simulator(TINY.cluster, jobs)).run(policy).score("mean_jct")

    names = ("fifo", "srpt", "critical-path")
    assert score(SwitchingPolicy(of="+".join(names))) <= min(score(load_policy(name)) for name in names) + 1e-6


def test_variants_are_neighbours_and_equal_seeds_give_equal_ones(trained: str) -> None:
    policy = load_policy(trained)
    assert isinstance(policy, LearnedPolicy)
    one, same, other = policy.varied(0.3, 1), policy.varied(0.3, 1), policy.varied(0.3, 2)
    flat = [torch.nn.utils.parameters_to_vector(p.network.parameters()) for p in (policy, one, same, other)]
    assert torch.equal(flat[1], flat[2])
    assert not torch.equal(flat[1], flat[0])
    assert not torch.equal(flat[1], flat[3])
    nothing_added = policy.varied(0.0, 1)
    assert torch.equal(torch.nn.utils.parameters_to_vector(nothing_added.network.parameters()), flat[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("of=nothing", "unknown policy 'nothing'"),
        ("of=", "of names no policy"),
        ("of=switch", "cannot be among those"),
        ("of=srpt,variants=-1", "variants is -1, expected 0 or more"),
        ("of=srpt,few=-1", "few is -1, expected 0 or more"),
        ("of=srpt,objective=happiness", "unknown objective 'happiness'"),
    ],
)
def test_bad_options_are_named(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_policy(f"switch:{options}")
