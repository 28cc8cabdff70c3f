"""Kill the scheduler of a queue with SIGKILL again and again while two clients submit workflows to it.

python -m rlsched.experiments.faults.queue_kill [--jobs 20] [--kills 10] [--seed 0]

Each client submits half of the workflows over time, each under an id of its own, and again until it is acknowledged. A
scheduler that was killed is started again on the same folder. The tasks append to a file of their workflow when they
begin and when they end, and make their outputs from those of the tasks they need. Expected: every job that was
acknowledged ends, and none is there twice; each task began once and ended once, no two copies of one overlapped. Exit
code 1 if not.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from rlsched.experiments.faults.kill_loop import faults_of, outputs_of, write_workflow
from rlsched.queue.address import unix_address
from rlsched.queue.client import Client, LostSchedulerError, NoSchedulerError
from rlsched.queue.protocol import Message
from rlsched.queue.submission import plain_workflow
from rlsched.workflow import load_workflow

_UP = [sys.executable, "-m", "rlsched", "up", "--policy", "sjf", "--slots", "2", "--state"]
_LONGEST = 600.0  # seconds until a queue that makes no progress is given up


@dataclass(frozen=True)
class Report:
    """What came of a queue.

    Attributes:
        kills: schedulers killed.
        adopted: tasks that a scheduler found running.
        again: submissions whose acknowledgement was lost, or that found no scheduler.
        faults: sentences about what should not be; empty: all is well.
    """

    kills: int
    adopted: int
    again: int
    faults: tuple[str, ...]


class _Submitter(threading.Thread):
    """A client: submits its workflows one after the other, and each again until it is acknowledged."""

    def __init__(self, socket: Path, files: list[Path], gap: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged: dict[str, int] = {}
        self.again = 0
        self._socket, self._files, self._gap, self._luck = socket, files, gap, random.Random(seed)

    def run(self) -> None:
        for file in self._files:
            time.sleep(self._luck.uniform(0, 2 * self._gap))
            key = file.parent.name
            message = {"request": "submit", "id": key, "name": key, "workflow": plain_workflow(load_workflow(file))}
            deadline = time.monotonic() + _LONGEST
            while key not in self.acknowledged and time.monotonic() < deadline:
                try:
                    with Client(unix_address(self._socket), patience=0.0) as client:
                        self.acknowledged[key] = client.request(message)["job"]
                except (NoSchedulerError, LostSchedulerError):
                    self.again += 1
                    time.sleep(0.05)


def run_and_kill(folder: Path, jobs: int, tasks: int, kills: int, seconds: float, gap: float, seed: int) -> Report:
    """Submit workflows to a queue, and kill its scheduler at random moments, the more often the more has arrived."""
    files = [write_workflow(folder / f"job{number}", tasks, seconds, seed + number) for number in range(jobs)]
    state = folder / "state"
    clients = [_Submitter(state / "socket", files[half::2], gap, seed + half) for half in range(2)]
    with (folder / "up.log").open("ab") as log:
        schedulers = [_start(state, log)]
        try:
            for client in clients:
                client.start()
            done, faults = _kill(
                schedulers, state, log, [n * jobs * tasks // (kills + 1) for n in range(kills)], seconds, seed
            )
            for client in clients:
                client.join()
            answer = _wait(state / "socket", partial(_has_ended, jobs))
        finally:
            schedulers[-1].terminate()
            schedulers[-1].wait()
    if answer is None:
        faults.append("not every job has ended")
    else:
        faults += _faults_of_queue(answer, clients, jobs)
    for file in files:
        faults += (f"{file.parent.name}: {fault}" for fault in faults_of(file.parent))
        if len(outputs_of(file.parent)) != tasks:
            faults.append(f"{file.parent.name}: expected {tasks} outputs, found {len(outputs_of(file.parent))}")
    journals = [path.read_text() for path in state.glob("jobs/*/journal.jsonl")]
    adopted = sum(text.count('"record":"adopt"') for text in journals)
    return Report(done, adopted, sum(client.again for client in clients), tuple(faults))


def _start(state: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*_UP, str(state)], stderr=log)


def _kill(
    schedulers: list[subprocess.Popen[bytes]],
    state: Path,
    log: IO[bytes],
    moments: list[int],
    longest: float,
    seed: int,
) -> tuple[int, list[str]]:
    """Kill the last scheduler whenever so many tasks have finished, up to `longest` seconds later, and start another.

    One that is killed while it imports its modules shows nothing, so each of them has to answer first.
    """
    luck = random.Random(seed)
    for number, tasks in enumerate(moments):
        if _wait(state / "socket", partial(_has_done, tasks)) is None:
            return number, ["the queue makes no progress"]
        time.sleep(luck.uniform(0, longest))
        schedulers[-1].kill()
        schedulers[-1].wait()
        schedulers.append(_start(state, log))
    return len(moments), []


def _wait(socket: Path, condition: Callable[[Message], bool]) -> Message | None:
    """The queue's answer once it fulfils a condition; None if it does not in time."""
    deadline = time.monotonic() + _LONGEST
    while time.monotonic() < deadline:
        try:
            with Client(unix_address(socket), patience=0.0) as client:
                answer = client.request({"request": "queue"})
        except (NoSchedulerError, LostSchedulerError):
            answer = None
        if answer is not None and condition(answer):
            return answer
        time.sleep(0.05)
    return None


def _has_done(tasks: int, answer: Message) -> bool:
    return sum(int(job["done"]) for job in answer["jobs"]) >= tasks


def _has_ended(jobs: int, answer: Message) -> bool:
    return len(answer["jobs"]) == jobs and all(job["ended"] is not None for job in answer["jobs"])


def _faults_of_queue(answer: Message, clients: list[_Submitter], jobs: int) -> list[str]:
    listed_jobs = answer["jobs"]
    unfinished = [job for job in listed_jobs if job["done"] < job["total"]]
    faults = [f"job {job['job']} is {job['state']}: {job['reason']}" for job in unfinished]
    names = [job["name"] for job in listed_jobs]
    faults += [f"{name} is there {names.count(name)} times" for name in set(names) if names.count(name) > 1]
    listed = {job["name"]: job["job"] for job in listed_jobs}
    acknowledged = {key: number for client in clients for key, number in client.acknowledged.items()}
    if acknowledged != listed or len(listed) != jobs:
        faults.append(f"acknowledged were {acknowledged}, in the queue are {listed}")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=5, help="of each workflow")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0, help="mean time of a task")
    parser.add_argument("--gap", type=float, default=10.0, help="mean time between two submissions of a client")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = run_and_kill(
            Path(folder), options.jobs, options.tasks, options.kills, options.seconds, options.gap, options.seed
        )
    print(
        f"{options.jobs} workflows of {options.tasks} tasks from two clients, {report.kills} schedulers killed, ",
        end="",
    )
    print(f"{report.adopted} adoptions, {report.again} submissions made again, {time.monotonic() - start:.0f} s")
    for fault in report.faults:
        print(fault)
    if not report.faults:
        print("every job has ended and is there once; every task began once and ended once")
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
