"""A learned policy is a file that anyone can use: without the trainer, without trust, on clusters of any size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsched.envs.scheduling import SchedulingEnv
from rlsched.model import Cluster, Node
from rlsched.policies.genetic import improve
from rlsched.policies.learned import FORMAT, LearnedPolicy, PolicyFileError, load_learned, save_policy
from rlsched.policies.network import NetworkConfig, SchedulingNetwork
from rlsched.policies.planning.budget import Budget
from rlsched.policies.planning.instance import all_known
from rlsched.policies.planning.rollouts import sampled_rollouts
from rlsched.scenario import load_scenario
from rlsched.schedule import Schedule
from rlsched.scheduler import Policy, Scheduler


def network(seed: int = 0) -> SchedulingNetwork:
    """An untrained network whose scores differ enough to matter."""
    torch.manual_seed(seed)
    result = SchedulingNetwork(NetworkConfig())
    torch.nn.init.normal_(result.skip.weight, std=0.5)
    return result


def play(policy: Policy, scenario: str = "tiny", seed: int = 5) -> Schedule:
    return Scheduler(load_scenario(scenario).simulator(seed)).run(policy)


def test_a_saved_policy_decides_as_the_network_did(tmp_path: Path) -> None:
    """Saving and loading changes no decision; the folder names the policy as well as the file does."""
    original = network()
    path = save_policy(tmp_path / "policy", original, {"scenario": "tiny"})
    expected = play(LearnedPolicy(original)).runs
    assert play(load_learned(path)).runs == expected
    assert play(load_learned(tmp_path)).runs == expected


def test_the_policy_decides_as_the_environment_does(tmp_path: Path) -> None:
    """Greedy actions in the environment and the policy object on the simulator make the same schedule."""
    net = network(3)
    env = SchedulingEnv("tiny")
    observation, _ = env.reset(seed=5)
    ended = False
    while not ended:
        tensors = {key: torch.as_tensor(value)[None] for key, value in observation.items()}
        with torch.no_grad():
            logits = net.actor(tensors)[0].numpy()
        logits[~env.action_masks()] = -np.inf
        observation, _, ended, _, _ = env.step(int(logits.argmax()))
    assert env.scheduler.schedule.runs == play(LearnedPolicy(net)).runs


def test_a_search_begins_with_the_policy_and_with_samples_from_it(tmp_path: Path) -> None:
    """Its schedule as it is, then others; what the search finds is no worse than any of them, and can be repeated."""
    path = str(save_policy(tmp_path / "policy", network(), {"scenario": "tiny"}))
    scenario = load_scenario("rcpsp")
    instance = all_known(scenario.cluster, scenario.jobs(1))
    known = list(sampled_rollouts(instance, path, 4, seed=1))
    assert known[0].runs == instance.play(load_learned(path)).runs
    assert len(known) == 4
    assert len({tuple(schedule.runs) for schedule in known}) > 1
    found = improve(instance, "makespan", sampled_rollouts(instance, path, 4, seed=1), Budget(300), seed=1)
    found.schedule.check()
    assert found.cost <= min(instance.cost_of(schedule, "makespan") for schedule in known)
    assert found.plan == improve(instance, "makespan", known, Budget(300), seed=1).plan


def test_one_policy_serves_clusters_of_any_size() -> None:
    """Nothing in the network depends on the number of nodes, GPUs or tasks."""
    policy = LearnedPolicy(network())
    for nodes, gpus in ((2, 1), (3, 4), (64, 8)):
        types = ("fast", "slow")
        cluster = Cluster(tuple(Node(f"n{i}", gpus=gpus, gpu_type=types[i % 2], cpus=8) for i in range(nodes)))
        scenario = load_scenario("tiny").with_(cluster=cluster, load=0.5, jobs=3)
        schedule = Scheduler(scenario.simulator(1)).run(policy)
        schedule.check()
        assert schedule.metrics()["unfinished_jobs"] == 0


def test_sampling_is_reproducible() -> None:
    """With a temperature, equal seeds sample equal schedules."""
    first, second = (play(LearnedPolicy(network(), temperature=1.0, seed=2)).runs for _ in range(2))
    assert first == second


def test_running_a_policy_needs_no_stable_baselines(tmp_path: Path) -> None:
    """Loading and deciding imports neither stable-baselines3 nor pickle files."""
    path = save_policy(tmp_path / "policy", network(), {})
    code = (
        "import sys; from rlsched.policies.registry import load_policy; from rlsched.scenario import load_scenario; "
        "from rlsched.scheduler import Scheduler; "
        f"Scheduler(load_scenario('tiny').simulator(1)).run(load_policy({str(path)!r})); "
        "assert not [m for m in sys.modules if m.startswith(('stable_baselines3', 'sb3_contrib'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    """Missing file, missing card, foreign card, weights that do not fit, bytes that are no safetensors."""
    with pytest.raises(PolicyFileError, match=r"nowhere\.safetensors: no such policy file"):
        load_learned(tmp_path / "nowhere.safetensors")
    with pytest.raises(PolicyFileError, match=r"expected one \.safetensors file in the directory, found 0"):
        load_learned(tmp_path)
    path = save_policy(tmp_path / "policy", network(), {})
    card = path.with_suffix(".json")
    content = card.read_text()
    card.unlink()
    with pytest.raises(PolicyFileError, match="the policy's card is missing"):
        load_learned(path)
    card.write_text("{")
    with pytest.raises(PolicyFileError, match="not a policy card"):
        load_learned(path)
    card.write_text(json.dumps({**json.loads(content), "format": 99}))
    with pytest.raises(PolicyFileError, match=f"format: expected {FORMAT}, found 99"):
        load_learned(path)
    wrong = json.loads(content)
    wrong["network"]["hidden"] = 8
    card.write_text(json.dumps(wrong))
    with pytest.raises(PolicyFileError, match="not a policy that can be used"):
        load_learned(path)
    card.write_text(content)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(PolicyFileError, match="not a policy that can be used"):
        load_learned(path)


def test_unused_rows_do_not_change_a_score() -> None:
    """Padding is not seen: the same candidates score the same with and without empty rows."""
    net = network()
    env = SchedulingEnv("tiny")
    observation, _ = env.reset(seed=1)
    used = int(env.action_masks().nonzero()[0][-1]) + 1
    tensors = {key: torch.as_tensor(value)[None] for key, value in observation.items()}
    with torch.no_grad():
        full = net.actor(tensors)[0, :used]
        cut = net.actor(tensors | {"candidates": tensors["candidates"][:, :used]})[0]
    torch.testing.assert_close(full, cut)
