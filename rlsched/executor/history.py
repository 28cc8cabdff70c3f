"""What a run's journal says: every unit's last attempt, and the session it belongs to.

A session is one start of the driver on a run directory, from its `begin` record to its `close` record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from rlsched.executor.journal import Record


class Ending(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    FAILED = "failed"
    PREEMPTED = "preempted"
    INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Attempt:
    """One start of a unit.

    Attributes:
        number: counted from 1 for each unit, over all sessions.
        digest: identity of what was run.
        checkpoint: number of the attempt that began the checkpoint it goes on with; its own number: none.
        devices: ids.
        began, ended: positions of its records in the journal; `ended` is None while it runs, and if that is unknown.
        start, end: seconds since the epoch.
        reason: why it failed.
    """

    number: int
    digest: str
    checkpoint: int
    devices: tuple[str, ...]
    began: int
    start: float
    ended: int | None = None
    end: float | None = None
    ending: Ending | None = None
    reason: str = ""


class History:
    """A journal, folded.

    Attributes:
        attempts: the last one of each unit.
        begin: the last session's first record; None before the first session.
        close: its last record; None while it is open.
        began: position of `begin` in the journal.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.begin: Record | None = None
        self.close: Record | None = None
        self.began = 0
        self._position = 0
        for record in records:
            self.enter(record)

    def enter(self, record: Record) -> None:
        """Take in the next record."""
        match record["record"]:
            case "begin":
                self.begin, self.close, self.began = record, None, self._position
            case "start":
                self.attempts[record["unit"]] = Attempt(
                    record["attempt"],
                    record["digest"],
                    record["checkpoint"],
                    tuple(record["devices"]),
                    self._position,
                    record["time"],
                )
            case "end":
                attempt = self.attempts[record["unit"]]
                attempt.ended, attempt.end = self._position, record["time"]
                attempt.ending, attempt.reason = Ending(record["ending"]), record["reason"]
            case "close":
                self.close = record
        self._position += 1

    def newest_end(self, units: Iterable[str]) -> int:
        """Position of the last end among these units; -1 if none has ended."""
        ends = (attempt.ended for unit in units if (attempt := self.attempts.get(unit)))
        return max((end for end in ends if end is not None), default=-1)
