"""Starts launchers. A launcher runs a command, and owns every process that comes of it.

A driver has one process to fork launchers from (`main`), which takes a tenth of the time that it takes to start Python.
That forks one whenever the driver asks it to (see `serve`), and ends with the driver.

A launcher stands between the driver and a task, and outlives the driver. It is a child subreaper: whatever
the command starts, also in a session of its own, is re-parented to it and cannot get away. SIGTERM asks the command to
stop (see `Supervisor`), SIGQUIT ends it at once. When nothing of the task is left, the launcher tells the driver, and
has another task from it if there is one, which saves a fork. Without a driver it ends, and when another driver has
adopted its task (`ADOPTED`): that one waits for it to end.

The claim says who it is (see `rlsched.executor.claim`), and comes into being before the command does, or not at
all: a driver that finds no claim may put one in its place, and then the command never runs. The exit file says how the
command ended. Both appear whole. Declared outputs that are there beforehand are moved to the folder `replaced`, and
those that a command leaves that did not succeed to the folder `failed`.

It stands on few and small modules (`signal` alone would take as long to import as all of these), because the first
task waits for it to start.
"""

import _ctypes
import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import fcntl
import posix as os
import select
import sys
import time
from collections.abc import Callable, Iterable

from rlsched.executor.supervisor import ADOPTED, AWAITED, Supervisor

BEGUN = "RLSCHED_BEGUN_FILE"  # variable of a Python task
EXDEV, ENOSPC, EDQUOT = 18, 28, 122
PR_SET_CHILD_SUBREAPER = 36
IGNORED_BY_PYTHON = [signal.SIGPIPE, signal.SIGXFSZ]  # and so, without further ado, by what it starts
PRIVATE: list[int] = []  # descriptors that what is forked from a launcher must not keep


def execute(command: list[str], environment: dict[str, str]) -> int:
    """Start a command as the leader of a session and group of its own; returns its number.

    Raises:
        OSError: it cannot be started.
    """
    os.putenv("PATH", environment.get("PATH", "/bin:/usr/bin"))  # where the command is looked up
    return os.posix_spawnp(command[0], command, environment, setsid=True, setsigmask=[], setsigdef=IGNORED_BY_PYTHON)


class OomKills:
    """Processes of this machine that the kernel has killed for want of memory, in a control group or altogether.

    Attributes:
        count: when somebody last looked.
    """

    def __init__(self) -> None:
        self.count = 0
        self.looked = -2.0

    def look(self, every: float = 0.0) -> int:
        """The number now, or as it was within the last `every` seconds: to ask takes longer than a short task."""
        now = time.monotonic()
        if now - self.looked >= every:
            self.count, self.looked = count_oom_kills(), now
        return self.count


class Spare:
    """The folder for checkpoints of a task that has made none, for the next task.

    To make and remove one for each takes milliseconds where ext4 has no journal: it looks at all inodes that were given
    back within the last minutes.
    """

    def __init__(self) -> None:
        self.path = ""
        mask = os.umask(0)
        os.umask(mask)
        self.mode = 0o040777 & ~mask  # a task may have changed that of its own

    def become(self, folder: str) -> None:
        """Make a folder, if there is none."""
        if self.path and self.path.rpartition("/")[0] != folder.rpartition("/")[0]:
            self.drop()
        try:
            os.rename(self.path, folder)  # which leaves one that is not empty as it is
            self.path = ""
        except OSError:
            make_folders(folder)

    def replace(self, folder: str) -> None:
        """Take a folder away, if it is empty."""
        place = f"{folder.rpartition('/')[0]}/.{os.getpid()}"
        try:
            if not (self.path or os.listdir(folder)) and os.lstat(folder).st_mode == self.mode:
                os.rename(folder, place)
                self.path = place
                return
        except OSError:
            return
        remove_if_empty(folder)

    def drop(self) -> None:
        """Remove it."""
        remove_if_empty(self.path)
        self.path = ""


