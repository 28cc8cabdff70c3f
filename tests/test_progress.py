"""A task reports how far it is, and the executor reads it, whatever state the file is in."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsched import progress
from rlsched.progress import Progress

PROTOCOL = Path(__file__).parents[1] / "docs" / "progress-protocol.md"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The progress file of a task that the executor has started."""
    path = tmp_path / "train.progress.json"
    monkeypatch.setenv("RLSCHED_PROGRESS_FILE", str(path))
    monkeypatch.delenv("RANK", raising=False)
    return path


def test_what_is_reported_is_read(file: Path) -> None:
    """Step, total and every metric arrive, with the time of the report."""
    progress.report(30, 120, loss=0.5, samples_per_s=64)
    found = progress.read(file)
    assert found is not None
    assert found == Progress(30, 120, found.time, {"loss": 0.5, "samples_per_s": 64.0})
    assert found.fraction == 0.25


def test_the_latest_report_counts(file: Path) -> None:
    """Each report replaces the one before, and leaves nothing else behind."""
    for step in range(1, 4):
        progress.report(step, 3)
    found = progress.read(file)
    assert found is not None
    assert found.step == 3
    assert list(file.parent.iterdir()) == [file]


def test_without_an_executor_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same program runs by hand."""
    monkeypatch.delenv("RLSCHED_PROGRESS_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    progress.report(1, 2)
    assert list(tmp_path.iterdir()) == []


def test_only_rank_0_reports(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks of a data-parallel training run the same code, and one report is enough."""
    monkeypatch.setenv("RANK", "1")
    progress.report(1, 2)
    assert not file.exists()


def test_a_file_that_cannot_be_written_does_not_end_the_training(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task warns and goes on."""
    monkeypatch.setenv("RLSCHED_PROGRESS_FILE", str(file.parent / "missing" / "progress.json"))
    with pytest.warns(RuntimeWarning, match="progress is not reported"):
        progress.report(1, 2)


def test_a_diverged_loss_is_read_as_nan(file: Path) -> None:
    """JSON has no NaN, so the file says null."""
    progress.report(1, 2, loss=math.inf)
    found = progress.read(file)
    assert found is not None
    assert math.isnan(found.metrics["loss"])
    assert '"loss": null' in file.read_text()


def test_no_file_is_no_progress(tmp_path: Path) -> None:
    """A task that has not reported yet, or never does."""
    assert progress.read(tmp_path / "absent") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1, 2]",
        "3",
        '{"step": 1, "total": 2}',
        '{"step": -1, "total": 2, "time": 0}',
        '{"step": 1, "total": 0, "time": 0}',
        '{"step": true, "total": 2, "time": 0}',
        '{"step": 1.5, "total": 2, "time": 0}',
        '{"step": 1, "total": 2, "time": NaN}',
        '{"step": 1, "total": 2, "time": "now"}',
        "[" * 100_000,
    ],
)
def test_what_is_no_report_is_no_progress(tmp_path: Path, content: str) -> None:
    """Half a file, another type, a number out of range."""
    path = tmp_path / "progress.json"
    path.write_text(content)
    assert progress.read(path) is None


@given(st.binary() | st.from_regex(rb'\{"step": \d{1,3}, "total": \d{1,3}, "time": \d+(, "\w+": [\w.-]{1,9})?\}'))
def test_no_content_makes_the_reader_fail(content: bytes) -> None:
    """The executor reads files that any program may have written."""
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    try:
        found = progress.read(f"/dev/fd/{read}")
    finally:
        os.close(read)
    assert found is None or (0 <= found.fraction <= 1 and math.isfinite(found.time))


def test_a_reader_never_sees_half_a_report(file: Path) -> None:
    """The file is replaced as a whole."""

    def work() -> None:
        for step in range(1, 300):
            progress.report(step, 300, loss=1 / step)

    progress.report(1, 300)
    writer = threading.Thread(target=work)
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(progress.read(file))
    assert None not in seen


def test_a_task_knows_when_it_should_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the file is there; without an executor never."""
    monkeypatch.delenv("RLSCHED_PREEMPT_FILE", raising=False)
    assert not progress.should_stop()
    monkeypatch.setenv("RLSCHED_PREEMPT_FILE", str(tmp_path / "preempt.json"))
    assert not progress.should_stop()
    (tmp_path / "preempt.json").touch()
    assert progress.should_stop()


def test_reporting_needs_the_standard_library_only() -> None:
    """A task pays nothing for it."""
    code = "import sys, rlsched.progress; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_shell_example_of_the_protocol_works(file: Path) -> None:
    """A task in any language can report."""
    (script,) = re.findall(r"```sh\n(.*?)```", PROTOCOL.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run(["bash", "-c", script], check=True)
    found = progress.read(file)
    assert found is not None
    assert (found.step, found.total) == (10, 10)


@pytest.fixture
def train(tmp_path: Path) -> Callable[[], Any]:
    """Three steps of a Trainer with the callback; returns its state."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    import torch
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    config = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    example = {"input_ids": torch.ones(4, dtype=torch.long), "labels": torch.tensor(1)}
    arguments = TrainingArguments(
        str(tmp_path / "out"),
        max_steps=3,
        per_device_train_batch_size=2,
        logging_steps=1,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )

    def run() -> Any:
        callbacks = [progress.trainer_callback()]
        model = BertForSequenceClassification(config)
        trainer = Trainer(model, arguments, train_dataset=[example] * 6, callbacks=callbacks)
        trainer.train()
        return trainer.state

    return run


def test_a_transformers_trainer_reports(file: Path, train: Callable[[], Any]) -> None:
    """With the callback, every optimiser step arrives with the logged loss and the samples a second."""
    train()
    found = progress.read(file)
    assert found is not None
    assert (found.step, found.total) == (3, 3)
    assert set(found.metrics) == {"loss", "samples_per_s"}
    assert found.metrics["samples_per_s"] > 0


def test_a_transformers_trainer_stops_when_asked(
    tmp_path: Path, train: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the step it is in, with a checkpoint."""
    monkeypatch.setenv("RLSCHED_PREEMPT_FILE", str(tmp_path / "preempt.json"))
    (tmp_path / "preempt.json").touch()
    assert train().global_step == 1
    assert (tmp_path / "out" / "checkpoint-1" / "model.safetensors").exists()


def stops_together(rank: int, folder: Path) -> None:
    """A rank's step in a Trainer of two; the second rank alone has seen the file."""
    import torch.distributed as dist

    os.environ["RLSCHED_PREEMPT_FILE"] = str(folder / f"{rank}.json")
    if rank == 1:
        (folder / "1.json").touch()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    arguments = SimpleNamespace(world_size=2, device="cpu", train_batch_size=1, gradient_accumulation_steps=1)
    callback: Any = progress.trainer_callback()
    callback.on_step_end(arguments, SimpleNamespace(global_step=1, max_steps=2), control)
    dist.destroy_process_group()
    assert control == SimpleNamespace(should_save=True, should_training_stop=True)


def test_ranks_of_a_trainer_stop_after_the_same_step(tmp_path: Path) -> None:
    """Or the others would wait for ever for the one that has stopped."""
    pytest.importorskip("transformers.trainer_callback")
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=stops_together, args=(rank, tmp_path)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0]
