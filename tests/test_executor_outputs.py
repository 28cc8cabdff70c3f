"""What stands at the place of a declared output is the result of a success, or of a task that still runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Drive, Execute, Mount, appears, until

from rlsched.executor.run import RunResult
from rlsched.executor.status import UnitState
from rlsched.workflow import Workflow


def reasons(result: RunResult) -> list[str]:
    return [unit.reason for unit in result.status.units]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo half > made; exit 3", "exit code 3"),
        ("echo half > made; kill -9 $$", "killed by SIGKILL"),
        ("echo half > made; sleep 60", "exceeded its timeout of 1 s"),
        ("echo half > made; kill -9 $PPID; sleep 60", "its launcher was killed"),
    ],
)
def test_what_a_failed_task_wrote_is_moved_away(command: str, reason: str, execute: Execute, tmp_path: Path) -> None:
    """Nobody can take it for a result; it is kept for whoever wants to know."""
    result = execute(f't: {{run: "{command}", outputs: made, timeout: 1}}')
    assert reasons(result) == [reason]
    assert not (tmp_path / "made").exists()
    assert (tmp_path / "runs/flow/failed/t.1/made").read_text() == "half\n"


def test_one_output_of_two_is_none(execute: Execute, tmp_path: Path) -> None:
    """Folders are moved as a whole, and each attempt's by itself."""
    result = execute('t: {run: "mkdir -p a/b; echo $RLSCHED_ATTEMPT > a/b/c", outputs: [a, d], retries: 1}')
    assert reasons(result) == [f"exit code 0, but its output '{tmp_path}/d' is missing"]
    failed = tmp_path / "runs/flow/failed"
    assert [(failed / f"t.{n}/a/b/c").read_text() for n in (1, 2)] == ["1\n", "2\n"]
    assert not (tmp_path / "a").exists()


def test_an_old_result_is_not_taken_for_a_new_one(execute: Execute, tmp_path: Path) -> None:
    """It is out of the way before the task starts, and kept."""
    execute("t: {run: echo old > made, outputs: made}")
    result = execute('t: {run: "true", outputs: made}')
    assert reasons(result) == [f"exit code 0, but its output '{tmp_path}/made' is missing"]
    assert (tmp_path / "runs/flow/replaced/t.2/made").read_text() == "old\n"


def test_nothing_is_lost_on_another_file_system(mount: Mount, execute: Execute, tmp_path: Path) -> None:
    """What was there and what a failed attempt has left are beside the output then, and not in one place."""
    mount(tmp_path / "disk")
    (tmp_path / "made").write_text("precious")
    execute("t: {run: 'echo half > made; exit 3', outputs: made}", run_dir=tmp_path / "disk" / "r")
    assert sorted(path.read_text() for path in tmp_path.rglob("made")) == ["half\n", "precious"]


def test_an_old_folder_is_not_taken_for_a_new_one_on_another_file_system(
    mount: Mount, execute: Execute, tmp_path: Path
) -> None:
    """However many runs have left one there."""
    mount(tmp_path / "disk")
    runs = iter(tmp_path / "disk" / str(number) for number in range(4))
    for number in (1, 2):
        execute(f"t: {{run: 'mkdir out; echo {number} > out/f', outputs: out}}", run_dir=next(runs))
    assert execute("t: {run: 'true', outputs: out}", run_dir=next(runs)).exit_code == 1
    execute("t: {run: 'mkdir -p out; echo half > out/f; exit 3', outputs: out}", run_dir=next(runs))
    assert not (tmp_path / "out").exists()
    assert sorted(path.read_text() for path in tmp_path.rglob("f")) == ["1\n", "2\n", "half\n"]


def test_an_interrupted_task_leaves_nothing_half_done(
    execute: Execute, workflow: Callable[[str], Workflow], drive: Drive, tmp_path: Path
) -> None:
    """What it has to keep belongs in its checkpoint folder."""
    tasks = """
    t:
      run: |
        if test -e pid; then echo whole > made; exit; fi
        echo half > made; echo $$ > pid; sleep 60
      outputs: made
    """
    driver = drive(workflow(tasks))
    appears(tmp_path / "pid")
    driver.terminate()
    assert driver.wait() == 143
    assert not (tmp_path / "made").exists()
    assert execute(tasks).exit_code == 0
    assert (tmp_path / "made").read_text() == "whole\n"


@pytest.mark.parametrize(("output", "kept"), [("link", "disk/made"), (".", "source")])
def test_links_and_what_is_above_the_run_stay_where_they_are(
    output: str, kept: str, execute: Execute, tmp_path: Path
) -> None:
    """A link to another disk is somebody's arrangement, and a folder cannot be moved into itself."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "made").touch()
    (tmp_path / "source").touch()
    (tmp_path / "link").symlink_to("disk")
    assert execute(f"t: {{run: 'true', outputs: {output}}}").exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / kept).exists()


@pytest.mark.parametrize(
    ("retries", "attempts"),
    [("3", 4), ("{exit: 1, signal: 2}", 4), ("{signal: 2}", 2), ("{exit: 1}", 1), ("{oom: 5, timeout: 5}", 1)],
)
def test_each_cause_has_its_own_retries(retries: str, attempts: int, execute: Execute) -> None:
    """Killed, a bad exit code, a program of its shell killed, a bad exit code: the budgets end at different points."""
    (unit,) = execute(
        f"""
        t:
          run: |
            case $RLSCHED_ATTEMPT in 1) kill -9 $$;; 2) exit 3;; 3) bash -c 'kill -SEGV $$'; echo;; *) exit 4;; esac
          retries: {retries}
        """
    ).status.units
    assert (unit.state, unit.attempts) == (UnitState.FAILED, attempts)


def test_a_gpu_that_is_full_is_recognised_by_what_the_task_says(execute: Execute) -> None:
    message = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."
    tasks = f'{{run: "head -c 50000 /dev/zero; echo {message}; echo bye; exit 1", retries: {{oom: 1}}}}'
    (unit,) = execute(f"t: {tasks}").status.units
    assert (unit.reason, unit.attempts) == ("exit code 1, out of GPU memory", 2)


def test_a_task_that_the_kernel_killed_for_its_memory_is_recognised(execute: Execute) -> None:
    """In a control group of its own that is too small for it."""
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.controllers").exists()
    group = (root if unified else root / "memory") / "rlsched-test"
    try:
        group.mkdir()
        limit = group / ("memory.max" if unified else "memory.limit_in_bytes")
        limit.write_text(str(32 << 20))
        if unified:
            (group / "memory.swap.max").write_text("0")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        hungry = "import os; b = []\\nwhile True: b.append(os.urandom(1 << 20))"
        (unit,) = execute(
            f"""
            t:
              run: |
                echo $$ > {group}/cgroup.procs
                exec ${{python}} -c $'{hungry}'
              retries: {{oom: 1}}
            """
        ).status.units
        assert (unit.reason, unit.attempts) == ("out of memory, killed by the kernel", 2)
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_memory_that_is_exhausted_elsewhere_is_not_blamed(execute: Execute) -> None:
    """A plain SIGKILL, with nothing that the kernel says, is a signal."""
    assert reasons(execute('t: {run: "kill -9 $$", retries: {oom: 3}}')) == ["killed by SIGKILL"]
