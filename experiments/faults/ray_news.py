"""Run the news workflow on three Ray nodes, kill one in the middle of a training, and look at what comes of it.

python -m rlsched.experiments.faults.ray_news [--folder DIR] [--train 400] [--json]

The three nodes are raylets of one CPU each on this machine. Once a training on the second node has reported progress,
that node is killed. Expected: the workflow finishes; what had finished before is not run again; of the tasks that were
running, those on the lost node alone begin another attempt, and none of their processes is left by then; every task has
one attempt that finished; the models that come out are, to the last digit, those of a run that nobody disturbs.

Then one evaluation is taken away, the driver of the next session is killed with SIGKILL while it is made again, and the
local backend goes on with the same directory: it adopts what runs, and finishes. Exit code 1 if anything of it fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import rlsched.experiments
from rlsched import progress
from rlsched.executor.journal import fold
from rlsched.executor.paths import attempt_paths
from rlsched.executor.process import runs

_DOOMED = "b"
_LONGEST = 3600.0  # seconds that a session may take
_NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}


@dataclass
class Report:
    """What came of it.

    Attributes:
        seconds: of the session on Ray.
        lost: the attempts that the killed node had, and how far the trainings among them were.
        kept: tasks that had finished when it was killed.
        accuracy: of the selected model on documents that were held out.
        adopted: tasks that the local backend found running.
        faults: sentences about what should not be; empty: all is well.
    """

    seconds: float = 0.0
    lost: dict[str, float] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    accuracy: float | None = None
    adopted: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def check(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)


def write_workflow(folder: Path, documents: int) -> Path:
    """The news workflow in a folder of its own, on so many training documents."""
    source = Path(rlsched.experiments.__path__[0]) / "workflows" / "news.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "news.yaml"
    file.write_text(source.read_text().replace("--train 400 ", f"--train {documents} "))
    return file


def run(file: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rlsched", "run", str(file), "--policy", "critical-path", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


class Journal:
    """The records of a run so far."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.records: list[Mapping[str, Any]] = []
        if (run_dir / "journal.jsonl").exists():
            fold(run_dir / "journal.jsonl", self.records.append)

    def ends(self, ending: str) -> list[Mapping[str, Any]]:
        return [record for record in self.records if record["record"] == "end" and record["ending"] == ending]

    def running(self) -> dict[str, Mapping[str, Any]]:
        """The starts of the attempts of which no end is recorded, by unit."""
        found: dict[str, Mapping[str, Any]] = {}
        for record in self.records:
            if record["record"] == "start":
                found[record["unit"]] = record
            elif record["record"] == "end":
                found.pop(record["unit"], None)
        return found

    def fraction(self, start: Mapping[str, Any]) -> float:
        report = progress.read(attempt_paths(self.run_dir, start["unit"], start["attempt"]).progress)
        return 0.0 if report is None else report.fraction


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[bytes]) -> bool:
    """True once something has happened; False if the driver ends before, or it takes too long."""
    deadline = time.monotonic() + _LONGEST
    while not condition():
        if driver.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def lose_a_node(file: Path, cluster: Any, doomed: Any, report: Report) -> None:
    """A whole run on the cluster, one node of which is killed in the middle of a training."""
    run_dir = file.parent / "runs" / "news"
    begin = time.monotonic()
    driver = run(file, "--backend", "ray", "--address", cluster.address)

    def trains_there() -> bool:
        journal = Journal(run_dir)
        return any(
            start["devices"] == [f"{_DOOMED}/cpu:0"] and journal.fraction(start) > 0.2
            for start in journal.running().values()
        )

    reached = wait_for(trains_there, driver)
    report.check(reached, f"no training ran on node {_DOOMED}")
    before = Journal(run_dir)
    cluster.remove_node(doomed, allow_graceful=False)
    on_it = [s for s in before.running().values() if s["devices"] == [f"{_DOOMED}/cpu:0"]]
    report.lost = {f"{start['unit']}.{start['attempt']}": round(before.fraction(start), 2) for start in on_it}
    report.kept = sorted({end["unit"] for end in before.ends("finished")})
    code = driver.wait()
    report.seconds = round(time.monotonic() - begin, 1)
    report.check(code == 0, f"the driver on Ray ended with exit code {code}")

    after = Journal(run_dir)
    finished = [end["unit"] for end in after.ends("finished")]
    units = after.records[0]["units"]
    report.check(sorted(finished) == sorted(units), f"finished: {sorted(finished)}, expected each of {units} once")
    interrupted = {f"{end['unit']}.{end['attempt']}" for end in after.ends("interrupted")}
    report.check(interrupted == set(report.lost), f"interrupted: {sorted(interrupted)}, expected {sorted(report.lost)}")
    report.check(not after.ends("failed"), "an attempt failed")
    for start in on_it:
        report.check(not runs(attempt_paths(run_dir, start["unit"], start["attempt"])), f"{start['unit']} still runs")
    again = [r["unit"] for r in after.records[len(before.records) :] if r["record"] == "start"]
    report.check(not set(again) & set(report.kept), f"run again: {sorted(set(again) & set(report.kept))}")


