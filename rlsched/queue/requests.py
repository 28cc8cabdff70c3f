"""What clients may ask of the scheduler, and what they are answered."""

from __future__ import annotations

import os
import pwd
import sys
from typing import Any

from rlsched.executor.history import History
from rlsched.executor.journal import fold
from rlsched.executor.rundir import JOURNAL
from rlsched.queue.logs import chosen_units, read_logs
from rlsched.queue.protocol import Cancel, Drain, Logs, Message, Queue, Refusal, Submit, read_request
from rlsched.queue.records import Entry
from rlsched.queue.service import Service, User
from rlsched.queue.submission import read_environment, read_workflow, with_terms


class Requests:
    """Answers requests.

    Whoever can connect may look at the queue. Logs are for the user who submitted the job; cancelling is for that user
    as well; all of it is for the user of the scheduler, and for root. A job is taken only from the user as whom it
    would run, which is the user of the scheduler.

    Args:
        policy: the policy's name, for people.
        keep: seconds for which jobs that have ended are listed.
    """

    def __init__(self, service: Service, policy: str, keep: float) -> None:
        self._service = service
        self._policy = policy
        self._keep = keep

    def __call__(self, uid: int, message: Message) -> Message:
        """The answer to a user.

        Raises:
            Refusal: says why.
        """
        user = User(uid, _name(uid))
        try:
            match read_request(message):
                case Submit() as request:
                    return self._submit(user, request)
                case Queue():
                    return self._queue()
                case Cancel(job=job):
                    return self._cancel(user, job)
                case Logs() as request:
                    return self._logs(user, request)
                case Drain(stop=stop):
                    return self._drain(user, stop)
        except (OSError, ValueError) as error:
            raise Refusal(str(error)) from None

    def _submit(self, user: User, request: Submit) -> Message:
        if user.uid != os.getuid():
            raise Refusal(
                f"a job runs as the user who submitted it, and this scheduler starts tasks as {_name(os.getuid())}, "
                f"not as {user.name}: start one of your own with `rlsched up`"
            )
        workflow = with_terms(read_workflow(request.workflow), request.name, request.priority, request.deadline)
        calls = any(command.python is not None for command in workflow.commands)
        if calls and request.prefix not in (None, sys.prefix):
            raise Refusal(
                f"its python: tasks are meant for the Python in {request.prefix}, and this scheduler calls them with "
                f"that in {sys.prefix}: use `run: ${{python}} -m ...`, or a scheduler from there"
            )
        environment = None if request.environment is None else read_environment(request.environment)
        entry = self._service.submit(request.id, user, workflow, request.priority, environment)
        return {"job": entry.id, "name": entry.name, "run_dir": str(self._service.run_dir_of(entry))}

    def _queue(self) -> Message:
        jobs = [self._describe(entry) for entry in self._service.entries(self._keep)]
        running = self._service.running
        return {"policy": self._policy, "draining": self._service.draining, "running": running, "jobs": jobs}

    def _describe(self, entry: Entry) -> dict[str, Any]:
        done, running, started, reason = self._service.progress_of(entry)
        return {
            "job": entry.id,
            "name": entry.name,
            "user": entry.user,
            "state": self._service.state_of(entry),
            "done": done,
            "running": running,
            "total": entry.total,
            "priority": entry.priority,
            "deadline": entry.deadline,
            "submitted": entry.submitted,
            "started": started,
            "ended": entry.ended,
            "reason": reason,
            "run_dir": str(self._service.run_dir_of(entry)),
        }

    def _cancel(self, user: User, job: str) -> Message:
        entry = self._service.entry_of(job)
        _check_rights(user, entry)
        self._service.cancel(entry, user.name)
        return {"job": entry.id, "name": entry.name, "state": self._service.state_of(entry)}

    def _logs(self, user: User, request: Logs) -> Message:
        entry = self._service.entry_of(request.job)
        _check_rights(user, entry)
        ended = entry.end is not None  # before the logs are read: nothing is added after that
        history = self._service.history_of(entry)
        run_dir = self._service.run_dir_of(entry)
        if history is None:
            history = History()
            fold(run_dir / JOURNAL, history.enter)
        units = chosen_units(history.begin["units"] if history.begin else [], request.task)
        return {"job": entry.id, "ended": ended, **read_logs(run_dir, units, history, request.seen)}

    def _drain(self, user: User, stop: bool) -> Message:
        if user.uid not in (os.getuid(), 0):
            raise Refusal(f"only {_name(os.getuid())}, who runs this scheduler, may drain it")
        self._service.drain(stop)
        return {"running": self._service.running}


def _check_rights(user: User, entry: Entry) -> None:
    if user.uid not in (entry.uid, os.getuid(), 0):
        raise Refusal(f"job {entry.id} ({entry.name}) is {entry.user}'s")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
