"""What a task meets when it runs, and what its end means."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Execute, is_gone

from rlsched.executor.run import RunResult
from rlsched.executor.status import RunState, UnitState, UnitStatus
from rlsched.schedule import Outcome
from rlsched.scheduler import Decision, Event, Failed, Progressed


def unit(result: RunResult, name: str) -> UnitStatus:
    """The status of one unit."""
    return next(unit for unit in result.status.units if unit.name == name)


def output(result: RunResult, name: str) -> str:
    """What the last attempt of a unit has printed."""
    log = unit(result, name).log
    return "" if log is None else log.read_text()


def test_a_task_is_told_about_its_run(execute: Execute, tmp_path: Path) -> None:
    """Environment, folder, standard input and session."""
    result = execute(
        """
        "t":
          run: |
            printf '%s\\n' "$RLSCHED_TASK" "$RLSCHED_ATTEMPT" "$RLSCHED_GPUS" "$RLSCHED_DEVICES" "$RLSCHED_RUN_DIR"
            printf '%s\\n' "[$CUDA_VISIBLE_DEVICES]" "$PWD" "$OWN"
            test -d "$RLSCHED_CHECKPOINT_DIR" && test -d "$(dirname "$RLSCHED_PROGRESS_FILE")" && echo folders
            cat; ps -o sid= -p $$ | tr -d ' ' | grep -qx $$ && echo session
          gpus: 2
          env: {OWN: mine}
        """
    )
    run_dir = tmp_path / "runs" / "flow"
    folder = str(tmp_path)
    expected = ["t", "1", "2", "cpu:0,cpu:1", str(run_dir), "[]", folder, "mine", "folders", "session"]
    assert output(result, "t").split("\n")[:-1] == expected
    assert result.exit_code == 0


@pytest.mark.parametrize(("inherited", "own", "expected"), [(None, None, "1"), ("3", None, "3"), ("3", "4", "4")])
def test_one_thread_unless_somebody_says_otherwise(
    inherited: str | None, own: str | None, expected: str, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OMP_NUM_THREADS comes from the workflow, else from the caller, else it is 1."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if inherited:
        monkeypatch.setenv("OMP_NUM_THREADS", inherited)
    env = f"{{OMP_NUM_THREADS: {own}}}" if own else "{}"
    assert output(execute(f"t: {{run: echo $OMP_NUM_THREADS, env: {env}}}"), "t") == f"{expected}\n"


def test_a_python_task_calls_its_function(execute: Execute, tmp_path: Path) -> None:
    """From a module beside the workflow file, with JSON arguments; an exception is a failure with its traceback."""
    (tmp_path / "steps.py").write_text("def show(**arguments): print(arguments)\ndef fail(): raise KeyError('oops')\n")
    result = execute(
        """
        good: {python: "steps:show", args: {rate: 0.1, names: [a, b], nothing: null}}
        bad: {python: "steps:fail"}
        """
    )
    assert output(result, "good") == "{'rate': 0.1, 'names': ['a', 'b'], 'nothing': None}\n"
    assert output(result, "bad").endswith("KeyError: 'oops'\n")
    assert (unit(result, "bad").reason, result.exit_code) == ("exit code 1", 1)


def test_members_of_an_array_run_apart(execute: Execute) -> None:
    result = execute('t: {run: "echo ${array.index} $RLSCHED_TASK", array: 3}')
    assert [output(result, f"t[{i}]") for i in range(3)] == [f"{i} t[{i}]\n" for i in range(3)]


def test_a_failure_skips_what_depends_on_it_and_nothing_else(execute: Execute) -> None:
    """The run goes on, and ends with exit code 1."""
    result = execute(
        """
        bad: {run: "echo no >&2; exit 3"}
        after: {run: echo, needs: bad}
        other: {run: echo}
        """
    )
    assert [u.state for u in result.status.units] == [UnitState.FAILED, UnitState.SKIPPED, UnitState.FINISHED]
    assert (unit(result, "bad").reason, output(result, "bad")) == ("exit code 3", "no\n")
    assert (result.status.state, result.exit_code) == (RunState.FAILED, 1)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("kill -9 $$", "killed by SIGKILL"),
        ("false | true", "exit code 1"),
        ("false; echo unreached", "exit code 1"),
        ("no-such-program", "exit code 127"),
    ],
)
def test_what_counts_as_a_failure(command: str, reason: str, execute: Execute) -> None:
    """A signal, and the failure of any command of a script or a pipeline."""
    result = execute(f't: {{run: "{command}"}}')
    assert (unit(result, "t").reason, unit(result, "t").state) == (reason, UnitState.FAILED)
    assert "unreached" not in output(result, "t")


def test_a_declared_output_that_is_missing_is_a_failure(execute: Execute, tmp_path: Path) -> None:
    """Although the exit code is 0. Folders of outputs are there before the task starts."""
    result = execute(
        """
        liar: {run: "true", outputs: promised.txt}
        honest: {run: "echo > deep/down/kept.txt", outputs: deep/down/kept.txt}
        """
    )
    assert unit(result, "liar").reason == f"exit code 0, but its output '{tmp_path}/promised.txt' is missing"
    assert unit(result, "honest").state is UnitState.FINISHED


def test_a_task_is_tried_again_as_often_as_it_may(execute: Execute) -> None:
    """Every attempt has a log of its own; the one that succeeds counts."""
    result = execute(
        """
        third: {run: "echo attempt $RLSCHED_ATTEMPT; test $RLSCHED_ATTEMPT = 3", retries: 2}
        never: {run: "false", retries: 1}
        """
    )
    assert [(u.state, u.attempts) for u in result.status.units] == [(UnitState.FINISHED, 3), (UnitState.FAILED, 2)]
    logs = result.status.run_dir / "logs"
    assert [(logs / f"third.{n}.log").read_text() for n in (1, 2, 3)] == [f"attempt {n}\n" for n in (1, 2, 3)]
    outcomes = [run.outcome for run in result.schedule.runs if run.member.task == 0]
    assert outcomes == [Outcome.FAILED, Outcome.FAILED, Outcome.FINISHED]


def test_a_task_that_takes_too_long_is_stopped(execute: Execute, tmp_path: Path) -> None:
    """It gets SIGTERM, with all of its group, and may tidy up."""
    result = execute("t: {run: \"trap 'echo tidy; exit 0' TERM; sleep 60 & echo $! > pid; wait\", timeout: 0.3}")
    assert (unit(result, "t").reason, output(result, "t")) == ("exceeded its timeout of 0.3 s", "tidy\n")
    assert is_gone(tmp_path / "pid")


def test_a_task_that_ignores_sigterm_is_killed(execute: Execute, tmp_path: Path) -> None:
    """After the grace period, with everything in its group."""
    result = execute(
        """
        t: {run: "trap '' TERM; (while :; do sleep 0.05; done) & echo $! > pid; wait", timeout: 0.2}
        """,
        grace=0.3,
    )
    assert unit(result, "t").reason == "exceeded its timeout of 0.2 s"
    assert is_gone(tmp_path / "pid")


def test_a_process_that_a_task_leaves_behind_is_ended_before_its_device_is_handed_on(
    execute: Execute, tmp_path: Path
) -> None:
    """Even if it has a session of its own, a parent that is gone, an empty environment, and no ear for SIGTERM."""
    stray = "trap '' TERM; while :; do sleep 0.05; date +%s%N > alive; done"
    (tmp_path / "stray.sh").write_text(stray)
    result = execute(
        """
        leaver:
          run: |
            (env -i "$(command -v setsid)" "$(command -v bash)" stray.sh & echo $! > pid)
            until test -e alive; do sleep 0.02; done
        heir: {run: "cp alive before; sleep 0.2; cmp alive before", needs: leaver}
        """,
        grace=0.2,
    )
    assert [u.state for u in result.status.units] == [UnitState.FINISHED, UnitState.FINISHED]
    assert is_gone(tmp_path / "pid")


def test_a_killed_launcher_takes_its_task_with_it(execute: Execute, tmp_path: Path) -> None:
    """The task is run again only after what the launcher left behind has been ended."""
    result = execute(
        """
        t:
          run: |
            echo $$ > pid$RLSCHED_ATTEMPT
            if test $RLSCHED_ATTEMPT = 1; then kill -9 $PPID; sleep 60; fi
          retries: 1
        """
    )
    assert (unit(result, "t").state, unit(result, "t").attempts) == (UnitState.FINISHED, 2)
    assert is_gone(tmp_path / "pid1")


def test_a_task_that_cannot_be_started_has_failed(execute: Execute, tmp_path: Path) -> None:
    """Here because the folder of its output cannot be made; what can run does."""
    (tmp_path / "file").touch()
    result = execute('t: {run: "true", outputs: file/inside}\nu: {run: "true"}')
    assert unit(result, "t").reason.startswith("could not be started: ")
    assert unit(result, "u").state is UnitState.FINISHED


def test_reported_progress_moves_the_expected_end(execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the rate between the first and the latest report."""
    monkeypatch.setattr("rlsched.executor.executor.PROGRESS_INTERVAL", 0.05)
    seen: list[tuple[float, Event | Decision]] = []
    result = execute(
        """
        t:
          duration: 100
          run: |
            for step in 1 2; do
              echo "{\\"step\\": $step, \\"total\\": 4, \\"time\\": $(date +%s.%N)}" > report
              mv report "$RLSCHED_PROGRESS_FILE"
              sleep 0.4
            done
        """,
        observe=lambda now, what: seen.append((now, what)),
    )
    ends = [(now, what.expected_end) for now, what in seen if isinstance(what, Progressed)]
    assert [now < end < 90 for now, end in ends] == [True]
    progress = unit(result, "t").progress
    assert progress is not None
    assert progress.fraction == 0.5


def test_the_observer_sees_failures_with_their_reasons(execute: Execute) -> None:
    seen: list[Event | Decision] = []
    execute("t: {run: exit 9}", observe=lambda now, what: seen.append(what))
    assert [what.reason for what in seen if isinstance(what, Failed)] == ["exit code 9"]


def test_the_prediction_is_the_policys_own_simulation(execute: Execute) -> None:
    """Three tasks of 0.1 s on two slots are two rounds; what really happened is beside it."""
    result = execute("a: {run: sleep 0.1}\nb: {run: sleep 0.1}\nc: {run: sleep 0.1}")
    assert result.status.predicted_makespan == pytest.approx(0.2)
    assert result.status.makespan is not None
    assert result.status.makespan >= 0.2
    result.schedule.check()


def test_names_that_are_no_file_names_are_no_trouble(execute: Execute) -> None:
    """A matrix value may be a path, and as long as it likes."""
    result = execute(f't: {{run: "echo ${{matrix.x}}", matrix: {{x: [a/b, {"y" * 250}]}}}}')
    assert [unit.log.read_text() for unit in result.status.units if unit.log] == ["a/b\n", "y" * 250 + "\n"]
