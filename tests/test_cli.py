"""The command line as a user meets it: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

WORKFLOW = """\
name: letters
tasks:
  first:
    run: echo a > a.txt
    outputs: [a.txt]
    gpus: 1
    duration: 1
  second:
    run: cat a.txt a.txt > b.txt
    inputs: [a.txt]
    outputs: [b.txt]
    gpus: 1
    duration: 1
"""


QUEUE = ("up", "submit", "queue", "logs", "cancel", "drain")


def rlsched(*arguments: str | Path | int, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command and expect an exit code."""
    result = subprocess.run(
        [sys.executable, "-m", "rlsched", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert result.returncode == code, result.stderr
    return result


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A workflow of two small shell tasks."""
    path = tmp_path / "letters.yaml"
    path.write_text(WORKFLOW)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a policy that `rlsched train` made."""
    folder = tmp_path_factory.mktemp("trained")
    rlsched("train", "tiny", "-o", folder, "--steps", 100)
    return folder


def test_help_lists_every_command() -> None:
    """The spellings that stay stable."""
    text = rlsched("--help").stdout
    commands = (
        "demo",
        "train",
        "tune-baseline",
        "benchmark",
        "simulate",
        "import",
        "run",
        "status",
        "policies",
        *QUEUE,
    )
    for command in commands:
        assert command in text
        assert "Usage" in rlsched(command, "--help").stdout


def test_equal_seeds_write_identical_events(tmp_path: Path) -> None:
    """`simulate --seed 7 --events` twice: the same bytes."""
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for file in files:
        rlsched("simulate", "failures", "--policy", "random", "--seed", 7, "--events", file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size > 1000


def test_simulate_speaks_json_and_writes_a_trace(tmp_path: Path) -> None:
    """One JSON document on standard output, and a trace that a viewer can read."""
    result = rlsched("simulate", "tiny", "--policy", "srpt", "--trace", tmp_path / "trace.json", "--json")
    content = json.loads(result.stdout)
    assert content["metrics"]["unfinished_jobs"] == 0
    assert content["manifest"]["seeds"]
    assert json.loads((tmp_path / "trace.json").read_text())


def test_simulate_predicts_a_workflow(letters: Path, tmp_path: Path) -> None:
    """A chain of two one-second tasks takes two seconds, on this machine and on a cluster from a file."""
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("nodes:\n  - {name: n, gpus: 2, gpu_type: x, cpus: 4, memory: 8}\n")
    here: list[str | Path] = ["simulate", letters, "--policy", "fifo", "--json"]
    for arguments in (here, [*here, "--cluster", cluster]):
        result = rlsched(*arguments)
        assert json.loads(result.stdout)["metrics"]["makespan"] == 2.0


def test_run_runs_once(letters: Path) -> None:
    """The second call finds everything done; the status says so too; chart and trace are there."""
    first = rlsched("run", letters, "--policy", "sjf", "--slots", 2)
    assert "actual" in first.stdout
    assert (letters.parent / "b.txt").read_text() == "a\na\n"
    run_dir = letters.parent / "runs" / "letters"
    assert (run_dir / "gantt.html").exists()
    assert json.loads((run_dir / "trace.json").read_text())
    assert "nothing to do" in rlsched("run", letters, "--policy", "sjf", "--slots", 2).stdout
    status = json.loads(rlsched("status", run_dir, "--json").stdout)
    assert status["state"] == "completed"
    assert len(status["units"]) == 2


def test_of_a_mixture_a_training_shows_ratios_and_no_times(tmp_path: Path) -> None:
    """Its scenarios may differ a thousandfold in what they take."""
    (tmp_path / "mix.yaml").write_text("mixture: [{scenario: tiny}]")
    told = rlsched("train", tmp_path / "mix.yaml", "-o", tmp_path / "out", "--steps", 100).stderr
    assert re.search(r" 0 decisions: mean_jct \d\.\d{3} of the reference's", told)


def test_a_trained_policy_simulates_compares_and_runs(trained: Path, letters: Path, tmp_path: Path) -> None:
    """The same file under all three commands."""
    rlsched("simulate", "tiny", "--policy", trained)
    result = rlsched(
        "benchmark", "tiny", "--policies", f"fifo,srpt,{trained}", "--seeds", 3, "-o", tmp_path / "out", "--json"
    )
    rows = json.loads(result.stdout)["rows"]
    assert sum(row["learned"] for row in rows) == 1
    assert (tmp_path / "out" / "report.html").exists()
    rlsched("run", letters, "--policy", trained / "policy.safetensors")


def test_a_failed_task_is_exit_code_1(letters: Path) -> None:
    """The summary says which, why, and where its output is."""
    letters.write_text(WORKFLOW.replace("echo a > a.txt", "echo oh no; exit 3"))
    result = rlsched("run", letters, code=1)
    assert "first failed" in result.stdout
    assert "skipped" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "het17"], "het16"),
        (["simulate", "het16", "--policy", "sjff"], "sjf"),
        (["benchmark", "tiny", "--policies", "fifo,nowhere/policy.safetensors"], "no such policy file"),
        (["status", "."], "is not a run directory"),
        (["run", "missing.yaml"], "missing.yaml"),
        (["benchmark", "tiny", "--policies", ""], "--policies: expected names"),
        (["train", "het16", "-o", "x", "--steps", "many"], "--steps"),
        (["train", "het16", "-o", "x", "--steps", "0"], "--steps"),
        (["simulate", "tiny", "--seed", "-1"], "--seed"),
        (["simulate", "tiny", "--trace", "no/such/trace.json"], "--trace no/such/trace.json: cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: list[str], message: str) -> None:
    """Named file, field or spelling; no traceback."""
    result = rlsched(*arguments, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_options_of_a_policy_may_come_in_any_order() -> None:
    """Also if one of them names another policy with options of its own."""
    policies = "switch:variants=1,of=srpt:threshold=0.7,fifo"
    result = rlsched("benchmark", "tiny", "--seeds", 2, "--processes", 1, "--policies", policies, "--json")
    assert {row["policy"] for row in json.loads(result.stdout)["rows"]} == {policies.removesuffix(",fifo"), "fifo"}


def test_a_wrong_workflow_file_is_named_with_line_and_field(letters: Path) -> None:
    """File, line, field, what was found and expected; nothing has been started."""
    letters.write_text(WORKFLOW.replace("gpus: 1\n    duration: 1\n  second", "gpus: two\n    duration: 1\n  second"))
    result = rlsched("run", letters, code=2)
    assert "letters.yaml:6: tasks.first.gpus: " in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (letters.parent / "runs").exists()


def test_policies_are_listed() -> None:
    """As a table for people and as JSON for programs."""
    assert "srpt" in rlsched("policies").stdout
    assert {"fifo", "sjf", "srpt", "critical-path", "lp", "random"} <= set(
        json.loads(rlsched("policies", "--json").stdout)
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--backend", "slurm"), "--backend slurm: expected local or ray"),
        (("--address", "auto"), "--address auto: only --backend ray has one"),
    ],
)
def test_a_backend_that_makes_no_sense_is_refused(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """Before anything is started."""
    file = tmp_path / "w.yaml"
    file.write_text(WORKFLOW)
    assert said in rlsched("run", file, *options, code=2).stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [("run", "w.yaml", "--backend", "ray"), ("benchmark", "tiny", "--ray", "auto")])
def test_where_ray_is_missing_the_way_to_get_it_is_said(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra."""
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'ray' else find(name, *more)\n"
    )
    path = os.pathsep.join([str(hidden), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.chdir(tmp_path)
    assert "Ray is not installed here: pip install 'rlsched[ray]'" in rlsched(*command, code=2).stderr
