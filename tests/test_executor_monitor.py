"""Devices and tasks are sampled into the run directory, and nothing that goes wrong with that touches the run."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from conftest import Drive, Execute, Plug, appears, until
from fake_nvml import FakeGpu, FakeNvml

from rlsched.executor import monitor as monitor_module
from rlsched.executor.devices import local_machine
from rlsched.executor.monitor import SAMPLES, Monitor
from rlsched.executor.paths import attempt_paths
from rlsched.executor.status import read_status
from rlsched.executor.usage import TreeUsage, Usage, tree_usage
from rlsched.workflow import Workflow

# Keeps 60 MiB in a process of its own, and a core busy, until there is a file `enough`.
GREEDY = f"""
{sys.executable} -c '
import os
block = bytearray(60 << 20)
while not os.path.exists("enough"): pass
' & wait
"""


def samples(folder: Path) -> list[dict[str, Any]]:
    """Those that were written."""
    file = folder / SAMPLES
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_memory_and_cpu_of_a_whole_process_tree_are_sampled(execute: Execute, tmp_path: Path) -> None:
    """Also of a process that the command has started in the background; the peak is in the status."""

    def of_a() -> list[dict[str, Any]]:
        return [sample for sample in samples(tmp_path / "runs" / "flow") if "a" in sample["tasks"]]

    def watch() -> None:
        until(lambda: any(s["tasks"]["a"]["rss"] > 0.06 and s["tasks"]["a"]["cpu"] > 0 for s in of_a()))
        (tmp_path / "enough").touch()

    thread = threading.Thread(target=watch)
    thread.start()
    result = execute(
        f"a:\n  gpus: 1\n  run: |\n{indent(GREEDY, '    ')}",
        sample_interval=0.05,
    )
    thread.join()
    assert result.exit_code == 0
    assert max(sample["tasks"]["a"]["processes"] for sample in of_a()) == 2
    usage = result.status.units[0].usage
    assert usage is not None
    assert usage.rss is not None
    assert usage.rss > 0.06
    assert usage.memory is not None
    assert 0.05 < usage.memory < usage.rss
    assert usage.cpu is not None
    assert usage.cpu > 0


def test_cpu_time_is_known_of_the_shortest_task(execute: Execute) -> None:
    """Its launcher has it from the kernel, of all that came of the command."""
    result = execute("a: {run: 'for i in $(seq 20); do seq 3000 | tail -1; done', gpus: 1}", sample_interval=0)
    usage = result.status.units[0].usage
    assert usage is not None
    assert usage.cpu is not None
    assert usage.cpu > 0
    assert usage.rss is None


def test_without_an_interval_nothing_is_sampled(execute: Execute, tmp_path: Path) -> None:
    execute("a: {run: sleep 0.1, gpus: 1}", sample_interval=0)
    assert samples(tmp_path / "runs" / "flow") == []


@pytest.fixture
def watch(plug: Plug, tmp_path: Path) -> Callable[..., tuple[Monitor, FakeNvml]]:
    """A monitor of these GPUs that samples all the time."""

    def start(*gpus: FakeGpu) -> tuple[Monitor, FakeNvml]:
        nvml = plug(gpus)
        return Monitor(tmp_path, local_machine(), 0.005), nvml

    return start


def test_gpus_are_read_and_peaks_belong_to_the_task_that_holds_them(
    watch: Callable[..., tuple[Monitor, FakeNvml]], tmp_path: Path
) -> None:
    a, b = FakeGpu("GPU-aaaa", utilisation=50, in_use=12.0, power=200.5), FakeGpu("GPU-bbbb", in_use=30.0)
    monitor, nvml = watch(a, b)
    monitor.started("t", 1, attempt_paths(tmp_path, "t", 1), ["GPU-aaaa"])
    before = len(samples(tmp_path))
    until(lambda: len(samples(tmp_path)) > before + 2)
    a.in_use = 40.0
    until(lambda: any(s["devices"]["GPU-aaaa"]["memory"] == 40 for s in samples(tmp_path)))
    a.in_use = 1.0
    before = len(samples(tmp_path))
    until(lambda: len(samples(tmp_path)) > before + 2)
    usage = monitor.ended("t")
    monitor.close()
    assert (usage.gpu_memory, usage.gpu_utilisation, usage.rss) == (40.0, 0.5, None)
    reading = samples(tmp_path)[0]["devices"]["GPU-aaaa"]
    assert reading == {"utilisation": 0.5, "memory": 12.0, "power": 200.5, "temperature": 35.0}
    assert nvml.open == 0


def test_mig_instances_tell_what_they_have_of_their_own(
    watch: Callable[..., tuple[Monitor, FakeNvml]], tmp_path: Path
) -> None:
    """Memory is theirs, temperature that of the GPU; utilisation and power are told for the whole GPU only."""
    part = FakeGpu("MIG-1", memory=10, profile="1g.10gb", in_use=2.0)
    monitor, _ = watch(FakeGpu("GPU-eeee", instances=[part], temperature=50))
    until(lambda: monitor.latest is not None)
    monitor.close()
    reading = samples(tmp_path)[0]["devices"]["MIG-1"]
    assert reading == {"utilisation": None, "memory": 2.0, "power": None, "temperature": 50.0}


def test_what_cannot_be_sampled_is_said_once_and_the_rest_goes_on(
    watch: Callable[..., tuple[Monitor, FakeNvml]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = FakeGpu("GPU-aaaa"), FakeGpu("GPU-bbbb")
    monitor, _ = watch(a, b)
    until(lambda: monitor.latest is not None)
    b.gone = True
    before = len(samples(tmp_path)) + 1
    until(lambda: len(samples(tmp_path)) > before + 2)
    monitor.close()
    assert {tuple(s["devices"]) for s in samples(tmp_path)[before:]} == {("GPU-aaaa",)}
    assert [r.message for r in caplog.records] == [
        "something cannot be sampled, the run goes on: NvmlError: GPU is lost"
    ]


def test_a_full_disk_ends_no_run(
    execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does anything else that a sampler may meet."""
    (tmp_path / "runs" / "flow" / SAMPLES).mkdir(parents=True)
    assert execute("a: {run: sleep 0.2, gpus: 1}", sample_interval=0.02).exit_code == 0
    assert [r.message.partition(":")[0] for r in caplog.records] == ["something cannot be sampled, the run goes on"]


