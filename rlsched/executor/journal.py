"""An append-only file of JSON objects, one a line, each with its checksum; what has been appended survives a crash."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json  # several times as fast as the standard library

from rlsched.executor.lock import acquire

Record = Mapping[str, Any]
_log = logging.getLogger(__name__)
_SEAL = b',"crc32":"%08x"}\n'
_SEAL_LENGTH = len(_SEAL % 0)


class JournalError(OSError):
    """A record could not be brought to the disk: nobody may act on it."""


class Journal:
    """A journal open for appending; created if it does not exist.

    A crash may damage the end of the file: nobody has acted on a record that was not complete, and it is cut off.

    Args:
        enter: called with each record that it holds, in order; none is kept in memory.
        refusal: what to say if another process has it open: it is locked for this one alone, and that ends with it.

    Attributes:
        errors: how often a record could not be written.

    Raises:
        ValueError: it is in use, or something is damaged and a sound record follows it; says where.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, enter: Callable[[Record], None], refusal: str = "the journal is in use") -> None:
        self._path = path
        self.errors = 0
        self._ragged = False  # there may be more in the file than sound records
        self._file = acquire(path, refusal)
        try:
            self._size = fold(path, enter)
            if damaged := path.stat().st_size - self._size:
                _log.warning("%s: its end was damaged by a crash, %d bytes are dropped", path, damaged)
            self._cut()
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, record: Record) -> None:
        """Add a record; when this returns it is on the disk.

        Raises:
            JournalError: it is not, and the journal is as it was before, as far as that can be had.
        """
        line = seal(record)
        try:
            if self._ragged:
                self._cut()
            written = 0
            while written < len(line):  # a disk that is all but full takes a part, and refuses the rest
                written += os.write(self._file, line[written:])
            os.fdatasync(self._file)
        except OSError as error:
            self.errors += 1
            self._ragged = True
            with suppress(OSError):
                self._cut()
            raise JournalError(error.errno, f"cannot write the journal: {error.strerror}", str(self._path)) from error
        self._size += len(line)

    def close(self) -> None:
        os.close(self._file)

    def _cut(self) -> None:
        """Drop what follows the last sound record."""
        os.ftruncate(self._file, self._size)
        os.lseek(self._file, self._size, os.SEEK_SET)
        self._ragged = False


def seal(record: Record) -> bytes:
    """A record as a line of the file; the checksum is of all that is ahead of it in the line.

    Raises:
        ValueError: a number in it is infinite or none, or a text is no UTF-8.
    """
    body = to_json(record)[:-1]
    if b"NaN" in body or b"Infinity" in body:  # if not in a text
        json.dumps(record, allow_nan=False)  # it is refused here
    return body + _SEAL % zlib.crc32(body)


def fold(path: Path, enter: Callable[[Record], None]) -> int:
    """Call `enter` with all complete records, also while somebody appends to the file; return the bytes they take.

    Raises:
        ValueError: something is damaged and a sound record follows it; says where.
        OSError: the file cannot be read.
    """
    sound = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not _is_sound(line):
                if _holds_sound_record(line) or any(map(_is_sound, file)):
                    raise ValueError(f"{path}:{number}: the journal is damaged here, {sound} bytes from its start")
                break
            enter(from_json(line, cache_strings="keys"))  # what they stand for is seldom the same twice
            sound += len(line)
    return sound


def _holds_sound_record(line: bytes) -> bool:
    """True if the line's end is a record: it was the line end before that was damaged."""
    starts = [start for start, byte in enumerate(line) if start and byte == ord("{")]
    return any(_is_sound(line[start:]) for start in starts)


def _is_sound(line: bytes) -> bool:
    body = line[:-_SEAL_LENGTH]
    return line[-_SEAL_LENGTH:] == _SEAL % zlib.crc32(body)
