"""The same arrivals under several policies: mean JCT of a real queue, beside what the simulator predicts.

python -m rlsched.experiments.queue_jct [--policies fifo,sjf,runs/het16] [--jobs 20] [--arrivals arrivals.json]

Jobs are drawn once and kept in a file, as tasks that sleep for as long as they are estimated to. For every policy a
scheduler of its own is started (`rlsched up`), a client submits each job at its time, and the JCT is what the queue
says: end less submission. The simulator plays the same jobs, released at the times of the file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rlsched.executor.devices import local_machine
from rlsched.policies.registry import load_policy
from rlsched.queue.address import UnixAddress, unix_address
from rlsched.queue.client import Client, NoSchedulerError
from rlsched.queue.protocol import Message
from rlsched.queue.submission import plain_environment, plain_workflow
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator
from rlsched.workflow import Workflow, load_workflow

_KINDS = ((1.0, 0.6), (2.0, 0.3), (6.0, 0.1))  # mean seconds of a job's tasks, and how often there are such jobs
_LONGEST = 1800.0


@dataclass(frozen=True)
class Outcome:
    """Mean JCT under a policy, seconds: as measured, and as predicted."""

    policy: str
    real: float
    predicted: float

    @property
    def error(self) -> float:
        """Part by which the prediction is off."""
        return self.predicted / self.real - 1


def draw_arrivals(jobs: int, load: float, slots: int, seed: int) -> list[dict[str, Any]]:
    """Jobs with their times of arrival: chains and forks of one to five tasks, most of them short.

    Args:
        load: work that arrives relative to what the slots can do meanwhile.
    """
    luck = random.Random(seed)
    arrivals: list[dict[str, Any]] = []
    for _ in range(jobs):
        mean = luck.choices([seconds for seconds, _ in _KINDS], [share for _, share in _KINDS])[0]
        tasks = []
        for number in range(luck.randint(1, 5)):
            needs = [luck.randrange(number)] if number and luck.random() < 0.7 else []
            tasks.append({"seconds": round(mean * luck.uniform(0.5, 1.5), 2), "needs": needs})
        arrivals.append({"tasks": tasks})
    work = sum(task["seconds"] for arrival in arrivals for task in arrival["tasks"])
    gap, now = work / (load * slots * jobs), 0.0
    for arrival in arrivals:
        arrival["time"] = round(now, 2)
        now += luck.expovariate(1 / gap)
    return arrivals


def write_workflows(arrivals: Sequence[dict[str, Any]], folder: Path) -> list[Workflow]:
    """The jobs as workflows of tasks that sleep."""
    workflows = []
    for number, arrival in enumerate(arrivals):
        tasks = {
            f"t{index}": {
                "run": f"sleep {task['seconds']}",
                "gpus": 1,
                "duration": task["seconds"],
                "needs": [f"t{need}" for need in task["needs"]],
            }
            for index, task in enumerate(arrival["tasks"])
        }
        file = folder / f"job{number}.yaml"
        file.write_text(yaml.safe_dump({"tasks": tasks}))
        workflows.append(load_workflow(file))
    return workflows


def predicted_jct(arrivals: Sequence[dict[str, Any]], workflows: Sequence[Workflow], policy: str, slots: int) -> float:
    """Mean JCT in simulation, seconds."""
    pairs = zip(arrivals, workflows, strict=True)
    jobs = [replace(workflow.job, release=arrival["time"]) for arrival, workflow in pairs]
    schedule = Scheduler(Simulator(local_machine(slots).cluster, jobs)).run(load_policy(policy))
    return schedule.metrics()["mean_jct"]


def real_jct(
    arrivals: Sequence[dict[str, Any]], workflows: Sequence[Workflow], policy: str, slots: int, state: Path
) -> float:
    """Mean JCT of a queue, seconds.

    Raises:
        RuntimeError: a job did not complete, or the scheduler does not answer.
    """
    command = [sys.executable, "-m", "rlsched", "up", "--policy", policy, "--slots", str(slots), "--state", str(state)]
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    address = unix_address(state / "socket")
    try:
        _wait_for(address)
        with Client(address) as client:
            start = time.monotonic()
            for arrival, workflow in zip(arrivals, workflows, strict=True):
                time.sleep(max(0.0, start + arrival["time"] - time.monotonic()))
                about = {"workflow": plain_workflow(workflow), "environment": plain_environment(os.environ)}
                client.request({"request": "submit", "id": workflow.name, **about})
            jobs = _wait_for_ends(client, len(workflows))
            client.request({"request": "drain"})
        scheduler.wait()
    finally:
        scheduler.terminate()
        scheduler.wait()
    return float(sum(job["ended"] - job["submitted"] for job in jobs)) / len(jobs)


def compare(arrivals: Sequence[dict[str, Any]], policies: Sequence[str], slots: int, folder: Path) -> list[Outcome]:
    """Real and predicted mean JCT under each policy."""
    outcomes = []
    for number, policy in enumerate(policies):
        place = folder / str(number)
        place.mkdir()
        workflows = write_workflows(arrivals, place)
        predicted = predicted_jct(arrivals, workflows, policy, slots)
        outcomes.append(Outcome(policy, real_jct(arrivals, workflows, policy, slots, place / "state"), predicted))
    return outcomes


def _wait_for(address: UnixAddress) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with Client(address) as client:
                client.request({"request": "queue"})
            return
        except NoSchedulerError:
            time.sleep(0.1)
    raise RuntimeError(f"no scheduler has come up at {address}")


def _wait_for_ends(client: Client, jobs: int) -> list[Message]:
    deadline = time.monotonic() + _LONGEST
    while time.monotonic() < deadline:
        found: list[Message] = client.request({"request": "queue"})["jobs"]
        if len(found) == jobs and all(job["ended"] is not None for job in found):
            if failed := [job for job in found if job["state"] != "completed"]:
                raise RuntimeError(f"job {failed[0]['name']} is {failed[0]['state']}: {failed[0]['reason']}")
            return found
        time.sleep(0.2)
    raise RuntimeError("the jobs do not end")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--policies", default="fifo,sjf", help="names and files, separated by commas")
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--load", type=float, default=0.9)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arrivals", type=Path, help="where they are kept; drawn if the file is not there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.arrivals or Path(folder, "arrivals.json")
        if not file.exists():
            drawn = draw_arrivals(options.jobs, options.load, options.slots, options.seed)
            file.write_text(json.dumps(drawn, indent=1) + "\n")
        arrivals = json.loads(file.read_text())
        outcomes = compare(arrivals, options.policies.split(","), options.slots, Path(folder))
    print(f"{len(arrivals)} jobs in {arrivals[-1]['time']:.0f} s on {options.slots} slots; mean JCT, seconds")
    print(f"{'policy':30} {'real':>8} {'predicted':>10} {'error':>7}")
    for outcome in outcomes:
        print(f"{outcome.policy:30} {outcome.real:8.2f} {outcome.predicted:10.2f} {outcome.error:+7.1%}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
