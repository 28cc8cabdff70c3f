"""Starts launchers. A launcher runs one command and owns every process that comes of it; it ends with the last of them.

python -I -S launcher.py < SOCKET

A driver has one such process to fork launchers from, which takes a tenth of the time that it takes to start Python.
It reads requests from the socket at its standard input (see `serve`) and ends with the driver.

A launcher stands between the driver and each task, and outlives the driver. It is a child subreaper: whatever
the command starts, also in a session of its own, is re-parented to it and cannot get away. SIGTERM asks the command to
stop (see `Supervisor`), SIGQUIT ends it at once.

The claim says who it is (see `rlsched.executor.claim`), and comes into being before the command does, or not at
all: a driver that finds no claim may put one in its place, and then the command never runs. The exit file says how the
command ended. Both appear whole. Declared outputs that are there beforehand are moved to the folder `replaced`, and
those that a command leaves that did not succeed to the folder `failed`.

It is a script, on few and small modules (`signal` alone would take as long to import as all of these), because the
first task waits for it to start.
"""

import _ctypes
import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import fcntl
import posix as os
import sys
import time
from collections.abc import Callable, Iterable

EXDEV, ENOSPC, EDQUOT = 18, 28, 122
PR_SET_CHILD_SUBREAPER = 36
AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT}
IGNORED_BY_PYTHON = [signal.SIGPIPE, signal.SIGXFSZ]  # and so, without further ado, by what it starts
LONGEST_WAIT = 86400.0
NEVER = float("inf")


def execute(command: list[str], environment: dict[str, str]) -> int:
    """Start a command as the leader of a session and group of its own; returns its number.

    Raises:
        OSError: it cannot be started.
    """
    if "PATH" in environment:
        os.putenv("PATH", environment["PATH"])  # where the command is looked up
    return os.posix_spawnp(command[0], command, environment, setsid=True, setsigmask=[], setsigdef=IGNORED_BY_PYTHON)


