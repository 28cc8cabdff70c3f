"""The linear priority function: weights by name decide, and CMA-ES finds them by the protocol."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import gpus, job, task, tell

from rlsched.envs.scheduling import SchedulingEnv
from rlsched.experiments.arena import Standing
from rlsched.experiments.imitation import imitate
from rlsched.experiments.linear_search import LinearConfig, tune_linear
from rlsched.model import Mode, Task
from rlsched.policies.linear import CANDIDATE_COLUMNS, NAMES, LinearPolicy
from rlsched.policies.registry import load_policy
from rlsched.policies.tuned import TunedBaseline, read_tuned, write_tuned
from rlsched.scenario import Scenario, load_scenario
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator

TINY = load_scenario("tiny")
SMALL = LinearConfig(trials=8, population=4, workloads=2, training_workloads=3, validation_workloads=3, start="srpt")


@pytest.mark.parametrize(("weight", "devices"), [(1.0, "n0:0,1"), (-1.0, "n0:0")])
def test_the_sign_of_a_weight_says_what_is_preferred(weight: float, devices: str) -> None:
    """Here, more GPUs or fewer."""
    moldable = Task("t", (Mode(10, gpus=1), Mode(6, gpus=2)))
    story = tell([job("a", moldable)], gpus(2), LinearPolicy({"mode.gpus": weight}))
    assert story.of("starts") == [(0, f"a/t starts on {devices}")]


@pytest.mark.parametrize(
    ("weights", "second"), [({"is_wait": 1.0}, 10), ({"wait.jobs": 1.0}, 10), ({"is_wait": -1.0}, 0)]
)
def test_waiting_competes_with_the_candidates(weights: dict[str, float], second: float) -> None:
    """With a sum of its own, to which cluster and queue add. With nothing to wait for it does not count."""
    story = tell([job("a"), job("b")], gpus(2), LinearPolicy(weights))
    assert [time for time, _ in story.of("starts")] == [0, second]


@pytest.mark.parametrize(("weights", "stops"), [({}, False), ({"is_stop": 1.0}, True)])
def test_runs_are_stopped_only_if_that_has_a_weight(weights: dict[str, float], stops: bool) -> None:
    """And everything ends, however much stopping is preferred and however little it costs."""
    jobs = [job("a", task("t", preemptible=True)), job("b", task("t", 4, preemptible=True), release=3)]
    story = tell(jobs, gpus(1), LinearPolicy(weights))
    assert bool(story.of("asked")) == stops
    assert len(story.of("finishes")) == 2


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown column 'mode\.gpu'; did you mean mode\.gpus"):
        LinearPolicy({"mode.gpu": 1.0})


def test_it_decides_by_what_the_environment_shows() -> None:
    """The largest weighted sum of the environment's observation and the policy object make the same schedule."""
    weights = dict(zip(CANDIDATE_COLUMNS, np.random.default_rng(1).normal(size=len(CANDIDATE_COLUMNS)), strict=True))
    env = SchedulingEnv("tiny")
    observation, _ = env.reset(seed=5)
    ended = False
    while not ended:
        scores = observation["candidates"].astype(float) @ np.array([*weights.values()])
        scores[~env.action_masks()] = -np.inf
        observation, _, ended, _, _ = env.step(int(scores.argmax()))
    del weights["is_stop"]
    assert env.scheduler.schedule.runs == Scheduler(TINY.simulator(5)).run(LinearPolicy(weights)).runs


def test_its_file_needs_no_torch(tmp_path: Path) -> None:
    file = tmp_path / "linear.yaml"
    write_tuned(file, TunedBaseline(policy="linear", weights={"job.rank": -1.0, "mode.efficiency": 0.5}))
    code = (
        "import sys; from rlsched.policies.registry import load_policy; from rlsched.scenario import load_scenario; "
        "from rlsched.scheduler import Scheduler; "
        f"Scheduler(load_scenario('tiny').simulator(1)).run(load_policy({str(file)!r})); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_linear_is_imitated_well(tmp_path: Path) -> None:
    """The fit finds weights that decide as a linear teacher does, nearly always."""
    teacher = tmp_path / "teacher.yaml"
    weights = {
        "job.work_left": -1.0,
        "mode.speed": 1.0,
        "mode.efficiency": 2.0,
        "is_wait": 0.5,
        "wait.free_share": -1.0,
    }
    write_tuned(teacher, TunedBaseline(policy="linear", weights=weights))
    imitation = imitate(TINY, str(teacher), range(2))
    assert imitation.agreement > 0.95
    assert np.linalg.norm(imitation.weights) == pytest.approx(1)
    assert {*imitation.by_name(imitation.weights)} <= {*NAMES}


def test_the_best_mean_on_validation_is_written_and_can_be_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Report workloads are not played on the way."""
    seeds: list[int] = []
    simulator = Scenario.simulator

    def counting(self: Scenario, seed: int) -> Simulator:
        seeds.append(seed)
        return simulator(self, seed)

    monkeypatch.setattr(Scenario, "simulator", counting)
    file = tmp_path / "linear.yaml"
    found = tune_linear(TINY, file, SMALL, processes=1)
    validation = TINY.seed_range("validation", 3)
    assert {*seeds} == {*TINY.seed_range("train", 3), *validation}
    assert read_tuned(file) == found
    ends = [Scheduler(TINY.simulator(seed)).run(load_policy(file)).score("mean_jct") for seed in validation]
    assert sum(ends) / len(ends) == pytest.approx(found.members[0].validation, abs=0.001)
    assert [member.validation for member in found.members] == sorted(member.validation for member in found.members)
    assert found.default is not None
    assert found.default.policy == "srpt"


def test_any_number_of_processes_and_any_interruption_give_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["rlsched", "tune-baseline"])
    parallel, interrupted = tmp_path / "parallel.yaml", tmp_path / "interrupted.yaml"

    def interrupt(stage: str, done: int, total: int, best: Standing | None) -> None:
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_linear(TINY, interrupted, SMALL, processes=1, progress=interrupt)
    tune_linear(TINY, interrupted, SMALL, resume=True, processes=1)
    tune_linear(TINY, parallel, SMALL, processes=2)
    assert parallel.read_bytes() == interrupted.read_bytes()
