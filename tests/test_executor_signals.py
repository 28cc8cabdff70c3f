"""Being asked to end: of a driver, and of a task by its scheduler."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from builders import job
from conftest import Execute, appears, is_gone

from rlsched.executor.devices import Machine
from rlsched.executor.executor import Executor
from rlsched.executor.run import run_workflow
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.status import RunState, UnitState, read_status
from rlsched.executor.work import Unit, Work
from rlsched.model import Cluster, Mode, Node, Preemption, Task
from rlsched.schedule import Outcome
from rlsched.scheduler import Decision, Event, Preempted, Scheduler
from rlsched.state import State
from rlsched.workflow import Workflow

SLEEPERS = """
done: {run: echo}
polite: {run: "trap 'echo saved; exit 143' TERM; echo $$ > pid; sleep 60 & wait", needs: done}
waiting: {run: echo, needs: polite}
"""


@contextlib.contextmanager
def sending(*numbers: int, after: Path) -> Iterator[None]:
    """Sends signals to this process once the file is there, the second a little after the first.

    Whoever runs the tests in the background may have had them ignore Ctrl-C; and whoever handled the signals before
    has to find everything as it was.
    """

    def send() -> None:
        appears(after)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    def handle(number: int, frame: object) -> None:
        raise AssertionError("nobody was listening")

    before = {number: signal.signal(number, handle) for number in numbers}
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
        thread.join()
        assert {signal.getsignal(number) for number in numbers} == {handle}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_driver_that_is_asked_to_end_stops_its_tasks(
    number: int, code: int, execute: Execute, tmp_path: Path
) -> None:
    """They get SIGTERM and time to save what they have; what is recorded is that the run was interrupted."""
    with sending(number, after=tmp_path / "pid"):
        result = execute(SLEEPERS)
    assert (result.exit_code, result.nothing_to_do) == (code, False)
    assert (result.status.state, result.status.reason) == (
        RunState.INTERRUPTED,
        f"interrupted by {signal.Signals(number).name}",
    )
    assert [u.state for u in result.status.units] == [UnitState.FINISHED, UnitState.INTERRUPTED, UnitState.WAITING]
    log = result.status.units[1].log
    assert log is not None
    assert log.read_text() == "saved\n"
    assert is_gone(tmp_path / "pid")


def test_an_interrupted_run_goes_on_where_it_was(execute: Execute, tmp_path: Path) -> None:
    """What had finished is kept, and the interrupted task finds its checkpoint."""
    tasks = """
    done: {run: echo >> done}
    long:
      run: |
        test ! -e "$RLSCHED_CHECKPOINT_DIR/half" || exit 0
        trap 'touch "$RLSCHED_CHECKPOINT_DIR/half"; exit 143' TERM
        echo $$ > pid; sleep 60 & wait
      needs: done
    """
    with sending(signal.SIGINT, after=tmp_path / "pid"):
        assert execute(tasks).exit_code == 130
    result = execute(tasks)
    assert [(u.state, u.attempts) for u in result.status.units] == [(UnitState.KEPT, 1), (UnitState.FINISHED, 2)]
    assert (tmp_path / "done").read_text() == "\n"


def test_a_second_ctrl_c_waits_for_nobody(execute: Execute, tmp_path: Path) -> None:
    """A task that does not listen is killed long before its grace period is over."""
    with sending(signal.SIGINT, signal.SIGINT, after=tmp_path / "pid"):
        result = execute("deaf: {run: \"trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done\"}", grace=3600)
    assert (result.exit_code, result.status.units[0].state) == (130, UnitState.INTERRUPTED)
    assert is_gone(tmp_path / "pid")


def test_an_error_in_the_policy_stops_the_tasks_too(workflow: Callable[[str], Workflow]) -> None:
    """And is not hidden."""
    calls = []

    def broken(state: State) -> Sequence[Decision]:
        calls.append(state)
        if len(calls) > 2:  # both tasks of the prediction were started one by one
            raise ZeroDivisionError
        return [a] if (a := state.allocate(next(iter(state.ready.values())), 0)) else []

    flow = workflow("a: {run: sleep 60}\nb: {run: sleep 60}")
    with pytest.raises(ZeroDivisionError):
        run_workflow(flow, broken, slots=2)
    status = read_status(flow.folder / "runs" / "flow")
    assert (status.state, status.reason) == (RunState.INTERRUPTED, "ZeroDivisionError: ")


def preempted(script: str, folder: Path, grace: float = 5.0) -> tuple[list[float], list[Outcome], str]:
    """Runs a script on the only GPU, and once it has written `pid` lets an urgent task push it out.

    Returns what was left of its work at each stop, how each of its runs ended, and what the last one printed.
    """
    tasks = {
        "t": (Task("t", (Mode(1.0, gpus=1),), preemptible=True), script),
        "notice": (Task("notice", (Mode(1.0),)), "until test -s pid; do sleep 0.02; done"),
        "urgent": (Task("urgent", (Mode(1.0, gpus=1),), ("notice",)), "true"),
    }
    units = tuple((Unit(name, ("bash", "-c", text)),) for name, (_, text) in tasks.items())
    work = Work(job("a", *(task for task, _ in tasks.values())), units, folder)
    machine = Machine(Cluster((Node("n", gpus=1),)), (("gpu",),))

    def urgent_first(state: State) -> Sequence[Decision]:
        for ready in sorted(state.ready.values(), key=lambda ready: ready.task.name, reverse=True):
            if allocation := state.allocate(ready, 0):
                return [allocation]
        preemptible = {m for m, run in state.running.items() if run.task.task.preemptible and not run.stopping}
        return [Preemption(member) for member in preemptible if state.ready]

    left: list[float] = []

    def observe(now: float, what: Event | Decision) -> None:
        if isinstance(what, Preempted):
            left.append(what.work_left)

    directory = RunDirectory(folder / "run")
    with Executor(machine, directory, [work], grace) as executor:
        schedule = Scheduler(executor, observe).run(urgent_first)
    directory.close()
    schedule.check()
    log = directory.attempt("t", directory.history.attempts["t"].number).log
    return left, [run.outcome for run in schedule.runs if run.member.task == 0], log.read_text()


def test_a_preempted_task_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """What it has left follows from the progress that it last reported."""
    left, outcomes, log = preempted(
        """
        saved="$RLSCHED_CHECKPOINT_DIR/step"
        if test -e "$saved"; then echo "went on from $(cat $saved)"; exit 0; fi
        echo '{"step": 3, "total": 4, "time": 1}' > "$RLSCHED_PROGRESS_FILE"
        trap 'echo 3 > "$saved"; exit 143' TERM
        echo $$ > pid; sleep 60 & wait
        """,
        tmp_path,
    )
    assert (left, outcomes, log) == ([0.25], [Outcome.PREEMPTED, Outcome.FINISHED], "went on from 3\n")


def test_a_preempted_task_that_had_to_be_killed_has_saved_nothing(tmp_path: Path) -> None:
    """Whatever it had reported."""
    left, outcomes, _ = preempted(
        """
        if test -e pid; then exit 0; fi
        echo '{"step": 3, "total": 4, "time": 1}' > "$RLSCHED_PROGRESS_FILE"
        trap '' TERM
        echo $$ > pid; while :; do sleep 0.05; done
        """,
        tmp_path,
        grace=0.2,
    )
    assert (left, outcomes) == ([1.0], [Outcome.PREEMPTED, Outcome.FINISHED])


def test_a_task_that_finishes_when_asked_to_stop_has_finished(tmp_path: Path) -> None:
    left, outcomes, _ = preempted("trap 'exit 0' TERM; echo $$ > pid; sleep 60 & wait", tmp_path)
    assert (left, outcomes) == ([], [Outcome.FINISHED])
