"""What training promises: it learns, it resumes exactly, and it says what it made."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from rlsched.envs.encoding import CRITIC_FEATURES
from rlsched.envs.scheduling import SchedulingEnv
from rlsched.experiments import cloning
from rlsched.experiments.first_stops import begin_to_stop
from rlsched.experiments.linear_start import sharpness, start_from_linear
from rlsched.experiments.train import Evaluation, ResumeError, TrainingConfig, train
from rlsched.policies.critic import GroupCritic, differences
from rlsched.policies.learned import LearnedPolicy
from rlsched.policies.linear import CANDIDATE_COLUMNS, LinearPolicy
from rlsched.policies.network import NetworkConfig, SchedulingNetwork
from rlsched.policies.registry import load_policy
from rlsched.policies.rollouts import Episode, Players, play
from rlsched.policies.tuned import TunedBaseline, TunedFileError, write_tuned
from rlsched.scenario import load_scenario
from rlsched.scenariofile import Seeds
from rlsched.scheduler import Scheduler

SMALL = TrainingConfig(steps=600, sequences=2, rollouts=2, validate_every=1, validation_workloads=2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "checkpoint.pt", weights_only=True)["policy"])


def test_training_writes_policy_card_curve_and_logs(tmp_path: Path) -> None:
    """The files that docs promise, and a card that says how the policy came about."""
    curve = train(load_scenario("tiny"), tmp_path, SMALL, processes=1)
    card = json.loads((tmp_path / "policy.json").read_text())
    assert card["scenario"] == "tiny"
    assert card["training"] == dataclasses.asdict(SMALL)
    assert card["validation"]["objective"] == min(e.objective for e in curve)
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["decisions"]) for row in rows] == [e.decisions for e in curve]
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert load_file(tmp_path / "policy.safetensors")


@pytest.mark.parametrize("start", ["", "srpt:blocking=none"])
def test_an_interrupted_training_resumes_exactly(tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after an iteration and resumed, it ends with the weights of an undisturbed one, bit for bit."""
    monkeypatch.setattr(cloning, "WORKLOADS", 5)
    scenario, config = load_scenario("tiny"), dataclasses.replace(SMALL, start=start)
    undisturbed = train(scenario, tmp_path / "a", config, processes=1)
    calls = 0

    def interrupt(decisions: int, evaluation: Evaluation | None) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(scenario, tmp_path / "b", config, processes=1, progress=interrupt)
    resumed = train(scenario, tmp_path / "b", config, processes=1, resume=True)
    for name, value in weights(tmp_path / "a").items():
        assert torch.equal(value, weights(tmp_path / "b")[name]), name
    assert [(e.decisions, e.objective) for e in resumed] == [(e.decisions, e.objective) for e in undisturbed]


def test_a_network_may_begin_as_a_linear_policy() -> None:
    """Its linear part takes the weights over, sharp enough that sampling seldom departs from them."""
    scenario = load_scenario("tiny")
    weights = {"job.rank": -1.0, "mode.efficiency": 0.5, "is_wait": -0.2, "wait.jobs": 0.1}
    network = SchedulingNetwork(NetworkConfig())
    torch.nn.init.zeros_(network.score.weight)
    start_from_linear(network, weights, scenario, [0])
    for seed in range(3):
        played = [Scheduler(scenario.simulator(seed)).run(p) for p in (LearnedPolicy(network), LinearPolicy(weights))]
        assert played[0].runs == played[1].runs


def test_a_training_may_begin_with_a_heuristic(tmp_path: Path) -> None:
    """It decides like it, and not like an untrained network; however few training workloads there are."""
    scenario = dataclasses.replace(load_scenario("tiny"), seeds=Seeds(validation=30))
    config = dataclasses.replace(SMALL, steps=1, start="srpt:blocking=none", learning_rate=0.0, final_learning_rate=0.0)
    learned = min(e.ratio for e in train(scenario, tmp_path / "like-srpt", config, processes=1))
    untrained = min(e.ratio for e in train(scenario, tmp_path / "untrained", dataclasses.replace(config, start="")))
    assert learned < 1.15 < untrained
    with pytest.raises(ValueError, match="has no option 'colour'"):
        train(scenario, tmp_path / "out", dataclasses.replace(config, start="srpt:colour=red"), processes=1)
    assert not (tmp_path / "out").exists()


