"""Predictions beside real runs: what is summed up, and what a machine whose speed drifts does to it."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsched.executor.estimates import typical
from rlsched.experiments.drift import probe
from rlsched.experiments.fidelity import Measured, adding_up, compare, summarise, write_workflows
from rlsched.workflow import load_workflow


def run(workflow: str, policy: str, ahead: float, measured: float, probe: float = 1.0) -> Measured:
    """A run of three tasks, predicted as it was before any had run, learned from runs at which the probe took 1 s."""
    return Measured(workflow, policy, 3, ahead, ahead, measured, probe, 1.0, 0.01, 0.1)


RUNS = [
    run("a", "x", 100, 102),
    run("a", "y", 110, 109),
    run("a", "z", 120, 130),
    run("b", "x", 50, 50),
    run("b", "y", 51, 49),
    run("b", "z", 60, 59),
]


def test_fidelity_is_summed_up_by_errors_and_by_order() -> None:
    """Three policies on each of two workflows; on the second, the simulator cannot tell two of them apart."""
    summary = summarise(RUNS)
    assert summary["runs"] == 6
    assert summary["raw"]["worst_error"] == pytest.approx(10 / 130)
    assert summary["raw"]["median_error"] == pytest.approx((2 / 102 + 1 / 59) / 2)
    assert summary["raw"]["tau"] == {"a": pytest.approx(1), "b": pytest.approx(1 / 3)}
    assert summary["raw"]["mean_tau"] == pytest.approx(2 / 3)
    assert summary["raw"]["overall_tau"] == pytest.approx(13 / 15)  # of 15 pairs one is the other way round
    assert (summary["pairs_apart"], summary["raw"]["pairs_in_order"]) == (5, 5)
    assert summary["median_simulator_error"] == 0.01


def test_where_the_speed_is_steady_nothing_is_corrected() -> None:
    """Both sets of figures are the same then."""
    summary = summarise(RUNS)
    assert summary["corrected"] == summary["raw"]
    assert summary["speed"] == {"slowest": 1.0, "fastest": 1.0}


def test_a_change_of_speed_is_no_error_after_the_correction() -> None:
    """The machine was at half its speed for one run, which then took twice as long, and came out of order."""
    summary = summarise([run("a", "x", 100, 200, probe=2.0), run("a", "y", 150, 150), run("a", "z", 200, 202)])
    assert summary["raw"]["worst_error"] == pytest.approx(0.5)
    assert summary["raw"]["pairs_in_order"] == 2
    assert summary["corrected"]["worst_error"] == pytest.approx(2 / 202)
    assert summary["corrected"]["tau"] == {"a": pytest.approx(1)}
    assert (summary["pairs_apart"], summary["corrected"]["pairs_in_order"]) == (3, 3)
    assert summary["speed"] == {"slowest": 0.5, "fastest": 1.0}


def test_a_session_that_was_cut_after_its_first_run_is_summed_up() -> None:
    """There is no order then."""
    figures = summarise(RUNS[:1])["corrected"]
    assert figures["worst_error"] == pytest.approx(2 / 102)
    assert (figures["tau"], figures["mean_tau"], figures["overall_tau"]) == ({"a": None}, None, None)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8), st.floats(0.5, 2))
def test_what_is_typical_has_the_scale_of_its_times(seconds: list[float], factor: float) -> None:
    """So that probes, taken like this, tell the speed to which estimates, made like this, belong."""
    assert typical([factor * value for value in seconds]) == pytest.approx(factor * typical(seconds))
    assert min(seconds) * (1 - 1e-9) <= typical(seconds) <= max(seconds) * (1 + 1e-9)


def test_every_run_is_corrected_to_the_speed_of_those_it_was_predicted_from(tmp_path: Path) -> None:
    """The probe is asked before and after each of two learning and two counted runs; it takes longer at the third."""
    readings = chain([0.5, 1.5, 1.0, 1.0, 3.0, 5.0], repeat(1.0))
    (file,) = write_workflows(tmp_path, adding_up(0.001), ["gangs"])
    first, second = compare(load_workflow(file), ["fifo", "sjf"], lambda: next(readings))
    assert first.learned_probe == pytest.approx(1.0)
    assert first.probe == 4.0
    assert first.corrected == pytest.approx(first.measured / 4)
    assert first.corrected_error == pytest.approx(first.predicted / (first.measured / 4) - 1)
    assert first.error == first.predicted / first.measured - 1
    assert second.learned_probe == pytest.approx(typical([1.0, 1.0, 4.0]))  # the first has taught as well
    assert (second.workflow, second.policy, second.tasks, second.probe) == ("gangs", "sjf", 7, 1.0)
    record = json.loads(json.dumps(first.as_record()))
    assert record["corrected_error"] == first.corrected_error


def test_the_probe_times_work_in_as_many_processes_as_were_asked_for() -> None:
    """Here so little of it that only its being there can be asserted."""
    assert probe(2, numbers=1000) > 0


def test_a_workflow_that_does_not_exist_is_refused_before_anything_runs() -> None:
    """With the names there are."""
    command = [sys.executable, "-m", "rlsched.experiments.fidelity", "--workflows", "bag,bags"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected some of bag, chains, fork-join, layers, gangs, digits, news, found 'bags'" in done.stderr
