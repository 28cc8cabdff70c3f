"""Small jobs, clusters and policies that the tests share, and a way to tell what happened as (time, sentence)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from hypothesis import strategies as st

from rlsched.model import Allocation, Cluster, Job, Member, Mode, Node, Preemption, Task, WakeUp
from rlsched.policies.registry import load_policy
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
    Policy,
    Preempted,
    Progressed,
    Scheduler,
    WokeUp,
)
from rlsched.simulator import Simulator, Uncertainty
from rlsched.state import State


def gpus(count: int, nodes: int = 1, **node: object) -> Cluster:
    """`nodes` nodes of `count` GPUs and 8 cores each, named n0, n1, ..."""
    return Cluster(tuple(Node(f"n{i}", gpus=count, **{"cpus": 8, **node}) for i in range(nodes)))  # type: ignore[arg-type]


def task(name: str, duration: float = 10.0, gpus: int = 1, needs: Sequence[str] = (), **more: object) -> Task:
    """A rigid task."""
    return Task(name, (Mode(duration, gpus=gpus),), tuple(needs), **more)  # type: ignore[arg-type]


def job(name: str, *tasks: Task, release: float = 0.0, **more: object) -> Job:
    """A job; with no tasks given, of one task `t` of 10 s on one GPU."""
    return Job(name, tasks or (task("t"),), release, **more)  # type: ignore[arg-type]


def first_fit(state: State) -> list[Decision]:
    """Starts the first ready task that fits in one of its modes."""
    for ready in state.ready.values():
        for mode in range(len(ready.task.modes)):
            if allocation := state.allocate(ready, mode):
                return [allocation]
    return []


def lazy(state: State) -> list[Decision]:
    """Waits, whatever happens."""
    return []


def erratic(seed: int) -> Policy:
    """Any feasible policy: starts, waits and preempts at random, but never waits for what cannot happen."""
    luck = random.Random(seed)

    def policy(state: State) -> Sequence[Decision]:
        running = [m for m, run in state.running.items() if run.task.task.preemptible and not run.stopping]
        if running and luck.random() < 0.15:
            return [Preemption(luck.choice(running))]
        if state.running and luck.random() < 0.3:
            return []
        choices = [(ready, mode) for ready in state.ready.values() for mode in range(len(ready.task.modes))]
        luck.shuffle(choices)
        fitting = (state.allocate(*choice) for choice in choices)
        return next(([allocation] for allocation in fitting if allocation), [])

    return policy


class Story:
    """An observer that writes down (time, sentence)."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []
        self._jobs: dict[int, Job] = {}

    def __call__(self, time: float, what: Event | Decision) -> None:
        self.lines.append((time, self._sentence(what)))

    def of(self, *verbs: str) -> list[tuple[float, str]]:
        """The lines that contain one of the verbs."""
        return [
            (time, line) for time, line in self.lines if any(verb in line.replace(",", "").split() for verb in verbs)
        ]

    def _sentence(self, what: Event | Decision) -> str:
        match what:
            case Arrived(job_id, arrived):
                self._jobs[job_id] = arrived
                return f"{arrived.name} arrives"
            case Allocation(member, _, shares):
                devices = " ".join(f"n{share.node}:{','.join(map(str, share.gpus))}" for share in shares)
                return f"{self._name(member)} starts on {devices}"
            case Preemption(member):
                return f"{self._name(member)} is asked to stop"
            case Finished(member):
                return f"{self._name(member)} finishes"
            case Failed(member, reason):
                return f"{self._name(member)} fails: {reason}"
            case Preempted(member, left):
                return f"{self._name(member)} stops with {left:g} left"
            case Progressed(member, end):
                return f"{self._name(member)} expects to end at {end:g}"
            case NodeLost(node, work_left):
                held = "".join(f", {self._name(member)} has {left:g} left" for member, left in work_left)
                return f"n{node} is lost{held}"
            case NodeRestored(node):
                return f"n{node} is back"
            case DevicesLost(node, gpus, work_left):
                held = "".join(f", {self._name(member)} has {left:g} left" for member, left in work_left)
                return f"n{node}:{','.join(map(str, gpus))} is lost{held}"
            case DevicesRestored(node, gpus):
                return f"n{node}:{','.join(map(str, gpus))} is back"
            case Cancelled(job_id):
                return f"{self._jobs[job_id].name} is cancelled"
            case WakeUp(at):
                return f"the policy wants to be asked again at {at:g}"
            case WokeUp():
                return "it is time to ask the policy again"

    def _name(self, member: Member) -> str:
        owner = self._jobs[member.job]
        of = owner.tasks[member.task]
        return f"{owner.name}/{of.name}" + (f"[{member.member}]" if of.array > 1 else "")