def serve(start: Callable[[list[str], dict[str, str]], int] = execute) -> None:
    """Fork a launcher for each request, until the driver is gone.

    A request is its length and the number of each kind of text in it (fields, as `launch` takes them, and the log;
    outputs; words of the command; variables), then the texts, each ended by NUL. The answer is an error number, and if
    that is 0, a pidfd of the launcher.

    Args:
        start: how a launcher starts its command.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    driver = socket.socket(fileno=0)
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]  # None: this program
    while request := receive(driver):
        fields, outputs, command, variables = request
        try:
            log = os.open(fields[-1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            pid = os.fork()
        except OSError as error:
            driver.sendall((error.errno or 1).to_bytes(4, "little"))
            continue
        if pid == 0:
            os.setsid()  # out of reach of the terminal's Ctrl-C, and of what ends the driver
            driver.detach()
            nothing = os.open("/dev/null", os.O_RDONLY)
            os.dup2(nothing, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(nothing)
            os.close(log)
            _ctypes.call_function(prctl, (PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
            launch(fields[:-1], outputs, command, variables, start)
            os._exit(0)
        pidfd = os.pidfd_open(pid)  # of a process that has not been reaped, and so is the right one
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, pidfd.to_bytes(4, sys.byteorder))]
        driver.sendmsg([bytes(4)], rights)
        os.close(pidfd)
        os.close(log)
        while os.waitpid(-1, os.WNOHANG)[0]:  # those that have ended; there is a child, so this cannot fail
            pass


def receive(driver: socket.socket) -> tuple[list[str], list[str], list[str], list[str]] | None:
    """The next request; None once the driver is gone."""
    data = b""
    while data.count(b"\0", 0, 80) < 4:
        if not (more := driver.recv(1 << 16)):
            return None
        data += more
    length, *counts, rest = data.split(b"\0", 4)
    while len(rest) < int(length):
        if not (more := driver.recv(1 << 16)):
            return None
        rest += more
    texts = rest.decode("utf-8", "surrogateescape").split("\0")
    ends = [sum(map(int, counts[: index + 1])) for index in range(3)]
    return texts[: ends[0]], texts[ends[0] : ends[1]], texts[ends[1] : ends[2]], texts[ends[2] : -1]


def launch(
    fields: list[str],
    outputs: list[str],
    command: list[str],
    variables: list[str],
    start: Callable[[list[str], dict[str, str]], int],
) -> None:
    """Be a launcher, from claim to exit file."""
    folder, claim, exit_file, preempt_file, checkpoint, replaced, failed, *numbers, record = fields
    request, grace, last_grace, timeout = map(float, numbers)
    os.chdir(folder)
    if not take(claim, record):
        return
    move_aside(outputs, folder, replaced, "what was there before")
    oom_kills = count_oom_kills()
    try:
        leader = start(command, dict(variable.split("=", 1) for variable in variables))
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        end: dict[str, object] = {"code": 127, "timed_out": False, "killed": False, "strays": 0}
    else:
        began = time.time()
        end = Supervisor(leader, preempt_file, int(request), grace, last_grace, timeout).run()
        end["began"] = began
    end["warm"] = start is not execute
    end["oom"] = end["code"] in (-9, 137) and not end["killed"] and count_oom_kills() > oom_kills
    end["missing"] = next((index for index, output in enumerate(outputs) if not exists(output)), None)
    end["time"] = time.time()
    end["cpu"] = sum(os.times()[2:4])  # of all that this process has reaped, and so of all that came of the command
    if end["code"] or end["timed_out"] or end["missing"] is not None:
        move_aside(outputs, folder, failed, "what the failed attempt wrote")
    remove_if_empty(checkpoint)
    leave(exit_file, end)


def take(claim: str, record: str) -> bool:
    """Claim the attempt for this process; False if somebody has forbidden it. The claim is locked until the end."""
    with open("/proc/self/stat") as file:  # noqa: PTH123
        start = file.read().rpartition(")")[2].split()[19]
    with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123
        boot = file.read().strip()
    temporary = f"{claim}.{os.getpid()}"
    lock = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)  # left open
    fcntl.flock(lock, fcntl.LOCK_EX)
    identity = (
        f'"pid": {os.getpid()}, "start": {start}, "boot": "{boot}", "space": "{os.readlink("/proc/self/ns/pid")}"'
    )
    try:
        os.write(lock, f'{{{identity}, "time": {time.time()}, "record": {record}}}\n'.encode())
        os.link(temporary, claim)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def leave(exit_file: str, end: dict[str, object]) -> None:
    """Write down how it ended; as long as the disk is full, keep that in mind and try again."""
    values = {None: "null", True: "true", False: "false"}
    fields = ", ".join(
        f'"{name}": {values[value] if value is None or value is True or value is False else value}'
        for name, value in end.items()
    )
    while True:
        try:
            with open(f"{exit_file}.tmp", "w") as file:  # noqa: PTH123
                file.write(f"{{{fields}}}\n")
            os.replace(f"{exit_file}.tmp", exit_file)
            return
        except OSError as error:
            if error.errno not in (ENOSPC, EDQUOT):
                raise
            time.sleep(0.5)


def move_aside(outputs: Iterable[str], folder: str, target: str, what: str) -> None:
    """Take outputs (relative to `folder`) away from where others look for them; links and mount points stay."""
    for output in outputs:
        path = output if output.startswith("/") else f"{folder}/{output}"
        try:
            if os.lstat(path).st_mode & 0o170000 not in (0o100000, 0o040000):  # neither a file nor a folder
                continue
        except OSError:
            continue
        parent, _, name = path.rpartition("/")
        beside = f"{parent}/.rlsched/{target.rpartition('/')[2]}/{name}"  # on the same file system, come what may
        for place in (f"{target}/{output.lstrip('/')}", beside):
            try:
                make_folders(place.rpartition("/")[0])
                os.rename(path, place)
                say(f"{output}: {what} is now {place}")
                break
            except OSError as error:
                if error.errno != EXDEV:
                    say(f"{output}: {what} cannot be moved away: {error.strerror}")
                    break


def make_folders(path: str) -> None:
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        try:
            os.mkdir("/".join(parts[:end]) or "/")
        except FileExistsError:
            continue


def remove_if_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        return


def exists(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def count_oom_kills() -> int:
    """Processes of this machine that the kernel has killed for want of memory, in a control group or altogether."""
    try:
        with open("/proc/vmstat") as file:  # noqa: PTH123
            return int(file.read().partition("\noom_kill ")[2].partition("\n")[0] or 0)
    except OSError:
        return 0


def say(text: str) -> None:
    """Put a remark in the task's log."""
    try:
        print(f"[rlsched] {text}", file=sys.stderr, flush=True)
    except OSError:  # the disk is full
        return


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


if __name__ == "__main__":
    os.closerange(3, 1 << 20)  # whatever the driver has inherited is none of a task's business
    try:
        serve()
    except ConnectionError:  # the driver was killed in the middle of a request
        sys.exit()
