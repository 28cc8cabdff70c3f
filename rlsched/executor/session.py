"""A session: one start of a driver on a run directory, from what earlier ones have left to its last record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlsched.executor.adoption import Adopted, adopt, find_here, settle
from rlsched.executor.backend import Find
from rlsched.executor.claim import boot_id
from rlsched.executor.devices import Machine, host_name
from rlsched.executor.resume import done_units, lost_units, remaining
from rlsched.executor.rundir import RunDirectory
from rlsched.executor.status import RunState
from rlsched.executor.work import Work
from rlsched.pool import Pool
from rlsched.textfile import for_people
from rlsched.workflow import Workflow


@dataclass(frozen=True)
class Session:
    """Where a run stands when a driver takes it up.

    Attributes:
        whole: all that there is to run.
        left: what is left of it, as the scheduler is to see it; None: nothing.
        done: units that have finished.
        lost: units that have failed for good, and those that never start because of it.
        adopted: units that run.
    """

    directory: RunDirectory
    whole: Work
    left: Work | None
    done: frozenset[str]
    lost: frozenset[str]
    adopted: dict[str, Adopted]

    def begin(
        self, workflow: Workflow, policy_name: str, machine: Machine, predicted_makespan: float | None, **planned: Any
    ) -> None:
        """Record that it begins.

        Args:
            planned: what the prediction is from, for the record.

        Raises:
            JournalError: it could not be recorded.
        """
        self.directory.append(
            "begin",
            boot=boot_id(),
            host=host_name(),
            workflow=workflow.name,
            file=for_people(workflow.file),
            policy=policy_name,
            nodes=_description(machine),
            units=[unit.name for units in self.whole.units for unit in units],
            kept=sorted(self.done),
            lost=sorted(self.lost),
            predicted_makespan=predicted_makespan,
            **planned,
        )

    def close(self, state: RunState, reason: str, makespan: float) -> None:
        """Record that it ends; the directory stays open.

        Args:
            reason: why, unless it ended by itself.
            makespan: seconds that it took.

        Raises:
            JournalError: it could not be recorded.
        """
        self.directory.append("close", state=state, reason=reason, makespan=makespan)


def take_up(work: Work, directory: RunDirectory, machine: Machine, find: Find = find_here) -> Session:
    """Take up a run that somebody has started again: what has failed runs again, and so does what has changed.

    Args:
        find: tells what has become of an attempt that no driver has seen the end of.

    Raises:
        ValueError: whether a task still runs cannot be told, or it runs on devices that this run may not use.
        JournalError: what has ended meanwhile cannot be recorded.
    """
    live = settle(work, directory, find)
    done = done_units(work, directory.history)
    left = remaining(work, done)
    adopted = adopt(live, left, done, directory, machine, Pool(machine.cluster))
    return Session(directory, work, left, done, frozenset(), adopted)


def carry_on(work: Work, directory: RunDirectory, machine: Machine, pool: Pool, given_up: bool) -> Session:
    """Take up a job of a queue where it was: nothing that has ended for good runs again.

    Args:
        pool: what is free; what its tasks hold is taken out of it.
        given_up: nothing of it is to start any more.

    Raises:
        ValueError, JournalError: as for `take_up`.
    """
    live = settle(work, directory)
    history = directory.history
    done = done_units(work, history, boot_id())
    if given_up:
        lost = frozenset(unit.name for units in work.units for unit in units).difference(done, live)
    else:
        lost = lost_units(work, history, done, live)
    failures = {name: attempt.failures for name, attempt in history.attempts.items() if attempt.failures}
    left = remaining(work, done | lost, failures)
    return Session(directory, work, left, done, lost, adopt(live, left, done, directory, machine, pool))


def _description(machine: Machine) -> list[dict[str, object]]:
    return [
        {
            "name": node.name,
            "gpu_type": node.gpu_type,
            "gpu_memory": node.gpu_memory,
            "cpus": node.cpus,
            "memory": node.memory,
            "devices": devices,
        }
        for node, devices in zip(machine.cluster.nodes, machine.devices, strict=True)
    ]
