"""A client's end of the connection to a scheduler."""

from __future__ import annotations

import socket
import time
from typing import Any

from rlsched.queue.address import Address, TcpAddress
from rlsched.queue.protocol import VERSION, Message, Refusal, decode, encode

_ANSWER = 120.0  # seconds; the scheduler answers between two decisions of its policy


class NoSchedulerError(ValueError):
    """Nobody listens at an address."""


class LostSchedulerError(ValueError):
    """A scheduler went away, and has not come back: whether it has got the request is not known."""


class Client:
    """Talks to a scheduler. Use it as a context manager.

    If the scheduler goes away and comes back, requests that were on the way are made again: none of them does anything
    twice.

    Args:
        patience: seconds to wait for a scheduler that has been there to come back.
    """

    def __init__(self, address: Address, patience: float = 10.0) -> None:
        self._address = address
        self._patience = patience
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._met = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, message: Message) -> Message:
        """The answer to a request.

        Raises:
            NoSchedulerError: there is no scheduler.
            Refusal: the scheduler does not grant it.
            LostSchedulerError: it went away before it answered, or does not answer.
            ValueError: it does not let this user in.
        """
        until = None
        while True:
            try:
                if self._socket is None:
                    self._connect()
                return _granted(self._exchange(message))
            except (ConnectionError, FileNotFoundError):
                self.close()
                if not self._met:
                    raise NoSchedulerError(
                        f"no scheduler is running at {self._address}: start one with `rlsched up`, or name another "
                        "address with --socket"
                    ) from None
            except TimeoutError:
                self.close()
                raise LostSchedulerError(f"the scheduler at {self._address} does not answer") from None
            until = until or time.monotonic() + self._patience
            if time.monotonic() > until:
                raise LostSchedulerError(f"the scheduler at {self._address} went away before it answered")
            time.sleep(0.1)

    def close(self) -> None:
        """Hang up; another request connects anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._received.clear()

    def _connect(self) -> None:
        address = self._address
        token: dict[str, Any] = {}
        if isinstance(address, TcpAddress):
            self._socket = socket.create_connection((address.host, address.port), timeout=_ANSWER)
            token = {"token": address.token}
        else:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_ANSWER)
            try:
                self._socket.connect(str(address.path))
            except PermissionError:
                self.close()
                raise ValueError(f"{address}: its scheduler lets its owner and its group in, and nobody else") from None
        _granted(self._exchange({"request": "hello", "version": VERSION, **token}))
        self._met = True

    def _exchange(self, message: Message) -> Message:
        assert self._socket is not None
        self._socket.sendall(encode(message))
        seen = 0
        while (end := self._received.find(b"\n", seen)) < 0:
            seen = len(self._received)
            piece = self._socket.recv(1 << 18)
            if not piece:
                raise ConnectionResetError
            self._received += piece
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return decode(line)


def _granted(answer: Message) -> Message:
    if not answer.get("ok"):
        raise Refusal(str(answer.get("error", "the scheduler refuses and does not say why")))
    return answer
