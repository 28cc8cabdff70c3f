"""A mixture plays another scenario in each episode, always the same one for the same seed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rlsched.envs.scheduling import SchedulingEnv
from rlsched.mixture import load_training, mixture_names
from rlsched.policies.registry import load_policy
from rlsched.scenario import Scenario, ScenarioError, load_scenario
from rlsched.scheduler import Scheduler

MIXED = """
mixture:
  - {scenario: tiny, load: [0.5, 0.9], noise: [0.0, 0.8], jobs: [3, 6], cluster: {gpus: [1, 12], types: [1, 3]}}
  - {scenario: makespan, weight: 0.5, jobs: 3}
"""


@pytest.fixture
def mixed(tmp_path: Path) -> Scenario:
    file = tmp_path / "mixed.yaml"
    file.write_text(MIXED)
    return load_training(file)


def test_equal_seeds_play_equal_episodes(mixed: Scenario, tmp_path: Path) -> None:
    again = load_training(tmp_path / "mixed.yaml")
    for seed in (0, 1, 0, 7):
        one, other = mixed.episode(seed), again.episode(seed)
        assert (one.name, one.cluster, one.uncertainty) == (other.name, other.cluster, other.uncertainty)
        assert mixed.jobs(seed) == again.jobs(seed)


def test_episodes_stay_within_what_was_asked_for(mixed: Scenario) -> None:
    """Both scenarios come up; GPUs, types, jobs and noise are in their ranges; everything can be run to its end."""
    names, sizes = set(), set()
    for seed in range(40):
        episode = mixed.episode(seed)
        names.add(episode.name)
        schedule = Scheduler(mixed.simulator(seed)).run(load_policy("srpt"))
        schedule.check()
        assert schedule.metrics()["unfinished_jobs"] == 0
        if episode.name == "tiny":
            gpus = episode.cluster.gpu_count()
            sizes.add(gpus)
            assert 1 <= gpus <= 12 + 3  # each type has at least one
            assert 1 <= len(episode.cluster.gpu_types) <= 3
            assert 3 <= len(mixed.jobs(seed)) <= 6
            assert 0 <= episode.uncertainty.duration_noise <= 0.8
    assert names == {"tiny", "makespan"}
    assert len(sizes) > 5


def test_the_environment_aims_at_the_objective_of_each_episode(mixed: Scenario) -> None:
    env = SchedulingEnv(mixed)
    objectives = {}
    for seed in range(12):
        observation, _ = env.reset(seed=seed)
        objectives[env.episode.objective] = int(np.argmax(observation["globals"][:4]))
    assert objectives == {"mean_jct": 0, "makespan": 1}


@pytest.mark.parametrize("name", mixture_names())
def test_what_comes_with_rlsched_loads(name: str) -> None:
    load_training(name).episode(0)


def test_the_example_in_the_documentation_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "scenarios.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(mixture:.*?)```", page, re.DOTALL)
    file = tmp_path / "example.yaml"
    file.write_text(example)
    load_training(file).episode(0)


def test_a_scenario_is_its_own_only_episode() -> None:
    tiny = load_scenario("tiny")
    assert tiny.episode(3) is tiny


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mixture: []", "1: mixture: expected a list of scenarios"),
        ("mixture:\n  - {scenario: nowhere}", "2: mixture[0].scenario: unknown scenario 'nowhere'"),
        ("mixture:\n  - {scenario: pipeline, cluster: {gpus: 4}}", "expected a scenario with a workload to draw"),
        (
            "mixture:\n  - {scenario: tiny}\nseeds: {train: 5, validation: 5}",
            "3: seeds: expected train, validation and",
        ),
    ],
)
def test_mistakes_are_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ScenarioError) as error:
        load_training(file)
    assert message in str(error.value)
