"""A run played again in the simulator: exact where the journal leaves nothing open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import first_fit, task
from builders import job as make_job
from conftest import Execute
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import rlsched

from rlsched.executor.recording import job_as_record, job_of_record
from rlsched.executor.replay import replay
from rlsched.executor.rundir import RunDirectory
from rlsched.model import Cause, Job, Mode, Task
from rlsched.policies.registry import load_policy

NODE = {"name": "n", "gpu_type": "cpu", "gpu_memory": 0.0, "cpus": 4, "memory": 8.0, "devices": ["cpu:0", "cpu:1"]}
WORK = make_job("j", task("a", 10), task("b", 5, retries=1), task("c", 3, needs=["a"]))
# unit, attempt, started, ended, ending: `a` and `c` took longer than was thought, `b` has failed once
HAPPENED = [
    ("a", 1, 0, 12, "finished"),
    ("b", 1, 0, 2, "failed"),
    ("b", 2, 2, 8, "finished"),
    ("c", 1, 12, 16, "finished"),
]


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Path]:
    """Writes the journal of a run."""

    def write(
        job: Job = WORK,
        happened: Sequence[tuple[str, int, float, float, str]] = HAPPENED,
        state: str = "completed",
        costs: dict[str, Any] | None = None,
        extra: str | None = None,
    ) -> Path:
        directory = RunDirectory(tmp_path / "run")
        costs = costs or {"launch_overhead": 0.0, "slowdown": []}
        units = sorted({unit for unit, *_ in happened})
        begin = {"boot": "b", "workflow": "w", "policy": "fifo", "units": units, "kept": [], "predicted_makespan": 1.0}
        directory.append("begin", nodes=[NODE], job=job_as_record(job), costs=costs, **begin)
        records = [(start, "start", unit, n, "") for unit, n, start, _, _ in happened]
        records += [(end, "end", unit, n, ending) for unit, n, _, end, ending in happened]
        slot: dict[str, str] = {}
        for at, kind, unit, attempt, ending in sorted(records, key=lambda r: (r[0], r[1])):
            if kind == "start":
                slot[unit] = next(s for s in NODE["devices"] if s not in slot.values())  # type: ignore[attr-defined]
                fields = {"digest": "d", "checkpoint": 1, "mode": 0, "devices": [slot[unit]]}
                directory.append("start", at=at, unit=unit, attempt=attempt, **fields)
            else:
                del slot[unit]
                cause = "exit" if ending == "failed" else None
                fields = {"ending": ending, "cause": cause, "reason": "", "ended": at}
                directory.append("end", at=at, unit=unit, attempt=attempt, **fields)
        if extra is not None:
            directory.append(extra, at=0, unit="a", attempt=1)
        if state != "open":
            directory.append("close", state=state, reason="", makespan=17.0)
        directory.close()
        return tmp_path / "run"

    return write


@pytest.mark.parametrize("decisions", ["policy", "recorded"])
def test_a_run_is_played_with_estimates_and_as_it_was(decisions: str, recorded: Callable[..., Path]) -> None:
    """By estimates, 10 + 3 s; with what tasks took, failure included, exactly the 16 s of the run."""
    found = replay(recorded(), load_policy("fifo") if decisions == "policy" else None)
    assert (found.workflow, found.policy, found.decisions, found.tasks) == ("w", "fifo", decisions, 3)
    assert (found.makespan, found.mean_jct) == (16, 16)
    assert (found.estimates.makespan, found.measured.makespan) == (13, 16)
    assert found.estimates.makespan_error == pytest.approx(13 / 16 - 1)
    assert found.measured.makespan_error == found.measured.mean_jct_error == 0


def test_estimates_are_played_with_the_costs_that_were_known(recorded: Callable[..., Path]) -> None:
    """A second for each launch, and half as long again while both slots are busy: b ends at 9, a at 13, c at 17."""
    costs = {"launch_overhead": 1.0, "slowdown": [1.0, 1.5]}
    found = replay(recorded(costs=costs), load_policy("fifo"))
    assert found.estimates.makespan == pytest.approx(9 + 11 - 6 + 4)
    assert found.measured.makespan == 16


def test_recorded_decisions_keep_their_order_and_modes(recorded: Callable[..., Path]) -> None:
    """The run has started `short` last, although it would have come first."""
    job = make_job("j", task("short", 1), task("x", 4), task("y", 4))
    happened = [("x", 1, 0, 4, "finished"), ("y", 1, 0, 4, "finished"), ("short", 1, 4, 5, "finished")]
    assert replay(recorded(job, happened), None).measured.makespan == 5
    assert replay(recorded(job, happened), load_policy("sjf")).estimates.makespan == 5


def test_a_preempted_task_has_taken_all_its_stays_together(recorded: Callable[..., Path]) -> None:
    job = Job("j", (replace(task("a", 10), preemptible=True),))
    happened = [("a", 1, 0, 4, "preempted"), ("a", 2, 4, 13, "finished")]
    assert replay(recorded(job, happened), load_policy("fifo")).measured.makespan == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": "failed"}, "expected a run that has completed, found one that is failed"),
        ({"state": "open"}, "found one that is not closed"),
        ({"extra": "adopt"}, "the last driver has adopted tasks"),
        ({"happened": []}, "expected a run in which a task was started"),
    ],
)
def test_half_a_run_is_refused(options: dict[str, Any], message: str, recorded: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=message):
        replay(recorded(**options), None)


def test_a_folder_without_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run directory"):
        replay(tmp_path, None)


def test_a_real_run_can_be_replayed_from_the_command_line(execute: Execute) -> None:
    """And so can one whose policy was written in Python, by its decisions."""
    result = execute("a: {run: sleep 0.1, gpus: 1}\nb: {run: sleep 0.1, gpus: 2, needs: a}", policy_name="fifo")
    shown = rlsched("replay", result.status.run_dir).stdout
    assert "flow under fifo, its policy deciding anew" in shown
    again = execute("c: {run: sleep 0.1, gpus: 1}")
    done = rlsched("replay", again.status.run_dir, "--json")
    assert '"decisions": "recorded"' in done.stdout
    assert "its decisions are repeated" in done.stderr


names = st.text("abc[]=,.1", min_size=1, max_size=5)
tasks = st.builds(
    Task,
    names,
    st.lists(
        st.builds(Mode, st.floats(0.1, 9), gpus=st.integers(0, 3), gpu_type=st.sampled_from([None, "a100"])), min_size=1
    ).map(tuple),
    array=st.integers(1, 3),
    preemptible=st.booleans(),
    retries=st.one_of(st.integers(0, 2), st.dictionaries(st.sampled_from(list(Cause)), st.integers(0, 2), min_size=1)),
    setup_time=st.sampled_from([0.0, 1.5]),
)


@settings(max_examples=40)
@given(st.lists(tasks, min_size=1, max_size=3, unique_by=lambda t: t.name), st.sampled_from([None, 50.0]))
def test_a_job_in_a_journal_is_the_job(content: list[Task], deadline: float | None) -> None:
    """Also after the journal's JSON."""
    import json

    chain = [content[0], *(replace(t, needs=(content[0].name,)) for t in content[1:])]
    job = Job("j", tuple(chain), release=1.5, weight=2.0, deadline=deadline)
    assert job_of_record(json.loads(json.dumps(job_as_record(job)))) == job


def test_the_same_run_is_predicted_before_and_after(execute: Execute) -> None:
    """What the run has predicted is what a replay with the estimates finds."""
    result = execute("a: {run: sleep 0.1, gpus: 1}\nb: {run: sleep 0.2, gpus: 1, needs: a}", policy_name="fifo")
    found = replay(result.status.run_dir, first_fit)
    assert found.estimates.makespan == result.status.predicted_makespan
