"""Where a run directory keeps what belongs to one attempt; docs/executor.md has the layout."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

MARKER = "RLSCHED_PROGRESS_FILE"  # of the variables that a task's processes inherit, one that no two attempts share
_LONGEST_NAME = 200  # file systems allow 255 bytes


@dataclass(frozen=True, slots=True)
class AttemptPaths:
    """The files and folders of a unit's attempt.

    Attributes:
        claim: says which process is its launcher; comes into being once, before the command does.
        exit: how the command ended, as its launcher saw it.
        progress: where it may report its progress.
        preempt: appears when it is asked to stop.
        begun: when a Python task's function was called.
        log: its output.
        replaced: its declared outputs as they were before it.
        failed: its declared outputs as it left them, if it did not succeed.
    """

    claim: Path
    exit: Path
    progress: Path
    preempt: Path
    begun: Path
    log: Path
    replaced: Path
    failed: Path


def attempt_paths(run_dir: Path, unit: str, number: int, part: int = 0) -> AttemptPaths:
    """The paths of attempt `number` of a unit; of a gang on several nodes, of the part on its node number `part`."""
    name = f"{file_name(unit)}.{number}" + (f".node{part}" if part else "")
    stem = f"{run_dir}/attempts/{name}"  # many at a time: joining paths step by step takes twice as long
    return AttemptPaths(
        claim=Path(f"{stem}.claim.json"),
        exit=Path(f"{stem}.exit.json"),
        progress=Path(f"{stem}.progress.json"),
        preempt=Path(f"{stem}.preempt.json"),
        begun=Path(f"{stem}.begun"),
        log=Path(f"{run_dir}/logs/{name}.log"),
        replaced=Path(f"{run_dir}/replaced/{name}"),
        failed=Path(f"{run_dir}/failed/{name}"),
    )


def file_name(unit: str) -> str:
    """The unit's name as part of a file name: the same for the usual names, different for different names."""
    name = quote(unit, safe="[]=,+@ ")
    return (
        name
        if len(name) <= _LONGEST_NAME
        else f"{name[:_LONGEST_NAME]}~{hashlib.sha256(unit.encode()).hexdigest()[:8]}"
    )
