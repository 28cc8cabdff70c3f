"""The commands of the queue as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from queues import flow
from test_cli import rlsched

from rlsched.experiments.queue_jct import compare, draw_arrivals

TOKEN = "0123456789abcdef"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a queue, whose socket is the one that clients mean."""
    monkeypatch.setenv("RLSCHED_SOCKET", str(tmp_path / "q" / "socket"))
    return tmp_path / "q"


@pytest.fixture
def up(state: Path) -> Iterator[subprocess.Popen[str]]:
    """A scheduler that listens."""
    command = [sys.executable, "-m", "rlsched", "up", "--policy", "fifo", "--slots", "2", "--state", str(state)]
    scheduler = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 60
    while not (state / "socket").exists():
        assert scheduler.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "it does not listen within a minute"
        time.sleep(0.05)
    yield scheduler
    scheduler.terminate()
    scheduler.communicate()


def test_a_queue_from_up_to_drain(up: subprocess.Popen[str], tmp_path: Path) -> None:
    """Submit, follow, list, drain; what happens is told by `up`, which ends well."""
    tasks = "loud: {run: for i in 1 2 3; do echo $i; sleep 0.2; done}\nbad: {run: exit 7, needs: loud}"
    workflow = flow(tmp_path / "night", tasks)
    job = json.loads(rlsched("submit", workflow.file, "--deadline", "2h", "--json").stdout)
    assert (job["job"], job["name"]) == (1, "night")
    assert rlsched("logs", "night", "loud", "-f").stdout == "1\n2\n3\n"
    assert "job 2 (second) is submitted" in rlsched("submit", workflow.file, "--name", "second", "--id", "x").stdout
    assert rlsched("logs", 2, "-f").stdout == "==> loud, attempt 1 <==\n1\n2\n3\n"
    answer = json.loads(rlsched("queue", "--json").stdout)
    assert [(entry["state"], entry["reason"]) for entry in answer["jobs"]] == [("failed", "bad: exit code 7")] * 2
    assert round(answer["jobs"][0]["deadline"] - answer["jobs"][0]["submitted"]) == 7200
    assert "did you mean 'night'" in rlsched("cancel", "nigth", code=2).stderr
    refused = rlsched("submit", workflow.file, "--deadline", "soon", code=2)
    assert "--deadline: expected seconds above 0" in refused.stderr
    assert "tasks that run: 0" in rlsched("drain").stdout
    told = up.communicate(timeout=60)[1]
    assert up.returncode == 0
    assert "finished night/loud" in told
    assert "job 1 (night) has ended, failed: bad: exit code 7" in told
    assert "no scheduler is running at" in rlsched("queue", code=2).stderr


def test_a_scheduler_that_is_asked_to_end_keeps_its_jobs(
    up: subprocess.Popen[str], state: Path, tmp_path: Path
) -> None:
    """By SIGTERM: tasks are stopped, and the exit code says why."""
    rlsched("submit", flow(tmp_path / "a", "t: {run: 'echo $$ > pid; sleep 600'}").file)
    while not (tmp_path / "a" / "pid").exists():
        time.sleep(0.02)
    assert (
        f"{state} is in use by another scheduler"
        in rlsched("up", "--state", state, "--socket", tmp_path / "s", code=2).stderr
    )
    assert "--policy auto rehearses the jobs" in rlsched("up", "--state", state, "--policy", "auto", code=2).stderr
    up.terminate()
    told = up.communicate(timeout=60)[1]
    assert up.returncode == 143
    assert "interrupted by SIGTERM: tasks were stopped" in told
    assert not (state / "socket").exists()


def test_real_and_predicted_jct_come_side_by_side(tmp_path: Path) -> None:
    """Three short jobs; twenty are in experiments/queue_jct.py."""
    arrivals = draw_arrivals(jobs=3, load=2.0, slots=2, seed=1)
    for arrival in arrivals:
        for task in arrival["tasks"]:
            task["seconds"] /= 10
    (outcome,) = compare(arrivals, ["sjf"], 2, tmp_path)
    assert outcome.real > 0
    assert outcome.predicted > 0