def test_a_sampler_that_hangs_is_left_behind(
    watch: Callable[..., tuple[Monitor, FakeNvml]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "_CLOSING_TIME", 0.05)
    monitor, nvml = watch(FakeGpu("GPU-aaaa"))
    until(lambda: monitor.latest is not None)
    nvml.hanging.clear()
    monitor.close()
    assert monitor._thread.daemon
    nvml.hanging.set()
    monitor._thread.join()


def test_samples_are_thinned_out_as_they_become_many(
    watch: Callable[..., tuple[Monitor, FakeNvml]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first ten all are written, then every second, then every fourth ...: a long run keeps a small file."""
    monkeypatch.setattr(monitor_module, "_THINNED_AFTER", 10)
    monitor, _ = watch()
    until(lambda: monitor._samples >= 41)
    monitor.close()
    assert len(samples(tmp_path)) >= 10 + 5 + 2 + 1
    assert len(samples(tmp_path)) <= 10 + 5 + 3 + 2 + monitor._samples // 16


def test_an_adopted_task_is_sampled_and_its_earlier_samples_count(
    workflow: Callable[[str], Workflow], drive: Drive, execute: Execute, tmp_path: Path
) -> None:
    """Its peak may have been under the driver that was killed."""
    tasks = "a: {run: 'echo begin > begun; until test -e enough; do sleep 0.02; done', gpus: 1}"
    driver = drive(workflow(tasks))
    appears(tmp_path / "begun")
    driver.kill()
    driver.wait()
    folder = tmp_path / "runs" / "flow"
    earlier = {"attempt": 1, "cpu": 1.0, "rss": 7.5, "memory": 6.5, "processes": 3}
    with (folder / SAMPLES).open("a") as file:
        file.write(json.dumps({"time": 0, "devices": {}, "tasks": {"a": earlier}}) + '\n{"time": 1, "dev\n')
    before = len((folder / SAMPLES).read_text().splitlines())

    def watch() -> None:
        until(lambda: len((folder / SAMPLES).read_text().splitlines()) > before + 2)
        (tmp_path / "enough").touch()

    thread = threading.Thread(target=watch)
    thread.start()
    result = execute(tasks, sample_interval=0.02)
    thread.join()
    usage = read_status(folder).units[0].usage
    assert result.exit_code == 0
    assert usage is not None
    assert (usage.rss, usage.memory) == (7.5, 6.5)
    assert any("a" in json.loads(line)["tasks"] for line in (folder / SAMPLES).read_text().splitlines()[before:])


def test_a_tree_that_is_gone_has_no_usage() -> None:
    assert tree_usage({"gone": 2**22 + 1}) == {}
    assert TreeUsage(0.0, 0.0, 0.0, 0) == (0.0, 0.0, 0.0, 0)


def test_usage_in_a_journal_is_what_is_known_of_it() -> None:
    assert Usage(cpu=1.5, gpu_memory=3.0).as_record() == {"cpu": 1.5, "gpu_memory": 3.0}
    assert Usage.of_record({"cpu": 1.5}) == Usage(cpu=1.5)
    assert Usage.of_record({}) is Usage.of_record(None) is None
