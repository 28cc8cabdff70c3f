"""Fixtures that several test modules share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent, indent
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import psutil
import pytest
from builders import first_fit
from fake_nvml import FakeGpu, FakeNvml
from queues import Start, Up, permit

from rlsched.executor.devices import Machine
from rlsched.executor.executor import Executor
from rlsched.executor.run import RunResult, run_workflow
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.work import Unit, Work, unit_name
from rlsched.model import Cluster, Job, Task
from rlsched.schedule import Schedule
from rlsched.scheduler import Decision, Event, Policy, Scheduler
from rlsched.simulator import Simulator
from rlsched.workflow import Workflow, load_workflow

Happening = tuple[float, Event | Decision]


class Played(NamedTuple):
    """What came of some jobs under a policy: the schedule, and every event and decision with its time."""

    schedule: Schedule
    happenings: list[Happening]

    def of(self, kind: type) -> list[Any]:
        """The events or decisions of a kind, in order."""
        return [what for _, what in self.happenings if isinstance(what, kind)]


Play = Callable[[Sequence[Job], Cluster, Policy], Played]


@pytest.fixture(params=["simulator", "executor"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Plays jobs to their end under a policy: once in the simulator, once with processes that sleep for as long."""

    def simulated(jobs: Sequence[Job], cluster: Cluster, policy: Policy) -> Played:
        happenings: list[Happening] = []
        observe = lambda time, what: happenings.append((time, what))  # noqa: E731
        return Played(Scheduler(Simulator(cluster, jobs), observe).run(policy), happenings)

    def executed(jobs: Sequence[Job], cluster: Cluster, policy: Policy) -> Played:
        happenings: list[Happening] = []
        observe = lambda time, what: happenings.append((time, what))  # noqa: E731
        directory = RunDirectory(tmp_path / "run")
        machine = Machine(cluster, tuple(tuple(f"{n.name}:{g}" for g in range(n.gpus)) for n in cluster.nodes))
        with Executor(machine, directory, [sleeps(job, tmp_path) for job in jobs]) as executor:
            schedule = Scheduler(executor, observe).run(policy)
        directory.close()
        return Played(schedule, happenings)

    return simulated if request.param == "simulator" else executed


# Sleeps for as long as the number of its GPUs says; when it is asked to stop, it writes down how much it has done.
_SLEEPER = """
import json, os, signal, sys, time
seconds = json.loads(sys.argv[1])[os.environ["RLSCHED_GPUS"]]
checkpoint = os.environ["RLSCHED_CHECKPOINT_DIR"] + "/done"
done = float(open(checkpoint).read()) if os.path.exists(checkpoint) else 0.0
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
start, before = time.monotonic(), done
while done < 1 and not asked:
    time.sleep(0.005)
    done = before + (time.monotonic() - start) / seconds
if done < 1:
    with open(checkpoint, "w") as file:
        file.write(str(done))
    report = os.environ["RLSCHED_PROGRESS_FILE"]
    with open(report + ".tmp", "w") as file:
        json.dump({"step": int(done * 1e6), "total": 1000000, "time": time.time()}, file)
    os.replace(report + ".tmp", report)
    sys.exit(143)
"""


def sleeps(job: Job, folder: Path) -> Work:
    """The job as processes that sleep as long as its tasks' fastest modes say; if preemptible, as the chosen mode."""
    units = [
        tuple(Unit(f"{job.name}-{unit_name(task, m)}", _sleeper(task)) for m in range(task.array)) for task in job.tasks
    ]
    return Work(job, tuple(units), folder)


def _sleeper(task: Task) -> tuple[str, ...]:
    if not task.preemptible:
        return ("sleep", str(task.shortest))
    seconds = json.dumps({mode.gpus: mode.duration for mode in task.modes})
    return (sys.executable, "-I", "-S", "-c", _SLEEPER, seconds)


Plug = Callable[[Sequence[FakeGpu] | None], FakeNvml]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Gives the machine these GPUs, 8 cores and 64 GiB, or takes even the driver away."""

    def put(gpus: Sequence[FakeGpu] | None) -> FakeNvml:
        nvml = FakeNvml(gpus)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
        memory = SimpleNamespace(total=64 * 2**30, used=8 * 2**30)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        return nvml

    return put


class Execute(Protocol):
    """Runs a workflow given by the `tasks:` of its file, and returns what `run_workflow` does."""

    def __call__(self, tasks: str, **options: Any) -> RunResult: ...


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Workflow]:
    """Writes a whole workflow file, w.yaml in the current folder, and reads it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Workflow:
        file = Path("w.yaml")
        file.write_text(dedent(text).removeprefix("\n"))
        return load_workflow(file)

    return write


@pytest.fixture
def workflow(tmp_path: Path) -> Callable[[str], Workflow]:
    """Writes a workflow file named `flow`, given its `tasks:`, and reads it."""

    def write(tasks: str) -> Workflow:
        file = tmp_path / "flow.yaml"
        file.write_text("defaults: {gpus: 1, duration: 0.1}\ntasks:\n" + indent(dedent(tasks), "  "))
        return load_workflow(file)

    return write


@pytest.fixture
def execute(workflow: Callable[[str], Workflow]) -> Execute:
    """Runs a workflow on two CPU slots, first come, first served."""

    def run(tasks: str, **options: Any) -> RunResult:
        return run_workflow(workflow(tasks), first_fit, **{"slots": 2, "grace": 5.0, **options})

    return run


Drive = Callable[[Workflow], "subprocess.Popen[bytes]"]
_DRIVER = """
import sys
from pathlib import Path
from builders import first_fit
from queues import Start, Up, permit
from rlsched.executor.run import run_workflow
from rlsched.workflow import load_workflow
sys.exit(run_workflow(load_workflow(Path(sys.argv[1])), first_fit, slots=2, grace=5).exit_code)
"""


@pytest.fixture
def drive() -> Iterator[Drive]:
    """Starts a driver of its own for a workflow, as `execute` would, so that it can be killed."""
    drivers: list[subprocess.Popen[bytes]] = []
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

    def start(flow: Workflow) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _DRIVER, str(flow.file)]
        drivers.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.kill()
        driver.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts schedulers of a queue on the folder `state`; the last one is drained at the end, and no task waits on."""
    started: list[Up] = []

    def begin(policy: str = "fifo", slots: int = 2) -> Up:
        started.append(Up(tmp_path / "state", policy, slots))
        return started[-1]

    yield begin
    for folder in [folder for folder in tmp_path.iterdir() if folder.is_dir()]:
        permit(folder)
    if started:
        started[-1].request_nothing("drain")
    for up in started:
        up.join()


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is bound to happen."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it has not happened within a minute"
        time.sleep(0.01)


Mount = Callable[[Path], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Puts a small file system at a folder: a quarter of a megabyte."""
    mounted: list[Path] = []

    def put(folder: Path) -> None:
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr}")
        mounted.append(folder)

    yield put
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def appears(path: Path) -> None:
    """Wait until somebody has written the file."""
    until(lambda: path.exists() and bool(path.read_text()))


def is_gone(pid_file: Path) -> bool:
    """The process whose number is in the file has ended."""
    pid = int(pid_file.read_text())
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def as_started_by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No executor, no launcher, and SIGTERM handled as before."""
    for name in [name for name in os.environ if name.startswith("RLSCHED_")]:
        monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
