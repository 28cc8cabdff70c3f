"""Worker processes: one thread each, silent on Ctrl-C, and never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

_PR_SET_PDEATHSIG = 1
_T = TypeVar("_T")


def worker_pool(processes: int, begin: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """A pool of `processes` new processes, each of which calls `begin(*arguments)` first.

    They are spawned, not forked: a fork of a process in which torch or a progress bar has threads can hang.
    """
    return ProcessPoolExecutor(processes, get_context("spawn"), _begin, (os.getpid(), begin, arguments))


def submit_all(
    pool: ProcessPoolExecutor, function: Callable[..., _T], calls: Iterable[Sequence[Any]]
) -> list[Future[_T]]:
    """Submit a call for each sequence of arguments.

    The processes start on the first one. They inherit the blocked Ctrl-C, and unblock it when they can die quietly.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return [pool.submit(function, *arguments) for arguments in calls]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _begin(parent: int, begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # two threads on busy cores are many times slower than one
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker at once and without a traceback
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # and so does the end of the parent, however it comes
    if os.getppid() != parent:
        os._exit(1)
    begin(*arguments)
