"""A scheduler of a queue that is killed loses nothing: the next one goes on as if it had never been away."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from conftest import appears, is_gone, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from queues import WAITS, Start, Up, effects, flow, permit

from rlsched.executor.status import UnitState, read_status
from rlsched.experiments.faults.queue_kill import run_and_kill
from rlsched.queue.protocol import Refusal
from rlsched.queue.records import QueueDirectory
from rlsched.queue.submission import Submission


def test_jobs_survive_their_scheduler(start: Start, tmp_path: Path) -> None:
    """What runs is adopted, what ended meanwhile is not run again, what waits starts in its turn."""
    up = start(slots=2)
    names = ("stays", "ends", "waits")
    jobs = [up.submit(flow(tmp_path / name, f"t: {WAITS}"), id=name) for name in names]
    appears(tmp_path / "stays" / "pid")
    appears(tmp_path / "ends" / "pid")
    up.kill()
    permit(tmp_path / "ends")
    until(lambda: is_gone(tmp_path / "ends" / "pid"))
    up = start()
    assert up.end_of(jobs[1]) == "completed"
    appears(tmp_path / "waits" / "pid")
    assert [up.job(job)["state"] for job in (jobs[0], jobs[2])] == ["running", "running"]
    permit(tmp_path / "stays")
    permit(tmp_path / "waits")
    assert [up.end_of(job) for job in jobs] == ["completed"] * 3
    assert effects(tmp_path) == ["t"] * 3
    assert up.submit(flow(tmp_path / "ends", f"t: {WAITS}"), id="ends") == jobs[1]


def test_what_has_ended_stays_ended(start: Start, tmp_path: Path) -> None:
    """A task that failed for good does not run again, its retries are not given back, and a changed source or an
    output that was taken away makes no difference: the job is what was submitted."""
    up = start(slots=3)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "source").touch()
    tasks = f"""
    made: {{run: 'echo made >> ../effects; touch out', inputs: source, outputs: out}}
    broken: {{run: 'echo broken >> ../effects; exit 1', retries: 1, needs: made}}
    after: {{run: 'echo after >> ../effects', needs: broken}}
    fails:
      retries: {{exit: 1, signal: 1}}
      run: |
        echo fails >> ../effects
        test ! -e ../retry || exit 1
        echo $$ > ../retry; sleep 60
    waits: {WAITS}
    """
    job = up.submit(flow(tmp_path / "a", tasks), priority=1.0)
    appears(tmp_path / "a" / "pid")
    until(lambda: effects(tmp_path).count("broken") == 2)
    appears(tmp_path / "retry")
    up.kill()
    os.killpg(int((tmp_path / "retry").read_text()), signal.SIGKILL)
    (tmp_path / "a" / "source").write_text("changed")
    (tmp_path / "a" / "out").unlink()
    up = start(slots=3)
    until(lambda: effects(tmp_path).count("fails") == 3)  # killed once, and then an exit code once: not twice
    up.kill()
    up = start(slots=3)
    permit(tmp_path / "a")
    assert up.end_of(job) == "failed"
    assert sorted(effects(tmp_path)) == ["broken", "broken", "fails", "fails", "fails", "made", "t"]
    assert (up.job(job)["done"], up.job(job)["priority"]) == (2, 1.0)
    units = {unit.name: unit.state for unit in read_status(Path(up.job(job)["run_dir"])).units}
    assert (units["made"], units["broken"], units["after"]) == (UnitState.KEPT, UnitState.FAILED, UnitState.SKIPPED)


def test_after_a_restart_of_the_machine_a_lost_output_is_made_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not have reached the disk; a result whose outputs are there is believed."""
    up = start()
    tasks = """
    lost: {run: 'echo lost >> ../effects; touch x', outputs: x}
    kept: {run: 'echo kept >> ../effects; touch y', outputs: y}
    user: {run: 'until test -e permission; do sleep 0.02; done; cat x y; echo user >> ../effects', needs: [lost, kept]}
    """
    job = up.submit(flow(tmp_path / "a", tasks))
    until(lambda: up.job(job)["done"] == 2 and up.job(job)["running"] == 1)
    up.kill()
    permit(tmp_path / "a")
    until(lambda: "user" in effects(tmp_path))
    (tmp_path / "a" / "x").unlink()
    for module in ("adoption", "claim", "session"):
        monkeypatch.setattr(f"rlsched.executor.{module}.boot_id", lambda: "another")
    up = start()
    assert up.end_of(job) == "completed"
    assert sorted(effects(tmp_path)) == ["kept", "lost", "lost", "user", "user"]


