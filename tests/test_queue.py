"""A queue: what clients may ask of a scheduler that is up, and what becomes of their jobs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import appears, is_gone, until
from queues import WAITS, Start, effects, environment, flow, permit

from rlsched.executor.status import RunState, UnitState, read_status
from rlsched.queue.client import NoSchedulerError
from rlsched.queue.protocol import Refusal
from rlsched.queue.submission import plain_workflow


def test_a_job_runs_and_its_user_can_watch_it(start: Start, tmp_path: Path) -> None:
    """Listed with its progress, with logs, and with a run directory like that of any run."""
    up = start()
    job = up.submit(
        flow(tmp_path / "a", "x: {run: echo one}\ny: {run: 'echo two; exit 3', needs: x}\nz: {run: echo, needs: y}")
    )
    assert up.end_of(job) == "failed"
    listed = up.job(job)
    assert {name: listed[name] for name in ("job", "name", "done", "running", "total", "reason")} == {
        "job": 1,
        "name": "a",
        "done": 1,
        "running": 0,
        "total": 3,
        "reason": "y: exit code 3",
    }
    assert listed["submitted"] <= listed["started"] <= listed["ended"]
    assert (up.log(job), up.log(job, "y")) == ("one\ntwo\n", "two\n")
    status = read_status(Path(listed["run_dir"]))
    assert status.state is RunState.FAILED
    assert [unit.state for unit in status.units] == [UnitState.FINISHED, UnitState.FAILED, UnitState.SKIPPED]


def test_a_job_is_what_was_submitted(start: Start, tmp_path: Path) -> None:
    """A file that changes afterwards makes no difference, and tasks have the environment of who submitted them."""
    up = start(slots=1)
    up.submit(flow(tmp_path / "first", f"t: {WAITS}"))
    later = flow(tmp_path / "later", "t: {run: 'echo $WHO; test -z \"$RLSCHED_X\"'}")
    job = up.submit(later, environment=environment(WHO="me"), name="other")
    later.file.unlink()
    permit(tmp_path / "first")
    assert up.end_of(job) == "completed"
    assert (up.job(job)["name"], up.log(job)) == ("other", "me\n")


@pytest.mark.parametrize(
    ("policy", "terms", "order"),
    [
        ("fifo", [{}, {}, {}], ["1", "2", "3"]),
        ("priority", [{}, {"priority": 5.0}, {"priority": 1.0}], ["2", "3", "1"]),
        ("edf", [{"deadline": 900.0}, {}, {"deadline": 60.0}], ["3", "1", "2"]),
    ],
)
def test_jobs_start_as_the_policy_decides(
    policy: str, terms: list[dict[str, float]], order: list[str], start: Start, tmp_path: Path
) -> None:
    """Priorities and deadlines reach it."""
    up = start(policy, slots=1)
    up.submit(flow(tmp_path / "first", "t: {run: until test -e permission; do sleep 0.02; done}"))
    until(lambda: up.job(1)["running"] == 1)
    jobs = [
        up.submit(flow(tmp_path / str(number), f"t: {{run: echo {number} >> ../effects}}"), **about)
        for number, about in enumerate(terms, 1)
    ]
    assert [up.job(job)["state"] for job in jobs] == ["waiting"] * 3
    permit(tmp_path / "first")
    assert [up.end_of(job) for job in jobs] == ["completed"] * 3
    assert effects(tmp_path) == order


def test_tasks_of_different_jobs_share_the_devices(start: Start, tmp_path: Path) -> None:
    """Each waits until the other runs."""
    up = start()
    meet = "t: {run: 'touch here; until test -e ../%s/here; do sleep 0.02; done'}"
    jobs = [up.submit(flow(tmp_path / name, meet % other)) for name, other in (("a", "b"), ("b", "a"))]
    assert [up.end_of(job) for job in jobs] == ["completed", "completed"]


def test_the_same_submission_is_submitted_once(start: Start, tmp_path: Path) -> None:
    """However often its client asks, also after it has ended; under the same id nothing else can be submitted."""
    up = start()
    workflow = flow(tmp_path / "a", "t: {run: echo t >> ../effects}")
    assert [up.submit(workflow, id="mine") for _ in range(3)] == [1, 1, 1]
    assert up.end_of(1) == "completed"
    assert up.submit(workflow, id="mine") == 1
    with pytest.raises(Refusal, match="something else was submitted as 'mine' before, it is job 1"):
        up.submit(workflow, id="mine", priority=1.0)
    assert effects(tmp_path) == ["t"]


def test_a_cancelled_job_stops_and_the_others_go_on(start: Start, tmp_path: Path) -> None:
    """What runs gets time to save what it has, and what waits is never started."""
    up = start()
    polite = "{run: \"trap 'echo saved; exit 143' TERM; echo $$ > pid; sleep 60 & wait\"}"
    job = up.submit(flow(tmp_path / "a", f"polite: {polite}\nlater: {{run: echo later >> ../effects, needs: polite}}"))
    other = up.submit(flow(tmp_path / "b", f"t: {WAITS}"))
    appears(tmp_path / "a" / "pid")
    answer = up.request("cancel", job="a")
    assert (answer["job"], answer["state"]) == (job, "cancelling")
    assert up.end_of(job) == "cancelled"
    assert up.job(job)["reason"].startswith("cancelled by ")
    assert is_gone(tmp_path / "a" / "pid")
    assert up.log(job) == "saved\n"
    with pytest.raises(Refusal, match=r"job 1 \(a\) has ended, it is cancelled"):
        up.request("cancel", job="1")
    permit(tmp_path / "b")
    assert up.end_of(other) == "completed"
    assert effects(tmp_path) == ["t"]


def test_a_job_that_waits_can_be_cancelled(start: Start, tmp_path: Path) -> None:
    """Nothing of it is ever started."""
    up = start(slots=1)
    up.submit(flow(tmp_path / "a", f"t: {WAITS}"))
    job = up.submit(flow(tmp_path / "b", "t: {run: echo b >> ../effects}"))
    up.request("cancel", job=str(job))
    assert up.end_of(job) == "cancelled"
    permit(tmp_path / "a")
    assert up.end_of(1) == "completed"
    assert effects(tmp_path) == ["t"]


def test_a_queue_that_drains_waits_for_what_runs(start: Start, tmp_path: Path) -> None:
    """Nothing is started any more, nothing is taken in, and what waits is left for the next scheduler."""
    up = start()
    job = up.submit(flow(tmp_path / "a", f"t: {WAITS}\nu: {{run: echo u >> ../effects, needs: t, gpus: 0}}"))
    appears(tmp_path / "a" / "pid")
    assert up.request("drain")["running"] == 1
    assert up.request("queue")["draining"]
    with pytest.raises(Refusal, match="the scheduler drains and takes no jobs any more"):
        up.submit(flow(tmp_path / "b", "t: {run: echo}"))
    permit(tmp_path / "a")
    up.drained()
    assert effects(tmp_path) == ["t"]
    with pytest.raises(NoSchedulerError, match=r"no scheduler is running at .*: start one with `rlsched up`"):
        up.request("queue")
    up = start()
    assert up.end_of(job) == "completed"
    assert effects(tmp_path) == ["t", "u"]


def test_a_queue_that_stops_lets_its_tasks_save_what_they_have(start: Start, tmp_path: Path) -> None:
    """They go on from there under the next scheduler."""
    up = start()
    job = up.submit(
        flow(
            tmp_path / "a",
            """
            t:
              run: |
                test ! -e "$RLSCHED_CHECKPOINT_DIR/half" || exit 0
                trap 'touch "$RLSCHED_CHECKPOINT_DIR/half"; exit 143' TERM
                echo $$ > pid; sleep 60 & wait
            """,
        )
    )
    appears(tmp_path / "a" / "pid")
    up.request("drain", stop=True)
    up.drained()
    assert is_gone(tmp_path / "a" / "pid")
    assert start().end_of(job) == "completed"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("t: {run: echo, gpus: 3}", r"a.yaml:3: tasks.t: expected 3 GPUs of one type, found 2 of type 'cpu'"),
        ("t: {run: cat b, inputs: b}", "expected the input '.*a/b', which no task writes, found nothing there"),
    ],
)
def test_what_cannot_run_is_refused(tasks: str, message: str, start: Start, tmp_path: Path) -> None:
    """And is not in the queue."""
    up = start()
    with pytest.raises(Refusal, match=message):
        up.submit(flow(tmp_path / "a", tasks))
    assert up.request("queue")["jobs"] == []
    assert up.submit(flow(tmp_path / "b", "t: {run: echo}")) == 1


@pytest.mark.parametrize(
    ("tasks", "clashes"),
    [
        ("t: {run: echo > x/y, outputs: x/y}", True),
        ("t: {run: echo > ../a/out, outputs: ../a/out}", True),
        ("t: {run: ls ../a, inputs: ../a/out}", True),
        ("t: {run: echo > ../a/in, outputs: ../a/in}", True),
        ("t: {run: cat ../a/in, inputs: ../a/in}", False),
    ],
)
def test_jobs_that_would_get_in_each_others_way_are_refused(
    tasks: str, clashes: bool, start: Start, tmp_path: Path
) -> None:
    """A file that one of two jobs writes is for that job alone, until it has ended."""
    up = start()
    (tmp_path / "a").mkdir()
    for file in ("in", "out"):
        (tmp_path / "a" / file).touch()
    waits = "until test -e permission; do sleep 0.02; done; touch ../b/x out"
    up.submit(flow(tmp_path / "a", f"t: {{run: '{waits}', inputs: in, outputs: [out, ../b/x]}}"))
    other = flow(tmp_path / "b", tasks)
    if clashes:
        with pytest.raises(Refusal, match=r"job 1 \(a\) uses '.*' as well, and one of the two writes it"):
            up.submit(other)
        permit(tmp_path / "a")
        up.end_of(1)
        (tmp_path / "b" / "x").unlink(missing_ok=True)
    up.submit(other)


def test_names_that_mean_nothing_get_a_hint(start: Start, tmp_path: Path) -> None:
    up = start()
    with pytest.raises(Refusal, match="unknown job '1', the queue is empty"):
        up.request("cancel", job="1")
    up.submit(flow(tmp_path / "night", "train: {run: echo}"))
    up.end_of(1)
    with pytest.raises(Refusal, match="unknown job 'nigth', did you mean 'night'"):
        up.request("logs", job="nigth")
    with pytest.raises(Refusal, match="unknown task 'tarin', did you mean 'train'"):
        up.request("logs", job="night", task="tarin")
    up.submit(flow(tmp_path / "night", "train: {run: echo}"))
    with pytest.raises(Refusal, match="several jobs are named 'night': say which by its number, one of 1, 2"):
        up.request("logs", job="night")


def test_a_job_runs_as_its_user_or_not_at_all(start: Start, tmp_path: Path) -> None:
    """Others may look at the queue and no more; root may do everything but submit to somebody else's queue."""
    up = start()
    workflow = flow(tmp_path / "a", "t: {run: echo}")
    stranger = 54321
    with pytest.raises(Refusal, match="a job runs as the user who submitted it, and this scheduler starts tasks as"):
        up.ask(stranger, {"request": "submit", "id": "x", "workflow": plain_workflow(workflow)})
    up.submit(workflow)
    up.end_of(1)
    for request in ({"request": "cancel", "job": "1"}, {"request": "logs", "job": "1"}):
        with pytest.raises(Refusal, match=r"job 1 \(a\) is .*'s"):
            up.ask(stranger, request)
    with pytest.raises(Refusal, match="who runs this scheduler, may drain it"):
        up.ask(stranger, {"request": "drain"})
    assert [job["job"] for job in up.ask(stranger, {"request": "queue"})["jobs"]] == [1]
    assert up.ask(os.getuid(), {"request": "logs", "job": "1"})["ended"]


def test_logs_of_all_attempts_come_in_pieces(start: Start, tmp_path: Path) -> None:
    """A client names what it has seen, and gets the rest; bytes that are no text are kept."""
    up = start()
    tasks = (
        "t: {run: 'printf \"\\377$RLSCHED_ATTEMPT\"; test $RLSCHED_ATTEMPT = 2', retries: 1}\nu: {run: echo, array: 2}"
    )
    job = up.submit(flow(tmp_path / "a", tasks))
    assert up.end_of(job) == "completed"
    answer = up.request("logs", job="1", seen={"t.1": 1})
    assert [(piece["log"], piece["start"], piece["data"]) for piece in answer["pieces"][:2]] == [
        ("t.1", 1, "MQ=="),
        ("t.2", 0, "/zI="),
    ]
    assert (answer["logs"], answer["more"], answer["ended"]) == (4, False, True)
    assert [piece["log"] for piece in up.request("logs", job="1", task="u")["pieces"]] == ["u[0].1", "u[1].1"]
