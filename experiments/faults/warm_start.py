"""How long a device waits for a task that imports torch: executed, and forked from a process that has imported it.

python -m rlsched.experiments.faults.warm_start [--tasks 5]

One run on one slot: Python tasks one after the other, first executed and then forked. Printed is the median hand-over
gap of each kind, from the end of the task before to the call of the next one's function. Expected: the forked ones
wait at most a twentieth. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import yaml

from rlsched.executor.handover import Beginning, Handovers
from rlsched.executor.run import run_workflow
from rlsched.policies.registry import load_policy
from rlsched.workflow import load_workflow

_MODULE = """
import torch


def work() -> None:
    torch.ones(3).sum()
"""


def measure(folder: Path, tasks: int) -> dict[str, Handovers]:
    """The hand-over gaps of that many tasks of each kind, and one more that nothing ran before."""
    (folder / "torchtask.py").write_text(_MODULE)
    content: dict[str, object] = {}
    last = ""
    for kind, count, preload in ((Beginning.COLD, tasks + 1, []), (Beginning.WARM, tasks, ["torch"])):
        for number in range(count):
            needs = [last] if last else []
            last = f"{kind}-{number}"
            content[last] = {"python": "torchtask:work", "preload": preload, "gpus": 1, "needs": needs}
    file = folder / "flow.yaml"
    file.write_text(yaml.safe_dump({"tasks": content}))
    result = run_workflow(load_workflow(file), load_policy("fifo"), slots=1)
    assert result.exit_code == 0
    return result.status.handovers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gaps = measure(Path(folder), options.tasks)
    for kind, gap in gaps.items():
        print(f"{kind}: {gap.count} hand-overs, median {gap.median:.4f} s, longest {gap.longest:.4f} s")
    cold, warm = gaps[Beginning.COLD].median, gaps[Beginning.WARM].median
    print(f"a warm hand-over is {cold / warm:.0f} times shorter than a cold one")
    sys.exit(cold < 20 * warm)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
