"""The driver's end of a task's launcher: start it or find it, ask it to stop, learn how the task ended."""

from __future__ import annotations

import errno
import json
import os
import py_compile
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from rlsched.executor import launcher
from rlsched.executor.claim import forbid, open_holder, read_claim
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

    def __init__(self, paths: AttemptPaths, pidfd: int) -> None:
        self.paths = paths
        self._pidfd = pidfd

    @classmethod
    def find(cls, paths: AttemptPaths) -> Process | None:
        """A task that an earlier driver has started; None once its launcher has ended.

        Raises:
            ValueError: that cannot be told, or the claim is damaged.
        """
        claim = read_claim(paths.claim)
        pidfd = None if claim is None else open_holder(paths.claim, claim)
        return None if pidfd is None else cls(paths, pidfd)

    def fileno(self) -> int:
        return self._pidfd

    def stop(self) -> None:
        """Ask the task to end: SIGTERM, then SIGKILL after the grace period. Asked again, it is killed at once."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def wait(self) -> Exit | None:
        """How the task ended, once it has: see `collect`."""
        self.let_go()
        return collect(self.paths)

    def let_go(self) -> None:
        """Forget about the process, which runs on if it has not ended."""
        os.close(self._pidfd)


class Starter:
    """Starts tasks, by a process of its own that forks their launchers; see `rlsched.executor.launcher`."""

    def __init__(self) -> None:
        self._begin()

    def start(
        self,
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
        fields = (
            *(folder, paths.claim, paths.exit, paths.replaced, paths.failed),
            *(grace, launcher.NEVER if timeout is None else timeout, json.dumps(record), paths.log),
        )
        texts = [*map(str, fields), *declared, *argv, *(f"{name}={value}" for name, value in env.items())]
        content = b"".join(os.fsencode(text) + b"\0" for text in texts)
        if content.count(b"\0") != len(texts):
            raise OSError(errno.EINVAL, "a NUL character in what is to be started")
        counts = (len(content), len(fields), len(declared), len(argv))
        try:
            self._socket.sendall(b"".join(b"%d\0" % count for count in counts) + content)
            answer, descriptors, _, _ = socket.recv_fds(self._socket, 4, 1)
        except ConnectionError:
            answer = b""
        if not answer:
            self.close()
            self._begin()
            return _find_out(paths)
        if error := int.from_bytes(answer, "little"):
            raise OSError(error, os.strerror(error), str(paths.log))
        return Process(paths, descriptors[0])

    def close(self) -> None:
        """End the process that starts tasks; those that it has started run on."""
        self._socket.close()
        os.waitpid(self._pid, 0)

    def _begin(self) -> None:
        self._socket, other = socket.socketpair()
        with other:
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", _compiled_launcher()],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, other.fileno(), 0)],
                setsid=True,
                setsigmask=[signal.SIGTERM],
            )


def _find_out(paths: AttemptPaths) -> Process:
    """The process of an attempt of which it is not known whether it was started: from now on it is, or never will be.

    Raises:
        OSError: it was not.
    """
    if forbid(paths.claim):
        raise OSError(errno.EPIPE, "the process that starts tasks was killed")
    return Process.find(paths) or Process(paths, os.eventfd(1, os.EFD_CLOEXEC))  # the second: it has ended already


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