def test_scores_are_made_as_sharp_as_asked() -> None:
    """The entropy of softmax falls with the scale."""
    scores = [np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.0])]
    parts = [np.exp(s * sharpness(scores, 0.4)) for s in scores]
    entropies = [-float((p / p.sum() * np.log(p / p.sum())).sum()) for p in parts]
    assert np.mean(entropies) == pytest.approx(0.4)


def test_what_is_no_linear_policy_is_refused(tmp_path: Path) -> None:
    """One sentence, and nothing is written."""
    file = tmp_path / "greedy.yaml"
    write_tuned(file, TunedBaseline(policy="srpt"))
    with pytest.raises(TunedFileError, match="expected that of a linear policy"):
        train(load_scenario("tiny"), tmp_path / "out", dataclasses.replace(SMALL, start=str(file)), processes=1)
    assert not (tmp_path / "out").exists()


def test_an_existing_training_is_never_overwritten(tmp_path: Path) -> None:
    """Without --resume it is refused, with another set-up too."""
    scenario = load_scenario("tiny")
    train(scenario, tmp_path, SMALL, processes=1)
    with pytest.raises(ResumeError, match="holds a training already; use --resume"):
        train(scenario, tmp_path, SMALL, processes=1)
    with pytest.raises(ResumeError, match="was started with seed 0, not 1"):
        train(scenario, tmp_path, dataclasses.replace(SMALL, seed=1), resume=True)


def test_advantages_decay_with_simulated_time_not_with_decisions() -> None:
    """Two decisions at one instant count as one; a long wait discounts."""
    episode = Episode(rewards=[0.0, 0.0, -1.0], times=[0.0, 0.0, 10.0, 20.0], kept=3, bootstrapped=True)
    last, middle, first = reversed(episode.advantages(np.zeros(4), horizon=100.0, trace=10.0))
    assert last == pytest.approx(-1.0)
    assert middle == pytest.approx(-np.exp(-10 / 100 - 10 / 10))
    assert first == middle


def test_decisions_after_the_last_arrival_are_bootstrapped() -> None:
    """The value of the first dropped decision stands for everything behind it."""
    episode = Episode(rewards=[-2.0, -100.0], times=[0.0, 10.0, 20.0], kept=1, bootstrapped=True)
    advantages = episode.advantages(np.array([1.0, 5.0]), horizon=100.0, trace=10.0)
    assert advantages == pytest.approx([-2.0 + np.exp(-0.1) * 5.0 - 1.0])


def test_the_group_baseline_is_the_others_mean_at_the_same_time() -> None:
    """Interpolated at each rollout's own decision times."""
    times = np.array([0.0, 10.0])
    group = [(times, [1.0, 1.0]), (times, [0.0, 2.0]), (np.array([5.0]), [7.0])]
    adjusted = differences([(times, np.array(columns)[:, None]) for times, columns in group])
    assert adjusted[0][:, 0] == pytest.approx([1 - (0 + 7) / 2, 1 - (2 + 7) / 2])
    assert adjusted[2][:, 0] == pytest.approx([7 - (1 + 1) / 2])


_TIMES = st.lists(st.integers(0, 1000), min_size=1, max_size=20, unique=True).map(sorted)


@given(_TIMES, _TIMES, st.integers(0, 2**32 - 1))
def test_between_decisions_the_others_are_interpolated(times: list[int], others: list[int], seed: int) -> None:
    """As numpy does it, which is for one column at a time."""
    columns = np.random.default_rng(seed).normal(size=(len(others), 2))
    own, _ = differences([(np.array(times, float), np.zeros((len(times), 2))), (np.array(others, float), columns)])
    for column in range(2):
        assert own[:, column] == pytest.approx(-np.interp(times, others, columns[:, column]))