def test_an_output_may_be_used_up_after_a_restart_of_the_machine(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that came up since then has seen it; what follows from it is not done again by the next one."""
    tasks = """
    a: {run: 'echo a >> ../effects; touch x', outputs: x}
    gate: {run: 'until test -e gate; do sleep 0.02; done', needs: a}
    b: {run: 'echo b >> ../effects; rm x', needs: [a, gate]}
    c: {run: 'echo $$ > pid; until test -e permission; do sleep 0.02; done; echo c >> ../effects', needs: b}
    """
    with monkeypatch.context() as before:
        for module in ("adoption", "claim", "session"):
            before.setattr(f"rlsched.executor.{module}.boot_id", lambda: "the boot before")
        up = start()
        job = up.submit(flow(tmp_path / "a", tasks))
        until(lambda: up.job(job)["done"] == 1 and up.job(job)["running"] == 1)
        up.kill()
    (tmp_path / "a" / "gate").write_text("open")
    up = start()
    appears(tmp_path / "a" / "pid")
    up.kill()
    up = start()
    permit(tmp_path / "a")
    assert up.end_of(job) == "completed"
    assert effects(tmp_path) == ["a", "b", "c"]


def test_a_cancellation_survives_too(start: Start, tmp_path: Path) -> None:
    """The scheduler was killed before the task had ended: it is stopped all the same, and no other starts."""
    up = start()
    deaf = "{run: \"trap '' TERM; echo $$ > pid; until test -e permission; do sleep 0.05; done\"}"
    job = up.submit(flow(tmp_path / "a", f"deaf: {deaf}\nlater: {{run: echo later >> ../effects, needs: deaf}}"))
    appears(tmp_path / "a" / "pid")
    up.request("cancel", job=str(job))
    up.kill()
    up = start()
    assert up.job(job)["state"] == "cancelling"
    permit(tmp_path / "a")
    assert up.end_of(job) == "cancelled"
    assert is_gone(tmp_path / "a" / "pid")
    assert effects(tmp_path) == []


def test_a_job_that_the_machine_has_no_room_for_any_more_is_held(start: Start, tmp_path: Path) -> None:
    """It does not keep the others from running, and goes on where there is room again."""
    up = start(slots=1)
    up.submit(flow(tmp_path / "a", f"t: {WAITS}"))
    up.kill()
    up = start(slots=2)
    wide = up.submit(flow(tmp_path / "b", "t: {run: echo b >> ../effects, gpus: 2}"))
    up.kill()
    up = start(slots=1)
    held = up.job(wide)
    assert (held["state"], held["ended"]) == ("held", None)
    assert held["reason"] == "task 't': expected what fits the empty cluster, found 2 GPUs, 1 CPUs, " + (
        "which this machine has not (any more)"
    )
    permit(tmp_path / "a")
    assert up.end_of(1) == "completed"
    up.kill()
    assert start(slots=2).end_of(wide) == "completed"
    assert effects(tmp_path) == ["t", "b"]


def test_a_job_that_is_held_can_be_cancelled(start: Start, tmp_path: Path) -> None:
    up = start(slots=1)
    up.submit(flow(tmp_path / "a", f"t: {WAITS}"))
    up.kill()
    up = start(slots=2)
    wide = up.submit(flow(tmp_path / "b", "t: {run: echo b >> ../effects, gpus: 2}"))
    up.kill()
    up = start(slots=1)
    assert up.request("cancel", job=str(wide))["state"] == "cancelled"


def test_a_queue_has_one_scheduler(start: Start, tmp_path: Path) -> None:
    """And a socket has one as well."""
    up = start()
    with pytest.raises(ValueError, match="another scheduler listens on"):
        Up(tmp_path / "other")
    (tmp_path / "s").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="state is in use by another scheduler"):
        Up(tmp_path / "state")
    (tmp_path / "moved").rename(tmp_path / "s")
    assert up.request("queue")["jobs"] == []


def test_an_acknowledgement_holds_though_the_journals_end_is_lost(start: Start, tmp_path: Path) -> None:
    """The submission is in its own file as well."""
    up = start(slots=1)
    up.submit(flow(tmp_path / "a", f"t: {WAITS}"))
    job = up.submit(flow(tmp_path / "b", "t: {run: echo b >> ../effects}"), name="second", priority=2.0)
    up.kill()
    journal = tmp_path / "state" / "queue.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])
    up = start(slots=1)
    assert (up.job(job)["name"], up.job(job)["priority"]) == ("second", 2.0)
    permit(tmp_path / "a")
    assert up.end_of(job) == "completed"


def test_damage_in_the_middle_is_refused(start: Start, tmp_path: Path) -> None:
    """With the place; a job's own file likewise, and nothing is started."""
    up = start()
    up.submit(flow(tmp_path / "a", f"t: {WAITS}"))
    up.kill()
    submission = tmp_path / "state" / "jobs" / "1" / "submission.json"
    whole = submission.read_bytes()
    submission.write_bytes(whole[:100] + b"X" + whole[101:])
    with pytest.raises(ValueError, match=r"jobs/1/submission.json: .* the file is damaged"):
        start()
    submission.write_bytes(whole)
    journal = tmp_path / "state" / "queue.jsonl"
    lines = journal.read_bytes()
    journal.write_bytes(lines.replace(b'"up"', b'"pu"', 1))
    with pytest.raises(ValueError, match=r"queue.jsonl:1: the journal is damaged here"):
        start()
    journal.write_bytes(lines)
    up = start()
    permit(tmp_path / "a")
    assert up.end_of(1) == "completed"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_queue_cut_anywhere_has_every_job_that_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, data: st.DataObject
) -> None:
    """Whatever of the last record has reached the disk when the machine stops."""
    folder = tmp_path_factory.mktemp("queue")
    workflow = flow(tmp_path / "w", "t: {run: echo}")
    queue = QueueDirectory(folder)
    jobs = data.draw(st.integers(1, 3))
    for number in range(1, jobs + 1):
        assert queue.next_id() == number
        queue.run_dir(number).mkdir()
        queue.add(Submission(number, f"k{number}", "d", 0, "me", 0.0, 1e9 + number, workflow, {"A": "\udcff"}))
    queue.close()
    journal = folder / "queue.jsonl"
    content = journal.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    journal.write_bytes(content[: data.draw(st.integers(last, len(content)))])
    queue = QueueDirectory(folder)
    assert [entry.key for entry in queue.entries.values()] == [f"k{number}" for number in range(1, jobs + 1)]
    assert queue.submission(jobs).environment == {"A": "\udcff"}
    assert queue.submission(jobs).workflow.job.tasks == workflow.job.tasks
    queue.close()