def go_on_locally(file: Path, address: str, report: Report) -> None:
    """Take a result away, kill the driver on Ray that makes it again, and let the local backend go on."""
    run_dir = file.parent / "runs" / "news"
    (file.parent / "build" / "news" / "evaluation-1e-4.json").unlink()
    driver = run(file, "--backend", "ray", "--address", address)
    begun = wait_for(lambda: bool(Journal(run_dir).running()), driver)
    report.check(begun, "the evaluation did not begin again")
    driver.kill()
    driver.wait()
    before = Journal(run_dir)
    code = run(file, "--slots", "3").wait()
    report.check(code == 0, f"the local driver ended with exit code {code}")
    new = Journal(run_dir).records[len(before.records) :]
    report.adopted = [record["unit"] for record in new if record["record"] == "adopt"]
    report.check("evaluate[lr=1e-4]" in report.adopted, "the evaluation was not adopted")
    started = sorted(record["unit"] for record in new if record["record"] == "start")
    report.check(started == ["package", "select"], f"the local backend started {started}")


def results_of(folder: Path) -> dict[str, Any]:
    """What the run has found out: weights, and how good each model is on what was held out; not how long it took."""
    out = folder / "build" / "news"
    found: dict[str, Any] = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in out.glob("model-*.safetensors")
    }
    for file in out.glob("evaluation-*.json"):
        content = json.loads(file.read_text())
        found[file.name] = content["validation"], content["test"]
    return found


def experiment(folder: Path, documents: int) -> Report:
    """All of it, in a new folder."""
    from ray.cluster_utils import Cluster

    report = Report()
    disturbed, quiet = write_workflow(folder / "ray", documents), write_workflow(folder / "local", documents)
    cluster: Any = Cluster(True, False, {**_NODE, "node_name": "a", "include_dashboard": False})
    try:
        doomed = cluster.add_node(node_name=_DOOMED, **_NODE)
        cluster.add_node(node_name="c", **_NODE)
        lose_a_node(disturbed, cluster, doomed, report)
        if not report.faults:
            go_on_locally(disturbed, cluster.address, report)
    finally:
        cluster.shutdown()
    code = run(quiet, "--slots", "2").wait()
    report.check(code == 0, f"the undisturbed run ended with exit code {code}")
    compare(disturbed.parent, quiet.parent, report)
    return report


def compare(disturbed: Path, quiet: Path, report: Report) -> None:
    """The weights and figures of both runs."""
    results = results_of(disturbed)
    report.check(len(results) == 6, f"the results are {sorted(results)}, expected three models and their evaluations")
    report.check(results == results_of(quiet), "the results differ from those of an undisturbed run")
    selected = disturbed / "build" / "news" / "selected.json"
    if selected.exists():
        report.accuracy = round(json.loads(selected.read_text())["test"], 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="a folder to work in that all nodes see; default: a temporary one")
    parser.add_argument("--train", type=int, default=400, help="documents to train on")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in ("ray", "local"):
            shutil.rmtree(folder / name, ignore_errors=True)
        report = experiment(folder, options.train)
    if options.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        print(
            f"news on three Ray nodes, {options.train} documents to train on: {report.seconds:.0f} s; node {_DOOMED} ",
            end="",
        )
        print(f"was killed with {report.lost} on it, when {len(report.kept)} tasks had finished")
        print(f"the local backend went on, and adopted {', '.join(report.adopted) or 'nothing'}")
        print(f"accuracy on documents held out: {report.accuracy}")
        print("\n".join(report.faults) or "nothing was lost, nothing was done twice, and the results are the same")
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")
    main()
