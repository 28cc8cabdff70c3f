"""The driver's end of a task's launcher: find it, ask it to stop, learn how the task ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic_core import from_json

from rlsched.executor import launcher
from rlsched.executor.claim import open_holder, read_claim
from rlsched.executor.paths import MARKER, AttemptPaths
from rlsched.executor.supervisor import ADOPTED


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        code: exit code; minus the signal's number if a signal ended it.
        timed_out: it was stopped because its time was up.
        killed: it did not end within the grace period, SIGKILL ended it.
        strays: processes that outlived the command and were ended after it.
        oom: the kernel has ended it for want of memory.
        missing: index of the first declared output that it has not left; None: all are there.
        time: when the last of its processes was gone, in seconds since the epoch.
        began: when its first statement ran, in seconds since the epoch: a command was started, a function called.
        warm: it was forked from a process that had imported what it needs.
        cpu: CPU seconds of all its processes.
    """

    code: int
    timed_out: bool = False
    killed: bool = False
    strays: int = 0
    oom: bool = False
    missing: int | None = None
    time: float = 0.0
    began: float | None = None
    warm: bool = False
    cpu: float | None = None

    @property
    def succeeded(self) -> bool:
        """It has done what it should, whatever anybody asked of it meanwhile."""
        return self.code == 0 and self.missing is None and not self.timed_out


class Process:
    """A running task: a launcher and what it owns. Ready to read (`fileno`) once all of it has ended.

    One that this driver has started is a `starter.Started`.

    Attributes:
        paths: of the attempt.
        signalled: a signal was sent to the launcher by this object.
    """

    def __init__(self, paths: AttemptPaths, pidfd: int) -> None:
        self.paths = paths
        self.signalled = False
        self._pidfd = pidfd

    @classmethod
    def find(cls, paths: AttemptPaths) -> Process | None:
        """Adopt a task that another driver has started: its launcher ends with it. None once it has ended.

        Raises:
            ValueError: that cannot be told, or the claim is damaged.
        """
        if (pidfd := _holder(paths)) is None:
            return None
        process = cls(paths, pidfd)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, ADOPTED)
        if paths.exit.exists():  # its launcher may not have known yet when the task ended
            process.let_go()
            return None
        return process

    def fileno(self) -> int:
        return self._pidfd

    @property
    def was_asked_to_stop(self) -> bool:
        """True if somebody has, in this session or an earlier one."""
        return os.path.exists(self.paths.text("preempt"))  # noqa: PTH110 - see `text`

    def stop(self) -> None:
        """Ask the task to end, and see to it that it does; see `Supervisor`. To ask again changes nothing."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGQUIT)

    def _send(self, number: int) -> None:
        self.signalled = True
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def wait(self) -> Exit | None:
        """How the task ended, once it has: see `collect`."""
        self.let_go()
        return collect(self.paths)

    def let_go(self) -> None:
        """Forget about the process, which runs on if it has not ended."""
        os.close(self._pidfd)


def _holder(paths: AttemptPaths) -> int | None:
    """A pidfd of the launcher of an attempt that runs; None once it has ended.

    Raises:
        ValueError: see `Process.find`.
    """
    if paths.exit.exists():  # its launcher may live on, with another task
        return None
    claim = read_claim(paths.claim)
    return None if claim is None else open_holder(paths.claim, claim)


def runs(paths: AttemptPaths) -> bool:
    """True if an attempt is known to run."""
    try:
        pidfd = _holder(paths)
    except ValueError:
        return False
    if pidfd is not None:
        os.close(pidfd)
    return pidfd is not None


def collect(paths: AttemptPaths) -> Exit | None:
    """How an attempt ended whose launcher has: None if that was killed. Nothing of the task is left afterwards."""
    try:
        content = paths.exit.read_bytes()
    except FileNotFoundError:
        _sweep(str(paths.progress))
        return None
    return exit_of(content)


def exit_of(content: bytes) -> Exit:
    """How an attempt ended, from what its launcher has to say of it."""
    return Exit(**from_json(content))


def move_failed(outputs: Iterable[Path], folder: Path, paths: AttemptPaths) -> None:
    """Put aside what an attempt has written, in place of a launcher that could not."""
    launcher.move_aside(declared(outputs, folder), str(folder), str(paths.failed), "what the failed attempt wrote")


def declared(outputs: Iterable[Path], folder: Path) -> list[str]:
    """Outputs as a launcher wants them: relative to the folder that the task runs in, if they are inside."""
    return [os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path) for path in outputs]


def _sweep(marker: str) -> None:
    """End what a killed launcher has left behind, known by the environment that it inherited."""
    while left := [process for process in psutil.process_iter() if _is_marked(process, marker)]:
        for process in left:
            with suppress(psutil.NoSuchProcess):  # it has ended by itself in the meantime
                process.kill()
        psutil.wait_procs(left, timeout=0.1)


def _is_marked(process: psutil.Process, marker: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == marker
    except psutil.Error:
        return False
