"""Where a run directory keeps what belongs to one attempt; docs/executor.md has the layout."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote

MARKER = "RLSCHED_PROGRESS_FILE"  # of the variables that a task's processes inherit, one that no two attempts share
_LONGEST_NAME = 200  # file systems allow 255 bytes


_PLACES = {
    "claim": "attempts/%s.claim.json",
    "exit": "attempts/%s.exit.json",
    "progress": "attempts/%s.progress.json",
    "preempt": "attempts/%s.preempt.json",
    "begun": "attempts/%s.begun",  # when a Python task's function was called
    "log": "logs/%s.log",
    "replaced": "replaced/%s",
    "failed": "failed/%s",
}


@dataclass(frozen=True, slots=True)
class AttemptPaths:
    """The files and folders of a unit's attempt. Made when they are asked for: most attempts need few of them.

    Attributes:
        run_dir: the run directory.
        name: of the attempt, in file names.
    """

    run_dir: str
    name: str

    @property
    def claim(self) -> Path:
        """Says which process is its launcher; comes into being once, before the command does."""
        return Path(self.text("claim"))

    @property
    def exit(self) -> Path:
        """How the command ended, as its launcher saw it."""
        return Path(self.text("exit"))

    @property
    def progress(self) -> Path:
        """Where it may report its progress."""
        return Path(self.text("progress"))

    @property
    def preempt(self) -> Path:
        """Appears when it is asked to stop."""
        return Path(self.text("preempt"))

    @property
    def log(self) -> Path:
        """Its output."""
        return Path(self.text("log"))

    @property
    def replaced(self) -> Path:
        """Its declared outputs as they were before it."""
        return Path(self.text("replaced"))

    @property
    def failed(self) -> Path:
        """Its declared outputs as it left them, if it did not succeed."""
        return Path(self.text("failed"))

    def text(self, what: str) -> str:
        """One of `_PLACES`, as text: a `Path` takes ten times as long to make."""
        return f"{self.run_dir}/{_PLACES[what] % self.name}"


def attempt_paths(run_dir: Path, unit: str, number: int, part: int = 0) -> AttemptPaths:
    """The paths of attempt `number` of a unit; of a gang on several nodes, of the part on its node number `part`."""
    return AttemptPaths(str(run_dir), f"{file_name(unit)}.{number}" + (f".node{part}" if part else ""))


_PART = re.compile(r"\.node\d+$")  # of a gang on several nodes
_CLAIM = _PLACES["claim"].rpartition("%s")[2]


def claims_beyond(run_dir: Path, newest: Callable[[str], int]) -> list[Path]:
    """Claims in a run directory of attempts that nobody has heard of, and of units with very long names all claims.

    Args:
        newest: number of a unit's last attempt that is known; 0: there is none.
    """
    found = []
    for name in os.listdir(run_dir / "attempts"):  # noqa: PTH208 - there may be hundreds of thousands
        if name.endswith(_CLAIM):
            unit, _, number = _PART.sub("", name.removesuffix(_CLAIM)).rpartition(".")
            if number.isdecimal() and int(number) > newest(unquote(unit) if "%" in unit else unit):
                found.append(run_dir / "attempts" / name)
    return sorted(found)


@lru_cache
def file_name(unit: str) -> str:
    """The unit's name as part of a file name: the same for the usual names, different for different names."""
    name = quote(unit, safe="[]=,+@ ")
    return (
        name
        if len(name) <= _LONGEST_NAME
        else f"{name[:_LONGEST_NAME]}~{hashlib.sha256(unit.encode()).hexdigest()[:8]}"
    )
