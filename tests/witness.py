"""An observer that knows the rules of scheduling and trusts nobody."""

from __future__ import annotations

from collections import defaultdict

import pytest
from builders import Story

from rlsched.model import Allocation, Job, Member, Mode, Task
from rlsched.scheduler import (
    Arrived,
    Decision,
    DevicesLost,
    DevicesRestored,
    Event,
    Failed,
    Finished,
    NodeLost,
    Preempted,
    Scheduler,
)
from rlsched.simulator import Simulator


class Witness:
    """Keeps its own books of devices, work and time, and fails as soon as an event contradicts them.

    Knows the rules from the documentation alone: it shares no code with pool, state or simulator.
    """

    def __init__(self, simulator: Simulator, story: Story | None = None) -> None:
        self.story = story
        self.cluster = simulator.cluster
        self.noisy = simulator.uncertainty.duration_noise > 0
        self.now = 0.0
        self.jobs: dict[int, Job] = {}
        self.gpus: dict[tuple[int, int], Member] = {}
        self.taken: defaultdict[tuple[int, str], float] = defaultdict(float)
        self.out: set[tuple[int, int]] = set()
        self.served: dict[tuple[int, int], int] = {}
        self.running: dict[Member, tuple[Allocation, float, float]] = {}  # with start and seconds of overhead
        self.left: defaultdict[Member, float] = defaultdict(lambda: 1.0)
        self.done: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        self.scheduler = Scheduler(simulator, self)

    def expected_end(self, member: Member) -> float:
        return self.scheduler.state.running[member].expected_end

    def __call__(self, time: float, what: Event | Decision) -> None:
        if self.story is not None:
            self.story(time, what)
        assert time >= self.now, "time runs backwards"
        self.now = time
        match what:
            case Arrived(job_id, arrived):
                assert time == arrived.release
                self.jobs[job_id] = arrived
            case Allocation():
                self.start(what)
            case Finished(member):
                allocation, began, overhead = self.end(member)
                if not self.noisy:
                    work = self.left[member] * self.full_work(allocation)
                    assert time - began == pytest.approx(overhead + work)
                    assert self.expected_end(member) == pytest.approx(time), "the state knows as much"
                of = self.done[member[:2]]
                assert member.member not in of, "a member finishes twice"
                of.add(member.member)
            case Failed(member, _):
                self.end(member)
            case Preempted(member, left):
                allocation, began, overhead = self.end(member)
                writing = self.task(member).checkpoint_time
                if not self.noisy:
                    worked = max(0.0, time - began - overhead - writing) / self.full_work(allocation)
                    assert worked + left == pytest.approx(self.left[member]), "work is conserved"
                self.left[member] = left
            case NodeLost(node, work_left):
                lost = {m for m, (a, *_) in self.running.items() if any(s.node == node for s in a.shares)}
                assert lost == {member for member, _ in work_left}
                for member, left in work_left:
                    assert left == self.left[member]
                    self.end(member)
                self.served = {key: of for key, of in self.served.items() if key[0] != node}
            case DevicesLost(node, gpus, work_left):
                self.out |= {(node, gpu) for gpu in gpus}
                assert {self.gpus[device] for device in self.out & self.gpus.keys()} == {m for m, _ in work_left}
                for member, left in work_left:
                    assert left == self.left[member]
                    self.end(member)
            case DevicesRestored(node, gpus):
                self.out -= {(node, gpu) for gpu in gpus}

    def task(self, member: Member) -> Task:
        return self.jobs[member.job].tasks[member.task]

    def mode(self, allocation: Allocation) -> Mode:
        return self.task(allocation.member).modes[allocation.mode]

    def full_work(self, allocation: Allocation) -> float:
        speed = self.cluster.span_speed if len(allocation.shares) > 1 else 1.0
        return self.mode(allocation).duration / speed

    def start(self, allocation: Allocation) -> None:
        member, mode, owner = allocation.member, self.mode(allocation), self.jobs[allocation.member.job]
        for need in self.task(member).needs:
            index = [t.name for t in owner.tasks].index(need)
            assert len(self.done[member.job, index]) == owner.tasks[index].array, "precedence"
        held = [(share.node, gpu) for share in allocation.shares for gpu in share.gpus]
        assert len(held) == mode.gpus, "a gang is whole"
        assert not self.gpus.keys() & set(held), "a device is held twice"
        assert not self.out & set(held), "a device is out of service"
        cold = any(self.served.get(device) != member.job for device in held)
        overhead = self.task(member).setup_time * cold + self.task(member).checkpoint_time * (self.left[member] < 1)
        self.running[member] = (allocation, self.now, overhead)
        self.gpus |= dict.fromkeys(held, member)
        self.served |= dict.fromkeys(held, member.job)
        self.change(allocation, 1)
        for (index, name), amount in self.taken.items():
            node = self.cluster.nodes[index]
            limits = {"cpus": node.cpus, "memory": node.memory, **node.resources}
            assert amount <= limits.get(name, 0) + 1e-9, f"{name} is over-subscribed"

    def end(self, member: Member) -> tuple[Allocation, float, float]:
        self.gpus = {device: holder for device, holder in self.gpus.items() if holder != member}
        self.change(self.running[member][0], -1)
        return self.running.pop(member)

    def change(self, allocation: Allocation, sign: int) -> None:
        mode = self.mode(allocation)
        for share in allocation.shares:
            for name, amount in {"cpus": mode.cpus, "memory": mode.memory, **mode.resources}.items():
                self.taken[share.node, name] += sign * amount
