"""The driver's end of a task's launcher: start it, ask it to stop, learn how the task ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from rlsched.executor import launcher

MARKER = "RLSCHED_PROGRESS_FILE"  # of the variables that a task's processes inherit, one that no two attempts share


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        code: exit code; minus the signal's number if a signal ended it.
        timed_out: it was stopped because its time was up.
        killed: SIGTERM did not end it within the grace period, SIGKILL did.
        strays: processes that outlived the command and were ended after it.
    """

    code: int
    timed_out: bool = False
    killed: bool = False
    strays: int = 0


class Process:
    """A running task: a launcher and what it owns. Ready to read (`fileno`) once all of it has ended.

    Args:
        argv: the command.
        env: its whole environment.
        folder: where it runs.
        log: file that takes its standard output and error.
        exit_file: file in which the launcher leaves how it ended.
        grace, timeout: see `launcher.Supervisor`.
        held: file descriptor that the launcher keeps open as long as it lives.

    Raises:
        OSError: the log cannot be written, or no process can be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        folder: Path,
        log: Path,
        exit_file: Path,
        grace: float,
        timeout: float | None,
        held: int,
    ) -> None:
        self._exit_file = exit_file
        self._marker = env[MARKER]
        parameters = (exit_file, os.getpid(), held, grace, launcher.NEVER if timeout is None else timeout)
        with log.open("ab") as output, _sigterm_blocked():
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", launcher.__file__, *map(str, parameters), *argv],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
                pass_fds=(held,),
            )
        self._pidfd = os.pidfd_open(self._popen.pid)

    def fileno(self) -> int:
        return self._pidfd

    def stop(self) -> None:
        """Ask the task to end: SIGTERM, then SIGKILL after the grace period. Asked again, it is killed at once."""
        self._popen.terminate()

    def wait(self) -> Exit | None:
        """How the task ended, once it has; None if its launcher was killed. Nothing of it is left then."""
        self._popen.wait()
        os.close(self._pidfd)
        try:
            return Exit(**json.loads(self._exit_file.read_text()))
        except FileNotFoundError:
            self._sweep()
            return None

    def _sweep(self) -> None:
        """End what a killed launcher has left behind, known by the environment that it inherited."""
        while left := [process for process in psutil.process_iter() if self._is_marked(process)]:
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=0.1)

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == self._marker
        except psutil.Error:
            return False


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """A process started here gets no SIGTERM before it is ready for one, since it inherits what is blocked."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
