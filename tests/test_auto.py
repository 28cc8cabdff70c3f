"""The guard: it rehearses on what is known, takes the best, and says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import gpus, job, task
from typer.testing import CliRunner

from rlsched.active import TaskState
from rlsched.cli.app import app
from rlsched.experiments.benchmark import benchmark
from rlsched.model import Cluster, Job
from rlsched.policies import auto as module
from rlsched.policies.auto import PORTFOLIO, AutoPolicy, Choice
from rlsched.policies.orders import ORDERS, Key, order
from rlsched.policies.registry import load_policy
from rlsched.scenario import Scenario, load_scenario
from rlsched.schedule import Schedule
from rlsched.scheduler import Policy, Scheduler
from rlsched.simulator import Simulator
from rlsched.state import State

TINY = load_scenario("tiny")
CLUSTER = gpus(1)
LONG_AND_SHORT = [job("long", task("t", 100)), job("short", task("t", 1))]


@pytest.fixture(autouse=True)
def _nothing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests say holds whatever policies come with rlsched."""
    monkeypatch.setattr(module, "shipped_policies", dict)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the scenario's workloads that were simulated."""
    seeds: list[int] = []
    simulator = Scenario.simulator

    def counting(self: Scenario, seed: int) -> Simulator:
        seeds.append(seed)
        return simulator(self, seed)

    monkeypatch.setattr(Scenario, "simulator", counting)
    return seeds


@pytest.fixture
def _broken_order() -> Iterator[None]:
    """An order that cannot answer."""
    before = dict(ORDERS)

    @order("broken")
    def broken(task: TaskState, state: State) -> Key:
        raise ValueError("no idea")

    yield
    ORDERS.clear()
    ORDERS.update(before)


def play(policy: Policy, jobs: list[Job] = LONG_AND_SHORT, cluster: Cluster = CLUSTER) -> Schedule:
    return Scheduler(Simulator(cluster, jobs)).run(policy)


def test_the_best_on_the_jobs_that_are_there_is_taken() -> None:
    """The short job first, on one GPU; every policy is listed with what it would take, best first."""
    policy = AutoPolicy(also="fifo")
    assert play(policy).runs == play(load_policy("srpt")).runs
    assert policy.choice is not None
    assert policy.choice.policy == "srpt"
    assert policy.choice.of == "the 2 jobs known now"
    values = {forecast.policy: forecast.value for forecast in policy.choice.forecasts}
    assert {*values} == {"fifo", *PORTFOLIO}
    assert [*values.values()] == sorted(value for value in values.values() if value is not None)
    assert values["fifo"] == pytest.approx(150, rel=0.5)


def test_what_the_user_names_wins_a_tie() -> None:
    """One job of one task: every policy does the same."""
    policy = AutoPolicy(also="sjf+fifo")
    play(policy, [job("a")])
    assert policy.choice is not None
    assert policy.choice.policy == "sjf"


def test_the_same_work_is_rehearsed_once() -> None:
    """A run is predicted, then carried out; other work is looked at anew."""
    heard: list[Choice] = []
    policy = AutoPolicy()
    policy.observe = heard.append
    play(policy)
    play(policy)
    assert len(heard) == 1
    play(policy, [job("another")])
    assert [choice.of for choice in heard] == ["the 2 jobs known now", "the job known now"]


