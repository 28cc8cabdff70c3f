"""What a run has taken is what the next one is expected to take."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import first_fit
from conftest import Execute
from hypothesis import given
from hypothesis import strategies as st

from rlsched.executor.calibration import Calibration, calibrate, read_calibration, write_calibration
from rlsched.executor.estimates import estimate, groups, merged, read_observed, with_estimates, write_observed
from rlsched.executor.experience import calibration_file, history_file, recall
from rlsched.executor.observations import Observation, observations
from rlsched.executor.run import run_workflow
from rlsched.executor.status import UnitState
from rlsched.executor.usage import Usage
from rlsched.executor.work import Unit, Work
from rlsched.model import Cluster, Job, Mode, Node, Task
from rlsched.scheduler import Arrived, Decision, Event
from rlsched.workflow import Workflow, load_workflow

CLUSTER = Cluster((Node("n", gpus=2, gpu_type="a100", gpu_memory=80, cpus=8, memory=16),))


def seen(seconds: float, start: float = 0.0, digest: str = "d", gpus: int = 1, **more: object) -> Observation:
    """A run beside nobody."""
    fields = {"unit": "u", "gpu_type": "a100" if gpus else None, "busy": {max(1, gpus): seconds}} | more
    return Observation(digest=digest, gpus=gpus, start=start, **fields)  # type: ignore[arg-type]


def modes_after(task: Task, runs: list[Observation], memory: bool = True) -> tuple[Mode, ...]:
    """The modes of a task when these runs are known of it."""
    work = Work(Job("j", (task,)), ((Unit(task.name, ("true",), digest="d"),),), Path())
    better, _ = with_estimates(work, {task.name: runs}, Calibration(), CLUSTER, memory)
    return better.job.tasks[0].modes


def test_a_command_that_cannot_be_started_leaves_nothing_to_learn(execute: Execute) -> None:
    """One that is longer than the kernel takes; the others have a history all the same."""
    result = execute(f"{{long: {{run: 'true {'x' * 200_000}'}}, short: {{run: sleep 0.1}}}}")
    assert result.exit_code == 1
    assert [unit.name for unit in result.status.units if unit.state is UnitState.FINISHED] == ["short"]


def test_the_next_run_knows_how_long_tasks_take(
    execute: Execute, workflow: Callable[[str], Workflow], tmp_path: Path
) -> None:
    """Of each task in a sweep by its own name; the members of an array count together."""
    known: list[tuple[str, float]] = []

    def watch(now: float, what: Event | Decision) -> None:
        if isinstance(what, Arrived):
            known.extend((task.name, task.modes[0].duration) for task in what.job.tasks)

    tasks = """
    t: {matrix: {n: [0.1, 0.3]}, run: "sleep ${matrix.n}", duration: 100}
    s: {array: 3, run: sleep 0.2, duration: 100}
    """
    execute(tasks, run_dir=tmp_path / "first", observe=watch)
    assert {seconds for _, seconds in known} == {100}
    known.clear()
    taught = recall(workflow(tasks))
    assert {task: len(runs) for task, runs in taught.observed.items()} == {"t[n=0.1]": 1, "t[n=0.3]": 1, "s": 3}
    assert taught.observed["t[n=0.3]"][0].seconds > 0.2
    result = execute(tasks, run_dir=tmp_path / "second", observe=watch)
    assert dict(known) == {
        task: pytest.approx(estimate(runs, taught.calibration).seconds) for task, runs in taught.observed.items()
    }
    assert result.status.learned == ("s", "t[n=0.1]", "t[n=0.3]")
    assert result.status.predicted_makespan is not None
    assert result.status.predicted_makespan < 100
    known.clear()
    assert execute(tasks, run_dir=tmp_path / "third", observe=watch, history=False).status.learned == ()
    assert {seconds for _, seconds in known} == {100}


def test_a_run_inside_a_task_is_not_timed_by_that(
    execute: Execute, workflow: Callable[[str], Workflow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python task that starts a driver hands its own variables on."""
    (tmp_path / "begun").write_text("1.0\n")
    monkeypatch.setenv("RLSCHED_BEGUN_FILE", str(tmp_path / "begun"))
    tasks = "a: {run: sleep 0.1, gpus: 1}"
    execute(tasks)
    (run,) = recall(workflow(tasks)).observed["a"]
    assert run.seconds < 60


def test_a_folder_whose_name_is_not_utf_8_keeps_runs_and_what_they_teach(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "flow.yaml").write_text("tasks: {a: {run: echo hi > b, outputs: b, gpus: 1}}")
    flow = load_workflow(folder / "flow.yaml")
    assert run_workflow(flow, first_fit).exit_code == 0
    assert len(recall(flow).observed["a"]) == 1
    assert run_workflow(flow, first_fit).nothing_to_do


