"""What the executor adds to tasks that do nothing, beside a bare loop that is as careful about its records.

python -m rlsched.experiments.faults.overhead [--tasks 500] [--chains 20] [--rounds 9] [--times 7]

Both run the same no-op shell tasks in chains, two at a time, each with a log of its own. The loop starts them with
Popen and appends two fsynced records a task, one before its start and one after its end; it knows no devices, no
policies and no adoption. Expected: the executor takes at most 1.5 times as long.

Folders are removed at the very end: ext4 without a journal is slow to make files for minutes after others were removed,
and the executor makes three a task where the loop makes one. So wait for six minutes before the next measurement there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from rlsched.executor.run import run_workflow
from rlsched.policies.registry import load_policy
from rlsched.workflow import load_workflow

_COMMAND = "true"


def bare_loop(folder: Path, tasks: int, chains: int) -> float:
    """Seconds that the bare loop takes."""
    start = time.perf_counter()
    waiting = [[f"c{chain}-{link}" for link in reversed(range(tasks // chains))] for chain in range(chains)]
    running: dict[int, tuple[str, list[str], subprocess.Popen[bytes]]] = {}
    with (folder / "journal").open("ab", buffering=0) as journal:

        def record(what: str, name: str) -> None:
            journal.write(f"{what} {name}\n".encode())
            os.fsync(journal.fileno())

        while waiting or running:
            while waiting and len(running) < 2:
                chain = waiting.pop(0)
                name = chain.pop()
                record("start", name)
                with (folder / f"{name}.log").open("ab") as log:
                    command = ["bash", "-eo", "pipefail", "-c", _COMMAND]
                    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                running[process.pid] = (name, chain, process)
            pid, _ = os.wait()
            name, chain, process = running.pop(pid)
            process.returncode = 0
            record("end", name)
            if chain:
                waiting.append(chain)
    return time.perf_counter() - start


def write_workflow(folder: Path, tasks: int, chains: int) -> Path:
    """The same tasks as a workflow; returns its file."""
    content = {
        f"c{chain}-{link}": {"run": _COMMAND, "gpus": 1, "needs": [f"c{chain}-{link - 1}"] if link else []}
        for chain in range(chains)
        for link in range(tasks // chains)
    }
    file = folder / "flow.yaml"
    file.write_text(yaml.safe_dump({"tasks": content}))
    return file


def executor(folder: Path, tasks: int, chains: int) -> float:
    """Seconds that a run by the executor takes, without reading the workflow file."""
    workflow, policy = load_workflow(write_workflow(folder, tasks, chains)), load_policy("fifo")
    start = time.perf_counter()
    result = run_workflow(workflow, policy, slots=2)
    assert result.exit_code == 0
    return time.perf_counter() - start


def measure(parent: Path, tasks: int, chains: int, rounds: int) -> tuple[float, float]:
    """Median seconds of the loop and of the executor, in turns."""
    times: dict[str, list[float]] = {"loop": [], "executor": []}
    for turn in range(rounds):
        for name, run in (("loop", bare_loop), ("executor", executor)):
            folder = parent / f"{name}{turn}"
            folder.mkdir()
            times[name].append(run(folder, tasks, chains))
    return statistics.median(times["loop"]), statistics.median(times["executor"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--chains", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of both, in turns; the median of each counts")
    parser.add_argument("--times", type=int, default=1, help="so many measurements; the median ratio counts")
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as parent:
        for number in range(options.times):
            folder = Path(parent) / str(number)
            folder.mkdir()
            loop, ours = measure(folder, options.tasks, options.chains, options.rounds)
            ratios.append(ours / loop)
            print(f"{options.tasks} tasks in {options.chains} chains, two at a time: ", end="")
            print(f"loop {loop:.2f} s, executor {ours:.2f} s, ratio {ratios[-1]:.2f}", flush=True)
    if options.times > 1:
        print(f"median ratio {statistics.median(ratios):.2f}")
    sys.exit(statistics.median(ratios) > 1.5)


if __name__ == "__main__":
    main()
