"""Full disks, and drivers that are killed again and again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from conftest import Execute, Mount, appears

from rlsched.executor.journal import JournalError
from rlsched.executor.status import UnitState
from rlsched.experiments.faults.kill_loop import compare
from rlsched.scheduler import Decision, Event, Finished


def fill(folder: Path) -> None:
    """Leave no room at all."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            return


CHAIN = "\n".join(
    f't{n}: {{run: "echo t{n} >> effects"' + (f", needs: t{n - 1}" if n else "") + ", retries: 9}" for n in range(12)
)


def test_a_full_disk_under_the_journal_ends_the_driver_and_nothing_else(
    mount: Mount, execute: Execute, tmp_path: Path
) -> None:
    """Nobody acts on what is not recorded. With room again, the run goes on, and every effect is there once."""
    run_dir = tmp_path / "small"
    mount(run_dir)
    long = "\nlong: {run: echo long > begun; until test -e permission; do sleep 0.02; done; echo long >> effects}"

    def observe(now: float, what: Event | Decision) -> None:
        if isinstance(what, Finished) and not (run_dir / "filler").exists():
            appears(tmp_path / "begun")
            fill(run_dir)

    with pytest.raises(JournalError, match="cannot write the journal: No space left on device"):
        execute(CHAIN + long, run_dir=run_dir, observe=observe)
    (run_dir / "filler").unlink()
    (tmp_path / "permission").touch()
    result = execute(CHAIN + long, run_dir=run_dir)
    assert result.exit_code == 0
    assert sorted((tmp_path / "effects").read_text().split()) == sorted([*(f"t{n}" for n in range(12)), "long"])
    assert [unit.attempts for unit in result.status.units if unit.name == "long"] == [1]


def test_a_result_that_finds_no_room_waits_for_it(mount: Mount, execute: Execute, tmp_path: Path) -> None:
    """The launcher keeps it in mind; the task is neither forgotten nor run again."""
    mount(tmp_path / "runs" / "flow" / "attempts")

    def squeeze() -> None:
        appears(tmp_path / "pid")
        fill(tmp_path / "runs" / "flow" / "attempts")
        (tmp_path / "permission").touch()
        time.sleep(1.0)
        (tmp_path / "runs" / "flow" / "attempts" / "filler").unlink()

    thread = threading.Thread(target=squeeze)
    thread.start()
    result = execute("t: {run: echo $$ > pid; until test -e permission; do sleep 0.02; done; echo t >> effects}")
    thread.join()
    assert (result.exit_code, result.status.units[0].attempts) == (0, 1)
    assert (tmp_path / "effects").read_text() == "t\n"


def test_a_full_disk_under_the_log_is_the_tasks_failure(mount: Mount, execute: Execute, tmp_path: Path) -> None:
    """If it does not care about its output, it does not notice; with room again it runs."""
    logs = tmp_path / "runs" / "flow" / "logs"
    mount(logs)
    fill(logs)
    tasks = 'loud: {run: "echo something"}\nquiet: {run: "true"}'
    assert [unit.reason for unit in execute(tasks).status.units] == ["exit code 1", ""]
    (logs / "filler").unlink()
    assert [unit.state for unit in execute(tasks).status.units] == [UnitState.FINISHED, UnitState.KEPT]


def test_a_full_disk_under_an_output_leaves_no_half_of_it(mount: Mount, execute: Execute, tmp_path: Path) -> None:
    """What was written stays on its file system, but not in its place."""
    mount(tmp_path / "disk")
    fill(tmp_path / "disk")
    (tmp_path / "disk" / "filler").rename(tmp_path / "disk" / "other")
    with (tmp_path / "disk" / "other").open("r+b") as file:
        file.truncate(200_000)
    tasks = "t: {run: head -c 200000 /dev/zero > disk/made, outputs: disk/made}\nu: {run: cat disk/made, needs: t}"
    result = execute(tasks)
    assert [unit.state for unit in result.status.units] == [UnitState.FAILED, UnitState.SKIPPED]
    assert not (tmp_path / "disk" / "made").exists()
    half = tmp_path / "disk" / ".rlsched" / "t.1" / "made"
    assert 0 < half.stat().st_size < 200_000
    half.unlink()
    (tmp_path / "disk" / "other").unlink()
    assert execute(tasks).exit_code == 0


def test_ten_killed_drivers_lose_nothing_and_duplicate_nothing(tmp_path: Path) -> None:
    """At random moments; the loop of a hundred is in experiments/faults/kill_loop.py."""
    report = compare(tmp_path / "loop", tasks=12, kills=10, seconds=2.5, longest=0.5, seed=1)
    assert report.faults == ()
    assert report.kills == 10
    assert report.adopted > 0
