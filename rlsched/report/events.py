"""The event log: one JSON object a line for every event and decision, in order."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlsched.model import Allocation, Job, Member, Preemption, WakeUp
from rlsched.scheduler import (
    Arrived,
    Cancelled,
    Decision,
    DevicesLost,
    DevicesRestored,
    Event,
    Failed,
    Finished,
    NodeLost,
    NodeRestored,
    Preempted,
    Progressed,
    WokeUp,
)


class EventLog:
    """An observer for `Scheduler` that writes JSON lines. Equal simulations write identical bytes.

    Every line has `time` (seconds) and `kind`. Indices are those of the model: `job`, `task` and `member`, `mode`,
    `node` and `gpus`; `name` is for people.

        {"time": 0.0, "kind": "arrived", "job": 0, "name": "etl", "tasks": 4, "weight": 1.0}
        {"time": 0.0, "kind": "started", "job": 0, "task": 2, "member": 0, "name": "etl/train", "mode": 1,
         "devices": [{"node": 0, "gpus": [0, 1]}]}
        {"time": 9.5, "kind": "finished", "job": 0, "task": 2, "member": 0, "name": "etl/train"}

    Further kinds: `failed` (`reason`), `stopping` (a preemption was decided), `preempted` (`work_left`),
    `progressed` (`expected_end`), `node_lost` (`node`, `lost`: members with their `work_left`), `node_restored`,
    and `devices_lost` and `devices_restored` (`node`, `gpus`).

    Args:
        path: the file; it is overwritten.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = Path(path).open("w", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed by close)
        self._jobs: dict[int, Job] = {}

    def __call__(self, time: float, what: Event | Decision) -> None:
        json.dump({"time": float(time), **self._describe(what)}, self._file, separators=(", ", ": "))
        self._file.write("\n")

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _describe(self, what: Event | Decision) -> dict[str, Any]:
        match what:
            case Arrived(job_id, job):
                self._jobs[job_id] = job
                deadline = {} if job.deadline is None else {"deadline": job.deadline}
                about = {"name": job.name, "tasks": len(job.tasks), "weight": job.weight}
                return {"kind": "arrived", "job": job_id, **about, **deadline}
            case Allocation(member, mode, shares):
                devices = [{"node": share.node, "gpus": list(share.gpus)} for share in shares]
                return {"kind": "started", **self._member(member), "mode": mode, "devices": devices}
            case Finished(member):
                return {"kind": "finished", **self._member(member)}
            case Failed(member, reason):
                return {"kind": "failed", **self._member(member), "reason": reason}
            case Preemption(member):
                return {"kind": "stopping", **self._member(member)}
            case Preempted(member, work_left):
                return {"kind": "preempted", **self._member(member), "work_left": work_left}
            case Progressed(member, expected_end):
                return {"kind": "progressed", **self._member(member), "expected_end": expected_end}
            case NodeLost(node, work_left):
                lost = [{**self._member(member), "work_left": left} for member, left in work_left]
                return {"kind": "node_lost", "node": node, "lost": lost}
            case NodeRestored(node):
                return {"kind": "node_restored", "node": node}
            case DevicesLost(node, gpus, work_left):
                lost = [{**self._member(member), "work_left": left} for member, left in work_left]
                return {"kind": "devices_lost", "node": node, "gpus": list(gpus), "lost": lost}
            case DevicesRestored(node, gpus):
                return {"kind": "devices_restored", "node": node, "gpus": list(gpus)}
            case Cancelled(job_id):
                return {"kind": "cancelled", "job": job_id}
            case WakeUp(at):
                return {"kind": "wake_up", "at": at}
            case WokeUp():
                return {"kind": "woke_up"}

    def _member(self, member: Member) -> dict[str, Any]:
        job = self._jobs[member.job]
        task = job.tasks[member.task]
        number = f"[{member.member}]" if task.array > 1 else ""
        return {**member._asdict(), "name": f"{job.name}/{task.name}{number}"}
