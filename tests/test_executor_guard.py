"""A GPU that is sick, busy or not yet free is not handed out, and nothing that runs is touched; on a fake NVML."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import first_fit, task
from builders import job as make_job
from conftest import Plug, sleeps
from fake_nvml import FakeGpu

from rlsched.executor import guard as guard_module
from rlsched.executor.devices import local_machine
from rlsched.executor.executor import Executor
from rlsched.executor.guard import Guard, Reason
from rlsched.executor.journal import fold
from rlsched.executor.run import run_workflow
from rlsched.executor.rundir import RunDirectory
from rlsched.model import Member, Share
from rlsched.scheduler import Arrived, DevicesLost, DevicesRestored, Scheduler
from rlsched.workflow import Workflow

MEMBER = Member(0, 0)


@pytest.fixture
def watch(plug: Plug) -> Iterator[Callable[..., Guard]]:
    """A guard of these GPUs that looks whenever it is asked."""
    guards: list[Guard] = []

    def start(*gpus: FakeGpu, **options: float) -> Guard:
        plug(gpus)
        guards.append(Guard(local_machine(), **{"interval": 0.0, **options}))  # type: ignore[arg-type]
        return guards[-1]

    yield start
    for guard in guards:
        guard.close()


def two() -> tuple[FakeGpu, FakeGpu]:
    return FakeGpu("GPU-aaaa"), FakeGpu("GPU-bbbb")


SICK: dict[str, Callable[[FakeGpu], object]] = {
    "2 uncorrected ECC errors": lambda gpu: setattr(gpu, "uncorrected", 2),
    "memory rows wait for a reset to be remapped": lambda gpu: setattr(gpu, "remapping", True),
    "memory pages wait for a reset to be retired": lambda gpu: setattr(gpu, "retiring", True),
    "GPU is lost": lambda gpu: setattr(gpu, "gone", True),
}


@pytest.mark.parametrize("words", list(SICK))
def test_a_sick_gpu_is_not_handed_out_and_that_is_said_once(
    words: str, watch: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    """The other one is."""
    a, b = two()
    guard = watch(a, b)
    assert guard.look() == []
    SICK[words](b)
    assert guard.look() == [DevicesLost(0, (1,))]
    assert guard.look() == []
    assert [record.message for record in caplog.records] == [f"GPU-bbbb is not used: {words}"]


def test_a_gpu_without_ecc_is_not_sick(watch: Callable[..., Guard]) -> None:
    a, b = two()
    a.uncorrected = None
    assert watch(a, b).look() == []


def test_a_critical_xid_is_remembered_and_an_applications_own_is_none(plug: Plug) -> None:
    """13 is what a bug in a kernel gives, 79 a GPU that has fallen off the bus."""
    a, b = two()
    nvml = plug([a, b])
    guard = Guard(local_machine(), interval=0.0)
    nvml.xids += [(a, 13), (b, 79)]
    assert guard.look() == [DevicesLost(0, (1,))]
    assert guard.look() == []
    assert guard.out == {"GPU-bbbb": Reason.UNHEALTHY}
    guard.close()
    assert nvml.open == 0


def test_a_sick_gpu_takes_its_mig_instances_with_it(watch: Callable[..., Guard]) -> None:
    parts = [FakeGpu(f"MIG-{n}", memory=10, profile="1g.10gb") for n in (1, 2)]
    gpu = FakeGpu("GPU-eeee", instances=parts)
    guard = watch(gpu)
    parts[0].processes.append(4711)
    assert guard.look() == [DevicesLost(0, (0,))]
    gpu.uncorrected = 1
    guard.look()
    assert guard.out == dict.fromkeys(("MIG-1", "MIG-2"), Reason.UNHEALTHY)


def test_a_gpu_that_others_use_comes_back_when_they_are_gone(
    watch: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = two()
    guard = watch(a, b)
    a.processes.append(4711)
    assert guard.look() == [DevicesLost(0, (0,))]
    a.processes.clear()
    assert guard.look() == [DevicesRestored(0, (0,))]
    assert [r.message for r in caplog.records] == [
        "GPU-aaaa is not used: process 4711 computes on it",
        "GPU-aaaa is used again",
    ]


def test_memory_that_somebody_unseen_holds_counts_as_use_and_a_desktop_does_not(watch: Callable[..., Guard]) -> None:
    """Processes in other containers cannot be seen, their memory can."""
    a, b = two()
    a.in_use, b.in_use, b.drawing = 20.0, 3.0, 2.5
    assert watch(a, b).look() == [DevicesLost(0, (0,))]


def test_a_gpu_that_we_hold_is_not_busy(watch: Callable[..., Guard]) -> None:
    """Not even if its processes cannot be told from those of others."""
    a, b = two()
    guard = watch(a, b)
    assert guard.refuse([Share(0, (0,))], MEMBER, 1.0) == []
    a.processes.append(4711)
    a.in_use = 70.0
    assert guard.look() == []


def test_a_gpu_that_became_busy_since_the_last_look_is_refused_when_it_is_wanted(watch: Callable[..., Guard]) -> None:
    """The member is given back with all of its work."""
    a, b = two()
    guard = watch(a, b, interval=1000.0)
    assert guard.look() == []
    b.processes.append(4711)
    assert guard.look() == []
    assert guard.refuse([Share(0, (0, 1))], MEMBER, 0.5) == [DevicesLost(0, (1,), ((MEMBER, 0.5),))]


def test_a_gpu_is_handed_on_when_its_memory_is_free(
    watch: Callable[..., Guard], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes a moment after the end of a task, of which nobody needs to be told."""
    monkeypatch.setattr(guard_module, "_POLL_INTERVAL", 0.0)
    a, b = two()
    guard = watch(a, b, interval=1000.0)
    guard.look()
    guard.refuse([Share(0, (0,))], MEMBER, 1.0)
    a.in_use = 30.0
    assert guard.release(["GPU-aaaa"]) == [DevicesLost(0, (0,))]
    assert guard.out == {"GPU-aaaa": Reason.SETTLING}
    assert guard.look() == []
    a.in_use = 0.4
    assert guard.look() == [DevicesRestored(0, (0,))]
    assert guard.refuse([Share(0, (0,))], MEMBER, 1.0) == guard.release(["GPU-aaaa"]) == []
    assert caplog.records == []


