"""What earlier runs of a workflow have taught: kept in its folder `runs`, learned from journals, used by the next one.

`runs/NAME.history.json` holds what the tasks of a workflow took, `runs/calibration.json` what running them costs on
this host, learned from all workflows of the folder. Both follow from journals, are for people to read, and may be
deleted.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlsched.executor.calibration import Calibration, calibrate, read_calibration, write_calibration
from rlsched.executor.estimates import Observed, groups, merged, read_observed, with_estimates, write_observed
from rlsched.executor.observations import observations
from rlsched.executor.work import Work, unit_name
from rlsched.model import Cluster
from rlsched.workflow import Workflow

_ENDING = ".history.json"
_CALIBRATION = "calibration.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experience:
    """What is known of a workflow's tasks, and of the host."""

    observed: Observed = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)

    def applied_to(self, work: Work, cluster: Cluster, memory: bool = True) -> tuple[Work, frozenset[str]]:
        """See `with_estimates`."""
        if not self.observed:
            return work, frozenset()
        return with_estimates(work, self.observed, self.calibration, cluster, memory)


NOTHING = Experience()


def recall(workflow: Workflow) -> Experience:
    """What earlier runs of this workflow, and of others in its folder, have taught; a damaged file teaches nothing."""
    return Experience(read_observed(history_file(workflow)), read_calibration(calibration_file(workflow)))


def learn(workflow: Workflow, journal: Path, cluster: Cluster) -> None:
    """Take in what a journal shows. What cannot be read or written is a warning: the run itself is not touched."""
    try:
        with _locked(history_file(workflow).parent):
            own = history_file(workflow)
            tasks = {unit_name(task, m): task.name for task in workflow.job.tasks for m in range(task.array)}
            found = merged(read_observed(own), observations(journal, tasks))
            others = [read_observed(file) for file in sorted(own.parent.glob(f"*{_ENDING}")) if file != own]
            calibration = calibrate(group for observed in (found, *others) for group in groups(observed))
            write_observed(own, workflow.name, found, calibration)
            slots = max(node.gpus + node.cpus for node in cluster.nodes)
            write_calibration(calibration_file(workflow), calibration, slots)
    except (OSError, ValueError) as error:
        _log.warning("what this run has taught is not kept: %s", error)


def history_file(workflow: Workflow) -> Path:
    """Where it is kept what the workflow's tasks took."""
    return workflow.folder / "runs" / f"{workflow.name.replace('/', '-')}{_ENDING}"


def calibration_file(workflow: Workflow) -> Path:
    """Where it is kept what running tasks costs."""
    return workflow.folder / "runs" / _CALIBRATION


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two runs that end at the same time learn one after the other; the kernel frees the lock of one that is killed."""
    folder.mkdir(exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
