"""`rlsched submit`, `queue`, `logs`, `cancel` and `drain`: what talks to the scheduler that is up."""

from __future__ import annotations

import base64
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from rlsched.cli.output import console, print_json
from rlsched.queue.address import Address, UnixAddress, default_state_dir, tcp_address, unix_address
from rlsched.queue.client import Client, LostSchedulerError
from rlsched.queue.submission import plain_environment, plain_workflow
from rlsched.report.units import duration
from rlsched.workflow import load_workflow
from rlsched.workflow.schema import read_seconds

_POLL = 0.5  # seconds
_COLOURS = {"running": "cyan", "completed": "green", "failed": "red", "cancelled": "yellow", "cancelling": "yellow"}


def address(socket: Path | None, tcp: str | None, token_file: Path | None) -> Address:
    """Where the scheduler listens that is meant; TCP only if no socket is named."""
    if tcp is not None and socket is None:
        return tcp_address(tcp, token_file)
    return unix_address(socket or default_state_dir() / "socket")


def submit(
    to: Address,
    workflow_file: Path,
    name: str | None,
    priority: float,
    deadline: str | None,
    key: str | None,
    json: bool,
) -> None:
    terms: dict[str, Any] = {"priority": priority}
    if name is not None:
        terms["name"] = name
    if deadline is not None:
        terms["deadline"] = _deadline(deadline)
    workflow = plain_workflow(load_workflow(workflow_file))
    if isinstance(to, UnixAddress):  # on another host, neither would mean anything
        terms |= {"environment": plain_environment(os.environ), "prefix": sys.prefix}
    key = key or uuid.uuid4().hex
    with Client(to) as client:
        try:
            answer = client.request({"request": "submit", "id": key, "workflow": workflow, **terms})
        except LostSchedulerError as error:
            raise ValueError(f"{error}; submit with --id {key} to be sure that it is submitted once") from None
    if json:
        print_json({field: answer[field] for field in ("job", "name", "run_dir")})
    else:
        console.print(f"job {answer['job']} ({answer['name']}) is submitted", markup=False)


def queue(to: Address, json: bool) -> None:
    with Client(to) as client:
        answer = client.request({"request": "queue"})
    if json:
        del answer["ok"]
        print_json(answer)
        return
    table = Table(title=_title(answer), title_justify="left")
    for column in ("job", "name", "user", "state", "done", "priority", "submitted", "ran"):
        number = column in ("job", "done", "priority", "ran")
        table.add_column(column, justify="right" if number else "left", no_wrap=column not in ("name", "user"))
    now = time.time()
    for job in answer["jobs"]:
        table.add_row(
            str(job["job"]),
            Text(job["name"]),
            Text(job["user"]),
            Text(job["state"], style=_COLOURS.get(job["state"], "")),
            f"{job['done']}/{job['total']}",
            f"{job['priority']:g}",
            time.strftime("%m-%d %H:%M:%S", time.localtime(job["submitted"])),
            "" if job["started"] is None else duration(max(0.0, (job["ended"] or now) - job["started"])),
        )
    console.print(table)
    for job in answer["jobs"]:
        if job["reason"]:
            console.print(
                f"job {job['job']} ({job['name']}) {job['state']}: {job['reason']}", markup=False, soft_wrap=True
            )


def logs(to: Address, job: str, task: str | None, follow: bool) -> None:
    seen: dict[str, int] = {}
    last = None
    about = {"request": "logs", "job": job} | ({} if task is None else {"task": task})
    with Client(to) as client:
        while True:
            answer = client.request(about | {"seen": seen})
            about["job"] = str(answer["job"])  # from now on this one, whatever else gets its name
            for piece in answer["pieces"]:
                data = base64.b64decode(piece["data"])
                if piece["log"] != last:
                    if last is not None or answer["logs"] > 1:
                        head = f"{'' if last is None else chr(10)}==> {piece['unit']}, attempt {piece['attempt']} <==\n"
                        sys.stdout.buffer.write(head.encode())
                    last = piece["log"]
                seen[piece["log"]] = piece["start"] + len(data)
                sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            if answer["more"]:
                continue
            if answer["ended"] or not follow:
                return
            time.sleep(_POLL)


def cancel(to: Address, job: str, json: bool) -> None:
    with Client(to) as client:
        answer = client.request({"request": "cancel", "job": job})
    if json:
        print_json({field: answer[field] for field in ("job", "name", "state")})
    else:
        console.print(f"job {answer['job']} ({answer['name']}) is {answer['state']}", markup=False)


def drain(to: Address, stop: bool, json: bool) -> None:
    with Client(to) as client:
        answer = client.request({"request": "drain", "stop": stop})
    if json:
        print_json({"running": answer["running"]})
    elif stop:
        console.print(f"the scheduler stops what runs and ends; tasks that run: {answer['running']}")
    else:
        console.print(f"the scheduler ends when what runs has; tasks that run: {answer['running']}")


def _deadline(text: str) -> float:
    try:
        return read_seconds(text)
    except ValueError as error:
        raise ValueError(f"--deadline: {error}") from None


def _title(answer: dict[str, Any]) -> str:
    drains = ", draining" if answer["draining"] else ""
    return f"queue under {answer['policy']}, tasks that run: {answer['running']}{drains}"
