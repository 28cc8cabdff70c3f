"""How a task is asked to stop, how long it has, and that a driver which drains loses nothing of it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from builders import first_fit
from conftest import Drive, Execute, appears, is_gone, until

from rlsched.executor.run import RunResult, run_workflow
from rlsched.executor.status import RunState, UnitState, read_status
from rlsched.model import Preemption
from rlsched.schedule import Outcome
from rlsched.scheduler import Decision
from rlsched.state import State
from rlsched.workflow import Workflow

Write = Callable[[str], Workflow]

# Two thirds are done when it is asked to stop; the rest when it is started again.
WORK = """
      saved="$RLSCHED_CHECKPOINT_DIR/saved"
      if test -e "$saved"; then echo "went on with $RLSCHED_GPUS"; exit 0; fi
      echo '{{"step": 2, "total": 3, "time": 1}}' > "$RLSCHED_PROGRESS_FILE"
      {}
"""
URGENT = """
notice: {run: until test -s pid; do sleep 0.02; done, gpus: 0}
urgent: {run: echo urgent, needs: notice}
"""


def task(script: str, **fields: object) -> str:
    """A preemptible task that runs a script, and an urgent one that comes once it has written `pid`."""
    given = {"preemptible": "true", **fields}
    return "t:\n" + "".join(f"  {name}: {value}\n" for name, value in given.items()) + f"  run: |{script}" + URGENT


def urgent_first(state: State) -> Sequence[Decision]:
    """Lets the urgent task push out the other one, and gives each as much as there is."""
    for ready in sorted(state.ready.values(), key=lambda ready: ready.task.name, reverse=True):
        for mode in reversed(range(len(ready.task.modes))):
            if allocation := state.allocate(ready, mode):
                return [allocation]
    stoppable = [m for m, run in state.running.items() if run.task.task.preemptible and not run.stopping]
    return [Preemption(member) for member in stoppable if state.ready]


@pytest.fixture
def preempt(workflow: Write) -> Callable[..., RunResult]:
    """Runs such a workflow on one slot."""

    def run(tasks: str, slots: int = 1, grace: float = 5.0) -> RunResult:
        return run_workflow(workflow(tasks), urgent_first, slots=slots, grace=grace)

    return run


def logs(result: RunResult, name: str = "t") -> list[str]:
    """What each attempt has printed."""
    unit = next(unit for unit in result.status.units if unit.name == name)
    folder = result.status.run_dir / "logs"
    return [(folder / f"{name}.{number}.log").read_text() for number in range(1, unit.attempts + 1)]


def outcomes(result: RunResult) -> list[Outcome]:
    return [run.outcome for run in result.schedule.runs if run.member.task == 0]


@pytest.mark.parametrize(
    ("name", "script"),
    [
        (
            "none",
            'echo $$ > pid; until test -e "$RLSCHED_PREEMPT_FILE"; do :; done; echo file; touch "$saved"; exit 9',
        ),
        ("SIGUSR1", "trap 'echo USR1; touch \"$saved\"; exit 138' USR1; echo $$ > pid; while :; do sleep 0.05; done"),
        ("SIGINT", "trap 'echo INT; touch \"$saved\"; exit 143' INT; echo $$ > pid; while :; do sleep 0.05; done"),
    ],
)
def test_a_task_says_how_it_wants_to_be_asked(name: str, script: str, preempt: Callable[..., RunResult]) -> None:
    """By the file alone, or by a signal as well; what it had reported is not done again."""
    result = preempt(task(WORK.format(script), preempt_signal=name))
    first, second = logs(result)
    assert first.endswith(f"{name.removeprefix('SIG').replace('none', 'file')}\n")
    assert second == "went on with 1\n"
    assert outcomes(result) == [Outcome.PREEMPTED, Outcome.FINISHED]


def test_the_file_says_how_long_there_is(preempt: Callable[..., RunResult], tmp_path: Path) -> None:
    """When the task was asked, and when nothing of it will be left."""
    script = 'trap \'cp "$RLSCHED_PREEMPT_FILE" seen; touch "$saved"; exit 143\' TERM; echo $$ > pid; sleep 60 & wait'
    before = time.time()
    preempt(task(WORK.format(script), grace="90s"))
    seen = json.loads((tmp_path / "seen").read_text())
    assert before < seen["time"] < time.time()
    assert seen["kill_at"] - seen["time"] == pytest.approx(90)


def test_sigterm_follows_a_request_that_was_not_heard(preempt: Callable[..., RunResult]) -> None:
    """After the task's own grace period."""
    script = "trap 'echo TERM; touch \"$saved\"; exit 143' TERM; echo $$ > pid; sleep 60 & wait"
    result = preempt(task(WORK.format(script), preempt_signal="none", grace=0.2), grace=60)
    assert logs(result) == ["TERM\n", "went on with 1\n"]


def test_sigkill_ends_what_hears_nothing(preempt: Callable[..., RunResult], tmp_path: Path) -> None:
    """All of its group; it has saved nothing, and begins anew."""
    script = "trap '' TERM; if test -e pid; then exit 0; fi; echo $$ > pid; (while :; do sleep 0.05; done) & wait"
    result = preempt(task(WORK.format(script), preempt_signal="none", grace=0.2), grace=0.2)
    assert outcomes(result) == [Outcome.PREEMPTED, Outcome.FINISHED]
    assert is_gone(tmp_path / "pid")


