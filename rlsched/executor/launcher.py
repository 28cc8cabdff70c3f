"""Runs one command and owns every process that comes of it; ends when the last of them is gone.

python -I -S launcher.py EXIT_FILE DRIVER HELD GRACE TIMEOUT COMMAND [ARGUMENT ...]

One such process stands between the driver and each task. It is a child subreaper: whatever the command starts, also
in a session of its own, is re-parented to it and cannot get away. EXIT_FILE then says how the command ended. SIGTERM
asks the command to stop, a second one ends it at once; the death of the process DRIVER counts as a SIGTERM. HELD is a
file descriptor to keep open, so that the driver's lock lasts as long as what the driver has started.

It runs as a script, on the standard library alone and with few imports, because every task waits for it to start.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
AWAITED = {signal.SIGCHLD, signal.SIGTERM}
IGNORED_BY_PYTHON = [signal.SIGPIPE, signal.SIGXFSZ]  # and so, without further ado, by what it starts
LONGEST_WAIT = 86400.0
NEVER = float("inf")


def main() -> None:
    exit_file, driver, held, grace, timeout, *command = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    os.set_inheritable(int(held), False)
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(driver):  # it died before it could be watched
        os.kill(os.getpid(), signal.SIGTERM)
    try:
        leader = os.posix_spawnp(
            command[0], command, os.environ, setsid=True, setsigmask=[], setsigdef=IGNORED_BY_PYTHON
        )
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        record = {"code": 127, "timed_out": False, "killed": False, "strays": 0}
    else:
        record = Supervisor(leader, float(grace), float(timeout)).run()
    fields = ", ".join(f'"{name}": {str(value).lower()}' for name, value in record.items())
    with open(f"{exit_file}.tmp", "w") as file:  # noqa: PTH123
        file.write(f"{{{fields}}}\n")
    os.replace(f"{exit_file}.tmp", exit_file)  # noqa: PTH105


class Supervisor:
    """Waits for a command's process, the leader of a session and group of its own, and for all that it leaves behind.

    Args:
        leader: number of that process, and of its group.
        grace: seconds between SIGTERM and SIGKILL.
        timeout: seconds after which the command is stopped.
    """

    def __init__(self, leader: int, grace: float, timeout: float) -> None:
        self.leader = leader
        self.grace = grace
        self.deadline = time.monotonic() + timeout
        self.kill_at = NEVER
        self.status: int | None = None
        self.stopped = self.timed_out = self.killed = False
        self.strays = 0

    def run(self) -> dict[str, int]:
        """Wait until no process is left, and say how the command ended."""
        while self.reap():
            now = time.monotonic()
            if now >= self.deadline:
                self.deadline = NEVER
                self.timed_out = True
                self.stop()
            if now >= self.kill_at:
                self.killed = self.killed or self.status is None
                send(signal.SIGKILL, descendants())
                self.kill_at = now + 0.1  # once more, for what was forked in the meantime
            remaining = min(self.deadline, self.kill_at) - now
            received = signal.sigtimedwait(AWAITED, min(max(0.0, remaining), LONGEST_WAIT))
            if received is not None and received.si_signo == signal.SIGTERM:
                self.stop()
        assert self.status is not None
        code = os.waitstatus_to_exitcode(self.status)
        return {"code": code, "timed_out": self.timed_out, "killed": self.killed, "strays": self.strays}

    def reap(self) -> bool:
        """Collect what has ended; False once nothing is left: a subreaper without children has no descendants."""
        led = self.status is None
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.leader:
                    self.status = ended[1]
        except ChildProcessError:
            return False
        if led and self.status is not None:
            self.dismiss_strays()
        return True

    def stop(self) -> None:
        """Ask the command's group to end, as Ctrl-C in a terminal would; a second call leaves it no more time."""
        if self.stopped:
            self.kill_at = 0.0
            return
        self.stopped = True
        self.kill_at = min(self.kill_at, time.monotonic() + self.grace)
        send(signal.SIGTERM, [pid for pid, group in descendants().items() if group == self.leader])

    def dismiss_strays(self) -> None:
        """Ask what outlives the command to end. Its group has been asked already if the command was stopped."""
        self.deadline = NEVER
        strays = [pid for pid, group in descendants().items() if not (self.stopped and group == self.leader)]
        self.strays = len(strays)
        self.kill_at = min(self.kill_at, time.monotonic() + self.grace)
        send(signal.SIGTERM, strays)


def descendants() -> dict[int, int]:
    """The process groups of all processes that come of this one, by process number."""
    children: dict[int, list[tuple[int, int]]] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):  # noqa: PTH208
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as file:  # noqa: PTH123
                fields = file.read().rpartition(")")[2].split()  # state, parent, group, ...
        except OSError:  # it has ended in the meantime
            continue
        children.setdefault(int(fields[1]), []).append((pid, int(fields[2])))
    found: dict[int, int] = {}
    unseen = [os.getpid()]
    while unseen:
        for pid, group in children.get(unseen.pop(), ()):
            found[pid] = group
            unseen.append(pid)
    return found


def send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
