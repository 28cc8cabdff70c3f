"""The measurements of speed measure what they say."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from rlsched.experiments import speed


def test_gangs_arrive_at_the_rate_that_gives_the_load() -> None:
    """Work that arrives over work that the cluster can do, within what 20,000 draws allow."""
    jobs = list(speed.gangs(20_000, gpus=256))
    assert all(before.release <= after.release for before, after in pairwise(jobs))
    load = sum(job.least_work for job in jobs) / (256 * jobs[-1].release)
    assert load == pytest.approx(speed.LOAD, rel=0.05)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_row_counts_tasks_and_decisions(at_once: bool) -> None:
    """Every task is a decision, and so is every answer to wait."""
    row = speed.simulate_gangs(300, 16, "srpt", at_once)
    assert (row["tasks"], row["gpus"], row["policy"]) == (300, 16, "srpt")
    assert row["decisions_per_s"] > row["tasks_per_s"]


@pytest.mark.parametrize("policy", ["srpt", "srpt:blocking=none", "lp"])
def test_answers_are_timed_while_the_queue_is_as_long_as_said(policy: str) -> None:
    """Enough of them, from several seeds if one queue runs short too early."""
    row = speed.decide(policy, ready=10, answers=12)
    assert (row["answers"], row["ready"]) == (12, 10)
    assert 0 < row["p50_ms"] <= row["p99_ms"]


def test_the_results_say_where_they_come_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One table, each row from a process of its own: a file with a manifest, and a table on standard output."""
    out = tmp_path / "new" / "speed.json"
    monkeypatch.setattr(sys, "argv", ["speed", "--quick", "--only", "environment", "-o", str(out)])
    speed.main()
    written = json.loads(out.read_text())
    assert [row["actions"] for row in written["environment"]] == ["random", "first"]
    assert written["manifest"]["seeds"] == [speed.SEED]
    assert written["quick"] is True
    assert "steps_per_s" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["speed", "--table", str(out)])
    speed.main()
    heading, _, names, rule, *rows = capsys.readouterr().out.splitlines()
    assert (heading, len(rows)) == ("### Environment", 2)
    assert names.startswith("| actions | steps |")
    assert rule.startswith("| --- | ---: |")
