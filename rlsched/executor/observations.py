"""What a run's journal shows of how long tasks take: all that finished, and how busy their node was meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlsched.executor.handover import Beginning
from rlsched.executor.history import Ending
from rlsched.executor.journal import Record, fold
from rlsched.executor.usage import Usage


@dataclass(frozen=True, slots=True)
class Observation:
    """An attempt that finished all of its work.

    Attributes:
        unit: whose it was.
        digest: identity of what was run.
        gpus, gpu_type: what it ran on; `gpu_type` is None without GPUs or slots.
        start: when its command was started, seconds since the epoch.
        busy: seconds by the number of slots of its node that were busy, its own among them; they add up to its time.
        cold: it was the first on one of its devices in that session.
        overhead: seconds for which its devices were held beyond its time; None: not known.
        usage: what it took.
    """

    unit: str
    digest: str
    gpus: int
    gpu_type: str | None
    start: float
    busy: Mapping[int, float]
    cold: bool = False
    overhead: float | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return sum(self.busy.values())

    def as_record(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "unit": self.unit,
            "digest": self.digest,
            "gpus": self.gpus,
            "gpu_type": self.gpu_type,
            "start": self.start,
            "busy": {str(slots): round(seconds, 4) for slots, seconds in sorted(self.busy.items())},
            "cold": self.cold,
            "overhead": None if self.overhead is None else round(self.overhead, 4),
            "usage": self.usage.as_record(),
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Observation:
        """The inverse of `as_record`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is none.
        """
        busy = {int(slots): float(seconds) for slots, seconds in record["busy"].items()}
        usage = Usage.of_record(record["usage"]) or Usage()
        fields = {name: record[name] for name in ("unit", "digest", "gpus", "gpu_type", "start", "cold", "overhead")}
        return cls(busy=busy, usage=usage, **fields)


@dataclass(slots=True, eq=False)
class _Stay:
    """An attempt on its devices."""

    unit: str
    start: Record
    cold: bool
    node: int
    slots: int
    began: float
    ended: float
    useful: bool
    overhead: float | None
    usage: Usage
    busy: dict[int, float] = field(default_factory=dict)


def observations(journal: Path, tasks: Mapping[str, str]) -> dict[str, list[Observation]]:
    """All that a journal shows, by task; what an attempt took up from a checkpoint says little, and is left out.

    Args:
        tasks: the name of each unit's task; other units are left out.

    Raises:
        ValueError: the journal is damaged.
        OSError: it cannot be read.
    """
    reader = _Reader()
    fold(journal, reader.enter)
    found: dict[str, list[Observation]] = {}
    for session in reader.sessions:
        _note_neighbours(session)
        for stay in session:
            if stay.useful and stay.busy and stay.unit in tasks:
                found.setdefault(tasks[stay.unit], []).append(reader.observation(stay))
    return found


class _Reader:
    """Gathers every session's attempts; one that was adopted counts for the session in which it ended."""

    def __init__(self) -> None:
        self.sessions: list[list[_Stay]] = []
        self._types: dict[str, tuple[int, str]] = {}  # by device: its node and type
        self._starts: dict[str, tuple[Record, bool]] = {}
        self._warm: set[str] = set()

    def enter(self, record: Record) -> None:
        match record["record"]:
            case "begin":
                self.sessions.append([])
                self._warm = set()
                self._types |= {
                    device: (index, node["gpu_type"])
                    for index, node in enumerate(record["nodes"])
                    for device in node["devices"]
                }
            case "start":
                devices = set(record["devices"])
                self._starts[record["unit"]] = record, bool(devices - self._warm)
                self._warm |= devices
            case "end" if record["unit"] in self._starts and record["ended"] is not None:
                start, cold = self._starts.pop(record["unit"])
                stay = self._stay(start, record, cold)
                if stay.ended > stay.began and self.sessions:
                    self.sessions[-1].append(stay)

    def observation(self, stay: _Stay) -> Observation:
        devices = stay.start["devices"]
        return Observation(
            unit=stay.unit,
            digest=stay.start["digest"],
            gpus=len(devices),
            gpu_type=self._types[devices[0]][1] if devices else None,
            start=stay.began,
            busy=stay.busy,
            cold=stay.cold,
            overhead=stay.overhead,
            usage=stay.usage,
        )

    def _stay(self, start: Record, end: Record, cold: bool) -> _Stay:
        # Of a command that could start, a driver was there to see it; and what a function imports is its own time.
        known = end.get("beginning") == Beginning.COMMAND and end["began"] is not None
        began = round(end["began"] if known else start["time"], 3)  # as a history file has it: it tells runs apart
        overhead = (began - start["time"]) + (end["time"] - end["ended"])
        return _Stay(
            unit=start["unit"],
            start=start,
            cold=cold,
            node=self._types.get(start["devices"][0], (0, ""))[0] if start["devices"] else 0,
            slots=max(1, len(start["devices"])),
            began=began,
            ended=end["ended"],
            useful=end["ending"] == Ending.FINISHED and not start.get("resumed"),
            overhead=max(0.0, overhead) if known else None,
            usage=Usage.of_record(end.get("usage")) or Usage(),
        )


def _note_neighbours(session: Iterable[_Stay]) -> None:
    """Enter into each attempt for how long how many slots of its node were busy."""
    nodes: dict[int, list[_Stay]] = {}
    for stay in session:
        nodes.setdefault(stay.node, []).append(stay)
    for stays in nodes.values():
        running: set[_Stay] = set()
        last = 0.0
        for time, stay, begins in _changes(stays):
            busy = sum(other.slots for other in running)
            for other in running:
                other.busy[busy] = other.busy.get(busy, 0.0) + time - last
            last = time
            (running.add if begins else running.remove)(stay)


def _changes(stays: Iterable[_Stay]) -> Iterator[tuple[float, _Stay, bool]]:
    """Begins and ends in order; at one instant, ends come first."""
    changes = [(stay.began, True, stay) for stay in stays] + [(stay.ended, False, stay) for stay in stays]
    for time, begins, stay in sorted(changes, key=lambda change: change[:2]):
        yield time, stay, begins
