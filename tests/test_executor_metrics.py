"""The endpoint for Prometheus, and that the dashboard asks for nothing that it does not have."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest
from conftest import Execute, Plug, until
from fake_nvml import FakeGpu
from prometheus_client.parser import text_string_to_metric_families

from rlsched.executor.metrics import MetricsServer
from rlsched.scheduler import Decision, Event, Finished

ROOT = Path(__file__).parents[1]
Values = dict[tuple[str, tuple[str, ...]], float]


def scrape(server: MetricsServer) -> Values:
    """Every sample, by its name and the values of its labels in alphabetical order of the labels."""
    with urllib.request.urlopen(server.url, timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_shows_its_tasks_devices_and_decisions(plug: Plug, execute: Execute) -> None:
    """As they are when two of three tasks have ended, one of which takes no GPU; the last waits for two GPUs."""
    gpu = FakeGpu("GPU-aaaa", utilisation=25, in_use=10.0, power=70.0, temperature=41)
    plug([gpu, FakeGpu("GPU-bbbb")])
    server = MetricsServer(0)
    seen: list[Values] = []

    def watch(now: float, what: Event | Decision) -> None:
        if isinstance(what, Finished) and what.member.task == 1:
            until(lambda: ("rlsched_device_power_watts", ("GPU-aaaa", "a100")) in scrape(server))
            seen.append(scrape(server))

    gpu.in_use = 0.5
    tasks = """
    load: {run: sleep 0.05, gpus: 0}
    train: {run: sleep 0.05, gpus: 1, needs: load}
    both: {run: sleep 0.05, gpus: 2, needs: train}
    """
    assert execute(tasks, slots=None, observe=watch, metrics=server, sample_interval=0.01).exit_code == 0
    after = scrape(server)
    server.close()
    (then,) = seen
    assert {state[0]: n for (name, state), n in then.items() if name == "rlsched_tasks"} == {
        **dict.fromkeys(("ready", "failed", "skipped"), 0),
        **{"blocked": 1, "running": 1, "done": 1},  # the observer hears of an event before the state does
    }
    assert then["rlsched_devices", ("held", "a100")] == 1
    assert then["rlsched_devices", ("free", "a100")] == 1
    assert then["rlsched_decisions_total", ("start",)] == 2
    assert then["rlsched_jobs", ()] == 1
    assert then["rlsched_queue_length", ()] == 0
    assert then["rlsched_device_utilisation_ratio", ("GPU-aaaa", "a100")] == 0.25
    assert then["rlsched_device_memory_used_bytes", ("GPU-aaaa", "a100")] == 2**29
    assert then["rlsched_device_power_watts", ("GPU-aaaa", "a100")] == 70
    assert then["rlsched_device_temperature_celsius", ("GPU-aaaa", "a100")] == 41
    assert after["rlsched_task_duration_seconds_count", ("finished",)] == 3
    assert after["rlsched_task_duration_seconds_sum", ("finished",)] >= 0.15
    assert after["rlsched_journal_errors_total", ()] == 0
    assert after["rlsched_jobs", ()] == 0


def test_the_dashboard_asks_for_metrics_that_exist(execute: Execute) -> None:
    """Every query of docs/grafana.json, and every name in docs/monitoring.md, against a real answer."""
    server = MetricsServer(0)
    execute("a: {run: sleep 0.1, gpus: 1}", metrics=server, sample_interval=0.02)
    with urllib.request.urlopen(server.url, timeout=30) as answer:
        shown = set(re.findall(r"^# TYPE (rlsched_\w+)", answer.read().decode(), re.MULTILINE))
    server.close()
    shown |= {f"{name}_{part}" for name in shown for part in ("count", "sum", "bucket")}
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= len(dashboard["panels"])
    asked = {name for query in queries for name in re.findall(r"rlsched_\w+", query)}
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert asked <= shown
    assert set(re.findall(r"`(rlsched_\w+)", page)) <= shown
    assert {name for name in shown if not re.search(r"_(count|sum|bucket|created)$", name)} <= set(
        re.findall(r"rlsched_\w+", page)
    )


def test_it_answers_on_loopback_alone_and_a_port_in_use_is_bad_input() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} of 127.0.0.1 cannot be used for metrics: Address already"):
            MetricsServer(port)
    server = MetricsServer(0)
    assert server.url.startswith("http://127.0.0.1:")
    server.close()
    with pytest.raises(ValueError, match="port 70000"):
        MetricsServer(70000)
