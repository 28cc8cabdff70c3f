"""Kill the driver of a workflow with SIGKILL at random moments, again and again, and look at what its tasks have done.

python -m rlsched.experiments.faults.kill_loop [--tasks 40] [--kills 100] [--seed 0]

Each task appends a line when it begins and one when it ends (O_APPEND, so that no line is lost), and makes its output
from those of the tasks it needs. Expected: each task began once and ended once, no two copies of one overlapped, and
the outputs equal those of a run that nobody disturbed. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

_DRIVER = """
import sys
from pathlib import Path
from rlsched.executor.run import run_workflow
from rlsched.policies.registry import load_policy
from rlsched.workflow import load_workflow
sys.exit(run_workflow(load_workflow(Path(sys.argv[1])), load_policy("fifo"), slots=2).exit_code)
"""


@dataclass(frozen=True)
class Report:
    """What came of a run.

    Attributes:
        kills: drivers killed.
        sessions: starts of a driver that got as far as the journal.
        adopted: tasks that a driver found running.
        faults: sentences about what should not be; empty: all is well.
    """

    kills: int
    sessions: int
    adopted: int
    faults: tuple[str, ...]


def write_workflow(folder: Path, tasks: int, seconds: float, seed: int) -> Path:
    """A random DAG of tasks that take `seconds` each on the average; returns its file."""
    luck = random.Random(seed)
    content: dict[str, object] = {}
    for number in range(tasks):
        needs = sorted(luck.sample(range(number), min(number, luck.choice([0, 1, 1, 2]))))
        inputs = [f"out/{need}" for need in needs]
        content[f"t{number}"] = {
            "run": f"echo begin {number} >> effects; sleep {luck.uniform(0.2, 1.8) * seconds:.3f}; "
            f"cat /dev/null {' '.join(inputs)} > out/{number}; echo {number} >> out/{number}; "
            f"echo end {number} >> effects",
            "inputs": inputs,
            "outputs": f"out/{number}",
            "gpus": 1,
            "duration": seconds,
        }
    folder.mkdir(parents=True)
    file = folder / "loop.yaml"
    file.write_text(yaml.safe_dump({"tasks": content}))
    return file


def run_and_kill(file: Path, kills: int, longest: float, seed: int) -> Report:
    """Start drivers and kill each up to `longest` seconds after its start; the last one may finish."""
    luck = random.Random(seed)
    run_dir = file.parent / "runs" / file.stem
    driver = subprocess.Popen([sys.executable, "-c", _DRIVER, file])
    done = 0
    while done < kills and driver.poll() is None:
        journal = run_dir / "journal.jsonl"
        size = journal.stat().st_size if journal.exists() else 0
        deadline = time.monotonic() + 60
        # One that is killed while it imports its modules shows nothing.
        while _is_silent(journal, size) and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(luck.uniform(0, longest))
        if driver.poll() is None:
            driver.kill()
            driver.wait()
            done += 1
            driver = subprocess.Popen([sys.executable, "-c", _DRIVER, file])
    code = driver.wait()
    journal_text = (run_dir / "journal.jsonl").read_text()
    faults = faults_of(file.parent)
    if done < kills:
        faults = (*faults, f"only {done} drivers were killed before the workflow had finished")
    if code:
        faults = (*faults, f"the last driver ended with exit code {code}")
    return Report(done, journal_text.count('"record":"begin"'), journal_text.count('"record":"adopt"'), faults)


def _is_silent(journal: Path, size: int) -> bool:
    """True while a journal has not grown beyond this size."""
    return not journal.exists() or journal.stat().st_size <= size


def faults_of(folder: Path) -> tuple[str, ...]:
    """What the tasks of a run did that they should not have done."""
    faults: list[str] = []
    begun: list[str] = []
    ended: list[str] = []
    for what, number in map(str.split, (folder / "effects").read_text().splitlines()):
        if what == "begin":
            if begun.count(number) > ended.count(number):
                faults.append(f"t{number} began while another copy of it ran")
            begun.append(number)
        else:
            ended.append(number)
    for number in sorted(set(begun) | set(ended)):
        if (begun.count(number), ended.count(number)) != (1, 1):
            faults.append(f"t{number} began {begun.count(number)} times and ended {ended.count(number)} times")
    return tuple(faults)


def outputs_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "out").iterdir() if path.is_file()}


def compare(folder: Path, tasks: int, kills: int, seconds: float, longest: float, seed: int) -> Report:
    """Run the same workflow with kills and without; differences are faults."""
    disturbed = write_workflow(folder / "disturbed", tasks, seconds, seed)
    undisturbed = write_workflow(folder / "undisturbed", tasks, 0.01, seed)
    report = run_and_kill(disturbed, kills, longest, seed)
    run_and_kill(undisturbed, 0, 0.0, seed)
    faults = list(report.faults)
    if outputs_of(disturbed.parent) != outputs_of(undisturbed.parent) or len(outputs_of(disturbed.parent)) != tasks:
        faults.append("the outputs differ from those of an undisturbed run")
    return Report(report.kills, report.sessions, report.adopted, tuple(faults))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0, help="mean time of a task")
    parser.add_argument("--longest", type=float, default=0.6, help="until a driver is killed, from its first record")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = compare(Path(folder), options.tasks, options.kills, options.seconds, options.longest, options.seed)
    print(f"{options.tasks} tasks, {report.kills} drivers killed, {report.sessions} sessions, ", end="")
    print(f"{report.adopted} adoptions, {time.monotonic() - start:.0f} s")
    for fault in report.faults:
        print(fault)
    if not report.faults:
        print("every task began once, ended once, and left what it leaves in an undisturbed run")
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