def test_history_and_calibration_are_files_for_people(execute: Execute, workflow: Callable[[str], Workflow]) -> None:
    """Beside the run directories, in JSON, with the estimates that follow; and they can be deleted."""
    tasks = "a: {run: sleep 0.1, gpus: 1}"
    execute(tasks)
    flow = workflow(tasks)
    (entry,) = json.loads(history_file(flow).read_text())["tasks"]["a"]["estimates"]
    assert (entry["gpus"], entry["gpu_type"], entry["runs"]) == (1, "cpu", 1)
    assert entry["seconds"] > 0.05  # the clock is read once the command has been started
    calibration = json.loads(calibration_file(flow).read_text())
    assert calibration["observations"] == 1
    assert 0 <= calibration["launch_overhead"] < 10
    history_file(flow).unlink()
    calibration_file(flow).unlink()
    assert recall(flow).observed == {}


def test_a_damaged_history_is_a_warning(
    execute: Execute, workflow: Callable[[str], Workflow], caplog: pytest.LogCaptureFixture
) -> None:
    """The hints count then, and the next history is whole."""
    tasks = "a: {run: sleep 0.1, gpus: 1}"
    execute(tasks)
    history_file(workflow(tasks)).write_text('{"tasks": {"a": 3}}')
    calibration_file(workflow(tasks)).write_text("{")
    result = execute("a: {run: sleep 0.11, gpus: 1}")
    assert result.exit_code == 0
    assert result.status.learned == ()
    assert "what was learned from earlier runs cannot be read" in caplog.text
    assert len(recall(workflow(tasks)).observed["a"]) == 2


def test_what_failed_or_was_resumed_teaches_nothing_and_each_run_counts_once(
    execute: Execute, workflow: Callable[[str], Workflow]
) -> None:
    """A session learns from the whole journal, also what a killed driver could not keep."""
    tasks = """
    flaky: {run: 'test -e again || { touch again; exit 1; }; sleep 0.1', gpus: 1, retries: 1}
    resumed: {run: 'cd $RLSCHED_CHECKPOINT_DIR; test -e x || { touch x; exit 1; }', gpus: 1, retries: 1}
    """
    execute(tasks)
    execute(tasks.rstrip(" ") + "    other: {run: sleep 0.1, gpus: 1}")
    assert {task: len(runs) for task, runs in recall(workflow(tasks)).observed.items()} == {"flaky": 1, "other": 1}


def test_busy_slots_are_told_apart(execute: Execute, workflow: Callable[[str], Workflow], tmp_path: Path) -> None:
    """`a` runs beside `start`, then alone, then beside `b` for as long as that runs."""
    tasks = """
    start: {run: sleep 0.1, gpus: 1}
    a: {run: 'until test -e $RLSCHED_RUN_DIR/attempts/b.1.exit.json; do sleep 0.02; done', gpus: 1}
    b: {run: sleep 0.1, gpus: 1, needs: start}
    wide: {run: sleep 0.1, gpus: 2, needs: [a, b]}
    """
    execute(tasks)
    found = observations(tmp_path / "runs" / "flow" / "journal.jsonl", dict.fromkeys(("a", "b", "wide"), "x"))["x"]
    a, b, wide = sorted(found, key=lambda o: o.start)
    assert a.cold
    assert set(a.busy) == {1, 2}
    assert a.seconds > b.seconds >= 0.1
    assert set(b.busy) == {2}
    assert not b.cold
    assert (wide.gpus, set(wide.busy)) == (2, {2})


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=20))
def test_an_estimate_lies_among_what_was_seen(seconds: list[float]) -> None:
    found = estimate([seen(s) for s in seconds], Calibration())
    assert min(seconds) * 0.999 <= found.seconds <= max(seconds) * 1.001
    assert found.runs == len(seconds)
    assert (found.spread is None) == (len(seconds) == 1)


def test_a_task_that_took_no_time_that_could_be_measured_has_an_estimate() -> None:
    """A file keeps tenths of milliseconds, and less than that is nothing there."""
    runs = [seen(0.0), seen(0.0, start=1.0)]
    assert estimate(runs, Calibration()).seconds == pytest.approx(0.001)
    assert calibrate([runs]).contention == 0
    assert modes_after(Task("t", (Mode(10, gpus=1),)), runs)[0].duration == pytest.approx(0.001)


def test_one_run_out_of_many_does_not_spoil_an_estimate() -> None:
    """A machine that was suspended for a night, for example."""
    runs = [seen(s) for s in (9.8, 10.0, 10.2, 10.1, 36000.0)]
    assert estimate(runs, Calibration()).seconds == pytest.approx(10, rel=0.05)


def test_each_mode_has_its_own_estimate_and_what_was_not_seen_keeps_its_relation() -> None:
    """The file says that two GPUs take 60 % of the time of one, and four 40 %; two were seen to take 50."""
    task = Task("t", (Mode(10, gpus=1), Mode(6, gpus=2), Mode(4, gpus=4)))
    runs = [seen(100), seen(50, gpus=2)]
    durations = [mode.duration for mode in modes_after(task, runs)]
    assert durations[:2] == pytest.approx([100, 50])
    assert durations[2] == pytest.approx(4 * math.sqrt(100 / 10 * 50 / 6))


def test_other_gpu_types_do_not_count() -> None:
    task = Task("t", (Mode(10, gpus=1, gpu_type="a100"), Mode(20, gpus=1, gpu_type="h100")))
    assert [m.duration for m in modes_after(task, [seen(30)])] == pytest.approx([30, 60])


