"""The training that the workflows share: stopped, killed and damaged, it goes on as if nothing had happened; ranks."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlsched import progress
from rlsched.experiments.workloads import files, ranks, training
from rlsched.experiments.workloads.checkpoint import read_if_sound
from rlsched.experiments.workloads.settings import Settings

pytestmark = pytest.mark.usefixtures("as_started_by_hand")

ROOT = Path(__file__).parents[1]
DIGITS = [sys.executable, "-m", "rlsched.experiments.workloads.digits"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, split into a folder."""
    from rlsched.experiments.workloads import digits

    folder = tmp_path_factory.mktemp("digits") / "data"
    digits.load(folder)
    return folder


def tiny(folder: Path, **changes: Any) -> Settings:
    """Five steps an epoch, three epochs."""
    data = folder / "points.safetensors"
    if not data.exists():
        points = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
        save_file({"points": points, "labels": (points.sum(1) > 0).long()}, data)
    given = {"data": data, "out": folder / "tiny.safetensors", "lr": 0.05, "epochs": 3, "batch_size": 8}
    return Settings(**{**given, **changes})


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


def logits(model: nn.Module, batch: training.Batch) -> Tensor:
    scores: Tensor = model(batch["points"])
    return scores


def fit_tiny(settings: Settings, sigterm_at: int | None = None) -> dict[str, Tensor]:
    """Train; the signal arrives while that step is computed. Returns the weights."""
    calls = 0

    def interrupted(model: nn.Module, batch: training.Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == sigterm_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return logits(model, batch)

    training.fit(settings, network, interrupted)
    return load_file(settings.out)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, Tensor]:
    """The weights of the tiny training when nothing happens to it."""
    return fit_tiny(tiny(tmp_path, out=tmp_path / "undisturbed.safetensors"))


