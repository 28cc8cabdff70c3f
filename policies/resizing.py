"""Malleable tasks: restarted on more GPUs where some idle, on fewer where others would wait long."""

from __future__ import annotations

from collections.abc import Sequence

from rlsched.active import Run, TaskState, run_time
from rlsched.model import Preemption
from rlsched.policies.claims import Gang
from rlsched.policies.stopping import Stopping
from rlsched.state import State


def grow(stopping: Stopping) -> Sequence[Preemption]:
    """Restart the first run in the order that gains more time by a faster mode than its stopping costs."""
    pool = stopping.pool()
    for _, run in reversed(stopping.runs):
        if len(run.task.task.modes) > 1 and stopping.may_stop(run):
            pool.give(run.allocation.shares, run.mode)
            best, gain = None, run.toll
            for mode in _modes(run, faster=True):
                if (shares := stopping.place(pool, run.task, mode)) is not None:
                    gained = _gain(run, Gang(mode, shares), stopping.state)
                    if gained > gain:
                        best, gain = Gang(mode, shares), gained
            if best is not None:
                return stopping.claim(run.task, best, [run])
            pool.withhold(run.allocation.shares, run.mode)
    return []


def shrink_for(task: TaskState, stopping: Stopping) -> Sequence[Preemption] | None:
    """Restart a run in a slower mode beside which a task can start; the last in the order that is worth it.

    It is if the task is spared more time than the run loses, and what its stopping costs besides. Both have a claim
    then. None: it is worth it nowhere.
    """
    spared, pool = stopping.wait(task), stopping.pool()
    for _, run in stopping.runs:
        if len(run.task.task.modes) > 1 and stopping.may_stop(run):
            pool.give(run.allocation.shares, run.mode)
            for mode in _modes(run, faster=False):
                shares = stopping.place(pool, run.task, mode)
                if shares is None or spared + _gain(run, Gang(mode, shares), stopping.state) <= run.toll:
                    continue
                pool.withhold(shares, run.task.task.modes[mode])
                if (gang := stopping.choose(task, pool)) is not None:
                    decisions = stopping.claim(run.task, Gang(mode, shares), [run])
                    stopping.claim(task, gang, [run])
                    return decisions
                pool.give(shares, run.task.task.modes[mode])
            pool.withhold(run.allocation.shares, run.mode)
    return None


def _modes(run: Run, faster: bool) -> list[int]:
    """Its modes that are faster than the one it runs in, or slower; the fastest first."""
    modes = run.task.task.modes
    numbers = (
        n for n, mode in enumerate(modes) if mode is not run.mode and (mode.duration < run.mode.duration) is faster
    )
    return sorted(numbers, key=lambda number: modes[number].duration)


def _gain(run: Run, gang: Gang, state: State) -> float:
    """Seconds by which a run would end sooner if it were restarted as another gang; below 0: later."""
    task, left = run.task.task, run.part_left(state.now, state.cluster)
    cold = state.pool.is_cold(gang.shares, run.task.job.id)
    anew = sum(run_time(task, task.modes[gang.mode], state.cluster, len(gang.shares), left, cold))
    return run.expected_end - state.now - task.checkpoint_time - anew