def test_luck_in_rehearsals_is_not_that_of_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The true durations of the work are not known to any rehearsal, whatever seed is played."""
    seeds: list[int] = []

    def recording(cluster: Cluster, jobs: list[Job], seed: int, *more: Any) -> Simulator:
        seeds.append(seed)
        return Simulator(cluster, jobs, seed, *more)

    monkeypatch.setattr(module, "Simulator", recording)
    play(AutoPolicy(rehearsals=2))
    assert len(seeds) == 2 * len(PORTFOLIO)
    assert min(seeds) > 10**12


@pytest.mark.parametrize("played", [TINY.seeds.report, 1])
def test_a_stream_of_jobs_is_judged_on_training_workloads_never_on_its_own_future(
    played: int, simulated: list[int]
) -> None:
    policy = AutoPolicy(rehearsals=2)
    policy.prepare(TINY, played)
    assert {*simulated} == {0, 1, 2} - {played} - ({2} if played > 2 else set())
    choice = policy.choice
    assert choice is not None
    assert choice.of == "2 training workloads"
    taken = Scheduler(TINY.simulator(played)).run(load_policy(choice.policy)).runs
    simulated.clear()
    assert Scheduler(TINY.simulator(played)).run(policy).runs == taken
    assert simulated == [played]
    assert policy.choice is choice


def test_jobs_that_all_come_at_once_are_known_and_the_objective_is_the_scenarios() -> None:
    by_hand = Scenario("by-hand", CLUSTER, tuple(LONG_AND_SHORT), "makespan")
    policy = AutoPolicy()
    policy.prepare(by_hand, by_hand.seeds.report)
    assert policy.choice is None
    Scheduler(by_hand.simulator(by_hand.seeds.report)).run(policy)
    assert policy.choice is not None
    assert (policy.choice.objective, policy.choice.of) == ("makespan", "the 2 jobs known now")


def test_when_time_is_short_the_choice_says_so() -> None:
    policy = AutoPolicy(seconds=1e-9)
    play(policy)
    assert policy.choice is not None
    assert policy.choice.policy == "srpt"
    assert all(forecast.value is None for forecast in policy.choice.forecasts)
    assert all("does not end a rehearsal in" in forecast.reason for forecast in policy.choice.forecasts)


@pytest.mark.usefixtures("_broken_order")
def test_a_policy_that_fails_in_rehearsal_is_out() -> None:
    policy = AutoPolicy(also="broken")
    play(policy).check()
    assert policy.choice is not None
    assert policy.choice.policy == "srpt"
    assert policy.choice.forecasts[-1].reason == "fails: no idea"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auto:seconds=0", "policy 'auto': seconds is 0.0, expected a number above 0"),
        ("auto:rehearsals=0", "policy 'auto': rehearsals is 0, expected 1 or more"),
        ("auto:also=srtp", "policy 'auto': unknown policy 'srtp'; did you mean srpt"),
        ("auto:also=fifo+gone.yaml", "gone.yaml: cannot be read"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused_at_once(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is compared below)
        load_policy(text)
    assert message in str(caught.value)


def test_in_a_benchmark_it_says_what_it_took_and_is_no_baseline(simulated: list[int]) -> None:
    """It may take a learned policy, so nothing is measured against it."""
    seeds = TINY.seed_range("report", 2)
    result = benchmark(TINY, ["fifo", "auto:rehearsals=1"], seeds, processes=1)
    assert result.reference == "fifo"
    assert len({cell.took for cell in result.cells["auto:rehearsals=1"]} - {None}) == 1
    assert {cell.took for cell in result.cells["fifo"]} == {None}
    assert simulated.count(0) == len(PORTFOLIO)  # once for both workloads


def test_the_command_line_tells_why(tmp_path: Path) -> None:
    """A line a policy on standard error, the same in the JSON; for scenarios and for workflows."""
    flow = tmp_path / "flow.yaml"
    flow.write_text("tasks:\n  a: {run: 'true', gpus: 1, duration: 5}\n  b: {run: 'true', gpus: 1, duration: 3}\n")
    for what, of in (("tiny", "1 training workload"), (str(flow), "the job known now")):
        result = CliRunner().invoke(app, ["simulate", what, "--policy", "auto:rehearsals=1", "--json"])
        assert result.exit_code == 0, result.output
        choice = json.loads(result.stdout)["auto"]
        assert choice["of"] == of
        assert result.stderr.startswith(f"auto takes {choice['policy']}; ")
        assert [line.split(": ")[0].strip() for line in result.stderr.splitlines()[1:]] == [
            forecast["policy"] for forecast in choice["forecasts"]
        ]