def test_the_critic_learns_what_differs_within_groups_and_not_between_them() -> None:
    """Costs follow one feature within a group; what all rollouts of a sequence have in common is left out."""
    random = np.random.default_rng(0)
    critic = GroupCritic(horizon=100.0)

    def rollout(common: float) -> Episode:
        own = random.normal(size=6)
        seen = [{"critic": np.array([x, common, *(0.0,) * (CRITIC_FEATURES - 2)])} for x in own]
        rewards = [2.0 * (x - y) + common for x, y in itertools.pairwise(own)]  # so 2 x is what is still to come
        times = [0.0, 1e-6, 2e-6, 3e-6, 4e-6, 5e-6]
        return Episode(observations=seen, rewards=rewards, times=times, kept=5, bootstrapped=True)

    groups = [[rollout(common) for _ in range(4)] for common in random.normal(0, 50, size=8)]
    assert critic.learn(groups) == 0  # it knew nothing
    for _ in range(20):  # the value at the end of an episode is the critic's own of before
        explained = critic.learn(groups)
    assert explained > 0.95
    values = critic.values(groups[0][0])
    assert np.diff(values) == pytest.approx(np.diff([2.0 * o["critic"][0] for o in groups[0][0].observations]), rel=0.1)
    copy = GroupCritic(horizon=100.0)
    copy.load_state_dict(critic.state_dict())
    assert (copy.values(groups[0][0]) == values).all()


def test_rollouts_of_a_group_play_the_same_arrivals_differently() -> None:
    """Equal jobs at equal times; the sampled decisions differ."""
    scenario = load_scenario("tiny")
    environments = [SchedulingEnv(scenario) for _ in range(2)]
    play(SchedulingNetwork(NetworkConfig()), environments, [7, 7], seed=0)
    first, second = (env.scheduler.schedule for env in environments)
    assert [r.job for r in first.jobs.values()] == [r.job for r in second.jobs.values()]
    assert first.runs != second.runs


def test_the_number_of_processes_does_not_change_a_rollout() -> None:
    """One process or two: equal actions, rewards and times, and equal scores of what the policy is compared with."""
    scenario, config = load_scenario("tiny"), NetworkConfig()
    network = SchedulingNetwork(config)
    results = []
    for processes in (1, 2):
        with Players(scenario, config, processes) as players:
            groups = players.play(network, [[1, 1], [2, 2], [3]], [10, 20, 30])
            played = [(e.actions, e.rewards, e.times) for group in groups for e in group]
            results.append((played, players.scores([("sjf", 1), ("fifo", 1), ("fifo", 2)])))
    assert results[0] == results[1]
    alone = Scheduler(scenario.simulator(2)).run(load_policy("fifo"))
    assert results[0][1][2] == alone.metrics()[scenario.objective]


def test_a_policy_that_knew_no_stops_begins_to_try_them_now_and_then(tmp_path: Path) -> None:
    """However far apart its scores are, about one sampled decision in fifty stops something, where that is possible."""
    text = (Path("experiments") / "scenarios" / "preemptive16.yaml").read_text()
    file = tmp_path / "small.yaml"
    file.write_text(text.replace("jobs: 100", "jobs: 12"))
    scenario = load_scenario(str(file))
    network = SchedulingNetwork(NetworkConfig())
    with torch.no_grad():
        network.skip.weight.normal_(std=10, generator=torch.Generator().manual_seed(1))
    begin_to_stop(network, scenario, 0)
    environments = [SchedulingEnv(scenario) for _ in range(8)]
    stops = possible = 0
    for episode in play(network, environments, [0] * 8, seed=1):
        for observation, action in zip(episode.observations, episode.actions, strict=True):
            is_stop = observation["candidates"][:, CANDIDATE_COLUMNS.index("is_stop")]
            possible += bool(is_stop.any())
            stops += bool(is_stop[action])
    assert 0.002 < stops / possible < 0.1
