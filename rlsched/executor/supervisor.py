"""Waits for a task's processes, and ends them; a part of `rlsched.executor.launcher`, and as frugal with imports."""

import _signal as signal  # type: ignore[import-not-found]
import posix as os
import time
from collections.abc import Iterable

ADOPTED = signal.SIGURG  # which does nothing to a process that does not know of it
AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT}
LONGEST_WAIT = 86400.0
NEVER = float("inf")


class Supervisor:
    """Waits for a command's process, the leader of a session and group of its own, and for all that it leaves behind.

    To stop it, a file is written and a signal sent to its group. If that was SIGTERM, SIGKILL follows after the grace
    period; if it was another one or none, SIGTERM follows, and SIGKILL after a last grace period.

    Args:
        leader: number of that process, and of its group.
        preempt_file: appears when the command is asked to stop.
        request: number of the signal that asks it; 0: the file alone does.
        grace: seconds that it has from then on.
        last_grace: seconds between a SIGTERM that comes after that, or after the command's own end, and SIGKILL.
        timeout: seconds after which the command is stopped.
    """

    def __init__(
        self, leader: int, preempt_file: str, request: int, grace: float, last_grace: float, timeout: float
    ) -> None:
        self.leader = leader
        self.preempt_file = preempt_file
        self.request = request
        self.grace = grace
        self.last_grace = last_grace
        self.deadline = time.monotonic() + timeout
        self.terminate_at = self.kill_at = NEVER
        self.status: int | None = None
        self.stopped = self.timed_out = self.killed = False
        self.strays = 0

    def run(self) -> dict[str, object]:
        """Wait until no process is left, and say how the command ended."""
        while self.reap():
            now = time.monotonic()
            if now >= self.deadline:
                self.deadline = NEVER
                self.timed_out = True
                self.stop()
            if now >= self.terminate_at:
                self.terminate_at, self.kill_at = NEVER, min(self.kill_at, now + self.last_grace)
                send(signal.SIGTERM, self.group())
            if now >= self.kill_at:
                self.killed = self.killed or self.status is None
                send(signal.SIGKILL, descendants())
                self.kill_at = now + 0.1  # once more, for what was forked in the meantime
            remaining = min(self.deadline, self.terminate_at, self.kill_at) - now
            received = signal.sigtimedwait(AWAITED, min(max(0.0, remaining), LONGEST_WAIT))
            if received is not None and received.si_signo == signal.SIGTERM:
                self.stop()
            elif received is not None and received.si_signo == signal.SIGQUIT:
                self.kill_at = 0.0
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
        """Ask the command's group to end, as Ctrl-C in a terminal would. To ask again changes nothing."""
        if self.stopped:
            return
        self.stopped = True
        now = time.monotonic()
        if self.request == signal.SIGTERM:
            self.kill_at = min(self.kill_at, now + self.grace)
        else:
            self.terminate_at = now + self.grace
        self.announce()
        if self.request:
            send(self.request, self.group())

    def announce(self) -> None:
        """Make the file that says so; on a full disk its content may be missing."""
        left = self.grace if self.request == signal.SIGTERM else self.grace + self.last_grace
        moment = time.time()
        try:
            with open(self.preempt_file, "w") as file:  # noqa: PTH123
                file.write(f'{{"time": {moment}, "kill_at": {moment + left}}}\n')
        except OSError:
            return

    def group(self) -> list[int]:
        """What is left of the command's process group."""
        return [pid for pid, group in descendants().items() if group == self.leader]

    def dismiss_strays(self) -> None:
        """Ask what outlives the command to end. If the command was stopped, its group has been asked already."""
        self.deadline = NEVER
        left = descendants()
        strays = [pid for pid, group in left.items() if not (self.stopped and group == self.leader)]
        self.strays = len(strays)
        if len(strays) == len(left):
            self.kill_at = min(self.kill_at, time.monotonic() + self.last_grace)
        send(signal.SIGTERM, strays)


def descendants() -> dict[int, int]:
    """The process groups of all processes that come of this one, by process number."""
    children: dict[int, list[tuple[int, int]]] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
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
