"""A lock on a folder: it is its process's alone and ends with it, so that it is never stale."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path


def acquire(file: Path, refusal: str) -> int:
    """Take the lock that a file stands for, created if it does not exist; closing the descriptor gives it back.

    Raises:
        ValueError: somebody else has it; the message is `refusal`.
        OSError: the file cannot be written.
    """
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for _ in range(20):  # `is_locked` holds it for an instant
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            time.sleep(0.01)
    os.close(lock)
    raise ValueError(refusal)


def is_locked(file: Path) -> bool:
    """True while somebody has the lock.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