@pytest.mark.parametrize("step", [1, 3, 5, 6, 14])
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, undisturbed: dict[str, Tensor], step: int
) -> None:
    """In the first step, in the middle, at the end of an epoch, after it, and before the last step."""
    settings = tiny(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        fit_tiny(settings, sigterm_at=step)
    assert stopped.value.code == 143
    assert torch.load(settings.checkpoint, weights_only=True)["step"] == step
    assert not settings.out.exists()

    assert same(fit_tiny(settings), undisturbed)
    assert not settings.checkpoint.exists()
    resumed, straight = (files.read_json(path) for path in (settings.metrics, tmp_path / "undisturbed.json"))
    assert resumed["loss"] == straight["loss"]


def test_a_training_can_be_stopped_again_and_again(tmp_path: Path, undisturbed: dict[str, Tensor]) -> None:
    """Each attempt does three steps."""
    settings = tiny(tmp_path)
    for _ in range(4):
        with pytest.raises(SystemExit):
            fit_tiny(settings, sigterm_at=3)
    assert same(fit_tiny(settings), undisturbed)


def test_a_signal_in_the_last_step_comes_too_late(tmp_path: Path, undisturbed: dict[str, Tensor]) -> None:
    """What is done is done, and is not thrown away."""
    assert same(fit_tiny(tiny(tmp_path), sigterm_at=15), undisturbed)


def test_a_killed_training_goes_on_from_its_last_periodic_checkpoint(
    tmp_path: Path, undisturbed: dict[str, Tensor]
) -> None:
    """No signal handler runs when a machine is lost."""
    settings = tiny(tmp_path, checkpoint_every=1e-9)
    calls = 0

    def dies(model: nn.Module, batch: training.Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise ConnectionError("the machine is gone")
        return logits(model, batch)

    with pytest.raises(ConnectionError):
        training.fit(settings, network, dies)
    assert torch.load(settings.checkpoint, weights_only=True)["step"] == 7
    assert same(fit_tiny(settings), undisturbed)


def stopped_twice(folder: Path) -> Settings:
    """A training that has saved checkpoints after steps 3 and 6."""
    settings = tiny(folder)
    for _ in range(2):
        with pytest.raises(SystemExit):
            fit_tiny(settings, sigterm_at=3)
    return settings


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_when_the_newest_checkpoint_is_damaged_the_one_before_it_counts(
    tmp_path: Path, undisturbed: dict[str, Tensor], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped bit among the weights, which would load without a murmur, half a file, or none."""
    settings = stopped_twice(tmp_path)
    content = bytearray(settings.checkpoint.read_bytes())
    content[content.index(torch.load(settings.checkpoint)["model"]["0.weight"].numpy().tobytes()) + 2] ^= 1
    settings.checkpoint.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    if damage == "gone":  # the machine was lost between the two renames
        settings.checkpoint.unlink()
    with pytest.raises(SystemExit):
        fit_tiny(settings, sigterm_at=1)
    assert torch.load(settings.checkpoint, weights_only=True)["step"] == 4
    assert ("tiny.checkpoint is damaged, it is not used" in capsys.readouterr().out) is (damage != "gone")
    assert same(fit_tiny(settings), undisturbed)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == []


def test_without_a_sound_checkpoint_a_training_starts_afresh(
    tmp_path: Path, undisturbed: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, and ends as it should."""
    settings = stopped_twice(tmp_path)
    for path in tmp_path.glob("*checkpoint*"):
        path.write_bytes(b"not a checkpoint")
    assert same(fit_tiny(settings), undisturbed)
    assert capsys.readouterr().out.count("is damaged, it is not used") == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_flipped_bit_of_a_checkpoint_changes_what_is_loaded(tmp_path: Path, data: st.DataObject) -> None:
    """Either it is noticed, or it is where nothing stands."""
    path = tmp_path / "checkpoint"
    content = {"step": 3, "model": {"weight": torch.arange(12.0)}, "random": [torch.arange(5)]}
    torch.save(content, path)
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    loaded = read_if_sound(path)
    if loaded is not None:
        assert loaded["step"] == 3
        assert torch.equal(loaded["model"]["weight"], torch.arange(12.0))
        assert torch.equal(loaded["random"][0], torch.arange(5))


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path: Path, undisturbed: dict[str, Tensor]) -> None:
    """Whoever changes the learning rate wants another training."""
    with pytest.raises(SystemExit):
        fit_tiny(tiny(tmp_path, lr=0.5), sigterm_at=3)
    assert same(fit_tiny(tiny(tmp_path)), undisturbed)


def test_the_checkpoint_lies_where_the_executor_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder that the next attempt at the same work finds again."""
    monkeypatch.setenv("RLSCHED_CHECKPOINT_DIR", str(tmp_path / "checkpoints"))
    with pytest.raises(SystemExit):
        fit_tiny(tiny(tmp_path), sigterm_at=3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["tiny.checkpoint"]


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    """A file from elsewhere is data, never a program."""

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    settings = tiny(tmp_path)
    torch.save({"step": Payload()}, settings.checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        fit_tiny(settings)
    assert not (tmp_path / "pwned").exists()


def test_progress_is_reported_from_the_first_to_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor sees the loss and the speed."""
    monkeypatch.setenv("RLSCHED_PROGRESS_FILE", str(tmp_path / "progress.json"))
    settings = tiny(tmp_path)
    with pytest.raises(SystemExit):
        fit_tiny(settings, sigterm_at=1)
    first = progress.read(tmp_path / "progress.json")
    fit_tiny(settings)
    last = progress.read(tmp_path / "progress.json")
    assert first is not None
    assert last is not None
    assert [(first.step, first.total), (last.step, last.total)] == [(1, 15), (15, 15)]
    assert last.metrics.keys() == {"loss", "samples_per_s"}


@pytest.mark.parametrize(
    ("field", "value"), [("lr", 0.0), ("epochs", 0), ("batch_size", -1), ("device", "tpu"), ("checkpoint_every", 0.0)]
)
def test_a_setting_out_of_range_is_refused(tmp_path: Path, field: str, value: object) -> None:
    """Before anything is loaded."""
    with pytest.raises(ValueError, match=field):
        tiny(tmp_path, **{field: value})


@pytest.mark.parametrize(
    ("environment", "device", "expected"),
    [
        ({}, "cpu", 1),
        ({"RLSCHED_GPUS": "2", "CUDA_VISIBLE_DEVICES": ""}, "auto", 2),
        ({"RLSCHED_GPUS": "0"}, "auto", 1),
        ({"RLSCHED_GPUS": "2"}, "cpu", 2),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1a,GPU-2b,GPU-3c"}, "auto", 3),
        ({"CUDA_VISIBLE_DEVICES": ""}, "auto", 1),
    ],
)
def test_a_rank_is_started_for_each_device_given(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], device: str, expected: int
) -> None:
    """What the executor says counts first, then what is visible."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks.devices_given(device) == expected


def fail_on_rank_1(folder: Path) -> None:
    """The work of a rank that fails, and of one that would wait for it for ever."""
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    if os.environ["RANK"] == "1":
        sys.exit(7)
    time.sleep(600)


def test_a_rank_that_fails_takes_the_others_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or they would hold their devices for ever."""
    monkeypatch.setenv("RLSCHED_GPUS", "2")
    with pytest.raises(SystemExit) as ended:
        ranks.run(fail_on_rank_1, tmp_path)
    assert ended.value.code == 7
    if (tmp_path / "0").exists():  # rank 0 may have been ended before it did anything
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "0").read_text()), 0)


