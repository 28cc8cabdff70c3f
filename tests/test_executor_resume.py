"""Starting a run again: what is done stays done, what has changed runs again, and no two drivers meet."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Execute

from rlsched.executor.run import RunResult
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.status import RunState, UnitState, read_status

CHAIN = """
first: {run: "cat source > one; echo first >> ran", inputs: source, outputs: one}
second: {run: "cat one > two; echo second >> ran", inputs: one, outputs: two}
aside: {run: "echo aside >> ran"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the workflow, with the chain's source file."""
    (tmp_path / "source").write_text("data")
    return tmp_path


def ran(folder: Path) -> list[str]:
    """Which tasks have run since this was last asked."""
    file = folder / "ran"
    lines = sorted(file.read_text().split()) if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def states(result: RunResult) -> list[UnitState]:
    return [unit.state for unit in result.status.units]


def test_a_second_run_does_nothing(execute: Execute, folder: Path) -> None:
    """And says so; the first one's times and logs are still known."""
    first = execute(CHAIN)
    assert ran(folder) == ["aside", "first", "second"]
    second = execute(CHAIN)
    assert ran(folder) == []
    assert (first.nothing_to_do, second.nothing_to_do, second.exit_code) == (False, True, 0)
    assert states(second) == [UnitState.KEPT] * 3
    assert [u.end for u in second.status.units] == [u.end for u in first.status.units]


def test_a_changed_command_runs_again_with_all_that_depends_on_it(execute: Execute, folder: Path) -> None:
    execute(CHAIN)
    ran(folder)
    result = execute(CHAIN.replace("cat source", "tac source"))
    assert ran(folder) == ["first", "second"]
    assert states(result) == [UnitState.FINISHED, UnitState.FINISHED, UnitState.KEPT]


@pytest.mark.parametrize("change", ["env: {SEED: 1}, inputs: source", "inputs: [source, more]"])
def test_changed_variables_and_inputs_count_as_a_change(change: str, execute: Execute, folder: Path) -> None:
    (folder / "more").touch()
    execute(CHAIN)
    ran(folder)
    execute(CHAIN.replace("inputs: source", change))
    assert ran(folder) == ["first", "second"]


def test_estimates_and_limits_do_not(execute: Execute, folder: Path) -> None:
    """What a task takes, and how long, is no part of what it does."""
    execute(CHAIN)
    ran(folder)
    execute(CHAIN.replace("inputs: source", "inputs: source, duration: 7, timeout: 60, gpus: 2, priority: 3"))
    assert ran(folder) == []


def test_a_changed_source_file_runs_again(execute: Execute, folder: Path) -> None:
    """Files that no task writes are known by size and time of last change; in a folder, every one of them."""
    tree = folder / "tree"
    tree.mkdir()
    (tree / "file").write_text("a")
    execute("t: {run: echo t >> ran, inputs: tree}")
    execute("t: {run: echo t >> ran, inputs: tree}")
    assert ran(folder) == ["t"]
    (tree / "file").write_text("ab")
    execute("t: {run: echo t >> ran, inputs: tree}")
    assert ran(folder) == ["t"]


def test_a_missing_output_is_made_again_with_all_that_depends_on_it(execute: Execute, folder: Path) -> None:
    execute(CHAIN)
    ran(folder)
    (folder / "one").unlink()
    execute(CHAIN)
    assert ran(folder) == ["first", "second"]


def test_what_failed_runs_again_and_what_finished_does_not(execute: Execute, folder: Path) -> None:
    """In an array, member by member, under their own names."""
    sweep = """
    sweep: {run: "echo ${array.index} >> ran; test ${array.index} != 1 -o -e cure", array: 3}
    after: {run: echo after >> ran, needs: sweep}
    """
    first = execute(sweep, slots=3)
    assert states(first) == [UnitState.FINISHED, UnitState.FAILED, UnitState.FINISHED, UnitState.SKIPPED]
    assert ran(folder) == ["0", "1", "2"]
    (folder / "cure").touch()
    second = execute(sweep)
    assert ran(folder) == ["1", "after"]
    assert states(second) == [UnitState.KEPT, UnitState.FINISHED, UnitState.KEPT, UnitState.FINISHED]
    assert [second.schedule.name_of(run) for run in second.schedule.runs] == ["flow/sweep[1]", "flow/after"]
    second.schedule.check()


def test_a_dependant_is_run_again_although_the_run_was_cut_short_before_it(execute: Execute, folder: Path) -> None:
    """It began before what it needs was made anew, and that stays true over any number of runs."""
    execute(CHAIN)
    execute(CHAIN.replace("cat one > two", "false"))
    ran(folder)
    (folder / "one").unlink()
    execute(CHAIN.replace("cat one > two", "false"))
    assert ran(folder) == ["first"]
    execute(CHAIN)
    assert ran(folder) == ["second"]


def test_going_back_to_an_earlier_command_runs_it_again(execute: Execute, folder: Path) -> None:
    """The outputs are those of the later one."""
    execute("t: {run: echo old >> ran}")
    execute("t: {run: echo new >> ran}")
    ran(folder)
    execute("t: {run: echo old >> ran}")
    assert ran(folder) == ["old"]


def test_a_checkpoint_is_for_the_same_work_on_the_same_inputs(execute: Execute, folder: Path) -> None:
    """A retry goes on from it; other work, other inputs and a task that has finished begin afresh."""
    task = """
    need: {run: "true", outputs: made}
    t:
      run: |
        ls "$RLSCHED_CHECKPOINT_DIR" > found$RLSCHED_ATTEMPT
        touch "$RLSCHED_CHECKPOINT_DIR/step$RLSCHED_ATTEMPT"
        test $RLSCHED_ATTEMPT -ge 2
      inputs: made
      retries: 1
    """.replace('"true"', "touch made")
    execute(task)
    (folder / "made").unlink()
    execute(task)
    execute(task.replace("-ge 2", "-ge 3"))
    assert [(folder / f"found{n}").read_text() for n in (1, 2, 3, 4)] == ["", "step1\n", "", ""]
    left = sorted(str(path.relative_to(folder)) for path in folder.glob("runs/flow/checkpoints/*/*"))
    assert [Path(path).parts[-2:] for path in left] == [
        ("t.1", "step1"),
        ("t.1", "step2"),
        ("t.3", "step3"),
        ("t.4", "step4"),
    ]


def test_a_run_directory_has_one_driver(execute: Execute, folder: Path) -> None:
    """The second is refused before it does anything; afterwards the directory is free."""
    holder = RunDirectory(folder / "runs" / "flow")
    with pytest.raises(ValueError, match=r"runs/flow is in use by another run"):
        execute(CHAIN)
    holder.close()
    assert ran(folder) == []
    assert execute(CHAIN).exit_code == 0


def test_a_file_is_no_run_directory(execute: Execute, folder: Path) -> None:
    with pytest.raises(ValueError, match="source cannot be a run directory, a file is in the way"):
        execute(CHAIN, run_dir=folder / "source")


def test_the_status_can_be_read_without_the_workflow(execute: Execute, folder: Path) -> None:
    result = execute(CHAIN, run_dir=folder / "elsewhere", policy_name="first fit")
    status = read_status(folder / "elsewhere")
    assert status == result.status
    assert (status.state, status.workflow, status.policy) == (RunState.COMPLETED, "flow", "first fit")
    assert not (folder / "runs" / "flow").exists()


@pytest.mark.parametrize("name", ["", "missing", "source"])
def test_the_status_of_something_else_is_an_error(name: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="is not a run directory, it has no journal"):
        read_status(folder / name)
