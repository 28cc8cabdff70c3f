"""The driver's end of a task's launcher: start it or find it, ask it to stop, learn how the task ended."""

from __future__ import annotations

import json
import os
import py_compile
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from rlsched.executor import launcher
from rlsched.executor.claim import open_holder, read_claim
from rlsched.executor.paths import AttemptPaths

MARKER = "RLSCHED_PROGRESS_FILE"  # of the variables that a task's processes inherit, one that no two attempts share


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        code: exit code; minus the signal's number if a signal ended it.
        timed_out: it was stopped because its time was up.
        killed: SIGTERM did not end it within the grace period, SIGKILL did.
        strays: processes that outlived the command and were ended after it.
        oom: the kernel has ended it for want of memory.
        missing: index of the first declared output that it has not left; None: all are there.
        time: when the last of its processes was gone, in seconds since the epoch.
    """

    code: int
    timed_out: bool = False
    killed: bool = False
    strays: int = 0
    oom: bool = False
    missing: int | None = None
    time: float = 0.0


class Process:
    """A running task: a launcher and what it owns. Ready to read (`fileno`) once all of it has ended.

    Attributes:
        paths: of the attempt.
    """

    def __init__(self, paths: AttemptPaths, pidfd: int, child: bool) -> None:
        self.paths = paths
        self._pidfd = pidfd
        self._child = child

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        paths: AttemptPaths,
        record: Mapping[str, object],
        env: Mapping[str, str],
        folder: Path,
        outputs: Iterable[Path],
        grace: float,
        timeout: float | None,
    ) -> Process:
        """Start a command under a launcher.

        Args:
            record: the journal's record of this start.
            env: its whole environment.
            folder: where it runs.
            outputs: what it has to leave.
            grace, timeout: see `launcher.Supervisor`.

        Raises:
            OSError: the log cannot be written, or no process can be started. The command has not begun, and will not.
        """
        declared = _declared(outputs, folder)
        parameters = (
            *(folder, paths.claim, paths.exit, paths.replaced, paths.failed),
            *(grace, launcher.NEVER if timeout is None else timeout),
            *(json.dumps(record), len(declared)),
        )
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", _compiled_launcher(), *map(str, parameters), *declared, *argv],
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # out of reach of the terminal's Ctrl-C, and of what ends the driver
            setsigmask=[signal.SIGTERM],  # until it is ready for one
        )
        try:
            return cls(paths, os.pidfd_open(pid), child=True)
        except OSError:  # no file descriptor is left
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            _sweep(str(paths.progress))
            raise

    @classmethod
    def find(cls, paths: AttemptPaths) -> Process | None:
        """A task that an earlier driver has started; None once its launcher has ended.

        Raises:
            ValueError: that cannot be told, or the claim is damaged.
        """
        claim = read_claim(paths.claim)
        pidfd = None if claim is None else open_holder(paths.claim, claim)
        return None if pidfd is None else cls(paths, pidfd, child=False)

    def fileno(self) -> int:
        return self._pidfd

    def stop(self) -> None:
        """Ask the task to end: SIGTERM, then SIGKILL after the grace period. Asked again, it is killed at once."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def wait(self) -> Exit | None:
        """How the task ended, once it has: see `collect`."""
        if self._child:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self.let_go()
        return collect(self.paths)

    def let_go(self) -> None:
        """Forget about the process, which runs on if it has not ended."""
        os.close(self._pidfd)


def runs(paths: AttemptPaths) -> bool:
    """True if an attempt's launcher is known to live."""
    try:
        process = Process.find(paths)
    except ValueError:
        return False
    if process is not None:
        process.let_go()
    return process is not None


def collect(paths: AttemptPaths) -> Exit | None:
    """How an attempt ended whose launcher has: None if that was killed. Nothing of the task is left afterwards."""
    try:
        return Exit(**json.loads(paths.exit.read_text()))
    except FileNotFoundError:
        _sweep(str(paths.progress))
        return None


def move_failed(outputs: Iterable[Path], folder: Path, paths: AttemptPaths) -> None:
    """Put aside what an attempt has written, in place of a launcher that could not."""
    launcher.move_aside(_declared(outputs, folder), str(folder), str(paths.failed), "what the failed attempt wrote")


def _declared(outputs: Iterable[Path], folder: Path) -> list[str]:
    return [os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path) for path in outputs]


def _sweep(marker: str) -> None:
    """End what a killed launcher has left behind, known by the environment that it inherited."""
    while left := [process for process in psutil.process_iter() if _is_marked(process, marker)]:
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=0.1)


def _is_marked(process: psutil.Process, marker: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == marker
    except psutil.Error:
        return False


@cache
def _compiled_launcher() -> str:
    """The launcher as bytecode, which saves each start a quarter of its time; as source where none can be written."""
    try:
        return py_compile.compile(launcher.__file__, doraise=True) or launcher.__file__
    except (OSError, py_compile.PyCompileError):
        return launcher.__file__
