"""Python tasks that are forked from a process which has imported what they need, and are tasks like any others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import psutil
import pytest
from conftest import Drive, Execute, appears, is_gone, until

from rlsched.executor import warm
from rlsched.executor.handover import Beginning
from rlsched.executor.preload import heavy_imports
from rlsched.executor.run import RunResult
from rlsched.executor.status import RunState, UnitState, UnitStatus, read_status
from rlsched.workflow import Workflow

# Knows which process has imported it; the forkserver also says so in a file.
HEAVY = """
import os
from pathlib import Path
PID = os.getpid()
THREADS = os.environ.get("OMP_NUM_THREADS")
if "RLSCHED_TASK" not in os.environ:
    Path("imported").write_text(str(PID))
"""
STEPS = """
import atexit, os, random, signal, subprocess, sys, time
from pathlib import Path
import heavy

def tell(**arguments):
    print(heavy.PID != os.getpid(), os.getsid(0) == os.getpid(), sys.stdin.read(), sys.argv[1:], sep="|")
    told = (os.environ.get(name) for name in ("RLSCHED_TASK", "CUDA_VISIBLE_DEVICES", "OWN"))
    print(heavy.THREADS, *told, os.getcwd(), sep="|")
    print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), sorted(map(int, os.listdir("/proc/self/fd")))[:3], sep="|")
    atexit.register(print, "bye")
def draw():
    import numpy
    print(random.random(), numpy.random.random())
def fail(): raise KeyError("oops")
def leave(code): sys.exit(code)
def die(): os.kill(os.getpid(), signal.SIGTERM)
def stray():
    alive = "while :; do date +%s%N > alive; sleep 0.05; done"
    child = subprocess.Popen(["bash", "-c", alive], env={"PATH": os.environ["PATH"]}, start_new_session=True)
    Path("stray").write_text(str(child.pid))
def wait():
    with open("effects", "a") as file: file.write("begin\\n")
    Path("launcher").write_text(str(os.getppid()))
    if os.environ["RLSCHED_ATTEMPT"] == "1":
        child = os.fork()
        if child == 0: time.sleep(600)
        Path("child").write_text(str(child))
    Path("warm").write_text(str(heavy.PID != os.getpid()))
    Path("pid").write_text(str(os.getpid()))
    while not Path("permission").exists(): time.sleep(0.02)
    with open("effects", "a") as file: file.write("end\\n")
    os._exit(0)
"""
# Ends when the forkserver has nothing left to do but wait.
READY = (
    "for i in $(seq 300); do sleep 0.05; "
    "test -s imported && grep -q 'State:.S' /proc/$(cat imported)/status && break; done; sleep 0.3"
)
GATE = f'gate: {{run: "{READY}"}}\n'
TASK = "{0}: {{python: 'steps:{0}', preload: [heavy], needs: {1}, {2}}}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """The folder of the workflow, with the modules of its tasks."""
    (tmp_path / "heavy.py").write_text(HEAVY)
    (tmp_path / "steps.py").write_text(STEPS)
    return tmp_path


def tasks(*functions: str, **more: str) -> str:
    """A gate, and a task for each function, named as it is; `more` has what else it needs, and its further fields."""
    return GATE + "".join(TASK.format(name, *more.get(name, "gate").partition(",")[::2]) for name in functions)


def units(result: RunResult) -> dict[str, UnitStatus]:
    return {unit.name: unit for unit in result.status.units}


def output(unit: UnitStatus) -> str:
    return "" if unit.log is None else unit.log.read_text()


def test_a_forked_task_meets_what_an_executed_one_does(
    execute: Execute, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Session, standard input, arguments, environment, also when it imports, folder, signal mask, and its end."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    result = execute(
        GATE
        + """
        warm: {python: "steps:tell", args: {a: [1]}, preload: [heavy], env: {OWN: mine}, needs: gate}
        cold: {python: "steps:tell", args: {a: [1]}, preload: [], env: {OWN: mine}, needs: gate}
        other: {python: "steps:draw", preload: [heavy], env: {OWN: mine}, needs: gate}
        """.replace("\n        ", "\n")
    )
    found = units(result)
    assert [found[name].beginning for name in ("gate", "warm", "cold")] == ["command", "warm", "cold"]
    assert output(found["cold"]).startswith("False|True||['steps:tell', '{\"a\": [1]}']\n1|cold||mine|")
    assert output(found["cold"]).endswith(f"|{folder}\n0|[0, 1, 2]\nbye\n".replace("|", "|", 1))
    expected = output(found["cold"]).replace("False", "True", 1).replace("|cold|", "|warm|")
    assert output(found["warm"]) == expected
    assert result.exit_code == 0


def test_the_gap_between_two_tasks_is_measured(execute: Execute) -> None:
    """For each start on a device that another task had before, by how it was begun."""
    result = execute(tasks("draw", "leave", leave="draw, args: {code: 0}"), slots=1)
    assert {kind: gaps.count for kind, gaps in result.status.handovers.items()} == {"warm": 2}
    found = units(result)
    assert found["gate"].handover is None
    gaps = [found[name].handover for name in ("draw", "leave")]
    assert all(gap is not None and 0 < gap < 60 for gap in gaps)
    assert result.status.handovers["warm"].longest == max(gap for gap in gaps if gap is not None)
    ends = [found[name].end for name in ("gate", "draw")]
    assert ends == sorted(end for end in ends if end is not None)
    assert read_status(result.status.run_dir) == result.status


def test_how_a_forked_task_ends_is_known(execute: Execute, folder: Path) -> None:
    """An exception with its traceback, an exit code, a signal; and whatever it leaves behind is ended."""
    result = execute(tasks("fail", "leave", "die", "stray", leave="gate, args: {code: 7}"))
    found = units(result)
    assert {unit.beginning for name, unit in found.items() if name != "gate"} == {Beginning.WARM}
    reasons = {name: unit.reason for name, unit in found.items()}
    assert reasons == {
        "gate": "",
        "fail": "exit code 1",
        "leave": "exit code 7",
        "die": "killed by SIGTERM",
        "stray": "",
    }
    assert output(found["fail"]).endswith("KeyError: 'oops'\n")
    assert is_gone(folder / "stray")


def test_forked_tasks_draw_different_numbers(execute: Execute) -> None:
    """As processes of their own do; numpy's generator would be the same in each of them."""
    result = execute(tasks("draw", draw="gate, array: 2").replace("[heavy]", "[numpy, heavy]"))
    assert {unit.beginning for unit in result.status.units[1:]} == {Beginning.WARM}
    first, second = (output(unit) for unit in result.status.units[1:])
    assert not set(first.split()) & set(second.split())


