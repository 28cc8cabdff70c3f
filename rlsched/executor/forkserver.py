"""A starter of Python tasks that has the heavy imports done: python -m rlsched.executor.forkserver MODULE ... < SOCKET

It forks launchers as `rlsched.executor.launcher` does, and these are launchers like the others. But the task is not a
program that its launcher executes: it is forked once more, and has everything imported. So this process must stay as
new as it can be: it has one thread, and never touches CUDA, which does not survive a fork. If the imports have changed
that, it refuses to serve.

A task's processes are known by a variable of their environment (see `process.collect`) that the kernel shows as it
was when the program was executed. Room is left for it there, and the forked task writes it where the kernel looks.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import sys
from pathlib import Path

from rlsched.executor import call, launcher
from rlsched.executor.paths import MARKER

READY = b"\1"
ROOM = {MARKER: "x" * 4096}  # the last variable of this process; no path is longer
_UNFIT = 3
_CUDA_NOT_INITIALIZED = 3  # CUDA_ERROR_NOT_INITIALIZED of the driver API


class _Task(BaseException):
    """Unwinds a forked task's stack, so that it ends as any Python program does."""

    def __init__(self, command: list[str]) -> None:
        super().__init__()
        self.command = command


def main() -> None:
    os.closerange(3, 1 << 20)
    for module in sys.argv[1:]:
        importlib.import_module(module)
    if reason := _unfit():
        print(f"{' '.join(sys.argv[1:])}: {reason}: tasks that need it are not forked", file=sys.stderr)
        sys.exit(_UNFIT)
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)  # what the imports have printed must not appear in each task's log
    gc.collect()
    gc.disable()
    gc.freeze()  # a collection would touch, and so copy, every page
    command: list[str] = []
    try:
        os.write(0, READY)
        launcher.serve(_fork)
    except ConnectionError:  # the driver was killed
        os._exit(0)
    except _Task as task:
        command = task.command
    if not command:
        os._exit(0)
    gc.enable()
    sys.argv = [call.__file__, *command]
    call.main()


def _unfit() -> str:
    """Why this process cannot be forked any more; empty if it can."""
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208
        return "the imports have started threads"
    if _cuda_is_initialised():
        return "the imports have initialised CUDA"
    if not _room():
        return "the environment cannot be found"
    return ""


def _cuda_is_initialised() -> bool:
    """Whether cuInit was called. That the driver's library is loaded says nothing: torch's CUDA builds load it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD)
    except OSError:  # not loaded
        return False
    count = ctypes.c_int()
    return bool(driver.cuDeviceGetCount(ctypes.byref(count)) != _CUDA_NOT_INITIALIZED)


def _fork(command: list[str], environment: dict[str, str]) -> int:
    """Start a task as the leader of a session and group of its own; returns its number. Called by its launcher.

    Args:
        command: as for a cold start; the last two words are the arguments of `rlsched.executor.call`.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)  # before anything can look for devices
        _mark(environment[MARKER])
        for descriptor in (read, write, *launcher.PRIVATE):
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if random := sys.modules.get("numpy.random"):
            random.seed()  # or all tasks would draw the same numbers; Python's own generator knows of forks
        raise _Task(command[-2:])
    os.close(write)
    os.read(read, 1)  # until it can be found, and reached through its group
    os.close(read)
    return pid


def _room() -> tuple[int, int] | None:
    """Where the value of the marker stands in the environment that the kernel shows, and how many bytes it has."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start, env_end: proc_pid_stat(5)
    if not 0 < start < end:
        return None
    prefix = f"\0{MARKER}=".encode()
    place = ctypes.string_at(start, end - start).rfind(prefix)
    if place < 0:
        return None
    return start + place + len(prefix), end - start - place - len(prefix) - 1


def _mark(value: str) -> None:
    place = _room()
    assert place is not None
    address, size = place
    ctypes.memmove(address, os.fsencode(value).ljust(size, b"\0")[:size], size)


if __name__ == "__main__":
    main()
