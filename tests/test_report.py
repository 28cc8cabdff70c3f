"""What leaves the program about a schedule: event log, Perfetto trace, Gantt chart, manifest."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from builders import at, clusters, erratic, first_fit, gpus, job, jobs, task, uncertainties
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsched.manifest import manifest
from rlsched.model import Cluster, Job, Member, Mode, Node, Preemption, Task
from rlsched.report import gantt as gantt_module
from rlsched.report.events import EventLog
from rlsched.report.gantt import PALETTE, gantt, left_out
from rlsched.report.html import write_gantt
from rlsched.report.lanes import bars_of, lane_counts
from rlsched.report.perfetto import write_trace
from rlsched.report.units import duration, label, show
from rlsched.schedule import Schedule
from rlsched.scheduler import Failed, NodeLost, NodeRestored, Progressed, Scheduler
from rlsched.simulator import Simulator, Uncertainty

CLEAN = Task("clean", (Mode(2.0, cpus=2),), array=2)
PIPELINE = job("p", CLEAN, task("train", 10, gpus=2, needs=["clean"]), task("eval", 3, needs=["train"]))


def simulate(*workload: Job, cluster: Cluster | None = None) -> Schedule:
    return Scheduler(Simulator(cluster or gpus(2), workload)).run(first_fit)


def test_the_event_log_has_a_line_for_every_event_and_decision(tmp_path: Path) -> None:
    long = job("a", task("t", 10, preemptible=True, checkpoint_time=1), deadline=99)
    short = job("b", task("s", 2, array=2), release=4.5, weight=2)
    with EventLog(tmp_path / "log") as log:
        policy = at({4.5: lambda state: [Preemption(Member(0, 0))]})
        Scheduler(Simulator(gpus(1), [long, short]), log).run(policy)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[:5] == [
        '{"time": 0.0, "kind": "arrived", "job": 0, "name": "a", "tasks": 1, "weight": 1.0, "deadline": 99}',
        '{"time": 0.0, "kind": "started", "job": 0, "task": 0, "member": 0, "name": "a/t", "mode": 0, '
        '"devices": [{"node": 0, "gpus": [0]}]}',
        '{"time": 4.5, "kind": "arrived", "job": 1, "name": "b", "tasks": 1, "weight": 2}',
        '{"time": 4.5, "kind": "stopping", "job": 0, "task": 0, "member": 0, "name": "a/t"}',
        '{"time": 5.5, "kind": "preempted", "job": 0, "task": 0, "member": 0, "name": "a/t", "work_left": 0.55}',
    ]
    assert [(entry["time"], entry["kind"], entry["name"]) for entry in map(json.loads, lines[5:])] == [
        (5.5, "started", "b/s[0]"),
        (7.5, "finished", "b/s[0]"),
        (7.5, "started", "b/s[1]"),
        (9.5, "finished", "b/s[1]"),
        (9.5, "started", "a/t"),
        (16.0, "finished", "a/t"),
    ]


def test_the_event_log_tells_of_failures_lost_nodes_and_progress(tmp_path: Path) -> None:
    """A reason with a line break stays on its line."""
    with EventLog(tmp_path / "log") as log:
        Scheduler(Simulator(gpus(1), [job("a")]), log).advance()
        log(1, Failed(Member(0, 0), "exit code 1:\nno such file"))
        log(2, Progressed(Member(0, 0), 12.5))
        log(3, NodeLost(0, ((Member(0, 0), 0.5),)))
        log(4, NodeRestored(0))
    member = {"job": 0, "task": 0, "member": 0, "name": "a/t"}
    assert [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()[1:]] == [
        {"time": 1, "kind": "failed", **member, "reason": "exit code 1:\nno such file"},
        {"time": 2, "kind": "progressed", **member, "expected_end": 12.5},
        {"time": 3, "kind": "node_lost", "node": 0, "lost": [{**member, "work_left": 0.5}]},
        {"time": 4, "kind": "node_restored", "node": 0},
    ]


def read_trace(schedule: Schedule, path: Path) -> tuple[dict[tuple[int, int], str], list[dict[str, Any]]]:
    """Names by (process, thread), and the events that are not names."""
    write_trace(schedule, path)
    trace = json.loads(path.read_text())
    assert trace["displayTimeUnit"] == "ms"
    events = trace["traceEvents"]
    process = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    threads = {
        (e["pid"], e["tid"]): f"{process[e['pid']]}: {e['args']['name']}" for e in events if e["name"] == "thread_name"
    }
    return threads, [e for e in events if e["ph"] != "M"]


def test_the_trace_has_a_process_for_every_node_and_a_thread_for_every_gpu(tmp_path: Path) -> None:
    """Cores get a thread for each task that runs on them at the same time."""
    threads, events = read_trace(simulate(PIPELINE), tmp_path / "trace.json")
    assert list(threads.values()) == ["n0: GPU 0 (gpu)", "n0: GPU 1 (gpu)", "n0: CPU 0", "n0: CPU 1"]
    slices = [e for e in events if e["ph"] == "X"]
    assert [(threads[e["pid"], e["tid"]], e["name"], e["ts"], e["dur"]) for e in slices] == [
        ("n0: CPU 0", "p/clean[0]", 0, 2_000_000),
        ("n0: CPU 1", "p/clean[1]", 0, 2_000_000),
        ("n0: GPU 0 (gpu)", "p/train", 2_000_000, 10_000_000),
        ("n0: GPU 1 (gpu)", "p/train", 2_000_000, 10_000_000),
        ("n0: GPU 0 (gpu)", "p/eval", 12_000_000, 3_000_000),
    ]
    assert slices[2]["args"] == {"job": 0, "mode": 0, "gpus": 2, "nodes": 1, "waited_s": 0, "outcome": "finished"}


def test_the_trace_counts_jobs_waiting_tasks_and_gpus(tmp_path: Path) -> None:
    schedule = simulate(job("a", task("t", 5, array=3)), job("b", task("u", 1), release=1))
    _, events = read_trace(schedule, tmp_path / "trace.json")
    counters = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            counters[event["name"]].append((event["ts"] / 1e6, event["args"]["value"]))
    assert counters == {
        "active jobs": [(0, 1), (1, 2), (6, 1), (10, 0)],
        "ready tasks": [(0, 1), (1, 2), (5, 0)],
        "GPUs in use": [(0, 2), (5, 2), (6, 1), (10, 0)],
    }


@settings(max_examples=40, deadline=None)
@given(clusters, jobs(), uncertainties, st.integers(0, 2**16))
def test_slices_of_a_thread_never_overlap(
    tmp_path_factory: pytest.TempPathFactory,
    cluster: Cluster,
    workload: list[Job],
    uncertainty: Uncertainty,
    seed: int,
) -> None:
    """Perfetto drops slices that do; and every thread number belongs to one process alone."""
    schedule = Scheduler(Simulator(cluster, workload, seed, uncertainty)).run(erratic(seed))
    threads, events = read_trace(schedule, tmp_path_factory.mktemp("trace") / "trace.json")
    assert len({thread for _, thread in threads}) == len(threads)
    slices = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert slices.keys() <= threads.keys()
    for intervals in slices.values():
        intervals.sort()
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(intervals))
    counted = sum(max(1, len(share.gpus)) for run in schedule.runs for share in run.shares)
    assert sum(map(len, slices.values())) == counted


def test_cpu_lanes_are_used_again() -> None:
    schedule = simulate(job("a", Task("t", (Mode(1.0, cpus=4),), array=6)))
    bars = bars_of(schedule)
    assert [(bar.run.start, bar.lanes) for bar in bars] == [(t, (lane,)) for t in (0, 1, 2) for lane in (2, 3)]
    assert lane_counts(schedule, bars) == [4]


def bars_in(schedule: Schedule) -> list[Any]:
    return [trace for trace in gantt({"x": schedule}).data if trace.type == "bar"]


def test_the_chart_shows_every_run_once_on_its_devices() -> None:
    """Neighbouring GPUs of a gang make one bar."""
    traces = bars_in(simulate(PIPELINE))
    shown = sorted(
        (trace.base[i], trace.x[i], trace.y[i], round(trace.width[i]))
        for trace in traces
        for i in range(len(trace.base))
    )
    assert shown == [(0, 2, 2, 1), (0, 2, 3, 1), (2, 10, 0.5, 2), (12, 3, 0, 1)]


def test_jobs_have_colours_and_a_legend_only_where_it_is_short() -> None:
    """A single job is coloured by task."""
    one, few, many = (simulate(*(job(f"j{k}") for k in range(count))) for count in (1, 3, 100))
    assert [(t.name, t.showlegend) for t in bars_in(simulate(PIPELINE))] == [
        ("clean", True),
        ("train", True),
        ("eval", True),
    ]
    assert [(t.name, t.showlegend) for t in bars_in(one)] == [("t", True)]
    assert [(t.name, t.showlegend) for t in bars_in(few)] == [(f"j{k}", True) for k in range(3)]
    assert len(bars_in(many)) == len(PALETTE)
    assert not any(t.showlegend for t in bars_in(many))


def test_runs_that_did_not_finish_are_hatched() -> None:
    long = job("a", task("t", 10, preemptible=True))
    policy = at({4: lambda state: [Preemption(Member(0, 0))]})
    schedule = Scheduler(Simulator(gpus(1), [long, job("b", release=4)])).run(policy)
    assert [list(trace.marker.pattern.shape) for trace in bars_in(schedule)] == [["/", ""], [""]]


def test_of_a_long_schedule_the_first_part_is_shown_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gantt_module, "MAX_BARS", 10)
    schedule = simulate(*(job(f"j{k}", task("t", 1), release=k) for k in range(30)))
    assert left_out(schedule) == 20
    assert gantt({"x": schedule}).layout.xaxis.range == (0, 10)
    write_gantt(schedule, tmp_path / "x.html", "x")
    assert "The chart shows the first 10 of 30 runs." in (tmp_path / "x.html").read_text()


def test_several_schedules_share_a_chart_with_a_choice_among_them() -> None:
    short, long = simulate(job("a", task("t", 1))), simulate(job("a", task("t", 9)))
    chart = gantt({"fast": short, "slow": long})
    assert chart.layout.xaxis.range == (0, 9)
    assert [(button.label, button.args[0]["visible"]) for button in chart.layout.updatemenus[0].buttons] == [
        ("fast", [True, True, True, False, False, False]),
        ("slow", [False, False, False, True, True, True]),
    ]
    assert [trace.visible for trace in chart.data] == [True, True, True, False, False, False]


def test_a_page_needs_nothing_else_and_is_the_same_each_time(tmp_path: Path) -> None:
    schedule = simulate(PIPELINE)
    about = manifest(range(10), command=["/somewhere/bin/rlsched", "simulate", "tiny scenario"])
    for name in ("one", "two"):
        write_gantt(schedule, tmp_path / name, "tiny", about)
    page = (tmp_path / "one").read_text()
    assert page == (tmp_path / "two").read_text()
    own = page.replace(page[page.index("<script>") : page.index("</script>")], "")
    assert not re.search(r"(src|href)=", own)
    assert "<dd>rlsched simulate &#x27;tiny scenario&#x27;</dd>" in own
    assert "<dd>0 to 9 (10)</dd>" in own


def test_names_from_outside_cannot_break_the_page(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    cluster = Cluster((Node(evil, gpus=1, gpu_type=evil),))
    schedule = simulate(job(evil, task(evil, 1)), job("b"), cluster=cluster)
    write_gantt(schedule, tmp_path / "x.html", evil)
    assert "<img" not in (tmp_path / "x.html").read_text()
    write_trace(schedule, tmp_path / "x.json")
    assert evil in {
        e["args"]["name"]
        for e in json.loads((tmp_path / "x.json").read_text())["traceEvents"]
        if e["ph"] == "M" and "name" in e["args"]
    }


def test_a_schedule_of_nothing_has_a_page_and_a_trace(tmp_path: Path) -> None:
    """As after a run in which everything had been done before."""
    empty = Schedule(gpus(1))
    write_gantt(empty, tmp_path / "x.html", "nothing")
    write_trace(empty, tmp_path / "x.json")
    assert "nothing" in (tmp_path / "x.html").read_text()
    assert json.loads((tmp_path / "x.json").read_text())["traceEvents"]


def test_a_manifest_says_what_is_needed_to_do_it_again_and_names_nobody() -> None:
    about = manifest([3, 4], command=["/home/somebody/.venv/bin/rlsched", "train", "het16"])
    assert about.keys() == {"command", "seeds", "versions", "commit", "machine"}
    assert about["command"] == "rlsched train het16"
    assert about["seeds"] == [3, 4]
    assert {"python", "rlsched", "numpy", "torch"} <= about["versions"].keys()
    assert about["machine"].keys() == {"cpus", "platform"}
    assert json.loads(json.dumps(about)) == about


def test_the_command_is_that_of_the_process_if_nobody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/rlsched", "simulate", "a b"])
    assert manifest([])["command"] == "rlsched simulate 'a b'"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert manifest([])["commit"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4204, "0.420 s"),
        (12.34, "12.3 s"),
        (100, "100 s"),
        (246, "4.10 min"),
        (19404, "5.39 h"),
        (198720, "2.30 d"),
        (1e9, "11,574 d"),
        (float("nan"), "-"),
        (float("inf"), "-"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_metrics_are_shown_with_their_units() -> None:
    metrics = {
        "unfinished_jobs": 3,
        "utilisation.v100": 0.5,
        "bounded_slowdown": 2,
        "p99_jct": 60,
        "makespan": float("nan"),
    }
    assert [f"{label(name)}: {show(name, value)}" for name, value in metrics.items()] == [
        "unfinished jobs: 3",
        "utilisation of v100: 50.0%",
        "bounded slowdown: 2.00",
        "p99 JCT: 60.0 s",
        "makespan: -",
    ]