@pytest.mark.parametrize("killed", [("pid",), ("launcher",), ("launcher", "pid")], ids="+".join)
def test_a_forked_task_that_is_killed_leaves_nothing(killed: tuple[str, ...], execute: Execute, folder: Path) -> None:
    """Nor does one whose launcher is: the task and what it has forked are found by the environment they were given."""

    def observe(now: float, what: object) -> None:
        if (folder / "permission").exists():
            gone.append(is_gone(folder / "first") and is_gone(folder / "child"))

    gone: list[bool] = []

    def assassinate() -> None:
        appears(folder / "pid")
        (folder / "first").write_text((folder / "pid").read_text())
        (folder / "permission").touch()
        for name in killed:
            os.kill(int((folder / name).read_text()), signal.SIGKILL)

    thread = Thread(target=assassinate)
    thread.start()
    lasting = STEPS.replace(
        'while not Path("permission")', 'while os.environ["RLSCHED_ATTEMPT"] == "1" or not Path("permission")'
    )
    (folder / "steps.py").write_text(lasting)
    result = execute(tasks("wait", "draw", wait="gate, retries: 1"), observe=observe)
    thread.join()
    assert (folder / "warm").read_text() == "True"
    assert (units(result)["wait"].state, units(result)["wait"].attempts) == (UnitState.FINISHED, 2)
    assert gone[-1]
    assert (folder / "effects").read_text() == "begin\nbegin\nend\n"


def test_a_forked_task_outlives_its_driver_and_is_adopted(
    workflow: Callable[[str], Workflow], drive: Drive, execute: Execute, folder: Path
) -> None:
    """The process that it was forked from ends with the driver, and the task does not mind."""
    text = tasks("wait", "draw")
    driver = drive(workflow(text))
    appears(folder / "pid")
    driver.kill()
    driver.wait()
    until(lambda: is_gone(folder / "imported"))
    status = read_status(folder / "runs" / "flow")
    assert (status.state, status.units[1].state) == (RunState.ABANDONED, UnitState.RUNNING)
    (folder / "permission").touch()
    result = execute(text)
    assert (result.exit_code, units(result)["wait"].attempts) == (0, 1)
    assert units(result)["wait"].beginning is Beginning.WARM
    assert (folder / "effects").read_text() == "begin\nend\n"


def test_tasks_start_all_the_same_when_the_process_they_are_forked_from_was_killed(
    execute: Execute, folder: Path
) -> None:
    """Those that it has forked are not concerned, and another one takes its place."""
    text = (
        tasks("wait", "draw", draw="killer")
        + 'killer: {run: "until test -s pid; do sleep 0.02; done; mv imported old; kill -9 $(cat old)", needs: gate}\n'
        + "late: {python: 'steps:draw', preload: [heavy], needs: again}\n"
        + f'again: {{run: "touch permission; {READY}", needs: draw}}\n'
    )
    found = units(execute(text))
    assert [found[name].beginning for name in ("wait", "draw", "late")] == ["warm", "cold", "warm"]
    assert {(unit.state, unit.attempts) for unit in found.values()} == {(UnitState.FINISHED, 1)}