def tell(jobs: Iterable[Job], cluster: Cluster, policy: Policy = first_fit, **simulation: object) -> Story:
    """Simulate to the end, check the schedule, and tell what happened."""
    story = Story()
    Scheduler(Simulator(cluster, jobs, **simulation), story).run(policy).check()  # type: ignore[arg-type]
    return story


def at(times: dict[float, Callable[[State], Sequence[Decision]]]) -> Policy:
    """first_fit, but at the first chance from each of the given times on, what is written there, once."""
    left = dict(times)

    def policy(state: State) -> Sequence[Decision]:
        due = min((time for time in left if time <= state.now), default=None)
        return first_fit(state) if due is None else left.pop(due)(state)

    return policy


clusters = st.builds(
    lambda nodes, span: Cluster(tuple(Node(f"n{i}", **node) for i, node in enumerate(nodes)), span),
    st.lists(
        st.fixed_dictionaries(
            {
                "gpus": st.integers(2, 4),
                "gpu_type": st.sampled_from(["fast", "slow"]),
                "gpu_memory": st.just(16.0),
                "cpus": st.integers(4, 8),
                "memory": st.sampled_from([16.0, 33.3]),
                "resources": st.just({"licence": 2}),
            }
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([1.0, 0.5]),
)

# A gang of 5 spans nodes, where there are enough; every other mode fits the smallest cluster above, on one node.
modes = st.builds(
    Mode,
    duration=st.sampled_from([0.1, 1.0, 3.7, 60.0]),
    gpus=st.sampled_from([0, 1, 2, 5]),
    gpu_memory=st.sampled_from([0.0, 16.0]),
    cpus=st.integers(0, 3),
    memory=st.sampled_from([0.0, 0.1, 5.3, 16.0]),
    resources=st.sampled_from([{}, {}, {"licence": 1}, {"licence": 2}, {"licence": 0}]),
)


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    """One to five random DAGs in order of release."""
    result = []
    release = 0.0
    for number in range(draw(st.integers(1, 5))):
        tasks: list[Task] = []
        for index in range(draw(st.integers(1, 5))):
            needs = draw(st.lists(st.sampled_from([t.name for t in tasks]), unique=True, max_size=2)) if tasks else []
            tasks.append(
                Task(
                    f"t{index}",
                    (*draw(st.lists(modes, max_size=2)), Mode(1.0, gpus=draw(st.integers(0, 2)))),
                    tuple(needs),
                    array=draw(st.sampled_from([1, 1, 3])),
                    preemptible=draw(st.booleans()),
                    retries=draw(st.integers(0, 2)),
                    setup_time=draw(st.sampled_from([0.0, 2.0])),
                    checkpoint_time=draw(st.sampled_from([0.0, 0.5])),
                )
            )
        release += draw(st.sampled_from([0.0, 0.3, 20.35]))
        result.append(Job(f"j{number}", tuple(tasks), release))
    return result


uncertainties = st.builds(
    Uncertainty,
    duration_noise=st.sampled_from([0.0, 0.5]),
    failures_per_hour=st.sampled_from([0.0, 30.0]),
    node_losses_per_hour=st.sampled_from([0.0, 20.0]),
    device_losses_per_hour=st.sampled_from([0.0, 20.0]),
    repair_time=st.sampled_from([1.0, 100.0]),
)


def order_of(policy: str, *submitted: Job, cluster: Cluster | None = None) -> str:
    """Names of the tasks in the order in which they start, on one GPU unless said otherwise."""
    story = tell(submitted, cluster or gpus(1), load_policy(policy))
    return " ".join(line.split()[0] for _, line in story.of("starts"))


def starts(policy: str, cluster: Cluster, *submitted: Job) -> list[tuple[float, str]]:
    """(time, sentence) of every start."""
    return tell(submitted, cluster, load_policy(policy)).of("starts")


def moldable(name: str, *durations: float, counts: tuple[int, ...] = (1, 2, 4, 8), gpu_type: str | None = None) -> Task:
    """A task that takes so many seconds on so many GPUs."""
    return Task(name, tuple(Mode(d, gpus=c, gpu_type=gpu_type) for d, c in zip(durations, counts, strict=False)))


def on_either(name: str, fast: float, slow: float) -> Task:
    """A task for one GPU of either type."""
    return Task(name, (Mode(fast, gpus=1, gpu_type="fast"), Mode(slow, gpus=1, gpu_type="slow")))


TWO_TYPES = Cluster((Node("n0", gpus=1, gpu_type="fast"), Node("n1", gpus=1, gpu_type="slow")))
