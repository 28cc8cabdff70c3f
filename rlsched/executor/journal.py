"""An append-only file of JSON objects, one a line; what has been appended survives a crash of the machine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
_log = logging.getLogger(__name__)


class Journal:
    """A journal open for appending; created if it does not exist.

    A crash may tear the last line: then the record was not complete, nobody has acted on it, and it is cut off.

    Raises:
        ValueError: a line other than the last is damaged; says which.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self.records, sound = _parse(path)
        self._file = path.open("r+b")
        if sound < path.stat().st_size:
            _log.warning("%s: its last record was torn by a crash and is dropped", path)
            self._file.truncate(sound)
        self._file.seek(sound)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def append(self, record: Record) -> None:
        """Add a record; when this returns it is on the disk."""
        self._file.write(json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> list[Record]:
    """All complete records, also while somebody appends to the file.

    Raises:
        ValueError: a line other than the last is damaged; says which.
        OSError: the file cannot be read.
    """
    return _parse(path)[0]


def _parse(path: Path) -> tuple[list[Record], int]:
    """The complete records, and the number of bytes they take."""
    records: list[Record] = []
    sound = 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not line.endswith(b"\n"):
            if number < len(lines):
                raise ValueError(f"{path}:{number}: expected a JSON object, the journal is damaged here")
            break
        records.append(record)
        sound += len(line)
    return records, sound
