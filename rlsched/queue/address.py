"""Where a scheduler listens: a Unix socket, or a TCP port that asks for a token."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

_LONGEST_PATH = 107  # bytes; the kernel's sockaddr_un has room for no more
_SHORTEST_TOKEN = 16


class UnixAddress(NamedTuple):
    """A Unix socket."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


class TcpAddress(NamedTuple):
    """A TCP port, and the token that opens it."""

    host: str
    port: int
    token: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def default_state_dir() -> Path:
    """The folder of a user's queue unless somebody says otherwise (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME")
    return Path(base if base else "~/.local/state").expanduser() / "rlsched"


def unix_address(path: Path) -> UnixAddress:
    """A Unix socket's address.

    Raises:
        ValueError: the path is too long for one.
    """
    absolute = path.absolute()
    if (length := len(os.fsencode(absolute))) > _LONGEST_PATH:
        raise ValueError(f"{absolute}: expected a path of at most {_LONGEST_PATH} bytes for a socket, found {length}")
    return UnixAddress(absolute)


def tcp_address(text: str, token_file: Path | None) -> TcpAddress:
    """The address HOST:PORT, or PORT on loopback.

    Raises:
        ValueError: it is none, there is no token file, or others may read it, or it holds no token.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT or PORT, found {text!r}")
    if token_file is None:
        raise ValueError("a TCP port needs a token: name the file that holds it with --token-file")
    return TcpAddress(host.strip("[]") or "127.0.0.1", int(port), read_token(token_file))


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        ValueError: it cannot be read, others may read it, or the token is shorter than 16 characters.
    """
    try:
        with file.open(encoding="utf-8") as text:
            mode = os.fstat(text.fileno()).st_mode
            token = text.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected a token, the file cannot be read: {error}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{file}: others may read this token: chmod 600 {file}, and make a new one")
    if len(token) < _SHORTEST_TOKEN or not token.isascii():
        raise ValueError(f"{file}: expected a token of {_SHORTEST_TOKEN} or more ASCII characters")
    return token
