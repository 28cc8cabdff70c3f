"""A driver that is killed loses nothing and duplicates nothing."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from builders import first_fit
from conftest import Drive, Execute, appears, is_gone, until

from rlsched.executor import adoption, claim
from rlsched.executor.claim import boot_id
from rlsched.executor.devices import host_name
from rlsched.executor.paths import MARKER, attempt_paths
from rlsched.executor.process import collect
from rlsched.executor.run import run_workflow
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.starter import Launch, Stopping, cold_starter
from rlsched.executor.status import RunState, UnitState, read_status
from rlsched.executor.work import work_of
from rlsched.scheduler import Arrived, Decision, Event
from rlsched.workflow import Workflow

Write = Callable[[str], Workflow]

PATIENT = """
t:
  run: |
    echo begin >> effects
    echo $PPID > launcher; echo $$ > pid
    until test -e permission; do sleep 0.02; done
    echo end >> effects
"""
ONCE, TWICE = "begin\nend\n", "begin\nbegin\nend\n"


@pytest.fixture
def orphan(workflow: Write, drive: Drive, tmp_path: Path) -> Iterator[Workflow]:
    """A workflow whose only task waits for the file `permission`; its driver has been killed meanwhile."""
    flow = workflow(PATIENT)
    driver = drive(flow)
    appears(tmp_path / "pid")
    driver.kill()
    driver.wait()
    yield flow
    permit(tmp_path)  # a test that has failed must not leave it waiting


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "flow"


def permit(folder: Path) -> None:
    (folder / "permission").touch()


def effects(folder: Path) -> str:
    return (folder / "effects").read_text()


def flip_a_bit(run_dir: Path) -> None:
    """In the last record of the journal."""
    journal = run_dir / "journal.jsonl"
    content = bytearray(journal.read_bytes())
    content[-40] ^= 1
    journal.write_bytes(content)


def kill(folder: Path, *who: str) -> None:
    """SIGKILL for the task (`pid`) or its launcher, which have written down their numbers."""
    for name in who:
        os.kill(int((folder / name).read_text()), signal.SIGKILL)
    until(lambda: all(is_gone(folder / name) for name in {*who, "launcher"}))


def edit_claim(run_dir: Path, **changes: Any) -> None:
    """Change what the launcher has written about itself."""
    path = run_dir / "attempts" / "t.1.claim.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_task_that_outlives_its_driver_is_adopted(
    orphan: Workflow, execute: Execute, tmp_path: Path, run_dir: Path
) -> None:
    """It holds its device from the first moment, and is never started again."""
    status = read_status(run_dir)
    assert (status.state, status.units[0].state) == (RunState.ABANDONED, UnitState.RUNNING)
    seen: list[Event | Decision] = []

    def observe(now: float, what: Event | Decision) -> None:
        seen.append(what)
        permit(tmp_path)

    result = execute(PATIENT, observe=observe)
    assert isinstance(seen[0], Arrived)
    assert len(seen[0].running) == 1
    assert (result.exit_code, result.status.units[0].state) == (0, UnitState.FINISHED)
    assert (result.status.units[0].attempts, effects(tmp_path)) == (1, ONCE)
    result.schedule.check()


def test_nobody_gets_the_device_of_an_adopted_task(
    workflow: Write, drive: Drive, execute: Execute, tmp_path: Path
) -> None:
    """What waits for it waits on."""
    tasks = PATIENT + "\n  gpus: 2\nheir: {run: echo heir >> effects}"
    driver = drive(workflow(tasks))
    appears(tmp_path / "pid")
    driver.kill()
    driver.wait()
    threading.Timer(0.5, permit, [tmp_path]).start()
    assert execute(tasks).exit_code == 0
    assert effects(tmp_path) == ONCE + "heir\n"


def test_a_task_that_ended_while_its_driver_was_dead_is_not_run_again(
    orphan: Workflow, execute: Execute, tmp_path: Path
) -> None:
    """Its launcher has left the result."""
    permit(tmp_path)
    until(lambda: is_gone(tmp_path / "launcher"))
    result = execute(PATIENT)
    assert (result.nothing_to_do, result.exit_code) == (True, 0)
    assert (result.status.units[0].state, effects(tmp_path)) == (UnitState.KEPT, ONCE)


@pytest.mark.parametrize("killed", [("pid",), ("launcher",), ("launcher", "pid")], ids="+".join)
def test_what_was_killed_while_its_driver_was_dead_runs_again(
    killed: tuple[str, ...], orphan: Workflow, execute: Execute, tmp_path: Path
) -> None:
    """The task, its launcher or both; and not before what is left of it is gone."""
    first = int((tmp_path / "pid").read_text())
    kill(tmp_path, *killed)
    seen: list[bool] = []

    def observe(now: float, what: Event | Decision) -> None:
        seen.append(is_gone(tmp_path / "first"))
        permit(tmp_path)

    (tmp_path / "first").write_text(str(first))
    result = execute(PATIENT, observe=observe)
    assert (result.status.units[0].state, result.status.units[0].attempts) == (UnitState.FINISHED, 2)
    assert seen[0]
    assert effects(tmp_path) == TWICE


@pytest.mark.parametrize("killed", [("pid",), ("launcher",), ("launcher", "pid")], ids="+".join)
def test_what_was_killed_under_its_driver_has_failed(killed: tuple[str, ...], execute: Execute, tmp_path: Path) -> None:
    """Nothing of it is left."""

    def assassinate() -> None:
        appears(tmp_path / "pid")
        permit(tmp_path)
        kill(tmp_path, *killed)

    thread = threading.Thread(target=assassinate)
    thread.start()
    result = execute(PATIENT.replace("permission;", "never;").replace("echo begin", "test -e pid ||\n    echo begin"))
    thread.join()
    assert result.status.units[0].state is UnitState.FAILED
    assert result.status.units[0].reason in ("killed by SIGKILL", "its launcher was killed")
    assert is_gone(tmp_path / "pid")


def test_a_number_that_another_process_has_now_is_not_the_task(
    orphan: Workflow, execute: Execute, tmp_path: Path, run_dir: Path
) -> None:
    """The start times differ. The task runs again, and the other process is left alone."""
    kill(tmp_path, "launcher", "pid")
    other = subprocess.Popen(["sleep", "60"])
    edit_claim(run_dir, pid=other.pid)
    permit(tmp_path)
    assert execute(PATIENT).exit_code == 0
    assert effects(tmp_path) == TWICE
    assert other.poll() is None
    other.kill()
    other.wait()


def test_after_a_restart_of_the_machine_nothing_is_believed_to_run(
    orphan: Workflow, execute: Execute, tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor to have ended, unless the journal says so: files may have been lost."""
    permit(tmp_path)
    until(lambda: is_gone(tmp_path / "launcher"))
    monkeypatch.setattr(adoption, "boot_id", lambda: "another")
    monkeypatch.setattr(claim, "boot_id", lambda: "another")
    result = execute(PATIENT)
    assert (result.status.units[0].state, result.status.units[0].attempts) == (UnitState.FINISHED, 2)
    assert effects(tmp_path) == ONCE + ONCE


