"""Which process holds an attempt, and whether it still lives: death is believed on evidence alone.

Evidence is: the machine has been started anew since, no process has the number, or the process that has it started at
another time. In another container (PID namespace) numbers mean nothing; there, the lock that a launcher holds on its
claim tells.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Claim:
    """The content of a claim file.

    Attributes:
        pid: process number of the launcher; None: a driver has forbidden the attempt.
        start: when that process started, in clock ticks since the machine did.
        boot: the kernel's id of that start of the machine.
        space: the PID namespace in which `pid` means something.
        record: the journal's record of the attempt's start.
    """

    pid: int | None
    start: int
    boot: str
    space: str
    record: dict[str, Any]


@cache
def boot_id() -> str:
    """The kernel's id of the present start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pid_space() -> str:
    """The PID namespace that this process is in."""
    return str(Path("/proc/self/ns/pid").readlink())


def read_claim(path: Path) -> Claim | None:
    """The claim in a file; None while there is none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = json.loads(path.read_text())
        return Claim(
            content["pid"], content.get("start", 0), content["boot"], content.get("space", ""), content["record"]
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: expected a launcher's claim, the file is damaged") from None


def forbid(path: Path) -> bool:
    """Keep an attempt without a claim from ever beginning; False if its launcher was faster."""
    temporary = _refusal(path)
    try:
        os.link(temporary, path)
    except FileExistsError:
        claim = read_claim(path)
        return claim is not None and claim.pid is None
    finally:
        temporary.unlink()
    return True


def discard(path: Path) -> None:
    """Put the same in the place of a claim that nobody can hold any more."""
    _refusal(path).replace(path)


def _refusal(path: Path) -> Path:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"pid": None, "boot": boot_id(), "record": {}}) + "\n")
    return temporary


def open_holder(path: Path, claim: Claim) -> int | None:
    """A pidfd of the launcher that holds a claim; None once it has ended. It is readable once it has.

    Raises:
        ValueError: nobody can tell from here whether it lives.
    """
    if claim.pid is None or claim.boot != boot_id():
        return None
    if claim.space != pid_space():
        if _is_locked(path):
            raise ValueError(f"process {claim.pid} of another container holds {path}: stop it there, or wait for it")
        return None
    try:
        pidfd = os.pidfd_open(claim.pid)
    except ProcessLookupError:
        return None
    if _has_ended(pidfd) or _start_of(claim.pid) != claim.start:
        os.close(pidfd)
        return None
    return pidfd


def _start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise ValueError(f"cannot tell whether process {pid} is a task of this run: {error}") from None
    return int(stat.rpartition(")")[2].split()[19])


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