def test_runs_of_an_older_command_count_only_while_there_are_no_others() -> None:
    task = Task("t", (Mode(10, gpus=1),))
    assert modes_after(task, [seen(30, digest="old")])[0].duration == pytest.approx(30)
    assert modes_after(task, [seen(30, digest="old"), seen(5)])[0].duration == pytest.approx(5)


def test_memory_that_was_seen_is_asked_for_where_the_file_says_nothing() -> None:
    """With a tenth to spare, and never more than a node has; what the file says stands."""
    runs = [seen(10, usage=Usage(memory=4.0, gpu_memory=30.0)), seen(10, usage=Usage(memory=2.0, gpu_memory=79.0))]
    (mode,) = modes_after(Task("t", (Mode(10, gpus=1),)), runs)
    assert [mode.memory, mode.gpu_memory] == pytest.approx([4.4, 80])
    (mode,) = modes_after(Task("t", (Mode(10, gpus=1, memory=1, gpu_memory=2),)), runs)
    assert (mode.memory, mode.gpu_memory) == (1, 2)
    (mode,) = modes_after(Task("t", (Mode(10, gpus=1),)), runs, memory=False)
    assert (mode.memory, mode.gpu_memory) == (0, 0)


def test_setup_time_is_learned_apart_from_durations() -> None:
    """The first run on a device takes 3 s longer; that is not the task's own time."""
    runs = [[seen(s + 3, cold=True), seen(s), seen(s), seen(s)] for s in (5.0, 10.0, 20.0)]
    calibration = calibrate(runs)
    assert calibration.setup_time == pytest.approx(3)
    assert estimate(runs[0], calibration).seconds == pytest.approx(5)


@pytest.mark.parametrize("contention", [0.0, 0.1, 0.5])
def test_contention_and_spread_are_told_from_runs_beside_others(contention: float) -> None:
    """Some runs are alone, some beside one other all the time or for a part of it; one met a suspended host."""
    luck = np.random.default_rng(0)
    runs = []
    for work in (2.0, 5.0, 11.0, 30.0, 7.0):
        group = []
        for number in range(8):
            true = work * luck.lognormal(0, 0.03)
            beside = luck.choice([0.0, 0.5, 1.0]) * true
            group.append(seen(0, number, busy={1: true - beside, 2: beside * (1 + contention)}))
        runs.append(group)
    runs[0].append(seen(500.0, 99))
    calibration = calibrate(runs)
    assert calibration.contention == pytest.approx(contention, abs=0.03)
    assert calibration.duration_spread == pytest.approx(0.03, abs=0.015)
    assert calibration.observations == 41


def test_without_runs_in_different_company_there_is_no_contention() -> None:
    """What cannot be told is not made up."""
    assert calibrate([]) == Calibration()
    assert calibrate([[seen(0, busy={2: 10.0}), seen(0, busy={2: 11.0})], [seen(4)]]).contention == 0


def test_the_latest_twenty_runs_of_each_mode_are_kept() -> None:
    old = {"a": [seen(1, start=float(n)) for n in range(20)] + [seen(1, start=0.5, gpus=2)]}
    both = merged(old, {"a": [seen(1, start=19.0), seen(1, start=20.0)], "b": [seen(2)]})
    assert [o.start for o in both["a"]] == [0.5, *map(float, range(1, 21))]
    assert [o.start for o in both["b"]] == [0]
    assert sorted(len(group) for group in groups(both)) == [1, 1, 20]


def test_members_that_start_in_the_same_millisecond_count_each(tmp_path: Path) -> None:
    """Also once they have been in a file; and each still once, however often its journal is read."""
    members = {"s": [seen(1, unit="s[0]"), seen(2, unit="s[1]")]}
    write_observed(tmp_path / "h.json", "w", merged({}, members), Calibration())
    assert merged(read_observed(tmp_path / "h.json"), members) == members


def test_files_give_back_what_was_written(tmp_path: Path) -> None:
    runs = {"a": [seen(1.5, 17.125, overhead=0.01, usage=Usage(cpu=1.0)), seen(0, 18.0, busy={1: 0.5, 3: 2.0})]}
    write_observed(tmp_path / "h.json", "w", runs, Calibration())
    assert read_observed(tmp_path / "h.json") == runs
    calibration = Calibration(0.01, 2.5, 0.125, 0.0625, 7)
    write_calibration(tmp_path / "c.json", calibration, slots=3)
    assert read_calibration(tmp_path / "c.json") == calibration
    assert json.loads((tmp_path / "c.json").read_text())["slowdown"] == [1.0, 1.125, 1.25]


def test_a_folder_that_cannot_be_written_costs_a_warning(
    workflow: Callable[[str], Workflow], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").write_text("in the way")
    result = run_workflow(workflow("a: {run: sleep 0, gpus: 1}"), first_fit, tmp_path / "elsewhere", slots=2)
    assert result.exit_code == 0
    assert "what this run has taught is not kept" in caplog.text
