"""Tasks that do nothing, run by other workflow tools and by the executor.

python -m rlsched.experiments.faults.peers PYTHON [--tasks 500] [--chains 20] [--rounds 1]

PYTHON is the interpreter of an environment in which some of snakemake, luigi and ray are installed; those that are not
are left out. Each tool runs the same no-op shell tasks in chains, two at a time, with its usual records, as a command
of its own: its start counts. Expected: `rlsched run` is the fastest. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rlsched.experiments.faults.overhead import write_workflow

_SNAKEFILE = """
rule all:
    input: expand("out/{{chain}}-{last}", chain=range({chains}))
rule link:
    input: lambda names: f"out/{{names.chain}}-{{int(names.link) - 1}}" if int(names.link) else []
    output: touch("out/{{chain}}-{{link}}")
    shell: "true"
"""
_LUIGI = """
import subprocess
import luigi

class Link(luigi.Task):
    chain, link = luigi.IntParameter(), luigi.IntParameter()
    def requires(self): return [Link(self.chain, self.link - 1)] if self.link else []
    def output(self): return luigi.LocalTarget(f"out/{{self.chain}}-{{self.link}}")
    def run(self):
        subprocess.run(["bash", "-c", "true"], check=True)
        with self.output().open("w"): pass

if not luigi.build([Link(c, {last}) for c in range({chains})], workers=2, local_scheduler=True, log_level="WARNING"):
    raise SystemExit(1)
"""
_RAY = """
import subprocess
import ray

ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")

@ray.remote
def link(previous):
    subprocess.run(["bash", "-c", "true"], check=True)

ends = []
for chain in range({chains}):
    end = None
    for number in range({last} + 1):
        end = link.remote(end)
    ends.append(end)
ray.get(ends)
"""


def commands(python: str, folder: Path, tasks: int, chains: int) -> dict[str, list[str]]:
    """What to run, by tool; what it needs is written into the folder."""
    shape = {"chains": chains, "last": tasks // chains - 1}
    (folder / "Snakefile").write_text(_SNAKEFILE.format(**shape))
    (folder / "with_luigi.py").write_text(_LUIGI.format(**shape))
    (folder / "with_ray.py").write_text(_RAY.format(**shape))
    flow = write_workflow(folder, tasks, chains)
    return {
        "rlsched": [sys.executable, "-m", "rlsched", "run", str(flow), "--policy", "fifo", "--slots", "2"],
        "snakemake": [python, "-m", "snakemake", "--cores", "2", "--quiet", "all"],
        "luigi": [python, "with_luigi.py"],
        "ray": [python, "with_ray.py"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("python", help="interpreter of an environment with other tools")
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--chains", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1, help="of all, in turns; the median of each counts")
    options = parser.parse_args()
    times: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name in ("rlsched", "snakemake", "luigi", "ray"):
            test = [options.python, "-c", f"import {name}"]
            if name != "rlsched" and subprocess.run(test, capture_output=True).returncode:
                continue
            with tempfile.TemporaryDirectory() as folder:
                command = commands(options.python, Path(folder), options.tasks, options.chains)[name]
                start = time.perf_counter()
                subprocess.run(command, cwd=folder, capture_output=True, check=True)
                times.setdefault(name, []).append(time.perf_counter() - start)
    medians = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    print(f"{options.tasks} tasks in {options.chains} chains, two at a time, whole commands:")
    for name, seconds in sorted(medians.items(), key=lambda item: item[1]):
        print(f"{name:>10} {seconds:7.2f} s")
    sys.exit(min(medians, key=lambda name: medians[name]) != "rlsched")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
