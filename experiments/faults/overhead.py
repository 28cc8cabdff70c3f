"""What the executor adds to tasks that do nothing, beside a bare loop that is as careful about its records.

python -m rlsched.experiments.faults.overhead [--tasks 500] [--chains 20]

Both run the same no-op shell tasks in chains, two at a time, each with a log of its own. The loop starts them with
Popen and appends two fsynced records a task, one before its start and one after its end; it knows no devices, no
policies and no adoption. Expected: the executor takes at most 1.5 times as long.

Folders are removed at the very end: ext4 without a journal is slow to make files for minutes after others were removed.
"""

from __future__ import annotations

import argparse
import os
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--chains", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of both, in turns; the median of each counts")
    options = parser.parse_args()
    times: dict[str, list[float]] = {"loop": [], "executor": []}
    with tempfile.TemporaryDirectory() as parent:
        for turn in range(options.rounds):
            for name, measure in (("loop", bare_loop), ("executor", executor)):
                folder = Path(parent) / f"{name}{turn}"
                folder.mkdir()
                times[name].append(measure(folder, options.tasks, options.chains))
    loop, ours = (sorted(values)[len(values) // 2] for values in times.values())
    print(f"{options.tasks} tasks in {options.chains} chains, two at a time: ", end="")
    print(f"loop {loop:.2f} s, executor {ours:.2f} s, ratio {ours / loop:.2f}")
    sys.exit(ours > 1.5 * loop)


if __name__ == "__main__":
    main()