def test_a_launcher_that_comes_too_late_does_nothing(execute: Execute, tmp_path: Path, run_dir: Path) -> None:
    """Its driver was killed after it had recorded the start; the next one has forbidden the attempt."""
    tasks = "t: {run: echo t >> effects}"
    execute(tasks)
    directory = RunDirectory(run_dir)
    attempt = directory.history.attempts["t"]
    directory.append("begin", boot=boot_id(), **{key: [] for key in ("units", "kept", "nodes")})
    known = {"digest": attempt.digest, "checkpoint": 2, "mode": 0, "devices": ["cpu:0"]}
    directory.append("start", unit="t", attempt=2, **known)
    directory.close()
    result = execute(tasks)
    assert (result.status.units[0].attempts, effects(tmp_path)) == (3, "t\nt\n")
    starter = cold_starter()
    late = starter.start(
        Launch(
            ["bash", "-c", "echo late >> effects"],
            paths=directory.attempt("t", 2),
            record={},
            env={**os.environ, "RLSCHED_PROGRESS_FILE": "nowhere"},
            folder=tmp_path,
            checkpoint=tmp_path / "none",
            outputs=[],
            stopping=Stopping(signal.SIGTERM, 1, 1),
        )
    )
    until(lambda: select.select([late], [], [], 0)[0] != [])
    assert late.wait() is None
    starter.close()
    assert effects(tmp_path) == "t\nt\n"


def is_adopted(execute: Execute, tmp_path: Path) -> None:
    """The next driver waits for the orphan, and starts no other."""
    threading.Timer(0.5, permit, [tmp_path]).start()
    result = execute(PATIENT)
    assert (result.exit_code, result.status.units[0].attempts, effects(tmp_path)) == (0, 1, ONCE)


def test_a_start_that_was_lost_with_the_journals_end_is_known_to_the_launcher(
    orphan: Workflow, execute: Execute, tmp_path: Path, run_dir: Path
) -> None:
    """A bit has flipped in the record; the task is adopted nevertheless."""
    flip_a_bit(run_dir)
    is_adopted(execute, tmp_path)


def test_a_start_that_was_lost_is_known_to_every_later_driver(
    orphan: Workflow, execute: Execute, tmp_path: Path, run_dir: Path
) -> None:
    """Also if the first one was killed as soon as it had opened the journal."""
    flip_a_bit(run_dir)
    RunDirectory(run_dir).close()
    is_adopted(execute, tmp_path)


