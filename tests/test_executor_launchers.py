"""Launchers run one task after the other, and each task is as safe with a used one as with a new one."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import appears, is_gone, until

from rlsched.executor.paths import attempt_paths
from rlsched.executor.process import Process
from rlsched.executor.starter import Launch, NotStartedError, Stopping, cold_starter

Begin = Callable[[str, str], Process]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With what a run directory has."""
    for name in ("attempts", "logs", "checkpoints"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def begin(folder: Path) -> Iterator[Begin]:
    """Start a command as the first attempt of a task."""
    starter = cold_starter()
    yield lambda name, command: starter.start(launch(folder, name, command))
    starter.close()


def launch(folder: Path, name: str, command: str, attempt: int = 1) -> Launch:
    """An attempt of a task, which says who its launcher is."""
    paths = attempt_paths(folder, name, attempt)
    return Launch(
        ["bash", "-c", f"echo $PPID > {name}.launcher; {command}"],
        paths,
        record={},
        env={**os.environ, "RLSCHED_PROGRESS_FILE": str(paths.progress)},
        folder=folder,
        checkpoint=folder / "checkpoints" / name,
        outputs=[],
        stopping=Stopping(signal.SIGTERM, 10, 10),
    )


def ready(process: Process) -> bool:
    return select.select([process], [], [], 0)[0] != []


def ended(process: Process) -> int | None:
    """Its exit code, once it has ended; None: its launcher was killed."""
    until(lambda: ready(process))
    end = process.wait()
    return None if end is None else end.code


def launcher_of(folder: Path, name: str) -> int:
    return int((folder / f"{name}.launcher").read_text())


def test_a_launcher_has_the_next_task_when_nothing_is_left_of_the_one_before(begin: Begin, folder: Path) -> None:
    """The next one meets nothing of it: neither its folder, nor its time, nor what it was asked for."""
    first = begin("a", "for i in $(seq 40000); do :; done; exit 3")
    until(lambda: ready(first))
    spent = first.wait()
    second = begin("b", "test ! -e checkpoints/a && test -e checkpoints/b")
    until(lambda: ready(second))
    end = second.wait()
    assert launcher_of(folder, "a") == launcher_of(folder, "b")
    assert spent is not None
    assert end is not None
    assert (spent.code, end.code) == (3, 0)
    assert (spent.cpu or 0.0) > (end.cpu or 0.0)


def test_a_folder_for_checkpoints_is_as_new_for_every_task(folder: Path) -> None:
    """Whatever those before have made of theirs; and of those that stayed empty nothing is left in the end."""
    starter = cold_starter()
    look = 'test -z "$(ls -A checkpoints/{0})" && stat -c %a checkpoints/{0} > {0}.mode; '
    after = {
        "a": "",
        "b": "chmod 700 checkpoints/b",
        "c": "rmdir checkpoints/c",
        "d": "touch checkpoints/d/kept",
        "e": "",
    }
    for name, command in after.items():
        assert ended(starter.start(launch(folder, name, look.format(name) + command))) == 0
        kept = [path.name for path in (folder / "checkpoints").iterdir() if not path.name.startswith(".")]
        assert kept == (["d"] if name in "de" else [])
    again = starter.start(launch(folder, "d", "test -e checkpoints/d/kept", 2))
    assert ended(again) == 0
    starter.close()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["d"]
    assert len({(folder / f"{name}.mode").read_text() for name in after}) == 1


def test_tasks_at_the_same_time_have_launchers_of_their_own(begin: Begin, folder: Path) -> None:
    """And both of these are used again."""
    first, second = begin("a", "sleep 0.2"), begin("b", "sleep 0.2")
    assert (ended(first), ended(second)) == (0, 0)
    third, fourth = begin("c", "sleep 0.2"), begin("d", "sleep 0.2")
    assert (ended(third), ended(fourth)) == (0, 0)
    before, after = ({launcher_of(folder, name) for name in names} for names in ("ab", "cd"))
    assert len(before) == 2
    assert after == before


def test_a_signal_that_comes_too_late_does_not_meet_the_next_task(begin: Begin, folder: Path) -> None:
    """A task ends by itself just before it is asked to stop."""
    first = begin("a", "true")
    until(lambda: ready(first))
    first.stop()
    assert ended(first) == 0
    assert ended(begin("b", "sleep 0.2")) == 0
    assert launcher_of(folder, "a") != launcher_of(folder, "b")


def test_a_launcher_that_was_killed_between_two_tasks_is_replaced(begin: Begin, folder: Path) -> None:
    """Nobody notices, and no attempt is lost."""
    assert ended(begin("a", "true")) == 0
    os.kill(launcher_of(folder, "a"), signal.SIGKILL)
    until(lambda: is_gone(folder / "a.launcher"))
    assert ended(begin("b", "true")) == 0


def test_a_task_has_not_begun_when_its_launcher_is_killed_before(begin: Begin, folder: Path) -> None:
    """That costs no retries."""
    assert ended(begin("a", "true")) == 0
    os.kill(launcher_of(folder, "a"), signal.SIGSTOP)
    process = begin("b", "true")
    os.kill(launcher_of(folder, "a"), signal.SIGKILL)
    until(lambda: ready(process))
    with pytest.raises(NotStartedError, match="its launcher was killed"):
        process.wait()
    assert not (folder / "b.launcher").exists()


def test_a_killed_launcher_takes_only_its_last_task_with_it(begin: Begin, folder: Path) -> None:
    """The results of those before are known."""
    assert ended(begin("a", "true")) == 0
    assert ended(begin("b", "kill -9 $PPID; sleep 60")) is None
    assert ended(begin("c", "true")) == 0


def test_a_task_whose_log_cannot_be_written_never_begins(begin: Begin, folder: Path) -> None:
    """The error says which file it was; the launcher goes on."""
    (folder / "logs" / "a.1.log").mkdir()
    process = begin("a", "touch effect")
    until(lambda: ready(process))
    with pytest.raises(IsADirectoryError, match=r"a\.1\.log"):
        process.wait()
    assert ended(begin("b", "true")) == 0
    assert not (folder / "effect").exists()


def test_a_launcher_whose_task_was_adopted_ends_with_it(begin: Begin, folder: Path) -> None:
    """Whoever has adopted it waits for that, and its first driver may live on: an agent on Ray, say."""
    assert ended(begin("a", "true")) == 0
    first = begin("b", "until test -e permission; do sleep 0.02; done")
    appears(folder / "b.launcher")
    adopted = Process.find(attempt_paths(folder, "b", 1))
    assert adopted is not None
    (folder / "permission").touch()
    assert (ended(first), ended(adopted)) == (0, 0)
    assert is_gone(folder / "b.launcher")
    assert ended(begin("c", "true")) == 0


def test_a_task_that_has_ended_is_over_while_its_launcher_has_another(begin: Begin, folder: Path) -> None:
    """Its claim names a process that lives, and yet it does not run."""
    assert ended(begin("a", "true")) == 0
    second = begin("b", "until test -e permission; do sleep 0.02; done")
    appears(folder / "b.launcher")
    assert launcher_of(folder, "a") == launcher_of(folder, "b")
    assert Process.find(attempt_paths(folder, "a", 1)) is None
    found = Process.find(attempt_paths(folder, "b", 1))
    assert found is not None
    found.let_go()
    (folder / "permission").touch()
    assert ended(second) == 0


_DRIVER = """
import os, sys, time
from pathlib import Path
from test_executor_launchers import ended, launch
from rlsched.executor.starter import cold_starter
starter, folder = cold_starter(), Path(sys.argv[1])
assert ended(starter.start(launch(folder, "a", "true"))) == 0
if (child := os.fork()) == 0:
    time.sleep(600)
(folder / "child").write_text(str(child))
time.sleep(600)
"""


def test_a_launcher_without_a_task_ends_with_its_driver(folder: Path) -> None:
    """Also if something that the driver has forked, and that lives on, has inherited what they talk by."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    driver = subprocess.Popen([sys.executable, "-c", _DRIVER, str(folder)], env={**os.environ, "PYTHONPATH": path})
    appears(folder / "child")
    until(lambda: (folder / "child").read_text() != "")
    assert not is_gone(folder / "a.launcher")
    driver.kill()
    driver.wait()
    until(lambda: is_gone(folder / "a.launcher"))
    os.kill(int((folder / "child").read_text()), signal.SIGKILL)
