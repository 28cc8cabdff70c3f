"""What the tasks of a job have printed, in pieces that a client asks for one after the other."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlsched.document import did_you_mean
from rlsched.executor.history import History
from rlsched.executor.paths import attempt_paths

_LARGEST = 1 << 20  # bytes in an answer


def chosen_units(units: Sequence[str], task: str | None) -> list[str]:
    """The units that are meant: all; the one of that name; or all members of the sweep or array of that name.

    Raises:
        ValueError: there is none.
    """
    if task is None:
        return list(units)
    chosen = [unit for unit in units if unit == task or unit.startswith(f"{task}[")]
    if not chosen:
        raise ValueError(f"unknown task {task!r}, {did_you_mean(task, units)}")
    return chosen


def read_logs(run_dir: Path, units: Sequence[str], history: History, seen: Mapping[str, int]) -> dict[str, Any]:
    """What is new in the logs of all attempts of these units.

    Args:
        seen: bytes that are known, by the name of the log.

    Returns:
        `pieces`, each with `log` (its name, for `seen`), `unit`, `attempt`, `start` (its place in the log) and `data`
        (in Base64); `logs`: how many there are; `more`: there is more to be asked for at once.
    """
    attempts = list(_attempts(units, history))
    room = _LARGEST
    pieces: list[dict[str, Any]] = []
    for unit, number in attempts:
        log = f"{unit}.{number}"
        start = seen.get(log, 0)
        data = _read(attempt_paths(run_dir, unit, number).log, start, room)
        if data:
            encoded = base64.b64encode(data).decode()
            pieces.append({"log": log, "unit": unit, "attempt": number, "start": start, "data": encoded})
            room -= len(data)
        if not room:
            break
    return {"pieces": pieces, "logs": len(attempts), "more": not room}


def _attempts(units: Sequence[str], history: History) -> Iterator[tuple[str, int]]:
    for unit in units:
        if (last := history.attempts.get(unit)) is not None:
            for number in range(1, last.number + 1):
                yield unit, number


def _read(file: Path, start: int, most: int) -> bytes:
    try:
        with file.open("rb") as log:
            log.seek(start)
            return log.read(most)
    except OSError:  # it was never begun, or somebody has removed it
        return b""
