"""Starts tasks, by processes that fork their launchers; see `rlsched.executor.launcher`."""

from __future__ import annotations

import errno
import json
import os
import py_compile
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rlsched.executor import launcher
from rlsched.executor.claim import forbid
from rlsched.executor.paths import AttemptPaths
from rlsched.executor.process import Process, declared


@dataclass(frozen=True, slots=True)
class Stopping:
    """How a task is stopped; see `launcher.Supervisor`.

    Attributes:
        request: number of the signal that asks it to stop; 0: none, the file alone does.
        grace: seconds that it has then. After SIGTERM that is all it has.
        last_grace: seconds between a SIGTERM that follows another request and SIGKILL.
    """

    request: int
    grace: float
    last_grace: float


@dataclass(frozen=True, slots=True)
class Launch:
    """A start of a task.

    Attributes:
        argv: the command.
        paths: of the attempt.
        record: the journal's record of this start.
        env: its whole environment.
        folder: where it runs.
        checkpoint: folder of its checkpoint; removed at its end if it is empty.
        outputs: what it has to leave.
        timeout: seconds it may take; None: no limit.
    """

    argv: Sequence[str]
    paths: AttemptPaths
    record: Mapping[str, Any]
    env: Mapping[str, str]
    folder: Path
    checkpoint: Path
    outputs: Sequence[Path]
    stopping: Stopping
    timeout: float | None = None


class NotStartedError(OSError):
    """The process that starts tasks has died, and the task has not begun, and will not: an attempt is used up."""


class Starter:
    """A process that forks launchers on request. It ends with the driver, they do not.

    Args:
        argv: the process: a program around `launcher.serve`, with a socket at its standard input.
        env: its environment.
        folder: its current folder; None: ours.
        log: where it writes what it has to say; None: where we do.
        patience: seconds to wait for an answer; None: for ever.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        folder: Path | None = None,
        log: Path | None = None,
        patience: float | None = None,
    ) -> None:
        self._socket, other = socket.socketpair()
        self._socket.settimeout(patience)
        with other, nullcontext() if log is None else log.open("ab") as out:
            self._process = subprocess.Popen(
                list(argv), stdin=other.fileno(), stdout=out, stderr=out, env=env, cwd=folder, start_new_session=True
            )

    @property
    def alive(self) -> bool:
        """False once it is known to have ended."""
        return self._process.returncode is None

    def start(self, launch: Launch) -> Process:
        """Start a task under a launcher.

        Raises:
            NotStartedError: the process has died over it. It is of no use any more.
            OSError: the log cannot be written, or no process can be started. The task has not begun, and will not.
        """
        try:
            self._socket.sendall(_request(launch))
            answer, descriptors, _, _ = socket.recv_fds(self._socket, 4, 1)
        except (ConnectionError, TimeoutError):
            answer = b""
        if not answer:
            self.close()
            return _find_out(launch.paths)
        if error := int.from_bytes(answer, "little"):
            raise OSError(error, os.strerror(error), str(launch.paths.log))
        return Process(launch.paths, descriptors[0])

    def close(self) -> None:
        """End the process; the launchers that it has forked run on."""
        self._socket.close()
        self._process.kill()  # it may be busy, or stopped
        self._process.wait()


def cold_starter() -> Starter:
    """A starter of commands."""
    return Starter((sys.executable, "-I", "-S", _compiled_launcher()), os.environ)


def _request(launch: Launch) -> bytes:
    """As `launcher.serve` wants it.

    Raises:
        OSError: it cannot be said.
    """
    paths, stopping = launch.paths, launch.stopping
    outputs = declared(launch.outputs, launch.folder)
    timeout = launcher.NEVER if launch.timeout is None else launch.timeout
    fields = (
        *(launch.folder, paths.claim, paths.exit, paths.preempt, launch.checkpoint, paths.replaced, paths.failed),
        *(stopping.request, stopping.grace, stopping.last_grace, timeout, json.dumps(launch.record), paths.log),
    )
    variables = (f"{name}={value}" for name, value in launch.env.items())
    texts = [*map(str, fields), *outputs, *launch.argv, *variables]
    content = b"".join(os.fsencode(text) + b"\0" for text in texts)
    if content.count(b"\0") != len(texts):
        raise OSError(errno.EINVAL, "a NUL character in what is to be started")
    counts = (len(content), len(fields), len(outputs), len(launch.argv))
    return b"".join(b"%d\0" % count for count in counts) + content


def _find_out(paths: AttemptPaths) -> Process:
    """The process of an attempt of which it is not known whether it was started: from now on it is, or never will be.

    Raises:
        NotStartedError: it was not.
    """
    if forbid(paths.claim):
        raise NotStartedError(errno.EPIPE, "the process that starts tasks was killed")
    return Process.find(paths) or Process(paths, os.eventfd(1, os.EFD_CLOEXEC))  # the second: it has ended already


@cache
def _compiled_launcher() -> str:
    """The launcher as bytecode, which saves each start a quarter of its time; as source where none can be written."""
    try:
        return py_compile.compile(launcher.__file__, doraise=True) or launcher.__file__
    except (OSError, py_compile.PyCompileError):
        return launcher.__file__
