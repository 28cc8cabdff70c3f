"""A scheduler of a queue in a thread, and clients of it, for the tests."""

from __future__ import annotations

import base64
import itertools
import os
import threading
import time
from pathlib import Path
from textwrap import dedent, indent
from typing import Any, Protocol

from rlsched.executor.devices import local_machine
from rlsched.policies.registry import load_policy
from rlsched.queue.address import UnixAddress
from rlsched.queue.client import Client
from rlsched.queue.listener import Listener
from rlsched.queue.protocol import Message
from rlsched.queue.records import QueueDirectory
from rlsched.queue.requests import Requests
from rlsched.queue.service import Service
from rlsched.queue.submission import plain_workflow
from rlsched.workflow import Workflow, load_workflow

_KEYS = itertools.count()


class Killed(BaseException):
    """Ends a scheduler where it stands."""


class Up:
    """A scheduler that is up. It is in this process: what ends it is not SIGKILL, but as little is done about it."""

    def __init__(self, state: Path, policy: str = "fifo", slots: int = 2) -> None:
        self.address = UnixAddress(state.parent / "s")  # the kernel allows 107 bytes
        self.directory = QueueDirectory(state)
        listener = Listener()
        try:
            listener.listen_unix(self.address)
            machine = local_machine(slots)
            self.service = Service(self.directory, machine, load_policy(policy), policy, grace=5.0)
        except BaseException:
            listener.close()
            self.directory.close()
            raise
        self._answer = Requests(self.service, policy, 3600.0)
        listener.answer = self._listen
        self.ended_by: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=[listener])
        self._thread.start()

    def request(self, request: str, **fields: Any) -> Message:
        """The answer to a client."""
        with Client(self.address, patience=0.0) as client:
            return client.request({"request": request, **fields})

    def submit(self, workflow: Workflow, **terms: Any) -> int:
        """Submit a workflow; returns the job's number."""
        about = {"id": f"key{next(_KEYS)}", "workflow": plain_workflow(workflow), **terms}
        return int(self.request("submit", **about)["job"])

    def job(self, job: int) -> Message:
        """A job as the queue lists it."""
        (found,) = [entry for entry in self.request("queue")["jobs"] if entry["job"] == job]
        assert isinstance(found, dict)
        return found

    def end_of(self, job: int) -> str:
        """How a job has ended, once it has."""
        deadline = time.monotonic() + 60
        while self.job(job)["ended"] is None:
            assert time.monotonic() < deadline, "it has not ended within a minute"
            time.sleep(0.02)
        return str(self.job(job)["state"])

    def log(self, job: int, task: str | None = None) -> str:
        """What a job has printed."""
        pieces = self.request("logs", job=str(job), **({} if task is None else {"task": task}))["pieces"]
        return "".join(base64.b64decode(piece["data"]).decode() for piece in pieces)

    def kill(self) -> None:
        """End it as SIGKILL would."""
        if self._thread.is_alive():
            self.request_nothing("killed")
        self._thread.join()
        self.directory.close()

    def drained(self) -> None:
        """Wait for it to end after it was drained."""
        self.join()
        self.directory.close()
        assert self.ended_by is None

    def join(self) -> None:
        """Wait for it to end."""
        self._thread.join(60)
        assert not self._thread.is_alive()

    def request_nothing(self, request: str) -> None:
        """Send a request that gets no answer."""
        try:
            self.request(request)
        except ValueError:
            return

    def _listen(self, uid: int, message: Message) -> Message:
        if message["request"] == "killed":
            raise Killed
        return self._answer(uid, message)

    def ask(self, uid: int, message: Message) -> Message:
        """The answer to another user; only while nothing else happens."""
        return self._answer(uid, message)

    def _run(self, listener: Listener) -> None:
        try:
            self.service.run(listener)
        except BaseException as error:
            self.ended_by = error


class Start(Protocol):
    """Starts a scheduler on the folder `state`."""

    def __call__(self, policy: str = "fifo", slots: int = 2) -> Up: ...


def flow(folder: Path, tasks: str, **top: str) -> Workflow:
    """A workflow of these `tasks:` in a folder of its own, named like it."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{folder.name}.yaml"
    fields = "".join(f"{name}: {text}\n" for name, text in top.items())
    file.write_text(f"{fields}defaults: {{gpus: 1, duration: 0.1}}\ntasks:\n" + indent(dedent(tasks), "  "))
    return load_workflow(file)


WAITS = "{run: 'echo $$ > pid; until test -e permission; do sleep 0.02; done; echo t >> ../effects'}"


def permit(folder: Path) -> None:
    """Let a task that WAITS end."""
    (folder / "permission").touch()


def environment(**variables: str) -> dict[str, str]:
    """An environment for tasks of a submission."""
    return {"PATH": os.environ["PATH"], **variables}


def effects(folder: Path) -> list[str]:
    """What tasks have left in the file `effects`, word by word."""
    file = folder / "effects"
    return file.read_text().split() if file.exists() else []
