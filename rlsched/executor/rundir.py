"""The folder that a run keeps its records in; docs/executor.md has its layout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rlsched.executor.history import History
from rlsched.executor.journal import Journal

JOURNAL = "journal.jsonl"
_LOCK = "lock"
_LONGEST_NAME = 200  # file systems allow 255 bytes


class RunDirectory:
    """A run directory in use by this driver; created if it does not exist.

    The lock lasts as long as this process and every launcher it has started (they hold `lock` as well), so nobody can
    start a task again while processes of a driver that was killed are still ending.

    Attributes:
        path: absolute.
        history: the journal up to now.
        lock: file descriptor.

    Raises:
        ValueError: the path is no folder, another driver uses it, or its journal is damaged.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        try:
            for folder in ("logs", "attempts", "checkpoints"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"{self.path} cannot be a run directory, a file is in the way") from None
        self.lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._acquire()
            self._journal = Journal(self.path / JOURNAL)
        except BaseException:
            os.close(self.lock)
            raise
        self.history = History(self._journal.records)

    def append(self, record: str, **fields: Any) -> None:
        """Journal something; it is on the disk when this returns."""
        entry = {"record": record, "time": time.time(), **fields}
        self._journal.append(entry)
        self.history.enter(entry)

    def log(self, unit: str, attempt: int) -> Path:
        """File with the output of an attempt."""
        return log_file(self.path, unit, attempt)

    def exit_file(self, unit: str, attempt: int) -> Path:
        """File in which the launcher of an attempt leaves how it ended."""
        return self.path / "attempts" / f"{file_name(unit)}.{attempt}.exit.json"

    def progress_file(self, unit: str, attempt: int) -> Path:
        """File in which an attempt reports its progress."""
        return progress_file(self.path, unit, attempt)

    def checkpoint(self, unit: str, number: int) -> Path:
        """Folder for the checkpoint that a unit began in an attempt."""
        return self.path / "checkpoints" / f"{file_name(unit)}.{number}"

    def close(self) -> None:
        """Let go of the directory."""
        self._journal.close()
        os.close(self.lock)

    def _acquire(self) -> None:
        for _ in range(20):  # `is_locked` holds the lock for an instant
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.01)
        raise ValueError(f"{self.path} is in use by another run, or tasks of one that was killed are still ending")


def is_locked(path: Path) -> bool:
    """True while a driver, or something that it has started, uses the run directory."""
    with (path / _LOCK).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def log_file(run_dir: Path, unit: str, attempt: int) -> Path:
    """File with the output of an attempt."""
    return run_dir / "logs" / f"{file_name(unit)}.{attempt}.log"


def progress_file(run_dir: Path, unit: str, attempt: int) -> Path:
    """File in which an attempt reports its progress."""
    return run_dir / "attempts" / f"{file_name(unit)}.{attempt}.progress.json"


def file_name(unit: str) -> str:
    """The unit's name as part of a file name: the same for the usual names, different for different names."""
    name = quote(unit, safe="[]=,+@ ")
    return (
        name
        if len(name) <= _LONGEST_NAME
        else f"{name[:_LONGEST_NAME]}~{hashlib.sha256(unit.encode()).hexdigest()[:8]}"
    )
