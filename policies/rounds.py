"""Round-based scheduling: from shares of time to gangs that take turns (Narayanan et al., Gavel, OSDI 2020, sec. 5)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from rlsched.active import Run, Status, TaskState
from rlsched.model import Allocation, Member, Mode, Preemption, Share, WakeUp
from rlsched.policies.timeshares import Claim, Objective, Program, Way
from rlsched.policies.ways import Ways, capacity, something_is_free
from rlsched.pool import Pool
from rlsched.scheduler import Decision
from rlsched.state import State

_FRESH = -1  # stands for the members of a task that have never run


@dataclass(slots=True)
class _Account:
    """What a member should have had of each of its modes, and what it had. All fresh members of a task share one.

    When the shares change, what it should have had and what it had so far are kept in total and spread over the modes
    as the new shares are. What it had more than it should is forgotten then, so that running on devices that nobody
    else could use is no debt.

    Attributes:
        task: of the member.
        since: when it could have started first, seconds.
        shares: part of its time, by mode; those that may not be used are missing.
        changed: when the shares last changed, seconds.
        due_before, had_before: seconds until then.
        had: seconds since then, by mode.
    """

    task: TaskState
    since: float
    shares: dict[int, float] = field(default_factory=dict)
    changed: float = 0.0
    due_before: float = 0.0
    had_before: float = 0.0
    had: dict[int, float] = field(default_factory=dict)

    def change(self, shares: dict[int, float], now: float) -> None:
        self.due_before += sum(self.shares.values()) * (now - self.changed)
        self.had_before = min(self.had_before + sum(self.had.values()), self.due_before)
        self.shares, self.changed, self.had = shares, now, {}

    def standing(self, mode: int, now: float) -> tuple[float, float]:
        """How urgent the mode is, the larger the more: seconds due / seconds had, and the seconds due."""
        share = self.shares[mode]
        if not share:
            return 0.0, 0.0
        part = share / sum(self.shares.values())
        due = part * self.due_before + share * (now - self.changed)
        had = part * self.had_before + self.had.get(mode, 0.0)
        return (round(due / had, 9) if had else math.inf), due


_Runs = dict[Member, Run]


class _Placed(NamedTuple):
    """Where a member is to run."""

    member: Member
    task: TaskState
    mode: int
    shares: tuple[Share, ...]


class RoundPolicy:
    """Shares out the time of the cluster among the ready and the running members, and lets them take turns.

    The shares are computed anew when a task has become ready or ended, or a node was lost or came back, as soon as
    there is something to decide. Members of an array task that have not run yet count as equal.

    Members have a place in the queue for each of their modes: first those that have had least of what they should
    have had there, in seconds: share x time / seconds had (the priority of Gavel sec. 5; equals: those that should
    have had more, then those that run). At the end of a round, the queue is gone through and whoever still fits is
    chosen. Members that run in the mode they are chosen for keep their devices, the others are preempted. Within a
    round, what is free goes to whoever comes first; modes with a share of 0 come last, fastest first.

    What is not preemptible runs to its end. It starts only in a mode of which it has a share, or else in a smaller gang
    of that type. So that it does not overtake large gangs for ever, it does not start on a GPU type for which somebody
    ahead of it waits.

    Args:
        round: length of a round, seconds.
        tasks: how many members that wait take part at most, fresh members of one task counting as one: those that have
            run, then those whose jobs were released first. What runs always takes part.
        aware: whether the objective sees how fast a task is on each GPU type.
        threshold, stretch: limit the modes that a task may use; see `Ways`.

    Attributes:
        objective: computes the shares.

    Raises:
        ValueError: a number out of range.
    """

    objective: Objective

    def __init__(
        self,
        *,
        round: float = 360.0,
        tasks: int = 256,
        aware: bool = True,
        threshold: float = 0.5,
        stretch: float = 4.0,
    ) -> None:
        if not round > 0:
            raise ValueError(f"round is {round:g}, expected seconds above 0")
        if tasks < 1:
            raise ValueError(f"tasks is {tasks}, expected 1 or more")
        self._length = round
        self._tasks = tasks
        self._ways = Ways(aware, threshold, stretch)
        self._accounts: dict[Member, _Account] = {}
        self._all_need_gpus = True
        self._running: dict[Member, int] = {}  # the modes of what ran until now
        self._asked_at = 0.0
        self._round_end = -math.inf
        self._shared_for: object = None
        self._crowded = False  # some that wait do not take part

    def __call__(self, state: State) -> Sequence[Decision]:
        self._enter_time(state)
        ends = state.now >= self._round_end
        if ends:
            self._round_end = state.now + self._length
        decisions: list[Decision] = []
        if (ends and state.preemptible) or (state.ready and something_is_free(state)):
            self._share_out(state)
            if ends and state.preemptible:
                decisions += self._preemptions(state)
            if not decisions:
                decisions += self._starts(state)
        return [*decisions, WakeUp(self._round_end)] if state.preemptible else decisions

    def _enter_time(self, state: State) -> None:
        """Write down what everybody has had since the last call."""
        for member, mode in self._running.items():
            if account := self._accounts.get(member):
                account.had[mode] = account.had.get(mode, 0.0) + state.now - self._asked_at
        self._asked_at = state.now
        self._running = {member: run.allocation.mode for member, run in state.running.items()}

    def _share_out(self, state: State) -> None:
        """Compute the shares anew if the members have changed, or the nodes."""
        tasks = _tasks(state)
        members = [(key, len(task.waiting) + task.running) for key, task in tasks.items()]
        present = (tuple(state.pool.up), members, len(state.running) if self._crowded else None)
        if present == self._shared_for:
            return
        self._shared_for = present
        limits = capacity(state)
        claims: dict[Member, Claim] = {}
        accounts: dict[Member, _Account] = {}
        for member, account, count in self._candidates(state, tasks):
            run = state.running.get(member)
            fixed = run is not None and not account.task.task.preemptible
            ways = self._ways.of_run(run) if run and fixed else self._ways(account.task, state, limits)
            if ways:
                accounts[member] = account
                claims[member] = _claim(member, account, count, ways, state)
        if claims:
            shares = iter(self.objective(Program(list(claims.values()), limits)).tolist())
            for member, claim in claims.items():
                by_mode: dict[int, float] = defaultdict(float)
                for way in claim.ways:
                    of_way = max(0.0, next(shares)) / claim.members
                    for mode, part in way.modes:
                        by_mode[mode] += of_way * part if of_way > 1e-6 else 0.0
                accounts[member].change(dict(by_mode), state.now)
        self._accounts = accounts
        self._all_need_gpus = all(mode.gpus for account in accounts.values() for mode in account.task.task.modes)

    def _candidates(self, state: State, tasks: dict[tuple[int, int], TaskState]) -> list[tuple[Member, _Account, int]]:
        """Members or groups of fresh members that take part, their accounts and how many they are; first come first."""
        found: list[tuple[Member, _Account, int]] = []
        known: dict[tuple[int, int], list[Member]] = defaultdict(list)
        for member in {**self._accounts, **state.running}:
            if member.member != _FRESH:
                known[member[:2]].append(member)
        for key, task in tasks.items():
            waiting = set(task.waiting)
            for member in known[key]:
                if member in state.running or member.member in waiting:
                    waiting.discard(member.member)
                    account = self._accounts.get(member) or _Account(task, task.ready_at, changed=state.now)
                    found.append((member, account, 1))
            if waiting:
                fresh = Member(*key, _FRESH)
                account = self._accounts.get(fresh) or _Account(task, task.ready_at, changed=state.now)
                found.append((fresh, account, len(waiting)))
        limit = self._tasks + sum(member in state.running for member, _, _ in found)
        self._crowded = len(found) > limit
        if self._crowded:
            found.sort(key=lambda entry: (entry[0] not in state.running, entry[0].member == _FRESH, entry[0]))
        return sorted(found[:limit], key=lambda entry: entry[0])

    def _queue(self, state: State, pool: Pool) -> Iterator[tuple[Member, _Account, int, bool]]:
        """Member, account, mode, and whether it has a share of the mode: the most urgent first.

        Modes without a share come only if something in the pool is still free when it is their turn.
        """
        due, others = [], []
        for place, (member, account) in enumerate(self._accounts.items()):
            running = self._running.get(member)
            for mode, share in account.shares.items():
                if share:
                    urgency, seconds = account.standing(mode, state.now)
                    due.append((-urgency, -seconds, mode != running, -share, place, mode, member, account))
                else:
                    duration = account.task.task.modes[mode].duration
                    others.append((mode != running, duration, place, mode, member, account))
        due.sort()  # no two have both place and mode in common
        yield from ((member, account, mode, True) for *_, mode, member, account in due)
        if pool.free_gpus() or not self._all_need_gpus:
            others.sort()
            yield from ((member, account, mode, False) for *_, mode, member, account in others)

    def _placed(self, state: State, pool: Pool, moving: _Runs, anything: bool = False) -> list[_Placed]:
        """Go through the queue and take devices from the pool for whoever fits; who is moving stays if it can.

        Args:
            moving: they run, but what they hold is free in the pool.
            anything: what is not preemptible, too, may use modes of which it has no share.
        """
        chosen: dict[Member, _Placed] = {}
        awaited: set[str | None] = set()
        for key, account, mode, has_share in self._queue(state, pool):
            task, wanted = account.task, account.task.task.modes[mode]
            if wanted.gpus and not pool.free_gpus(wanted.gpu_type):
                continue
            if not task.task.preemptible and not ((has_share or anything) and _may_pass(wanted, awaited)):
                continue
            for member in self._members(key, task, moving):
                if member in chosen:
                    continue
                run = moving.get(member)
                if run and run.allocation.mode == mode and _take(pool, run.allocation.shares, wanted, key.job):
                    chosen[member] = _Placed(member, task, mode, run.allocation.shares)
                elif placed := _place(pool, member, account, mode):
                    chosen[member] = placed
                else:
                    if has_share and wanted.gpus:
                        awaited.add(wanted.gpu_type)
                    break
        return list(chosen.values())

    def _members(self, key: Member, task: TaskState, moving: _Runs) -> Iterator[Member]:
        """The members that a place in the queue stands for and that may be given devices."""
        if key in moving:
            yield key
        elif task.status is Status.READY and key.member == _FRESH:
            members = (Member(key.job, key.task, member) for member in reversed(task.waiting))
            yield from (member for member in members if member not in self._accounts)
        elif task.status is Status.READY and key.member in task.waiting:
            yield key

    def _preemptions(self, state: State) -> list[Preemption]:
        """Choose who runs in the next round; what runs and is not chosen, or not for this mode, stops."""
        moving = {m: r for m, r in state.running.items() if r.task.task.preemptible and not r.task.task.cpu_only}
        chosen = self._placed(state, _without(moving, state), moving)
        stay = {p.member for p in chosen if p.member in moving and moving[p.member].allocation.mode == p.mode}
        newcomers = [placed for placed in chosen if placed.member not in stay]
        pool = _without(moving, state)
        _keep(stay, moving, pool)
        if not _all_fit(newcomers, pool):  # there is room, but in pieces: those in the way have to move
            pool = _without(moving, state)
            _all_fit(newcomers, pool)
            stay = _keep(stay, moving, pool)
        return [Preemption(member) for member, run in moving.items() if member not in stay and not run.stopping]

    def _starts(self, state: State) -> list[Allocation]:
        """Whoever comes first and fits; what is being given back by a member that stops is kept for whom it is for."""
        starts = self._startable(state)
        if not starts and all(run.task.task.cpu_only for run in state.running.values()):
            starts = self._startable(state, anything=True)  # there is nothing to wait for
        for member, mode in ((start.member, start.mode) for start in starts):
            if member not in self._accounts:
                key = Member(member.job, member.task, _FRESH)
                self._accounts[member] = replace(self._accounts[key], had={})
                if self._accounts[key].task.task.array == 1:
                    del self._accounts[key]
            self._running[member] = mode
        return starts

    def _startable(self, state: State, anything: bool = False) -> list[Allocation]:
        stopping = {member: run for member, run in state.running.items() if run.stopping}
        placed = self._placed(state, _without(stopping, state), stopping, anything)
        free = state.pool.copy()
        return [
            Allocation(member, mode, shares)
            for member, task, mode, shares in placed
            if member not in stopping and _take(free, shares, task.task.modes[mode], member.job)
        ]


def _tasks(state: State) -> dict[tuple[int, int], TaskState]:
    """Every task with a member that runs or may start and that is a policy's business, by job and task."""
    tasks = {run.task.key: run.task for run in state.running.values() if not run.task.task.cpu_only}
    return dict(sorted({**tasks, **state.ready}.items()))


