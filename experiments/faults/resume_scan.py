"""How long it takes to open a run of many finished tasks again, and how much memory.

python -m rlsched.experiments.faults.resume_scan [--tasks 100000]

Measured in a process of its own, as `rlsched run` does it: opening the run directory (its journal is read, checked and
folded), finding out that nothing runs that the journal does not know, and that nothing is left to run. Expected for
100,000 tasks: under 2 s and 500 MB. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rlsched.collection import collecting_seldom
from rlsched.executor.adoption import settle
from rlsched.executor.claim import boot_id
from rlsched.executor.journal import seal
from rlsched.executor.resume import done_units
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.work import Unit, Work
from rlsched.model import Job, Mode, Task


def write_run(run_dir: Path, tasks: int) -> None:
    """The journal of a run in which every task has finished at the first attempt."""
    names = [f"t{number}" for number in range(tasks)]
    run_dir.mkdir()
    with (run_dir / "journal.jsonl").open("wb") as file:
        begin = {"record": "begin", "time": 1.8e9, "boot": boot_id(), "workflow": "w", "file": "w.yaml", "policy": "p"}
        file.write(seal({**begin, "nodes": [], "units": names, "kept": [], "predicted_makespan": 1.0}))
        for number, name in enumerate(names):
            moment = {"time": 1.8e9 + number, "at": float(number), "unit": name, "attempt": 1}
            start = {"digest": f"{number:016x}", "checkpoint": 1, "mode": 0, "devices": [f"cpu:{number % 8}"]}
            end = {"ending": "finished", "cause": None, "reason": "", "ended": 1.8e9 + number + 1}
            file.write(seal({"record": "start", **moment, **start}))
            file.write(seal({"record": "end", **moment, **end, "code": 0, "killed": False, "strays": 0}))
        file.write(seal({"record": "close", "time": 2e9, "state": "completed", "reason": "", "makespan": 1.0}))


@collecting_seldom()
def scan(run_dir: Path, tasks: int) -> None:
    """Open the run and look for what is left, in chains of 25 tasks."""
    job = Job("w", tuple(Task(f"t{n}", (Mode(1.0),), (f"t{n - 1}",) if n % 25 else ()) for n in range(tasks)))
    units = tuple(
        (Unit(task.name, ("true",), digest=f"{n:016x}", needs=task.needs),) for n, task in enumerate(job.tasks)
    )
    work = Work(job, units, run_dir)
    start, spent = time.perf_counter(), time.process_time()
    directory = RunDirectory(run_dir)
    opened = time.perf_counter()
    assert not settle(work, directory)
    done = done_units(work, directory.history)
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert len(done) == tasks
    print(f"{tasks} tasks: opened in {opened - start:.2f} s, nothing left found in {end - opened:.2f} s more, ", end="")
    print(
        f"{time.process_time() - spent:.2f} s of CPU; {peak:.0f} MB at the most, of which the workflow itself is a part"
    )
    sys.exit(end - start > 2 or peak > 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--scan", type=Path, help="an existing run of so many tasks")
    options = parser.parse_args()
    if options.scan:
        scan(options.scan, options.tasks)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        write_run(run_dir, options.tasks)
        command = [sys.executable, "-m", __spec__.name, "--scan", str(run_dir), "--tasks", str(options.tasks)]
        sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