def test_a_gpu_whose_memory_stays_taken_is_put_aside_and_that_is_said(
    watch: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = two()
    guard = watch(a, b, settling_time=0.05)
    guard.refuse([Share(0, (0,))], MEMBER, 1.0)
    a.in_use = 30.0
    assert guard.release(["GPU-aaaa"]) == [DevicesLost(0, (0,))]
    time.sleep(0.06)
    assert guard.look() == []
    assert guard.out == {"GPU-aaaa": Reason.BUSY}
    (record,) = caplog.records
    assert record.message == (
        "GPU-aaaa is not used: 30.0 GiB of its memory are in use, 0.05 s after a task has ended there"
    )
    a.in_use = 0.4
    assert guard.look() == [DevicesRestored(0, (0,))]


def test_an_nvml_that_hangs_does_not_stop_the_driver(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is handed out that cannot be seen; when NVML answers again, all is as before."""
    monkeypatch.setattr(guard_module, "_ANSWER_TIME", 1.0)
    nvml = plug(two())
    guard = Guard(local_machine(), interval=0.0)
    assert guard.look() == []
    nvml.hanging.clear()
    assert guard.look() == [DevicesLost(0, (0, 1))]
    assert guard.look() == []
    assert set(guard.out.values()) == {Reason.UNREADABLE}
    nvml.hanging.set()
    while not (events := guard.look()):
        time.sleep(0.01)
    assert events == [DevicesRestored(0, (0, 1))]
    guard.close()


def test_there_is_nothing_to_guard_on_cpu_slots(plug: Plug) -> None:
    nvml = plug(two())
    guard = Guard(local_machine(slots=2))
    assert nvml.open == 0
    assert guard.look() == guard.release(["cpu:0"]) == []


def test_a_task_waits_for_a_gpu_that_others_use(
    plug: Plug, workflow: Callable[[str], Workflow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only one there is: the run goes on when it is free, and the journal says what it has waited for."""
    monkeypatch.setattr(guard_module, "CHECK_INTERVAL", 0.05)
    gpu = FakeGpu("GPU-aaaa", processes=[4711])
    plug([gpu])
    flow = workflow("before: {run: touch cleaned, gpus: 0}\nafter: {run: 'echo $CUDA_VISIBLE_DEVICES', needs: before}")

    def leave_soon(now: float, what: object) -> None:
        if (tmp_path / "cleaned").exists():
            gpu.processes.clear()

    result = run_workflow(flow, first_fit, grace=5.0, observe=leave_soon)
    assert result.exit_code == 0
    assert result.status.units[1].log is not None
    assert result.status.units[1].log.read_text() == "GPU-aaaa\n"
    records: list[tuple[str, str]] = []
    fold(
        result.status.run_dir / "journal.jsonl",
        lambda r: records.append((r["device"], r["reason"])) if r["record"] == "device" else None,
    )
    assert records == [("GPU-aaaa", "process 4711 computes on it"), ("GPU-aaaa", "")]


def test_a_gpu_that_falls_sick_under_a_task_leaves_the_task_alone(
    plug: Plug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as it would have; the next ones run on the other GPU."""
    monkeypatch.setattr(guard_module, "CHECK_INTERVAL", 0.02)
    a, b = two()
    plug([a, b])
    machine = local_machine()
    workload = [make_job("a", task("x", 0.3)), make_job("b", task("y", 0.02), release=0.1)]
    workload.append(make_job("c", task("z", 0.02), release=0.5))
    directory = RunDirectory(tmp_path / "run")
    with Executor(machine, directory, [sleeps(job, tmp_path) for job in workload]) as executor:

        def fall_sick(now: float, what: object) -> None:
            if isinstance(what, Arrived) and what.job_id == 1:
                a.uncorrected = 1

        schedule = Scheduler(executor, fall_sick).run(first_fit)
    directory.close()
    schedule.check()
    assert sorted((run.member.job, run.shares[0].gpus, run.outcome) for run in schedule.runs) == [
        (0, (0,), "finished"),
        (1, (1,), "finished"),
        (2, (1,), "finished"),
    ]


def test_a_refused_start_costs_no_retry(plug: Plug, tmp_path: Path) -> None:
    """It is found busy between the look and the start, and the task runs on the other GPU."""
    a, b = two()
    plug([a, b])
    directory = RunDirectory(tmp_path / "run")
    with Executor(local_machine(), directory, [sleeps(make_job("a", task("x", 0.05)), tmp_path)]) as executor:
        scheduler = Scheduler(executor)
        scheduler.advance()
        a.processes.append(4711)
        schedule = scheduler.run(first_fit)
    directory.close()
    assert [(run.shares[0].gpus, run.outcome) for run in schedule.runs] == [((0,), "lost"), ((1,), "finished")]
    assert directory.history.attempts["a-x"].number == 1
