"""What a policy can know: which jobs and tasks wait, are ready or run, what is free, and the estimates.

The truth (sampled durations, failures to come) lives in the backend alone.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

from rlsched.active import JobState, Run, Status, TaskState, run_time
from rlsched.model import Allocation, Cause, Cluster, Job, Member, Mode
from rlsched.pool import Pool


class State:
    """The scheduler's picture of the cluster and the work, kept up to date event by event.

    Attributes:
        now: seconds.
        jobs: active jobs by id, in order of arrival.
        ready: tasks with members that a policy may start, by (job, task), in the order they became ready.
        ready_cpu: the same for tasks that take neither GPUs nor custom resources; the scheduler starts these itself.
        running: what runs, by member.
        preemptible: number of members that run, may be preempted, and have not been asked to stop yet.
        arrived: how many jobs have arrived, so far.
        became_ready: how often a task has become ready, so far.
        demand: GPUs that all members in `ready` would take, each in its smallest gang.
        changes: number of the latest change to a job: what was computed from all jobs holds for as long as it stays.
        recent: active jobs by id, in order of their last change: who remembers the number of the latest change that
            it has seen finds what has changed since at the end, without looking at everything.
        without_gpus: number of tasks in `ready` that have a mode without GPUs.
        pool: what is free.
    """

    def __init__(self, cluster: Cluster, now: float = 0.0) -> None:
        self.cluster = cluster
        self.now = now
        self.pool = Pool(cluster)
        self.jobs: dict[int, JobState] = {}
        self.ready: dict[tuple[int, int], TaskState] = {}
        self.ready_cpu: dict[tuple[int, int], TaskState] = {}
        self.running: dict[Member, Run] = {}
        self.preemptible = 0
        self.demand = 0
        self.without_gpus = 0
        self.changes = 0
        self.recent: dict[int, JobState] = {}
        self._empty = Pool(cluster)
        self._fits: dict[tuple[object, ...], bool] = {}  # by what a mode needs: whether the empty cluster has it
        self._critical_paths = 0.0
        self.arrived = 0
        self.became_ready = 0

    def copy(self) -> State:
        """Another state in the same condition, to try out what would happen if."""
        twin = copy.copy(self)
        twin.pool = self.pool.copy()
        twin.jobs = {job_id: job.copy() for job_id, job in self.jobs.items()}
        twin.recent = {job_id: twin.jobs[job_id] for job_id in self.recent}
        twin.ready = {(job, task): twin.jobs[job].tasks[task] for job, task in self.ready}
        twin.ready_cpu = {(job, task): twin.jobs[job].tasks[task] for job, task in self.ready_cpu}
        twin.running = {
            member: replace(run, task=twin.jobs[member.job].tasks[member.task]) for member, run in self.running.items()
        }
        return twin

    @property
    def typical_time(self) -> float:
        """Mean critical path of the jobs that have arrived, seconds: the unit in which this workload's times are seen.

        Features divided by it look the same for jobs of hours and of seconds.
        """
        return self._critical_paths / self.arrived if self.arrived else 1.0

    def allocate(self, task: TaskState, mode: int) -> Allocation | None:
        """The best-fit allocation for the task's next member in a mode; None if it does not fit now."""
        shares = self.pool.place(task.task.modes[mode], task.job.id)
        return None if shares is None else Allocation(task.next_member(), mode, shares)

    def arrive(self, job_id: int, job: Job) -> None:
        """Take in a job.

        Raises:
            ValueError: one of its tasks fits in no mode, even on the empty cluster. Nothing has changed then.
        """
        for task in job.tasks:
            for mode in task.modes:
                if self.fits_when_empty(mode):
                    break
            else:
                raise ValueError(f"job {job.name!r}: task {task.name!r} asks for more than the cluster has")
        entry = JobState(job_id, job, [], len(job.tasks), job.least_work)
        ranks, needs_left = job.upward_ranks, job.needs_left
        for i, task in enumerate(job.tasks):
            members = [0] if task.array == 1 else list(range(task.array - 1, -1, -1))
            entry.tasks.append(TaskState(entry, i, task, ranks[i], task.least_work, needs_left[i], members))
        self.jobs[job_id] = entry
        self.arrived += 1
        self._critical_paths += job.critical_path
        self._touch(entry)
        for state in entry.tasks:
            if not state.needs_left:
                self._make_ready(state)

    def fits_when_empty(self, mode: Mode) -> bool:
        """True if the mode fits the cluster with nothing running and every node up."""
        needs = mode.needs
        fits = self._fits.get(needs)
        if fits is None:
            fits = self._fits[needs] = self._empty.place(mode) is not None
        return fits

    def start(self, allocation: Allocation) -> Run:
        """Enter a start.

        Raises:
            ValueError: the member is not ready, the mode does not exist, or a device is not free; says which.
        """
        unit, number, shares = allocation.member, allocation.mode, allocation.shares
        job_id, index, member = unit
        job = self.jobs.get(job_id)
        if job is None or not 0 <= index < len(job.tasks):
            raise ValueError(f"{unit}: no such task in the system")
        task = job.tasks[index]
        spec, waiting = task.task, task.waiting
        if task.status is not Status.READY or not (waiting[-1] == member or member in waiting):
            raise ValueError(f"{self.describe(unit)} is not ready")
        if not 0 <= number < len(spec.modes):
            raise ValueError(f"{self.describe(unit)} has no mode {number}")
        mode = spec.modes[number]
        try:
            cold = self.pool.take(shares, mode, job_id)
        except ValueError as error:
            raise ValueError(f"{self.describe(unit)}: {error}") from None
        if waiting[-1] == member:  # as `next_member` says: an array may be long
            waiting.pop()
        else:
            waiting.remove(member)
        task.running += 1
        self.demand -= spec.least_gpus
        if not waiting:
            task.status = Status.RUNNING
            self._leave_queue(task)
        self._touch(job)
        job.gpus += mode.gpus
        now = self.now
        if job.first_start is None:
            job.first_start = now
        overhead, work = run_time(spec, mode, self.cluster, len(shares), task.left(member), cold)
        self.running[unit] = run = Run(allocation, task, mode, task.ready_at, now, now + (overhead + work))
        self.preemptible += spec.preemptible
        return run

    def finish(self, member: Member) -> Run:
        """Enter a success."""
        run = self._release(member)
        task = run.task
        job, members = task.job, task.task.array
        task.done += 1
        job.work_left -= task.left(member.member) * task.work / members
        if task.done == members:
            self._settle(task, Status.DONE)
            for successor in job.job.successors[task.index]:
                waiting = job.tasks[successor]
                waiting.needs_left -= 1
                if not waiting.needs_left and waiting.status is Status.BLOCKED:
                    self._make_ready(waiting)
        elif task.status is Status.FAILED:
            self._settle(task, Status.FAILED)
        return run

    def fail(self, member: Member, cause: Cause = Cause.EXIT) -> Run:
        """Enter a failure: the member is tried again, or the task fails and what depends on it is skipped."""
        run = self._release(member)
        task = run.task
        task.failures = task.failures or {}
        failures = task.failures.setdefault(member.member, Counter())
        failures[cause] += 1
        if task.task.may_retry(failures) and task.status is not Status.FAILED:
            self._return(task, member.member)
        else:
            task.job.failed = True
            self._settle(task, Status.FAILED)
        return run

    def interrupt(self, member: Member, work_left: float) -> Run:
        """Enter a preemption or a lost node: the member comes back with the part of its work that is left."""
        run = self._release(member)
        if work_left < 1.0:
            run.task.job.work_left -= (run.task.left(member.member) - work_left) * run.task.work / run.task.task.array
            run.task.work_left = run.task.work_left or {}
            run.task.work_left[member.member] = work_left
        if run.task.status is Status.FAILED:
            self._settle(run.task, Status.FAILED)
        else:
            self._return(run.task, member.member)
        return run

    def cancel(self, job_id: int) -> list[Run]:
        """Enter that a job is given up: none of its members starts any more. Returns what of it still runs."""
        job = self.jobs[job_id]
        job.failed = True
        self._touch(job)
        for task in job.tasks:
            if task.status is Status.BLOCKED:
                task.status = Status.SKIPPED
                job.unsettled -= 1
        for task in job.tasks:
            if task.status in (Status.READY, Status.RUNNING):
                self._settle(task, Status.FAILED)
        return [run for member, run in self.running.items() if member.job == job_id]

    def drop_if_ended(self, job_id: int) -> JobState | None:
        """Forget a job whose every task is settled, and return it without them; None if it is not over."""
        job = self.jobs[job_id]
        if job.unsettled:
            return None
        del self.recent[job_id]
        del self.jobs[job_id]
        job.tasks.clear()  # they know their job: without this, both would be left to the collector of cycles
        return job

    def describe(self, member: Member) -> str:
        """The member's name for people: job/task or job/task[3]."""
        job = self.jobs[member.job].job
        task = job.tasks[member.task]
        return f"{job.name}/{task.name}" + (f"[{member.member}]" if task.array > 1 else "")

    def _touch(self, job: JobState) -> None:
        self.changes = job.changed = self.changes + 1
        self.recent.pop(job.id, None)
        self.recent[job.id] = job

    def _make_ready(self, task: TaskState) -> None:
        task.status = Status.READY
        task.ready_at = self.now
        self.became_ready += 1
        task.ready_number = self.became_ready
        if task.task.cpu_only:
            self.ready_cpu[task.key] = task
        else:
            self.ready[task.key] = task
            task.job.enqueue(task)
            self.demand += task.task.least_gpus * len(task.waiting)
            self.without_gpus += not task.task.least_gpus

    def _leave_queue(self, task: TaskState) -> None:
        if task.task.cpu_only:
            self.ready_cpu.pop(task.key, None)
        elif self.ready.pop(task.key, None) is not None:
            task.job.dequeue(task)
            self.demand -= task.task.least_gpus * len(task.waiting)
            self.without_gpus -= not task.task.least_gpus

    def _return(self, task: TaskState, member: int) -> None:
        task.waiting.append(member)
        if task.status is Status.READY:
            self.demand += task.task.least_gpus
        else:
            self._make_ready(task)

    def _release(self, member: Member) -> Run:
        run = self.running.pop(member)
        task, mode = run.task, run.mode
        job, gpus = task.job, mode.gpus
        self.pool.give(run.allocation.shares, mode)
        if task.task.preemptible and not run.stopping:
            self.preemptible -= 1
        self._touch(job)
        task.running -= 1
        job.gpus -= gpus
        job.service += gpus * (self.now - run.start)
        return run

    def _settle(self, task: TaskState, status: Status) -> None:
        """A task is done, or has failed: then nothing that depends on it will run, and its last member ends it."""
        job = task.job
        job.forget_critical_path()
        if task.waiting:
            self._leave_queue(task)
        if status is Status.FAILED and task.status is not Status.FAILED:
            self._skip_dependants(task)
        task.status = status
        if not task.running:
            job.unsettled -= 1

    def _skip_dependants(self, task: TaskState) -> None:
        job = task.job
        doomed = list(job.job.successors[task.index])
        while doomed:
            dependant = job.tasks[doomed.pop()]
            if dependant.status is Status.BLOCKED:
                dependant.status = Status.SKIPPED
                job.unsettled -= 1
                doomed += job.job.successors[dependant.index]