def _claim(member: Member, account: _Account, count: int, ways: Sequence[Way], state: State) -> Claim:
    task = account.task
    run = state.running.get(member)
    left = 1.0 if member.member == _FRESH else task.left(member.member)
    if run is not None:
        expected = max(run.expected_end - run.start, 1e-9)
        left *= min(1.0, max(0.01, (run.expected_end - state.now) / expected))  # late ones end soon
    # A task without GPUs is measured in units of its custom resources.
    work = min(mode.duration * max(1, mode.gpus or sum(mode.resources.values())) for mode in task.task.modes)
    return Claim(count, ways, task.job.job.weight, work, left, state.now - account.since)


def _may_pass(mode: Mode, awaited: set[str | None]) -> bool:
    """Whether a mode takes no GPU of a type that somebody ahead waits for."""
    return not awaited or not mode.gpus or not (mode.gpu_type is None or {mode.gpu_type, None} & awaited)


def _without(runs: _Runs, state: State) -> Pool:
    """What would be free without these."""
    pool = state.pool.copy()
    for run in runs.values():
        pool.give(run.allocation.shares, run.mode)
    return pool


def _place(pool: Pool, member: Member, account: _Account, mode: int) -> _Placed | None:
    """Take devices from the pool for a member; what is not preemptible makes do with a smaller gang on that type."""
    task, modes = account.task, account.task.task.modes
    smaller: list[int] = []
    if not task.task.preemptible:
        smaller = [m for m in account.shares if modes[m].gpu_type == modes[mode].gpu_type]
        smaller = sorted((m for m in smaller if 0 < modes[m].gpus < modes[mode].gpus), key=lambda m: -modes[m].gpus)
    for number in (mode, *smaller):
        if shares := pool.place(modes[number], member.job):
            pool.take(shares, modes[number], member.job)
            return _Placed(member, task, number, shares)
    return None


def _take(pool: Pool, shares: tuple[Share, ...], mode: Mode, job: int) -> bool:
    """Take these very devices, if they are free."""
    try:
        pool.take(shares, mode, job)
    except ValueError:
        return False
    return True


def _keep(members: Iterable[Member], moving: _Runs, pool: Pool) -> set[Member]:
    """Take from the pool what these have, and answer with those for whom that was there."""
    runs = {member: moving[member] for member in sorted(members)}
    return {m for m, run in runs.items() if _take(pool, run.allocation.shares, run.mode, m.job)}


def _all_fit(newcomers: Iterable[_Placed], pool: Pool) -> bool:
    """Take devices from the pool for all of these, as far as there are some."""
    fit = True
    for member, task, mode, _ in newcomers:
        if shares := pool.place(task.task.modes[mode], member.job):
            pool.take(shares, task.task.modes[mode], member.job)
        else:
            fit = False
    return fit
