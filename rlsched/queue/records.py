"""What the queue knows of its jobs, kept in a folder: a journal, and for each job a run directory."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rlsched.document import did_you_mean
from rlsched.executor.journal import Journal, Record
from rlsched.queue.submission import Submission, read_submission, write_submission

_log = logging.getLogger(__name__)
_VERSION = 1


class JobState(StrEnum):
    """Where a job stands. HELD: the machine has not what it asks for, as it had when the job was submitted."""

    WAITING = "waiting"
    RUNNING = "running"
    HELD = "held"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Entry:
    """A job in the queue.

    Attributes:
        total: its tasks, members of arrays counted one by one.
        deadline, submitted, started, ended: seconds since the epoch.
        cancelled_by: who gave it up.
        end: how it ended; None: it has not. What follows is known then only.
        done: how many of its tasks have finished.
        reason: why it failed.
    """

    id: int
    key: str
    digest: str
    uid: int
    user: str
    name: str
    priority: float
    deadline: float | None
    submitted: float
    total: int
    cancelled_by: str = ""
    end: JobState | None = None
    started: float | None = None
    ended: float | None = None
    done: int = 0
    reason: str = ""


class QueueDirectory:
    """The folder of a queue, in use by this scheduler; created if it does not exist, and then for its user alone.

    Attributes:
        path: absolute.
        entries: jobs by number, in order of submission.

    Raises:
        ValueError: the path is no folder, another scheduler uses it, or its journal is damaged.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / "jobs").mkdir(mode=0o700, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"{self.path} cannot be the folder of a queue, a file is in the way") from None
        self.entries: dict[int, Entry] = {}
        self._ids: dict[tuple[int, str], int] = {}
        self._last = 0
        refusal = f"{self.path} is in use by another scheduler"
        self._journal = Journal(self.path / "queue.jsonl", self._enter, refusal)
        try:
            self._restore_submissions()
        except BaseException:
            self._journal.close()
            raise

    def open_to(self, group: int) -> None:
        """Let a group reach the socket in the folder; it can read nothing there.

        Raises:
            OSError: the user may not do that.
        """
        os.chown(self.path, -1, group)
        self.path.chmod(0o710)

    def close(self) -> None:
        """Let go of the folder."""
        self._journal.close()

    def begin(self, policy: str) -> None:
        """Record that a scheduler is up.

        Raises:
            JournalError: it could not be recorded.
        """
        self._append({"record": "up", "time": time.time(), "version": _VERSION, "pid": os.getpid(), "policy": policy})

    def find(self, name: str) -> Entry:
        """The job of that number or name, listed or not.

        Raises:
            ValueError: there is none, or several have the name.
        """
        if name.isdecimal() and int(name) in self.entries:
            return self.entries[int(name)]
        named = [entry for entry in self.entries.values() if entry.name == name]
        if len(named) == 1:
            return named[0]
        if named:
            numbers = ", ".join(str(entry.id) for entry in named)
            raise ValueError(f"several jobs are named {name!r}: say which by its number, one of {numbers}")
        if not self.entries:
            raise ValueError(f"unknown job {name!r}, the queue is empty")
        known = [*(entry.name for entry in self.entries.values()), *map(str, self.entries)]
        raise ValueError(f"unknown job {name!r}, {did_you_mean(name, dict.fromkeys(known))}")

    def submitted(self, uid: int, key: str) -> Entry | None:
        """The job that a user has submitted under a key."""
        number = self._ids.get((uid, key))
        return None if number is None else self.entries[number]

    def next_id(self) -> int:
        """Number of the next job. Its folder is empty: what is there was never acknowledged."""
        if self.run_dir(self._last + 1).exists():
            shutil.rmtree(self.run_dir(self._last + 1))
        return self._last + 1

    def run_dir(self, job: int) -> Path:
        """Where the run of a job is kept."""
        return self.path / "jobs" / str(job)

    def submission(self, job: int) -> Submission:
        """A job as it was submitted.

        Raises:
            ValueError: its file is missing or damaged.
        """
        return read_submission(self._file(job))

    def add(self, submission: Submission) -> Entry:
        """Take a job in; its run directory exists. When this returns, it will run, come what may.

        Raises:
            OSError: it cannot be written, and the job is not taken in.
            ValueError: a number in it is infinite.
        """
        file = self._file(submission.id)
        try:
            write_submission(file, submission)
            self._append(submission.record)
        except BaseException:
            file.unlink(missing_ok=True)  # otherwise the next scheduler would take it in
            raise
        return self.entries[submission.id]

    def cancel(self, job: int, user: str) -> None:
        """Record that a job is given up.

        Raises:
            JournalError: it could not be recorded.
        """
        self._append({"record": "cancel", "time": time.time(), "id": job, "user": user})

    def end(self, job: int, state: JobState, started: float | None, done: int, reason: str) -> None:
        """Record how a job has ended.

        Raises:
            JournalError: it could not be recorded.
        """
        about = {"id": job, "state": state, "started": started, "done": done, "reason": reason}
        self._append({"record": "end", "time": time.time(), **about})

    def listed(self, keep: float) -> Iterator[Entry]:
        """The jobs that have not ended, or less than `keep` seconds ago."""
        since = time.time() - keep
        return (entry for entry in self.entries.values() if entry.ended is None or entry.ended >= since)

    def _file(self, job: int) -> Path:
        return self.run_dir(job) / "submission.json"

    def _append(self, record: Record) -> None:
        self._journal.append(record)
        self._enter(record)

    def _enter(self, record: Record) -> None:
        match record["record"]:
            case "submit":
                known: dict[str, Any] = {name: record[name] for name in ("id", "key", "digest", "uid", "user", "name")}
                known |= {name: record[name] for name in ("priority", "deadline", "total")}
                entry = Entry(submitted=record["time"], **known)
                self.entries[entry.id] = entry
                self._ids[entry.uid, entry.key] = entry.id
                self._last = max(self._last, entry.id)
            case "cancel":
                self.entries[record["id"]].cancelled_by = record["user"]
            case "end":
                entry = self.entries[record["id"]]
                entry.end, entry.ended = JobState(record["state"]), record["time"]
                entry.started, entry.done, entry.reason = record["started"], record["done"], record["reason"]
            case "up" if record["version"] != _VERSION:
                raise ValueError(f"{self.path} was written by another version of rlsched")

    def _restore_submissions(self) -> None:
        """Take jobs in whose records are missing: lost with the journal's end, or never written before a crash.

        The first may have been acknowledged. The others were not, but nobody was told that they are not taken.
        """
        folders = (folder for folder in (self.path / "jobs").iterdir() if folder.name.isdecimal())
        for number in sorted(int(folder.name) for folder in folders):
            if number <= self._last:
                continue
            try:
                submission = self.submission(number)
            except ValueError:
                continue  # the crash came before it was complete
            _log.warning("job %d (%s) was not in the journal yet: it is taken in", number, submission.workflow.name)
            self._append(submission.record)
