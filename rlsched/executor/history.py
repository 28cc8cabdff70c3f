"""What a run's journal says: every unit's last attempt, and the session it belongs to.

A session is one start of the driver on a run directory, from its `begin` record to its `close` record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from rlsched.executor.handover import Beginning
from rlsched.executor.journal import Record
from rlsched.executor.usage import Usage
from rlsched.model import Cause


class Ending(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    FAILED = "failed"
    PREEMPTED = "preempted"
    INTERRUPTED = "interrupted"


_ENDINGS = {ending.value: ending for ending in Ending}
_BEGINNINGS = {beginning.value: beginning for beginning in Beginning}
_NONE: Mapping[Cause, int] = {}


class Place(NamedTuple):
    """A node of a cluster that an attempt was started on.

    Attributes:
        node: the cluster's id of it.
        host: the machine's name, for people.
        boot, space: the kernel's id of the machine's start, and the PID namespace; see `rlsched.executor.claim`.
    """

    node: str
    host: str
    boot: str
    space: str


@dataclass(slots=True)
class Attempt:
    """One start of a unit.

    Attributes:
        number: counted from 1 for each unit, over all sessions.
        digest: identity of what was run.
        checkpoint: number of the attempt that began the checkpoint it goes on with; its own number: none.
        mode: index of its mode.
        devices: ids.
        session: the last session that had to do with it; `History.session` counts them.
        boot: the kernel's id of the start of the machine in which it was started.
        began, ended: positions of its records in the journal; `ended` is None while it runs, and if that is unknown.
        start, end: seconds since the epoch.
        free: since when it could have run on its devices; None: nothing had run there in its session.
        handover: seconds from then to its first statement; None: not known, or nothing had run there.
        beginning: how it was begun; None: it still runs, or nobody knows.
        reason: why it failed.
        failures: how often the unit has failed so far, by cause; another digest begins anew.
        usage: what it has taken; None: not known.
        host: name of the driver's machine.
        places: the nodes that its parts run on, the first one's first; empty: one part, on the driver's machine.
    """

    number: int
    digest: str
    checkpoint: int
    mode: int
    devices: tuple[str, ...]
    session: int
    boot: str
    began: int
    start: float
    ended: int | None = None
    end: float | None = None
    ending: Ending | None = None
    reason: str = ""
    free: float | None = None
    handover: float | None = None
    beginning: Beginning | None = None
    failures: Mapping[Cause, int] = field(default_factory=lambda: _NONE)
    usage: Usage | None = None
    host: str = ""
    places: tuple[Place, ...] = ()


class History:
    """A journal, folded: as much memory as there are units, however often they were run.

    Attributes:
        attempts: the last one of each unit.
        begin: the last session's first record; None before the first session.
        close: its last record; None while it is open.
        session: its number, from 1.
        handovers: the hand-over gaps of that session by how the tasks were begun, seconds.
        first_start: when the first attempt of all began, in seconds since the epoch; None: none has.
    """

    def __init__(self) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.begin: Record | None = None
        self.close: Record | None = None
        self.session = 0
        self.handovers: dict[Beginning, list[float]] = {}
        self.first_start: float | None = None
        self._boot = self._host = ""
        self._kept: set[str] = set()  # units that a driver of this boot has found finished, with all that they leave
        self._position = 0

    def enter(self, record: Record) -> None:
        """Take in the next record."""
        match record["record"]:
            case "start":
                before = self.attempts.get(record["unit"])
                self._kept.discard(record["unit"])
                known = before.failures if before is not None and before.digest == record["digest"] else _NONE
                if self.first_start is None:
                    self.first_start = record["time"]
                self.attempts[record["unit"]] = Attempt(
                    record["attempt"],
                    record["digest"],
                    record["checkpoint"],
                    record["mode"],
                    tuple(record["devices"]),
                    self.session,
                    record.get("boot", self._boot),
                    self._position,
                    record["time"],
                    free=record.get("free"),
                    failures=known,
                    host=self._host,
                    places=tuple([Place(*place) for place in record.get("places", ())]),
                )
            case "end":
                attempt = self.attempts[record["unit"]]
                attempt.ended, attempt.end = self._position, record["ended"]
                attempt.ending, attempt.reason = _ENDINGS[record["ending"]], record["reason"]
                if record.get("beginning") is not None:
                    self._enter_beginning(attempt, _BEGINNINGS[record["beginning"]], record["began"])
                attempt.usage = Usage.of_record(record.get("usage"))
                if attempt.ending is Ending.FAILED:
                    cause = Cause(record["cause"])
                    attempt.failures = {**attempt.failures, cause: attempt.failures.get(cause, 0) + 1}
            case "adopt":
                self.attempts[record["unit"]].session = self.session
            case "begin":
                self.begin, self.close = record, None
                self.session += 1
                self.handovers = {}
                if record["boot"] != self._boot:
                    self._kept.clear()
                self._kept.update(record["kept"])
                self._boot, self._host = record["boot"], record.get("host", "")
            case "close":
                self.close = record
        self._position += 1

    def _enter_beginning(self, attempt: Attempt, beginning: Beginning, began: float | None) -> None:
        attempt.beginning = beginning
        if attempt.free is not None and began is not None:
            attempt.handover = began - attempt.free
            self.handovers.setdefault(beginning, []).append(attempt.handover)

    def open_attempts(self) -> dict[str, Attempt]:
        """The attempts of which no end is known, by unit."""
        return {unit: attempt for unit, attempt in self.attempts.items() if attempt.ending is None}

    def was_seen_finished(self, unit: str, boot: str) -> bool:
        """True if a driver in that boot of the machine has seen a unit end, or has found it finished."""
        return self.attempts[unit].boot == boot or (self._boot == boot and unit in self._kept)

    def newest_end(self, units: Iterable[str]) -> int:
        """Position of the last end among these units; -1 if none has ended."""
        newest = -1
        for unit in units:
            attempt = self.attempts.get(unit)
            if attempt is not None and attempt.ended is not None and attempt.ended > newest:
                newest = attempt.ended
        return newest

    def time_of_end(self, units: Iterable[str]) -> float:
        """When the last of these units ended, in seconds since the epoch; 0 if none has."""
        attempts = (self.attempts.get(unit) for unit in units)
        return max(
            (attempt.end for attempt in attempts if attempt is not None and attempt.end is not None), default=0.0
        )