@pytest.mark.parametrize("devices", [1, 2])
def test_ranks_of_a_task_on_several_nodes_are_numbered_through(
    devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they meet where the executor says."""
    of_node = {"NNODES": "2", "NODE_RANK": "1", "RLSCHED_FIRST_RANK": "2", "WORLD_SIZE": str(2 + devices)}
    for name, value in {**of_node, "MASTER_ADDR": "head", "MASTER_PORT": "9", "RLSCHED_GPUS": str(devices)}.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "LOCAL_RANK"):  # which are set for the work, and must not stay so
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    ranks.run(note_rank, tmp_path)
    expected = {f"rank {2 + local} of {2 + devices}, here {local}, at head:9" for local in range(devices)}
    assert {file.read_text() for file in tmp_path.iterdir()} == expected


def note_rank(folder: Path) -> None:
    """The work of a rank that writes down which it is."""
    at = os.environ
    (folder / at["RANK"]).write_text(
        f"rank {at['RANK']} of {at['WORLD_SIZE']}, here {at['LOCAL_RANK']}, at {at['MASTER_ADDR']}:{at['MASTER_PORT']}"
    )


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unequal shares would weigh examples unequally."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="8 examples cannot be shared equally by 3 ranks"):
        fit_tiny(tiny(tmp_path))


def test_three_ranks_stop_together_and_go_on_exactly(digits: Path, tmp_path: Path) -> None:
    """SIGTERM to the parent alone; three, because the order in which two gradients are added makes no difference."""
    environment = {**os.environ, "RLSCHED_GPUS": "3", "RLSCHED_PROGRESS_FILE": str(tmp_path / "progress.json")}

    def train(name: str) -> subprocess.Popen[str]:
        settings = ["--lr", "0.003", "--epochs", "12", "--batch-size", "96", "--out", f"{tmp_path}/{name}.safetensors"]
        command = [*DIGITS, "train", "--data", f"{digits}/train.safetensors", *settings]
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    interrupted = train("interrupted")
    while not (tmp_path / "progress.json").exists() and interrupted.poll() is None:
        time.sleep(0.01)
    interrupted.send_signal(signal.SIGTERM)
    assert "run again to go on" in interrupted.communicate()[0]
    assert interrupted.returncode == 143

    resumed, undisturbed = train("interrupted"), train("undisturbed")
    assert "on 3 x cpu" in resumed.communicate()[0]
    assert "on 3 x cpu" in undisturbed.communicate()[0]
    assert (resumed.returncode, undisturbed.returncode) == (0, 0)
    assert same(load_file(tmp_path / "interrupted.safetensors"), load_file(tmp_path / "undisturbed.safetensors"))