def serve(start: Callable[[list[str], dict[str, str]], int] = execute) -> None:
    """Fork a launcher for each byte that the driver sends, until the driver is gone.

    The answer is an error number, and if that is 0, a pidfd of the launcher and a socket to talk to it (see `attend`).

    Args:
        start: how a launcher starts its command.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {*AWAITED, ADOPTED})
    driver = socket.socket(fileno=0)
    alive = os.pidfd_open(os.getppid())
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]  # None: this program
    while driver.recv(1):
        try:
            ours, theirs = socket.socketpair()
            pid = os.fork()
        except OSError as error:
            driver.sendall((error.errno or 1).to_bytes(4, "little"))
            continue
        if pid == 0:
            os.setsid()  # out of reach of the terminal's Ctrl-C, and of what ends the driver
            driver.detach()
            theirs.close()
            nothing = os.open("/dev/null", os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
            _ctypes.call_function(prctl, (PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
            PRIVATE.extend((ours.fileno(), alive))
            spare = Spare()
            attend(ours, alive, start, spare)
            spare.drop()
            os._exit(0)
        pidfd = os.pidfd_open(pid)  # of a process that has not been reaped, and so is the right one
        descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in (pidfd, theirs.fileno()))
        driver.sendmsg([bytes(4)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        os.close(pidfd)
        ours.close()
        theirs.close()
        while os.waitpid(-1, os.WNOHANG)[0]:  # those that have ended; there is a child, so this cannot fail
            pass


def attend(driver: socket.socket, alive: int, start: Callable[[list[str], dict[str, str]], int], spare: Spare) -> None:
    """Be a launcher: run one task after the other, as long as there is a driver.

    A request is its length and the number of each kind of text in it (fields; outputs; words of the command;
    variables), then the texts, each ended by NUL. The answer, once nothing of the task is left, is what is in its exit
    file; or the number of an error and a file, if it could not be started. Without an answer the launcher has been
    killed, or somebody has forbidden the attempt.

    Args:
        alive: a pidfd of the driver, whose end of the socket others may have inherited.
    """
    await_request = select.poll()
    await_request.register(driver, select.POLLIN)
    await_request.register(alive, select.POLLIN)
    me, oom_kills = identity(), OomKills()
    while True:
        ready = dict(await_request.poll())
        if alive in ready or not (request := receive(driver)):
            return
        (folder, checkpoint, claim, record, log, *fields), outputs, command, variables = request
        lock = None
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.close(file)
            os.chdir(folder)
            lock = take(claim, me, record)
            if lock is None:
                return
            spare.become(checkpoint)
        except OSError as error:
            answer = f"{error.errno or 1} {error.filename}\n".encode("utf-8", "surrogateescape")
        else:
            answer = launch(folder, checkpoint, fields, outputs, command, variables, start, spare, oom_kills)
        if lock is not None:
            os.close(lock)
        try:
            driver.sendall(answer)
        except BrokenPipeError:
            return
        if ADOPTED in signal.sigpending():
            return


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
    folder: str,
    checkpoint: str,
    fields: list[str],
    outputs: list[str],
    command: list[str],
    variables: list[str],
    start: Callable[[list[str], dict[str, str]], int],
    spare: Spare,
    oom_kills: OomKills,
) -> bytes:
    """Run a task that has been claimed; returns what is in its exit file."""
    exit_file, preempt_file, replaced, failed, *numbers = fields
    request, grace, last_grace, timeout = map(float, numbers)
    move_aside(outputs, folder, replaced, "what was there before")
    killed_before = oom_kills.look(every=1.0)
    spent = sum(os.times()[2:4])
    environment = dict(variable.split("=", 1) for variable in variables)
    try:
        leader = start(command, environment)
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        end: dict[str, object] = {"code": 127, "timed_out": False, "killed": False, "strays": 0}
    else:
        began = time.time()
        end = Supervisor(leader, preempt_file, int(request), grace, last_grace, timeout).run()
        end["began"] = read_begun(environment[BEGUN], began) if environment.get(BEGUN) else began
    end["warm"] = start is not execute
    end["oom"] = end["code"] in (-9, 137) and not end["killed"] and oom_kills.look() > killed_before
    end["missing"] = next((index for index, output in enumerate(outputs) if not exists(output)), None)
    end["time"] = time.time()
    end["cpu"] = sum(os.times()[2:4]) - spent  # of all that was reaped, and so of all that came of the command
    if end["code"] or end["timed_out"] or end["missing"] is not None:
        move_aside(outputs, folder, failed, "what the failed attempt wrote")
    spare.replace(checkpoint)
    content = encoded(end)
    leave(exit_file, content)
    return content


def identity() -> str:
    """Which process this is, as a claim says it."""
    with open("/proc/self/stat") as file:  # noqa: PTH123
        start = file.read().rpartition(")")[2].split()[19]
    with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123
        boot = file.read().strip()
    return f'"pid": {os.getpid()}, "start": {start}, "boot": "{boot}", "space": "{os.readlink("/proc/self/ns/pid")}"'


def take(claim: str, me: str, record: str) -> int | None:
    """Claim the attempt for this process; None if somebody has forbidden it. The claim is locked until this is closed.

    Args:
        me: see `identity`.
    """
    temporary = f"{claim}.{os.getpid()}"
    lock = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        os.write(lock, f'{{{me}, "time": {time.time()}, "record": {record}}}\n'.encode())
        os.link(temporary, claim)
    except FileExistsError:
        return None
    finally:
        os.unlink(temporary)
    return lock


def encoded(end: dict[str, object]) -> bytes:
    """As a line of JSON."""
    values = {None: "null", True: "true", False: "false"}
    fields = ", ".join(
        f'"{name}": {values[value] if value is None or value is True or value is False else value}'
        for name, value in end.items()
    )
    return f"{{{fields}}}\n".encode()


def leave(exit_file: str, content: bytes) -> None:
    """Write down how it ended; as long as the disk is full, keep that in mind and try again."""
    while True:
        try:
            file = os.open(f"{exit_file}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                written = os.write(file, content)
            finally:
                os.close(file)
            if written == len(content):
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
                place = unused(place)
                make_folders(place.rpartition("/")[0])
                os.rename(path, place)
                say(f"{output}: {what} is now {place}")
                break
            except OSError as error:
                if error.errno != EXDEV:
                    say(f"{output}: {what} cannot be moved away: {error.strerror}")
                    break


def unused(place: str) -> str:
    """A place like this one where nothing is: beside an output, other runs have put theirs."""
    folder, _, name = place.rpartition("/")
    number = 1
    while exists(place):
        number += 1
        place = f"{folder}~{number}/{name}"
    return place


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


def read_begun(file: str, otherwise: float) -> float:
    """When a function was called, as it has noted itself (see `rlsched.executor.call`)."""
    try:
        with open(file) as text:  # noqa: PTH123
            return float(text.read())
    except (OSError, ValueError):  # it never was, or the disk is full
        return otherwise


def count_oom_kills() -> int:
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


def main() -> None:
    """Serve a driver."""
    os.closerange(3, 1 << 20)  # whatever the driver has inherited is none of a task's business
    try:
        serve()
    except ConnectionError:  # the driver was killed in the middle of a request
        sys.exit()
