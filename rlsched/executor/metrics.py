"""What a running scheduler looks like to Prometheus; docs/monitoring.md lists the metrics.

Names and units follow Prometheus' conventions: seconds and bytes, `_total` on counters.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rlsched.active import Status, TaskState
from rlsched.executor.devices import Machine
from rlsched.executor.guard import Reason
from rlsched.executor.monitor import Sample
from rlsched.executor.nvml import GIB
from rlsched.model import Allocation, Member, Preemption
from rlsched.schedule import Outcome
from rlsched.scheduler import Decision, DevicesLost, Event, Failed, Finished, NodeLost, Observer, Preempted, Scheduler
from rlsched.state import State

_LOOPBACK = "127.0.0.1"
_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 28800, 86400, 259200)  # seconds


class MetricsServer:
    """An HTTP endpoint for Prometheus on this machine's loopback, from its creation until `close`.

    Args:
        port: 0: any that is free.

    Attributes:
        registry: what it shows.
        url: where it is.

    Raises:
        ValueError: the port cannot be had.
    """

    def __init__(self, port: int) -> None:
        self.registry = CollectorRegistry()
        try:
            self._server, self._thread = start_http_server(port, _LOOPBACK, self.registry)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"port {port} of {_LOOPBACK} cannot be used for metrics: {reason}") from None
        self.url = f"http://{_LOOPBACK}:{self._server.server_port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Metrics(Collector):
    """The metrics of a scheduler; it is an observer of it.

    Counters are kept as things happen. Everything else is looked up when Prometheus asks, in its thread, while the
    scheduler goes on: dictionaries are copied in one step each, and what is counted may be one event apart.

    Args:
        registry: shows them.
        machine: the devices.
        out: tells the devices that are not handed out, by id.
        sample: tells the last sample; None: none yet.
        journal_errors: tells how often the journal could not be written.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        machine: Machine,
        out: Callable[[], Mapping[str, Reason]],
        sample: Callable[[], Sample | None],
        journal_errors: Callable[[], int],
    ) -> None:
        self._machine = machine
        self._types = {
            device: node.gpu_type
            for node, devices in zip(machine.cluster.nodes, machine.devices, strict=True)
            for device in devices
        }
        self._out = out
        self._sample = sample
        self._scheduler: Scheduler | None = None
        self._starts: dict[Member, float] = {}
        self._decisions = Counter("rlsched_decisions", "Decisions of the policy.", ["kind"], registry=registry)
        for kind in ("start", "preempt"):
            self._decisions.labels(kind)
        self._durations = Histogram(
            "rlsched_task_duration_seconds",
            "Time that a run of a task held its devices.",
            ["outcome"],
            buckets=_BUCKETS,
            registry=registry,
        )
        for outcome in Outcome:
            self._durations.labels(outcome)
        self._journal_errors = journal_errors
        registry.register(self)

    def watch(self, scheduler: Scheduler) -> None:
        """Show this scheduler from now on."""
        self._scheduler = scheduler

    def beside(self, observe: Observer | None) -> Observer:
        """An observer that tells both."""

        def tell(now: float, what: Event | Decision) -> None:
            if observe is not None:
                observe(now, what)
            self(now, what)

        return tell

    def __call__(self, now: float, what: Event | Decision) -> None:
        match what:
            case Allocation(member):
                self._decisions.labels("start").inc()
                self._starts[member] = now
            case Preemption():
                self._decisions.labels("preempt").inc()
            case Finished(member):
                self._ended(member, now, Outcome.FINISHED)
            case Failed(member):
                self._ended(member, now, Outcome.FAILED)
            case Preempted(member):
                self._ended(member, now, Outcome.PREEMPTED)
            case NodeLost(_, work_left) | DevicesLost(_, _, work_left):
                for member, _ in work_left:
                    self._ended(member, now, Outcome.LOST)

    def collect(self) -> Iterator[Metric]:
        if self._scheduler is not None:
            lost = "Records that could not be brought to the disk."
            yield CounterMetricFamily("rlsched_journal_errors", lost, value=self._journal_errors())
            yield from self._of_state(self._scheduler.state)
        if (sample := self._sample()) is not None:
            yield from self._of_sample(sample)

    def _ended(self, member: Member, now: float, outcome: Outcome) -> None:
        if (start := self._starts.pop(member, None)) is not None:
            self._durations.labels(outcome).observe(now - start)

    def _of_state(self, state: State) -> Iterator[Metric]:
        members: Tally[str] = Tally({status.value: 0 for status in Status})
        for job in list(state.jobs.values()):
            for task in job.tasks:
                members.update(_members_of(task))
        in_states = (((status,), count) for status, count in members.items())
        yield _gauge("rlsched_tasks", "Tasks of the jobs in the system.", ("state",), in_states)
        yield _gauge("rlsched_jobs", "Jobs in the system.", (), [((), len(state.jobs))])
        queue = sum(len(task.waiting) for task in (*list(state.ready.values()), *list(state.ready_cpu.values())))
        yield _gauge("rlsched_queue_length", "Tasks that could start if there was room.", (), [((), queue)])
        held = {device for run in list(state.running.values()) for device in self._machine.held(run.allocation.shares)}
        devices: Tally[tuple[str, str]] = Tally()
        for gpu_type in dict.fromkeys(self._types.values()):
            devices.update({(gpu_type, name): 0 for name in ("free", "held", *Reason)})
        out = self._out()
        for device, gpu_type in self._types.items():
            devices[gpu_type, "held" if device in held else out.get(device, "free")] += 1
        yield _gauge("rlsched_devices", "GPUs or CPU slots.", ("type", "state"), devices.items())

    def _of_sample(self, sample: Sample) -> Iterator[Metric]:
        yield _gauge("rlsched_host_cpu_cores", "Cores of the host that are busy.", (), [((), sample.host_cpu)])
        yield _gauge("rlsched_host_memory_bytes", "Memory of the host in use.", (), [((), sample.host_memory * GIB)])
        for name, help_, field, factor in (
            ("utilisation_ratio", "Part of the time in which something ran on the GPU.", "utilisation", 1.0),
            ("memory_used_bytes", "Memory of the GPU in use.", "memory", GIB),
            ("power_watts", "Power that the GPU draws.", "power", 1.0),
            ("temperature_celsius", "Temperature of the GPU.", "temperature", 1.0),
        ):
            values = {
                (device, self._types.get(device, "")): value * factor
                for device, reading in sample.devices.items()
                if (value := getattr(reading, field)) is not None
            }
            yield _gauge(f"rlsched_device_{name}", help_, ("device", "type"), values.items())
        cores = (((unit,), task.cpu) for unit, task in sample.tasks.items())
        yield _gauge("rlsched_task_cpu_cores", "Cores that a running task keeps busy.", ("task",), cores)
        memory = (((unit,), task.memory * GIB) for unit, task in sample.tasks.items())
        yield _gauge("rlsched_task_memory_bytes", "Memory of the host that a running task takes.", ("task",), memory)


def _members_of(task: TaskState) -> dict[str, int]:
    """How many members of a task are in which state."""
    members = task.task.array
    if task.status in (Status.BLOCKED, Status.SKIPPED):
        return {task.status.value: members}
    running, done = task.running, task.done
    rest = Status.FAILED if task.status is Status.FAILED else Status.READY
    return {
        Status.RUNNING.value: running,
        Status.DONE.value: done,
        rest.value: max(0, members - running - done),
    }


def _gauge(
    name: str, help_: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family
