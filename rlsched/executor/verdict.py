"""What the end of an attempt means."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from rlsched.executor.history import Ending
from rlsched.executor.paths import AttemptPaths
from rlsched.executor.process import Exit
from rlsched.executor.work import Unit
from rlsched.model import Cause

_LOG_END = 16384  # bytes; a traceback is at the end of a log
_CUDA_OUT_OF_MEMORY = re.compile(rb"CUDA out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAlloc")
_SIGNALS = {number.value for number in signal.Signals}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended.

    Attributes:
        reason: for people; empty unless it failed.
        cause: of a failure.
    """

    ending: Ending
    reason: str = ""
    cause: Cause | None = None


def judge(unit: Unit, end: Exit | None, paths: AttemptPaths, stopping: bool) -> Verdict:
    """What an exit means.

    Args:
        end: None: the launcher was killed.
        paths: of the attempt; that a GPU's memory was exhausted is known from the log.
        stopping: the scheduler has asked it to stop: unless it has finished all the same, it is PREEMPTED.
    """
    if end is not None and end.succeeded:
        return Verdict(Ending.FINISHED)
    if end is not None and end.timed_out:
        return _failed(Cause.TIMEOUT, f"exceeded its timeout of {unit.timeout:g} s")
    if stopping:
        return Verdict(Ending.PREEMPTED)
    if end is None:
        if not paths.claim.exists():
            return _failed(Cause.EXIT, "could not be started, its log may say why")
        return _failed(Cause.SIGNAL, "its launcher was killed")
    if end.missing is not None and end.code == 0:
        return _failed(Cause.EXIT, f"exit code 0, but its output {str(unit.outputs[end.missing])!r} is missing")
    if end.oom:
        return _failed(Cause.OOM, "out of memory, killed by the kernel")
    how = f"killed by {signal.Signals(-end.code).name}" if end.code < 0 else f"exit code {end.code}"
    if end.code > 0 and _CUDA_OUT_OF_MEMORY.search(_end_of(paths.log)):
        return _failed(Cause.OOM, f"{how}, out of GPU memory")
    if end.code < 0 or end.code - 128 in _SIGNALS:  # the second is how a shell reports it
        return _failed(Cause.SIGNAL, how)
    return _failed(Cause.EXIT, how)


def _failed(cause: Cause, reason: str) -> Verdict:
    return Verdict(Ending.FAILED, reason, cause)


def _end_of(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_END))
            return file.read()
    except OSError:
        return b""
