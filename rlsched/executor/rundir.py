"""The folder that a run keeps its records in; docs/executor.md has its layout."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from rlsched.executor.history import History
from rlsched.executor.journal import Journal, Record
from rlsched.executor.lock import is_locked as _is_locked
from rlsched.executor.paths import AttemptPaths, attempt_paths, file_name

JOURNAL = "journal.jsonl"
FORKSERVER_LOG = "forkserver.log"


class RunDirectory:
    """A run directory in use by this driver; created if it does not exist.

    Attributes:
        path: absolute.
        history: the journal up to now.

    Raises:
        ValueError: the path is no folder, another driver uses it, or its journal is damaged.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._checkpoints = self.path / "checkpoints"
        try:
            for folder in (self.path / "logs", self.path / "attempts", self._checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"{self.path} cannot be a run directory, a file is in the way") from None
        self.history = History()
        refusal = f"{self.path} is in use by another run"
        self._journal = Journal(self.path / JOURNAL, self.history.enter, refusal)

    def append(self, record: str, **fields: Any) -> Record:
        """Journal something; it is on the disk when this returns.

        Raises:
            JournalError: it could not be written.
        """
        entry = {"record": record, "time": time.time(), **fields}
        self.restore(entry)
        return entry

    def restore(self, entry: Record) -> None:
        """Journal a record as it once was."""
        self._journal.append(entry)
        self.history.enter(entry)

    @property
    def journal_errors(self) -> int:
        """How often a record could not be written."""
        return self._journal.errors

    def attempt(self, unit: str, number: int, part: int = 0) -> AttemptPaths:
        """The files of an attempt; see `attempt_paths`."""
        return attempt_paths(self.path, unit, number, part)

    def next_attempt(self, unit: str) -> int:
        """The number of a unit's next attempt. One that the journal has lost keeps its number, and its files."""
        last = self.history.attempts.get(unit)
        number = 1 if last is None else last.number + 1
        while os.path.exists(self.attempt(unit, number).text("claim")):  # noqa: PTH110 - see `text`
            number += 1
        return number

    def checkpoint(self, unit: str, number: int) -> Path:
        """Folder for the checkpoint that a unit began in an attempt."""
        return self._checkpoints / f"{file_name(unit)}.{number}"

    def close(self) -> None:
        """Let go of the directory."""
        self._journal.close()


def is_locked(path: Path) -> bool:
    """True while a driver uses the run directory."""
    return _is_locked(path / JOURNAL)