def test_a_task_has_as_much_time_as_it_asks_for(preempt: Callable[..., RunResult]) -> None:
    """More than others have."""
    script = "trap 'sleep 0.6; echo saved; touch \"$saved\"; exit 143' TERM; echo $$ > pid; sleep 60 & wait"
    assert logs(preempt(task(WORK.format(script), grace=60), grace=0.1))[0] == "saved\n"


def test_a_task_goes_on_with_another_number_of_gpus(preempt: Callable[..., RunResult]) -> None:
    """In the same checkpoint folder, though its environment says otherwise than before."""
    script = "trap 'touch \"$saved\"; exit 143' TERM; echo with $RLSCHED_GPUS; echo $$ > pid; sleep 60 & wait"
    result = preempt(task(WORK.format(script), gpus="[1, 2]").replace("echo urgent", "sleep 0.5"), slots=2)
    assert logs(result) == ["with 2\n", "went on with 1\n"]
    assert outcomes(result) == [Outcome.PREEMPTED, Outcome.FINISHED]


DRAINED = """
saves:
  preemptible: true
  preempt_signal: none
  run: |
    if test -e "$RLSCHED_CHECKPOINT_DIR/saved"; then exit 0; fi
    echo $$ > saves
    until test -e "$RLSCHED_PREEMPT_FILE"; do sleep 0.02; done
    touch saving; sleep 0.5; touch "$RLSCHED_CHECKPOINT_DIR/saved"; exit 143
stops:
  run: |
    if test -e stops; then exit 0; fi
    trap 'echo stopped; exit 1' TERM; echo $$ > stops; sleep 60 & wait
after: {run: echo, needs: [saves, stops]}
"""


def test_a_driver_that_gets_sigterm_drains(workflow: Write, drive: Drive, execute: Execute, tmp_path: Path) -> None:
    """What can save its work does, all else is stopped, nothing new begins; and the next run goes on from there."""
    flow = workflow(DRAINED)
    driver = drive(flow)
    for name in ("saves", "stops"):
        appears(tmp_path / name)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait() == 143
    status = read_status(tmp_path / "runs" / "flow")
    assert (status.state, status.reason) == (RunState.INTERRUPTED, "interrupted by SIGTERM")
    assert [unit.state for unit in status.units] == [UnitState.INTERRUPTED, UnitState.INTERRUPTED, UnitState.WAITING]
    result = execute(DRAINED)
    assert (result.exit_code, [unit.attempts for unit in result.status.units]) == (0, [2, 2, 1])


def test_a_second_signal_ends_it_at_once(workflow: Write, drive: Drive, tmp_path: Path) -> None:
    """The checkpoint that is just being written is lost."""
    driver = drive(
        workflow(DRAINED.replace("sleep 0.5", "sleep 600").replace("preemptible", "grace: 1h\n  preemptible"))
    )
    for name in ("saves", "stops"):
        appears(tmp_path / name)
    driver.send_signal(signal.SIGTERM)
    until((tmp_path / "saving").exists)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait() == 143
    assert is_gone(tmp_path / "saves")
    assert not list(tmp_path.glob("runs/flow/checkpoints/*/saved"))


def test_what_was_stopping_when_its_driver_was_killed_has_not_failed(
    workflow: Write, drive: Drive, execute: Execute, tmp_path: Path
) -> None:
    """It may end while no driver is there, and goes on from its checkpoint."""
    driver = drive(workflow(DRAINED))
    for name in ("saves", "stops"):
        appears(tmp_path / name)
    driver.send_signal(signal.SIGTERM)
    until((tmp_path / "saving").exists)
    driver.kill()
    driver.wait()
    until(lambda: is_gone(tmp_path / "saves"))
    result = execute(DRAINED)
    assert (result.exit_code, [unit.attempts for unit in result.status.units]) == (0, [2, 2, 1])


def test_a_task_that_is_being_preempted_is_not_hurried_by_a_drain(workflow: Write, tmp_path: Path) -> None:
    """To ask it again changes nothing."""
    script = "trap 'touch saving; sleep 0.7; touch \"$saved\"; exit 143' TERM; echo $$ > pid; sleep 60 & wait"

    def send() -> None:
        until((tmp_path / "saving").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        result = run_workflow(workflow(task(WORK.format(script))), urgent_first, slots=1, grace=30)
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 143
    assert list(tmp_path.glob("runs/flow/checkpoints/*/saved"))
    again = run_workflow(workflow(task(WORK.format(script))), first_fit, slots=1)
    assert (again.exit_code, logs(again)[-1]) == (0, "went on with 1\n")


def test_a_task_that_is_too_slow_may_save_its_work_for_the_next_attempt(execute: Execute) -> None:
    """Its time being up it is asked like any other, and has failed all the same."""
    script = "trap 'touch \"$saved\"; exit 143' TERM; sleep 60 & wait"
    result = execute(task(WORK.format(script), timeout=0.3, retries=1).removesuffix(URGENT))
    assert logs(result) == ["", "went on with 1\n"]
    assert outcomes(result) == [Outcome.FAILED, Outcome.FINISHED]
