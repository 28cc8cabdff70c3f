"""Project scheduling instances of PSPLIB (Kolisch & Sprecher, EJOR 1997): Patterson's format (.rcp) and its own (.sm).

An instance is one job whose activities take units of the renewable resources R1, R2, ... of a single machine. What
counts is the makespan. Activities that take no time, like the dummies at the start and the end, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rlsched.model import Job, Mode, Task
from rlsched.scenariofile import NodesEntry
from rlsched.traces.dag import needs_without
from rlsched.traces.records import read_lines
from rlsched.traces.trace import Trace, TraceError, Wish, as_name, machines


@dataclass(frozen=True, slots=True)
class _Activity:
    duration: int
    demands: Sequence[int]
    successors: Sequence[int]  # numbers, from 1


@dataclass(frozen=True, slots=True)
class _Project:
    capacities: Sequence[int]
    activities: Sequence[_Activity]


def read(path: Path, wish: Wish) -> Trace:
    """The instance in a file; the ending of its name tells the format.

    Raises:
        TraceError: another ending, or the first thing that is wrong with the file.
    """
    readers = {".rcp": _read_patterson, ".sm": _read_psplib}
    if path.suffix not in readers:
        raise TraceError(f"{path}: expected a name ending in {' or '.join(readers)}")
    project = readers[path.suffix](path)
    try:
        job = Job(as_name(path.stem), _tasks(project))
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from None
    resources = {f"R{number}": amount for number, amount in enumerate(project.capacities, 1)}
    cluster = wish.cluster or machines(NodesEntry(name="project", resources=resources))
    return Trace(cluster, [job], objective="makespan")


def _tasks(project: _Project) -> tuple[Task, ...]:
    needs: dict[str, list[str]] = {str(number): [] for number in range(1, len(project.activities) + 1)}
    for number, activity in enumerate(project.activities, 1):
        for successor in activity.successors:
            if str(successor) not in needs:
                raise ValueError(f"activity {number}: expected successors up to {len(needs)}, found {successor}")
            needs[str(successor)].append(str(number))
    instant = {str(number) for number, activity in enumerate(project.activities, 1) if not activity.duration}
    return tuple(
        Task(number, (_mode(project.activities[int(number) - 1]),), needs=before)
        for number, before in needs_without(instant, needs).items()
    )


def _mode(activity: _Activity) -> Mode:
    demands = {f"R{number}": amount for number, amount in enumerate(activity.demands, 1) if amount}
    return Mode(activity.duration, resources=demands)


class _Numbers:
    """The whole numbers of a file one after the other."""

    def __init__(self, file: Path, lines: Iterator[tuple[int, str]]) -> None:
        self.file = file
        self.line = 1
        self._words = self._split(lines)

    def _split(self, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
        for self.line, text in lines:
            yield from text.split()

    def next(self, what: str) -> int:
        word = next(self._words, None)
        if word is None:
            self.fail(f"expected {what}, found the end of the file")
        if not re.fullmatch("[0-9]{1,12}", word):
            self.fail(f"expected {what}, a number of 0 or more, found {word!r}")
        return int(word)

    def several(self, count: int, what: str) -> list[int]:
        return [self.next(what) for _ in range(count)]

    def fail(self, message: str) -> NoReturn:
        _fail(self.file, self.line, message)


def _read_patterson(file: Path) -> _Project:
    """Activities and resources; capacities; and for each activity duration, demands and successors."""
    numbers = _Numbers(file, read_lines(file))
    activities, resources = numbers.next("the number of activities"), numbers.next("the number of resources")
    capacities = numbers.several(resources, "the capacity of a resource")
    return _Project(
        capacities,
        [
            _Activity(
                numbers.next(f"the duration of activity {activity}"),
                numbers.several(resources, f"a demand of activity {activity}"),
                numbers.several(numbers.next("the number of successors"), f"a successor of activity {activity}"),
            )
            for activity in range(1, activities + 1)
        ],
    )


def _read_psplib(file: Path) -> _Project:
    """Three tables matter: successors, durations and demands, capacities. A row has one activity, in one mode."""
    successors = _table(file, "PRECEDENCE RELATIONS")
    requests = _table(file, "REQUESTS/DURATIONS")
    [(_, capacities), *_] = _table(file, "RESOURCEAVAILABILITIES")
    for number, (line, row) in enumerate(successors, 1):
        if row[:2] != [number, 1] or len(row) != 3 + row[2]:
            _fail(file, line, f"expected activity {number}, 1 mode, and as many successors as it says")
    for number, (line, row) in enumerate(requests, 1):
        if row[:2] != [number, 1] or len(row) != 3 + len(capacities):
            _fail(file, line, f"expected activity {number}, mode 1, a duration and {len(capacities)} demands")
    if len(requests) != len(successors):
        _fail(file, requests[-1][0], f"expected {len(successors)} activities, found {len(requests)}")
    rows = zip(requests, successors, strict=True)
    return _Project(capacities, [_Activity(request[2], request[3:], row[3:]) for (_, request), (_, row) in rows])


def _table(file: Path, title: str) -> list[tuple[int, list[int]]]:
    """The rows of numbers under a title, and their lines; between them stand only heads and rules."""
    rows: list[tuple[int, list[int]]] = []
    inside = False
    for line, text in read_lines(file):
        if text.startswith("***"):
            inside = False
        elif text.startswith(title):
            inside = True
        elif inside and re.search(r"\b[ND] *[0-9]", text):
            _fail(file, line, "expected renewable resources only, found others")
        elif inside and re.fullmatch(r"[0-9 \t]+", text):
            rows.append((line, [int(word) for word in text.split()]))
    if not rows or any(len(row) < 3 for _, row in rows if title != "RESOURCEAVAILABILITIES"):
        raise TraceError(f"{file}: expected the table {title!r}, found none that is complete")
    return rows


def _fail(file: Path, line: int, message: str) -> NoReturn:
    raise TraceError(f"{file}:{line}: {message}")
