"""The scheduler's sockets: who connects, what they say, and what they are answered.

All of it is in the thread of the scheduler, which watches one descriptor (`Listener.fileno`) and calls `serve` when it
is readable. Nothing here blocks: a client that does not read its answer gets no further ones, and holds nobody up.
"""

from __future__ import annotations

import hmac
import logging
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rlsched
from rlsched.queue.address import TcpAddress, UnixAddress
from rlsched.queue.protocol import (
    LONGEST,
    LONGEST_GREETING,
    VERSION,
    Message,
    Refusal,
    check_version,
    decode,
    encode,
)

_log = logging.getLogger(__name__)
_CREDENTIALS = struct.Struct("3i")  # process, user, group
_PIECE = 1 << 18
_MOST_CONNECTIONS = 256
_PATIENCE = 10.0  # seconds that a new connection may take for its greeting

Answer = Callable[[int, Message], Message]


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    uid: int
    token: str | None  # to be shown in the greeting; None: the kernel has said who it is
    since: float
    greeted: bool = False
    closing: bool = False  # once it has read the last answer
    received: bytearray = field(default_factory=bytearray)
    searched: int = 0  # bytes of it that hold no line end
    to_send: bytearray = field(default_factory=bytearray)


class Listener:
    """Listens on any number of addresses. Who comes before there is somebody to answer has to wait.

    Attributes:
        answer: what to answer a user (by number) who asks for something; a `Refusal` is answered as such.
    """

    def __init__(self) -> None:
        self.answer: Answer = _nobody
        self._selector = selectors.EpollSelector()
        self._connections: set[_Connection] = set()
        self._listening: list[socket.socket] = []
        self._sockets: list[tuple[Path, int]] = []

    def fileno(self) -> int:
        return self._selector.fileno()

    def listen_unix(self, address: UnixAddress, group: int | None = None) -> None:
        """Listen on a Unix socket, for its owner alone or for a group as well. One that nobody listens on is replaced.

        Raises:
            ValueError: somebody listens there, or something else is there.
            OSError: the socket cannot be made.
        """
        _make_way(address)
        temporary = address.path.with_name(f"{address.path.name[:60]}.{os.getpid()}")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            temporary.unlink(missing_ok=True)
            sock.bind(str(temporary))
        finally:
            os.umask(before)
        if group is not None:
            os.chown(temporary, -1, group)
            temporary.chmod(0o660)
        self._listen(sock, None)
        temporary.rename(address.path)  # nobody meets it before it is ready
        self._sockets.append((address.path, address.path.stat().st_ino))

    def listen_tcp(self, address: TcpAddress) -> None:
        """Listen on a TCP port. Who shows the token is taken for the user who runs the scheduler.

        Raises:
            OSError: the port cannot be had.
        """
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        self._listen(sock, address.token)

    def serve(self) -> None:
        """Take what has arrived, and answer it."""
        for key, events in self._selector.select(0):
            if isinstance(key.data, _Connection):
                self._attend(key.data, events)
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._accept(key.fileobj, key.data[0])

    def close(self) -> None:
        """Listen no more; what is under way is cut off once what has been answered has left."""
        for path, inode in self._sockets:
            with suppress(FileNotFoundError):
                if path.stat().st_ino == inode:
                    path.unlink()
        for connection in list(self._connections):
            self._flush(connection)
            self._drop(connection)
        for sock in self._listening:
            sock.close()
        self._listening.clear()
        self._sockets.clear()
        self._selector.close()

    def _listen(self, sock: socket.socket, token: str | None) -> None:
        sock.listen(128)
        self._listening.append(sock)
        self._selector.register(sock, selectors.EVENT_READ, (token,))

    def _accept(self, sock: socket.socket, token: str | None) -> None:
        now = time.monotonic()
        for late in [c for c in self._connections if not c.greeted and now - c.since > _PATIENCE]:
            self._drop(late)
        try:
            accepted, _ = sock.accept()
        except OSError:
            return  # it has gone away in the meantime
        if len(self._connections) >= _MOST_CONNECTIONS:
            accepted.close()
            return
        accepted.setblocking(False)
        uid = os.getuid()
        if token is None:
            credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            uid = _CREDENTIALS.unpack(credentials)[1]
        connection = _Connection(accepted, uid, token, now)
        self._connections.add(connection)
        self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _attend(self, connection: _Connection, events: int) -> None:
        if events & selectors.EVENT_READ:
            try:
                piece = connection.socket.recv(_PIECE)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            if not piece:
                self._drop(connection)
                return
            connection.received += piece
        if not self._flush(connection):
            return
        while not connection.to_send and not connection.closing:
            end = connection.received.find(b"\n", connection.searched)
            connection.searched = len(connection.received) if end < 0 else 0
            if end < 0:
                if len(connection.received) > (LONGEST if connection.greeted else LONGEST_GREETING):
                    connection.closing = True
                    connection.to_send += encode(_refused("the line is too long"))
                    self._flush(connection)
                break
            line = bytes(connection.received[:end])
            del connection.received[: end + 1]
            connection.to_send += self._reply(connection, line)
            if not self._flush(connection):
                return
        if connection.closing and not connection.to_send:
            self._drop(connection)
            return
        wanted = selectors.EVENT_WRITE if connection.to_send else selectors.EVENT_READ
        self._selector.modify(connection.socket, wanted, connection)

    def _reply(self, connection: _Connection, line: bytes) -> bytes:
        try:
            message = decode(line)
            if connection.greeted:
                return encode({"ok": True, **self.answer(connection.uid, message)})
            return encode({"ok": True, **self._greet(connection, message)})
        except Refusal as refusal:
            return encode(_refused(str(refusal)))
        except Exception as error:  # one client's request must not end a scheduler
            _log.exception("a request could not be answered")
            return encode(_refused(f"the scheduler could not do that: {type(error).__name__}: {error}"))

    def _greet(self, connection: _Connection, message: Message) -> Message:
        connection.closing = True
        if message.get("request") != "hello":
            raise Refusal("expected a greeting first")
        check_version(message.get("version"))
        shown = message.get("token")
        if connection.token is not None:
            expected, given = connection.token.encode(), str(shown).encode(errors="replace")
            if not hmac.compare_digest(expected, given):
                raise Refusal("the token is not that of this scheduler")
        connection.closing = False
        connection.greeted = True
        return {"version": VERSION, "rlsched": rlsched.__version__, "uid": connection.uid}

    def _flush(self, connection: _Connection) -> bool:
        """Send as much as is taken; False if the connection is lost."""
        try:
            while connection.to_send:
                sent = connection.socket.send(connection.to_send)
                del connection.to_send[:sent]
        except BlockingIOError:
            return True
        except OSError:
            self._drop(connection)
            return False
        return True

    def _drop(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._selector.unregister(connection.socket)
            connection.socket.close()


def _nobody(uid: int, message: Message) -> Message:
    raise Refusal("the scheduler is not ready yet")


def _refused(why: str) -> dict[str, Any]:
    return {"ok": False, "error": why}


def _make_way(address: UnixAddress) -> None:
    """Make sure that nobody listens on a socket.

    Raises:
        ValueError: somebody does, or it is no socket.
    """
    if not address.path.exists():
        address.path.parent.mkdir(parents=True, exist_ok=True)
        return
    if not address.path.is_socket():
        raise ValueError(f"{address.path} is no socket, something else is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(address.path))
        except ConnectionRefusedError:
            return
        except BlockingIOError:  # so many wait to be let in
            pass
    raise ValueError(f"another scheduler listens on {address.path}")
