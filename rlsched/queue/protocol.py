"""What clients and the scheduler say to one another: a JSON object a line, each way. docs/queue.md describes it.

A connection begins with a greeting, which has the version of the protocol; then every request gets one answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, TypeAdapter, ValidationError

from rlsched.document import Strict, first_fault, sentence

VERSION = 1
LONGEST_GREETING = 4096
LONGEST = 64 * 2**20  # bytes of a line

Message = dict[str, Any]


class Refusal(ValueError):  # noqa: N818  # it is an answer, no fault of the program
    """A request that is not granted, in one sentence."""


class Submit(Strict):
    """A job for the queue.

    An `id` is the client's, and the same for every attempt to submit the same: it is submitted once.
    """

    request: Literal["submit"] = "submit"
    id: Annotated[str, Field(min_length=1, max_length=200)]
    """Names this submission among all of the user."""
    workflow: Message
    """See `rlsched.queue.submission`."""
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """For people; by default the workflow's."""
    priority: float = 0.0
    """Added to the priority of each of its tasks."""
    deadline: Annotated[float, Field(gt=0)] | None = None
    """Seconds from now; by default the workflow's."""
    environment: dict[str, str] | None = None
    """Variables for its tasks, the bytes as Latin-1; left out: those of the scheduler."""
    prefix: str | None = None
    """The Python installation (`sys.prefix`) that its `python:` tasks are meant for."""


class Queue(Strict):
    """Which jobs there are."""

    request: Literal["queue"] = "queue"


class Cancel(Strict):
    """Give a job up."""

    request: Literal["cancel"] = "cancel"
    job: str
    """Its number or name."""


class Logs(Strict):
    """What tasks have printed."""

    request: Literal["logs"] = "logs"
    job: str
    """Its number or name."""
    task: str | None = None
    """One of its tasks, or all members of a sweep or an array."""
    seen: dict[str, Annotated[int, Field(ge=0)]] = Field(default={})
    """Bytes that the client has already, by the name of the log."""


class Drain(Strict):
    """Start nothing more, and end when nothing runs."""

    request: Literal["drain"] = "drain"
    stop: bool = False
    """Do not wait for what runs: stop it, to go on from its checkpoints later."""


Request = Submit | Queue | Cancel | Logs | Drain
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="request")])


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message in a line.

    Raises:
        Refusal: it is no JSON object.
    """
    try:
        message = json.loads(line, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Refusal("expected a JSON object in a line") from None
    if not isinstance(message, dict):
        raise Refusal("expected a JSON object in a line")
    return message


def read_request(message: Message) -> Request:
    """The request in a message.

    Raises:
        Refusal: there is no such request, or something in it is wrong.
    """
    try:
        return _REQUEST.validate_python(message)
    except ValidationError as errors:
        location, fault = first_fault(errors)
        raise Refusal(sentence(location, fault)) from None


def check_version(client: object) -> None:
    """Refuse a client that speaks another version of the protocol than this scheduler.

    Raises:
        Refusal: says which versions.
    """
    if client != VERSION:
        raise Refusal(
            f"this scheduler speaks version {VERSION} of the protocol, and the client version {client}: "
            "use the same rlsched for both"
        )


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _finite(text: str) -> float:
    """One that is too large for a float would become infinite, which no answer can say."""
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)