def test_a_full_disk_refuses_a_job_and_keeps_the_queue(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that cannot be written is not acknowledged; the scheduler goes on with those that it has."""
    up = start()
    waiting = up.submit(flow(tmp_path / "a", f"t: {WAITS}"))

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    appears(tmp_path / "a" / "pid")
    with monkeypatch.context() as patch:
        patch.setattr("rlsched.queue.submission.os.fsync", full)
        with pytest.raises(Refusal, match="No space left on device"):
            up.submit(flow(tmp_path / "b", "t: {run: echo b >> ../effects}"), id="b")
    permit(tmp_path / "a")
    assert up.end_of(waiting) == "completed"
    job = up.submit(flow(tmp_path / "b", "t: {run: echo b >> ../effects}"), id="b")
    assert up.end_of(job) == "completed"
    assert effects(tmp_path) == ["t", "b"]


def test_a_client_waits_for_a_scheduler_that_comes_back(start: Start, tmp_path: Path) -> None:
    """It asks again; the answer is to the same submission."""
    from rlsched.queue.client import Client
    from rlsched.queue.submission import plain_workflow

    up = start()
    message = {"request": "submit", "id": "x", "workflow": plain_workflow(flow(tmp_path / "a", f"t: {WAITS}"))}
    with Client(up.address, patience=30.0) as client:
        assert client.request(message)["job"] == 1
        up.kill()
        timer = threading.Timer(0.3, start)
        timer.start()
        assert client.request(message)["job"] == 1
        timer.join()


def test_two_schedulers_killed_under_two_clients(tmp_path: Path) -> None:
    """With SIGKILL; twenty workflows and ten schedulers are in experiments/faults/queue_kill.py."""
    report = run_and_kill(tmp_path, jobs=4, tasks=3, kills=2, seconds=1.0, gap=1.0, seed=3)
    assert report.faults == ()
    assert report.kills == 2