def test_a_task_starts_cold_when_the_process_it_would_be_forked_from_hangs(
    execute: Execute, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt is used up, but none of its retries; the hanging one has not been told what to start."""
    monkeypatch.setattr(warm, "_PATIENCE", 0.3)
    text = tasks("draw", "leave", draw="stop", leave="draw, args: {code: 0}")
    found = units(execute(text + 'stop: {run: "kill -STOP $(cat imported)", needs: gate}\n'))
    assert (found["draw"].beginning, found["draw"].attempts) == (Beginning.COLD, 2)
    assert found["leave"].state is UnitState.FINISHED
    assert is_gone(folder / "imported")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('not here')", "ImportError: not here"),
        ("import threading; threading.Thread(target=lambda: time.sleep(60), daemon=True).start()", "started threads"),
    ],
)
def test_imports_that_do_not_bear_a_fork_are_left_to_the_task(
    code: str, reason: str, execute: Execute, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It starts cold; that and the reason are said, once."""
    module = f"import os, time\nif 'RLSCHED_TASK' not in os.environ:\n    {code}\nPID = 0\n"
    (folder / "heavy.py").write_text(module)
    gate = 'gate: {run: "until test -s runs/flow/forkserver.log; do sleep 0.02; done; sleep 0.5"}\n'
    result = execute(tasks("draw", "leave", leave="draw, args: {code: 0}").replace(GATE, gate))
    assert [units(result)[name].beginning for name in ("draw", "leave")] == [Beginning.COLD] * 2
    assert reason in (folder / "runs" / "flow" / "forkserver.log").read_text()
    assert caplog.text.count("tasks cannot be started with heavy imported") == 1


@pytest.mark.parametrize(("answer", "beginning"), [(3, Beginning.WARM), (0, Beginning.COLD)])
def test_loading_the_driver_of_cuda_bears_a_fork_and_initialising_it_does_not(
    answer: int, beginning: Beginning, execute: Execute, folder: Path
) -> None:
    """Builds of torch for CUDA load it when they are imported. A stand-in answers 3 for "not yet"."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to make a stand-in for the driver's library with")
    library = folder / "libcuda.so.1"
    source = f"int cuDeviceGetCount(int *count) {{ return {answer}; }}"
    command = ["cc", "-shared", "-Wl,-soname,libcuda.so.1", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=source.encode(), check=True)
    (folder / "heavy.py").write_text(f"import ctypes\nctypes.CDLL({str(library)!r})\n" + HEAVY)
    gate = 'gate: {run: "until test -s imported; do sleep 0.02; done; sleep 0.5"}\n'
    result = execute(tasks("draw", "leave", leave="draw, args: {code: 0}").replace(GATE, gate))
    assert [units(result)[name].beginning for name in ("draw", "leave")] == [beginning] * 2
    log = folder / "runs" / "flow" / "forkserver.log"
    assert ("initialised CUDA" in log.read_text()) == (beginning is Beginning.COLD)


def test_nothing_is_left_of_the_processes_that_start_tasks(execute: Execute, folder: Path) -> None:
    """When the run ends, so do they; also one that has not got ready yet."""
    (folder / "slow.py").write_text("import os, time\nif 'RLSCHED_TASK' not in os.environ: time.sleep(600)\n")
    before = set(psutil.Process().children())  # those of other tests
    execute(
        tasks("draw", "leave", leave="gate, args: {code: 0}")
        .replace("[heavy]", "[slow]")
        .replace(GATE, "gate: {run: 'true'}\n")
    )
    assert [p for p in psutil.Process().children() if p not in before and p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(
    ("files", "module", "expected"),
    [
        ({"m.py": "import torch"}, "m", ("torch",)),
        ({"m.py": "def f():\n    from torch.nn import Linear"}, "m", ("torch",)),
        ({"m.py": "import torchvision, torch_geometric\nfrom . import torch"}, "m", ()),
        ({"p/__init__.py": "raise SystemExit", "p/q.py": "import os, torch as t"}, "p.q", ("torch",)),
        ({"p/__init__.py": "import torch"}, "p", ("torch",)),
        ({"m.py": "import torch as"}, "m", ()),
        ({}, "no_such_module", ()),
        ({}, "no_such.module", ()),
        ({}, "math", ()),
        ({}, "rlsched.policies.network", ("torch",)),
    ],
)
def test_what_a_module_imports_is_read_and_not_run(
    files: dict[str, str], module: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    """Wherever in it the import stands; a module that cannot be found or read is left to its own start."""
    for name, text in files.items():
        path = tmp_path / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert heavy_imports(module, tmp_path / "modules") == expected
