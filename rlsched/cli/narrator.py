"""What happens in a run, told on standard error."""

from __future__ import annotations

from rlsched.cli.output import remark
from rlsched.model import Allocation, Job
from rlsched.queue.records import Entry
from rlsched.scheduler import Arrived, Cancelled, Decision, Event, Failed, Finished, Preempted


class Narrator:
    """Tells of each start and end in a line on standard error.

    Args:
        several: there are several jobs: a task's name has its job's in front.
    """

    def __init__(self, several: bool = False) -> None:
        self._several = several
        self._jobs: dict[int, Job] = {}

    def __call__(self, now: float, what: Event | Decision) -> None:
        match what:
            case Arrived(job_id, job, running):
                self._jobs[job_id] = job
                if self._several:
                    self._say(now, f"job {job.name} has arrived")
                for allocation in running:
                    self._say(now, f"adopted {self._name(allocation.member)}, which was running")
            case Allocation(member=member):
                self._say(now, f"started {self._name(member)}")
            case Finished(member):
                self._say(now, f"finished {self._name(member)}")
            case Failed(member, reason):
                self._say(now, f"failed {self._name(member)}: {reason}")
            case Preempted(member, _):
                self._say(now, f"stopped {self._name(member)}")
            case Cancelled(job_id):
                self._say(now, f"job {self._jobs[job_id].name} is cancelled")

    def ended(self, entry: Entry, number: int | None) -> None:
        """Tell how a job of a queue has ended."""
        if number is not None:
            self._jobs.pop(number, None)
        reason = f": {entry.reason}" if entry.reason else ""
        remark(f"job {entry.id} ({entry.name}) has ended, {entry.end}{reason}")

    def _name(self, member: tuple[int, int, int]) -> str:
        job = self._jobs[member[0]]
        task = job.tasks[member[1]]
        owner = f"{job.name}/" if self._several else ""
        return owner + task.name + (f"[{member[2]}]" if task.array > 1 else "")

    @staticmethod
    def _say(now: float, text: str) -> None:
        remark(f"{now:8.1f} s  {text}")