def test_a_task_that_runs_is_adopted_without_its_journal(
    orphan: Workflow, execute: Execute, tmp_path: Path, run_dir: Path
) -> None:
    """Somebody has deleted it; the launcher has not forgotten."""
    (run_dir / "journal.jsonl").unlink()
    is_adopted(execute, tmp_path)


def test_a_task_that_has_changed_is_stopped_before_the_new_one_starts(
    orphan: Workflow, execute: Execute, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of them must not meet; that it is stopped is said."""
    (tmp_path / "first").write_text((tmp_path / "pid").read_text())
    seen: list[bool] = []
    changed = "t: {run: echo changed >> effects}"
    result = execute(changed, observe=lambda now, what: seen.append(is_gone(tmp_path / "first")))
    assert (result.exit_code, effects(tmp_path)) == (0, "begin\nchanged\n")
    assert seen[0]
    assert "t still runs from before, but its task has changed: it is stopped" in caplog.text


def test_a_task_on_a_device_that_is_not_ours_any_more_is_not_touched(
    workflow: Write, drive: Drive, execute: Execute, tmp_path: Path
) -> None:
    """The run is refused; with the devices it had, it goes on."""
    tasks = PATIENT + "\n  gpus: 2"
    driver = drive(workflow(tasks))
    appears(tmp_path / "pid")
    driver.kill()
    driver.wait()
    with pytest.raises(ValueError, match="task 't' still runs on cpu:0, cpu:1, and this run has no such place for it"):
        execute(tasks.replace("gpus: 2", "gpus: [1, 2]"), slots=1)
    assert not is_gone(tmp_path / "pid")
    permit(tmp_path)
    assert execute(tasks).exit_code == 0
    assert effects(tmp_path) == ONCE


def test_what_cannot_be_seen_is_not_believed_dead(
    orphan: Workflow, execute: Execute, tmp_path: Path, run_dir: Path
) -> None:
    """A launcher in another container holds a lock on its claim; once that is free, the task runs again."""
    path = run_dir / "attempts" / "t.1.claim.json"
    with path.open("r+") as file:  # in place, since the launcher's lock is on this very file
        content = json.loads(file.read()) | {"space": "pid:[1]"}
        file.seek(0)
        file.write(json.dumps(content))
        file.truncate()
    with pytest.raises(ValueError, match=r"of another container holds .*t.1.claim.json"):
        execute(PATIENT)
    kill(tmp_path, "launcher")
    permit(tmp_path)
    assert execute(PATIENT).exit_code == 0


def test_a_stopped_driver_keeps_its_run_and_goes_on(
    workflow: Write, drive: Drive, execute: Execute, tmp_path: Path
) -> None:
    """Nobody else may drive meanwhile, however long it takes; what ended meanwhile is noticed."""
    tasks = PATIENT + "\nafter: {run: echo after >> effects, needs: t}"
    driver = drive(workflow(tasks))
    appears(tmp_path / "pid")
    driver.send_signal(signal.SIGSTOP)
    permit(tmp_path)
    until(lambda: is_gone(tmp_path / "pid"))
    with pytest.raises(ValueError, match=r"runs/flow is in use by another run"):
        execute(tasks)
    assert effects(tmp_path) == ONCE
    driver.send_signal(signal.SIGCONT)
    assert driver.wait() == 0
    assert effects(tmp_path) == ONCE + "after\n"


def test_ctrl_c_stops_an_adopted_task_too(
    orphan: Workflow, drive: Drive, execute: Execute, tmp_path: Path, run_dir: Path
) -> None:
    """It is one like the others."""
    driver = drive(orphan)
    until(lambda: b'"adopt"' in (run_dir / "journal.jsonl").read_bytes())
    driver.send_signal(signal.SIGTERM)
    assert driver.wait() == 143
    assert is_gone(tmp_path / "pid")
    assert read_status(run_dir).units[0].state is UnitState.INTERRUPTED


def test_the_process_that_starts_tasks_is_replaced_when_it_was_killed(execute: Execute, tmp_path: Path) -> None:
    """A start that it had not got to is made again at no cost; those that it has started are not concerned."""
    result = execute(
        """
        a: {run: "until test -e b; do sleep 0.02; done; echo a >> effects", gpus: 1}
        k: {run: "kill -9 $(ps -o ppid= -p $PPID)", gpus: 1}
        b: {run: "echo b >> effects; touch b", gpus: 1, needs: k}
        """
    )
    assert result.exit_code == 0
    assert effects(tmp_path) == "b\na\n"


def test_what_ends_while_it_is_being_ended_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a killed launcher has left may end by itself, between the look and the signal."""
    paths = attempt_paths(tmp_path, "t", 1)
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, MARKER: str(paths.progress)})
    kill_it = psutil.Process.kill

    def late(process: psutil.Process) -> None:
        left.kill()
        left.wait()
        kill_it(process)

    monkeypatch.setattr(psutil.Process, "kill", late)
    assert collect(paths) is None
    assert left.poll() is not None


