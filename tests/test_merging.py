"""Several trained policies make one, whose scores are the mean of theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsched.cli.app import main
from rlsched.envs.scheduling import SchedulingEnv
from rlsched.experiments.train import TrainingConfig, train
from rlsched.policies.learned import load_learned, save_policy
from rlsched.policies.merging import merged
from rlsched.policies.network import NetworkConfig, SchedulingNetwork
from rlsched.scenario import load_scenario

CARD = {"scenario": "tiny", "objective": "mean_jct", "preemption": False, "training": {"steps": 1}}


def network(seed: int, hidden: int = 8, pooled: bool = True) -> SchedulingNetwork:
    """Untrained, with scores that differ enough to matter."""
    torch.manual_seed(seed)
    result = SchedulingNetwork(NetworkConfig(hidden=hidden, pooled=pooled))
    for parameter in result.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return result


def seen() -> dict[str, torch.Tensor]:
    """Ten decisions of an episode."""
    env = SchedulingEnv("tiny")
    observations = [env.reset(seed=5)[0]]
    for _ in range(9):
        observations.append(env.step(int(env.action_masks().argmax()))[0])
    return {key: torch.stack([torch.as_tensor(o[key]) for o in observations]) for key in observations[0]}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans())
def test_the_scores_are_the_mean_of_the_parts(widths: list[int], pooled: bool) -> None:
    """Of networks of any width, with pooling and without."""
    parts = [network(i, width, pooled) for i, width in enumerate(widths)]
    observation = seen()
    with torch.no_grad():
        expected = torch.stack([part.actor(observation) for part in parts]).mean(dim=0)
        torch.testing.assert_close(merged(parts).actor(observation), expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_merged_is_refused() -> None:
    """One sentence says why."""
    with pytest.raises(ValueError, match="pool"):
        merged([network(0), network(1, pooled=False)])


def test_the_command_writes_a_policy_that_a_training_can_start_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its card has those of the parts, and the training goes on with its width."""
    for name in "ab":
        save_policy(tmp_path / name / "policy", network(ord(name)), CARD)
    monkeypatch.setattr("sys.argv", ["rlsched", "merge", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    card = json.loads((tmp_path / "policy.json").read_text())
    assert [part["training"] for part in card["parts"]] == [CARD["training"]] * 2
    assert load_learned(tmp_path).network.config.hidden == 16
    config = TrainingConfig(
        steps=1, sequences=1, rollouts=2, validation_workloads=1, start=str(tmp_path / "policy.safetensors")
    )
    train(load_scenario("tiny"), tmp_path / "on", config, processes=1)
    assert load_learned(tmp_path / "on").network.config.hidden == 16


def test_policies_with_different_aims_are_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the file and the field, and nothing written."""
    save_policy(tmp_path / "a" / "policy", network(0), CARD)
    save_policy(tmp_path / "b" / "policy", network(1), CARD | {"objective": "makespan"})
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["rlsched", "merge", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "objective: expected 'mean_jct'" in capsys.readouterr().err
    assert not out.exists()
