"""What is submitted: a workflow as it was when it was submitted, with every variable filled in, as plain data.

A file that is changed or removed later makes no difference to the job.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlsched.document import first_fault, sentence
from rlsched.executor.journal import fold, seal
from rlsched.workflow import Workflow

_WORKFLOW = TypeAdapter(Workflow)
_DERIVED = {"job": {"derived"}}  # what others compute from the job has no place in a file


@dataclass(frozen=True)
class Submission:
    """A job as it was submitted.

    Attributes:
        id: its number in the queue, from 1.
        key: the client's name for the submission; see `protocol.Submit`.
        digest: of what was submitted: the same key with another digest is a mistake.
        uid, user: who submitted it.
        priority: on top of the tasks' own, which have it already.
        time: of submission, seconds since the epoch.
        workflow: its job's deadline is in seconds from the submission.
        environment: variables that its tasks inherit; None: those of the scheduler.
    """

    id: int
    key: str
    digest: str
    uid: int
    user: str
    priority: float
    time: float
    workflow: Workflow
    environment: Mapping[str, str] | None

    @property
    def record(self) -> dict[str, Any]:
        """What the queue's journal keeps of it."""
        deadline = self.workflow.job.deadline
        return {
            "record": "submit",
            "time": self.time,
            "id": self.id,
            "key": self.key,
            "digest": self.digest,
            "uid": self.uid,
            "user": self.user,
            "name": self.workflow.name,
            "priority": self.priority,
            "deadline": None if deadline is None else self.time + deadline,
            "total": sum(task.array for task in self.workflow.job.tasks),
        }


def plain_workflow(workflow: Workflow) -> dict[str, Any]:
    """A workflow as plain data. Its file becomes absolute."""
    absolute = replace(workflow, file=workflow.file.absolute())
    plain: dict[str, Any] = _WORKFLOW.dump_python(absolute, mode="json", exclude=_DERIVED)
    return plain


def read_workflow(plain: Mapping[str, Any]) -> Workflow:
    """The workflow that `plain_workflow` has made plain.

    Raises:
        ValueError: it is none; says what is wrong.
    """
    try:
        workflow = _WORKFLOW.validate_python(plain)
    except ValidationError as errors:
        raise ValueError(f"workflow.{sentence(*first_fault(errors))}") from None
    if len(workflow.commands) != len(workflow.job.tasks):
        raise ValueError(
            f"workflow: expected a command for each of {len(workflow.job.tasks)} tasks, found {len(workflow.commands)}"
        )
    if relative := next((path for path in _paths(workflow) if not path.is_absolute()), None):
        raise ValueError(f"workflow: expected absolute paths, found '{relative}'")
    return workflow


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables as plain data, whatever bytes they hold: each byte is the character of that number (Latin-1)."""
    return {
        os.fsencode(name).decode("latin-1"): os.fsencode(text).decode("latin-1") for name, text in environment.items()
    }


def read_environment(plain: Mapping[str, str]) -> dict[str, str]:
    """The variables that `plain_environment` has made plain.

    Raises:
        ValueError: no environment can hold them.
    """
    if any("\0" in name + text or "=" in name or not name for name, text in plain.items()):
        raise ValueError("environment: expected names without '=', and no NUL characters")
    try:
        return {
            os.fsdecode(name.encode("latin-1")): os.fsdecode(text.encode("latin-1")) for name, text in plain.items()
        }
    except UnicodeEncodeError:
        raise ValueError("environment: expected bytes as characters of Latin-1") from None


def with_terms(workflow: Workflow, name: str | None, priority: float, deadline: float | None) -> Workflow:
    """The workflow under another name (None: its own), with more urgent tasks, and another deadline (None: its own)."""
    job = workflow.job
    named = name or workflow.name
    tasks = tuple(replace(task, priority=task.priority + priority) for task in job.tasks)
    job = replace(job, name=named, tasks=tasks, deadline=job.deadline if deadline is None else deadline)
    return replace(workflow, name=named, job=job)


def digest_of(workflow: Workflow, priority: float) -> str:
    """Identity of what is submitted."""
    text = json.dumps([plain_workflow(workflow), priority], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_submission(file: Path, submission: Submission) -> None:
    """Write a submission; when this returns, all of it is on the disk.

    Raises:
        OSError: it is not.
        ValueError: a number in it is infinite.
    """
    content = {
        **submission.record,
        "workflow": plain_workflow(submission.workflow),
        "environment": None if submission.environment is None else plain_environment(submission.environment),
    }
    with file.open("wb") as out:
        out.write(seal(content))
        out.flush()
        os.fsync(out.fileno())
    for folder in (file.parent, file.parent.parent):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_submission(file: Path) -> Submission:
    """A submission as it was written.

    Raises:
        ValueError: the file is missing or damaged.
    """
    found: list[Mapping[str, Any]] = []
    try:
        fold(file, found.append)
        (content,) = found
        known = {name: content[name] for name in ("id", "key", "digest", "uid", "user", "priority", "time")}
        environment = None if content["environment"] is None else read_environment(content["environment"])
        return Submission(**known, workflow=read_workflow(content["workflow"]), environment=environment)
    except (OSError, KeyError, TypeError, ValueError) as error:
        why = f": {error.strerror}" if isinstance(error, OSError) else ", the file is damaged"
        raise ValueError(f"{file}: expected a job as it was submitted{why}") from None


def _paths(workflow: Workflow) -> Iterator[Path]:
    yield workflow.folder
    for command in workflow.commands:
        yield from (*command.inputs, *command.outputs, *command.sources)