ELSEWHERE = ["node", "far", "another boot", "pid:[1]"]


@pytest.fixture
def left_elsewhere(workflow: Write, run_dir: Path) -> Callable[..., Workflow]:
    """A run whose task was started on other machines, and whose driver has been killed."""

    def leave(*places: list[str]) -> Workflow:
        flow = workflow("t: {run: echo t >> effects}")
        unit = work_of(flow).units[0][0]
        directory = RunDirectory(run_dir)
        directory.append("begin", boot=boot_id(), **{key: [] for key in ("units", "kept", "nodes")})
        start = {"unit": "t", "attempt": 1, "digest": unit.digest, "checkpoint": 1, "mode": 0, "devices": ["far/cpu:0"]}
        directory.append("start", **start, places=list(places))
        directory.close()
        return flow

    return leave


def test_a_task_on_another_machine_is_not_believed_dead(
    left_elsewhere: Callable[..., Workflow], tmp_path: Path
) -> None:
    """Nobody can look; the user may know better."""
    flow = left_elsewhere(ELSEWHERE)
    with pytest.raises(ValueError, match="task 't' may still run on far, which cannot be asked from here: go on with"):
        run_workflow(flow, first_fit, slots=1)
    assert not (tmp_path / "effects").exists()
    result = run_workflow(flow, first_fit, slots=1, lost=["far"])
    assert (result.exit_code, result.status.units[0].attempts, effects(tmp_path)) == (0, 2, "t\n")


def test_the_last_words_of_a_lost_machine_count(
    left_elsewhere: Callable[..., Workflow], tmp_path: Path, run_dir: Path
) -> None:
    """The task had ended, and has said so."""
    flow = left_elsewhere(ELSEWHERE)
    paths = attempt_paths(run_dir, "t", 1)
    claim_of = {"pid": 1, "start": 1, "boot": "another boot", "space": "pid:[1]", "record": {}}
    paths.claim.write_text(json.dumps(claim_of))
    paths.exit.write_text(json.dumps({"code": 0, "time": 2.0, "began": 1.0}))
    result = run_workflow(flow, first_fit, slots=1, lost=["far"])
    assert (result.nothing_to_do, result.status.units[0].state) == (True, UnitState.KEPT)
    assert not (tmp_path / "effects").exists()


@pytest.mark.parametrize("damaged", ["claim", "exit"])
def test_words_that_a_lost_machine_has_not_finished_do_not(
    damaged: str, left_elsewhere: Callable[..., Workflow], tmp_path: Path, run_dir: Path
) -> None:
    """It has lost power before they were on the disk that others see."""
    flow = left_elsewhere(ELSEWHERE)
    paths = attempt_paths(run_dir, "t", 1)
    claim_of = {"pid": 1, "start": 1, "boot": "another boot", "space": "pid:[1]", "record": {}}
    paths.claim.write_text("" if damaged == "claim" else json.dumps(claim_of))
    paths.exit.write_text("")
    assert run_workflow(flow, first_fit, slots=1, lost=["far"]).exit_code == 0
    assert effects(tmp_path) == "t\n"


def test_a_machine_of_this_name_that_was_started_anew_has_nothing(
    left_elsewhere: Callable[..., Workflow], tmp_path: Path
) -> None:
    """It is this one."""
    flow = left_elsewhere(["node", host_name(), "another boot", "pid:[1]"])
    assert run_workflow(flow, first_fit, slots=1).exit_code == 0
    assert effects(tmp_path) == "t\n"


def test_a_gang_is_over_when_all_of_it_is(
    left_elsewhere: Callable[..., Workflow], tmp_path: Path, run_dir: Path
) -> None:
    """One part has failed, so the task has."""
    here = ["node", host_name(), boot_id(), claim.pid_space()]
    flow = left_elsewhere(here, here)
    for part, code in enumerate((0, 3)):
        paths = attempt_paths(run_dir, "t", 1, part)
        of_nobody = {"pid": os.getpid(), "start": 0, "boot": boot_id(), "space": claim.pid_space(), "record": {}}
        paths.claim.write_text(json.dumps(of_nobody))
        paths.exit.write_text(json.dumps({"code": code, "time": 2.0, "began": 1.0}))
    assert run_workflow(flow, first_fit, slots=1).exit_code == 0
    assert effects(tmp_path) == "t\n"
    ends = [json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines() if '"end"' in line]
    assert [(end["attempt"], end["ending"], end["reason"]) for end in ends] == [
        (1, "failed", "exit code 3"),
        (2, "finished", ""),
    ]
