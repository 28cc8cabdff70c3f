"""Starts tasks, by processes that fork their launchers; see `rlsched.executor.launcher`."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlsched.executor import launcher
from rlsched.executor.paths import AttemptPaths
from rlsched.executor.process import Exit, Process, collect, declared, exit_of
from rlsched.executor.supervisor import NEVER

_SERVE = "import sys; sys.path.append(sys.argv[1]); from rlsched.executor import launcher; launcher.main()"


@dataclass(frozen=True, slots=True)
class Stopping:
    """How a task is stopped; see `supervisor.Supervisor`.

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
    """What starts tasks has died over it; the task has not begun, and will not: an attempt is used up."""


class Launcher(NamedTuple):
    """The driver's hold on a launcher that it has had forked: a pidfd, and what they talk by."""

    pidfd: int
    socket: socket.socket

    def hang_up(self) -> None:
        """Let it end, when it has a task after that; also if others have inherited the socket."""
        with suppress(OSError):  # it has ended
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """The same, and give back what is needed for that."""
        self.hang_up()
        self.socket.close()
        os.close(self.pidfd)


class Started(Process):
    """A task that this driver has started. Its launcher can have another one when it has ended.

    Args:
        give_back: takes the launcher then.
    """

    def __init__(self, paths: AttemptPaths, own: Launcher, give_back: Callable[[Launcher], object]) -> None:
        super().__init__(paths, own.pidfd)
        self._launcher = own
        self._give_back = give_back

    def fileno(self) -> int:
        return self._launcher.socket.fileno()

    def wait(self) -> Exit | None:
        """How the task ended, once it has: see `collect`.

        Raises:
            NotStartedError: its launcher was killed before it began.
            OSError: it could not be started.
        """
        said = b""
        with suppress(ConnectionError):
            while not said.endswith(b"\n") and (more := self._launcher.socket.recv(4096)):
                said += more
        if not said.endswith(b"\n"):
            self.let_go()
            if not self.paths.claim.exists():
                raise NotStartedError(errno.EPIPE, "its launcher was killed")
            return collect(self.paths)
        if self.signalled:  # a signal that came too late for this task must not meet another one
            self.let_go()
        else:
            self._give_back(self._launcher)
        if said.startswith(b"{"):
            return exit_of(said)
        number, _, file = said[:-1].partition(b" ")
        raise OSError(int(number), os.strerror(int(number)), os.fsdecode(file))

    def let_go(self) -> None:
        self._launcher.close()


class Starter:
    """A process that forks launchers on request, and these. It ends with the driver; they end with their tasks.

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
        self._idle: list[Launcher] = []
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
        """Start a task under a launcher: one that has nothing to do, or a new one.

        Raises:
            NotStartedError: the process has died over it. It is of no use any more.
            OSError: no process can be started. The task has not begun, and will not.
        """
        request = _request(launch)
        while self._idle:
            own = self._idle.pop()
            if _send(own, request):
                return Started(launch.paths, own, self._take_back)
        own = self._fork()
        if not _send(own, request):
            raise NotStartedError(errno.EPIPE, "its launcher was killed")
        return Started(launch.paths, own, self._take_back)

    def _fork(self) -> Launcher:
        """A new launcher.

        Raises:
            NotStartedError, OSError: see `start`.
        """
        try:
            self._socket.sendall(b"\1")
            answer, descriptors, _, _ = socket.recv_fds(self._socket, 4, 2, socket.MSG_CMSG_CLOEXEC)
        except (ConnectionError, TimeoutError):
            answer = b""
        if not answer:
            self.close()
            raise NotStartedError(errno.EPIPE, "the process that starts tasks was killed")
        if error := int.from_bytes(answer, "little"):
            raise OSError(error, os.strerror(error))
        return Launcher(descriptors[0], socket.socket(fileno=descriptors[1]))

    def _take_back(self, own: Launcher) -> None:
        if self.alive:
            self._idle.append(own)
        else:
            own.close()

    def close(self) -> None:
        """End the process, and the launchers that have no task; the others run on."""
        self._socket.close()
        self._process.kill()  # it may be busy, or stopped
        self._process.wait()
        for own in self._idle:
            own.hang_up()
        for own in self._idle:  # at once, so that nobody is told that the folder is busy who unmounts it next
            poll = select.poll()
            poll.register(own.pidfd, select.POLLIN)
            poll.poll(1000)
            own.close()
        self._idle.clear()


def _send(own: Launcher, request: bytes) -> bool:
    """Hand a task to a launcher; False if it has been killed, and so will never begin it."""
    try:
        own.socket.sendall(request)
    except ConnectionError:
        own.close()
        return False
    return True


def cold_starter() -> Starter:
    """A starter of commands."""
    return Starter((sys.executable, "-I", "-S", "-c", _SERVE, str(Path(launcher.__file__).parents[2])), os.environ)


def _request(launch: Launch) -> bytes:
    """As `launcher.attend` wants it.

    Raises:
        OSError: it cannot be said.
    """
    paths, stopping = launch.paths, launch.stopping
    outputs = declared(launch.outputs, launch.folder)
    timeout = NEVER if launch.timeout is None else launch.timeout
    fields = (
        *(launch.folder, launch.checkpoint, paths.text("claim"), json.dumps(launch.record), paths.text("log")),
        *(paths.text("exit"), paths.text("preempt"), paths.text("replaced"), paths.text("failed")),
        *(stopping.request, stopping.grace, stopping.last_grace, timeout),
    )
    variables = [f"{name}={value}" for name, value in launch.env.items()]
    texts = [*map(str, fields), *outputs, *launch.argv, *variables]
    content = os.fsencode("\0".join(texts) + "\0")
    if content.count(b"\0") != len(texts):
        raise OSError(errno.EINVAL, "a NUL character in what is to be started")
    counts = (len(content), len(fields), len(outputs), len(launch.argv))
    return b"".join(b"%d\0" % count for count in counts) + content
