"""Importers: what becomes of each format, on samples made for the tests and on the data sets where they are there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rlsched.model import Job, Mode, Task
from rlsched.policies.registry import load_policy
from rlsched.scenario import load_scenario
from rlsched.scenariofile import ClusterEntry, NodesEntry
from rlsched.scheduler import Scheduler
from rlsched.traces.importing import FORMATS, import_trace, read_trace
from rlsched.traces.trace import TraceError, Wish, as_name, machines

SAMPLES = Path(__file__).parent / "data"
DATA = Path(os.environ.get("RLSCHED_DATA") or Path(__file__).parents[2] / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not in {DATA}")


def read(kind: str, name: str, **wish: object) -> tuple[ClusterEntry, list[Job], dict[str, int]]:
    """Cluster, jobs, and what was left out, of one of the samples."""
    trace = read_trace(kind, SAMPLES / name, Wish(**wish))  # type: ignore[arg-type]
    return trace.cluster, list(trace.jobs), dict(trace.left_out)


def gpus(count: int, **node: object) -> ClusterEntry:
    """One machine of so many GPUs."""
    return machines(NodesEntry(name="box", gpus=count, **node))  # type: ignore[arg-type]


def test_tpch_stages_become_array_tasks_whose_fresh_executors_pay_set_up_time() -> None:
    """Durations are means over the waves on ten executors, without the fresh ones; a move takes 2 s."""
    cluster, jobs, _ = read("tpch", "tpch-1g.json")
    assert cluster.cluster().gpu_count() == 10
    root = Task("stage0", (Mode(1.0, gpus=1),), array=4, setup_time=2 + (4 - 1))
    # 10 of 20 tasks are the first of their executor: (2 x 4 s - 5 s) / 1 = 3 s, and 1 s for the others.
    middle = Task("stage1", (Mode(2.0, gpus=1),), ("stage0",), array=20, setup_time=2 + (5 - 2))
    last = Task("stage2", (Mode(3.0, gpus=1),), ("stage0", "stage1"), array=2, setup_time=2.0)
    assert jobs == [Job("1g-q1", (root, middle, last))]


def test_tpch_takes_the_times_of_the_nearest_number_of_executors() -> None:
    """With one executor only the first of 20 tasks is slow; with 20, those measured on 20 count."""
    (one,), (twenty,) = (read("tpch", "tpch-1g.json", cluster=gpus(count))[1] for count in (1, 20))
    assert one.tasks[1].modes[0].duration == (3 + 19 * 1) / 20
    assert twenty.tasks[1].modes[0].duration == 9.0


def test_tpch_draws_episodes_unless_told_otherwise(tmp_path: Path) -> None:
    """Each seed draws other queries at other times; equal seeds draw the same."""
    imported = import_trace("tpch", SAMPLES, tmp_path / "tpch.jsonl", jobs=7)
    assert imported.header.arrivals is not None
    assert (imported.header.arrivals.jobs, imported.header.arrivals.mean_gap) == (7, 25.0)
    scenario = load_scenario(tmp_path / "tpch.jsonl")
    assert [job.name for job in scenario.jobs(1)] == [f"1g-q1-{number}" for number in range(1, 8)]
    assert scenario.jobs(1) == scenario.jobs(1)
    assert scenario.jobs(1) != scenario.jobs(2)


def test_gavel_jobs_have_a_mode_for_every_gpu_type_they_were_measured_on() -> None:
    """Duration = steps / (steps/s); a throughput of 0 means that it did not run. Both kinds of lines are read."""
    _, (first, second), _ = read("gavel", "net.trace")
    modes = (
        Mode(50.0, gpus=1, gpu_type="v100"),
        Mode(100.0, gpus=1, gpu_type="p100"),
        Mode(200.0, gpus=1, gpu_type="k80"),
    )
    assert first == Job("Net-batch-size-8-1", (Task("train", modes, preemptible=True),), 5.0)
    two = Task("train", (Mode(50.0, gpus=2, gpu_type="v100"),), preemptible=True)
    assert second == Job("Net-batch-size-8-2", (two,), 7.0, weight=3.0, deadline=7 + 1.5 * 60)


def test_moldable_gavel_jobs_have_a_mode_for_every_count_that_fits_the_cluster() -> None:
    """Two V100 take gangs of one and two, whatever the trace asks for."""
    _, jobs, _ = read("gavel", "net.trace", moldable=True)
    found = [(mode.gpu_type, mode.gpus, mode.duration) for mode in jobs[1].tasks[0].modes]
    assert found == [("v100", 1, 100.0), ("v100", 2, 50.0), ("p100", 1, 200.0), ("k80", 1, 400.0)]


def test_gavel_finds_its_throughputs_above_or_where_it_is_told(tmp_path: Path) -> None:
    """In Gavel's repository the traces are in a folder below that of the table."""
    (tmp_path / "traces" / "deep").mkdir(parents=True)
    trace = shutil.copy(SAMPLES / "net.trace", tmp_path / "traces" / "deep")
    with pytest.raises(TraceError, match=r"expected simulation_throughputs.json beside it, found none"):
        read_trace("gavel", Path(trace))
    companion = SAMPLES / "simulation_throughputs.json"
    assert len(list(read_trace("gavel", Path(trace), Wish(companion=companion)).jobs)) == 2
    shutil.copy(companion, tmp_path / "traces")
    assert len(list(read_trace("gavel", Path(trace)).jobs)) == 2


def test_philly_jobs_are_rigid_gangs_released_at_their_timestamps(tmp_path: Path) -> None:
    """Time 0 is the first release; 256 GPUs unless told otherwise."""
    imported = import_trace("philly", SAMPLES / "philly.csv", tmp_path / "philly.jsonl.gz")
    assert imported.header.cluster.cluster().gpu_count() == 256
    assert load_scenario(tmp_path / "philly.jsonl.gz").jobs(0) == [
        Job("aa-1", (Task("train", (Mode(60.0, gpus=1),)),)),
        Job("bb-2", (Task("train", (Mode(3600.0, gpus=16),)),), 30.0),
        Job("aa-3", (Task("train", (Mode(5.5, gpus=2),)),), 86400.0),
    ]


def test_openb_pods_are_rounded_up_and_come_in_order_of_creation() -> None:
    """Parts of GPUs and cores count as whole ones; pods that never ran are left out; machines alike go together."""
    cluster, jobs, left_out = read("openb", "pods.csv")
    either = tuple(Mode(40.0, gpus=2, gpu_type=model, cpus=4, memory=1.0) for model in ("T4", "V100M16"))
    assert jobs == [
        Job("early", (Task("pod", either),), 40.0),
        Job("cores", (Task("pod", (Mode(5.0, cpus=2, memory=0.5),)),), 60.0),
        Job("late", (Task("pod", (Mode(100.0, gpus=1, cpus=2, memory=2.0),)),), 100.0),
    ]
    assert left_out == {"never scheduled": 1}
    assert [(node.count, node.gpu_type, node.gpus) for node in cluster.nodes] == [(2, "T4", 2), (1, "V100M16", 4)]


def test_wfformat_tasks_take_cores_and_those_without_time_are_left_out() -> None:
    """Edges may be given by the parent or the child; who waits for a task without time waits for what that needs."""
    cluster, jobs, left_out = read("wfformat", "diamond.json")

    def task(name: str, seconds: float, *needs: str, cores: int = 1) -> Task:
        return Task(name, (Mode(seconds, gpus=cores, gpu_type="cpu"),), needs)

    split, left, right = task("split_1", 10.5), task("left_2", 20, "split_1", cores=2), task("right_4", 3, "split_1")
    assert jobs == [Job("diamond", (split, left, right, task("join_5", 1, "left_2", "right_4")))]
    assert left_out == {"task took no time": 1}
    assert [(node.name, node.gpus, node.gpu_type) for node in cluster.nodes] == [("m1", 4, "cpu")]


@pytest.mark.parametrize("name", ["tiny.rcp", "tiny.sm"])
def test_psplib_activities_take_custom_resources_and_dummies_are_left_out(name: str) -> None:
    """The same project in both formats; rows may be broken in Patterson's."""
    trace = read_trace("psplib", SAMPLES / name)
    assert trace.objective == "makespan"
    assert [dict(node.resources) for node in trace.cluster.nodes] == [{"R1": 3, "R2": 4}]
    second = Task("2", (Mode(4, resources={"R1": 2}),))
    third = Task("3", (Mode(2, resources={"R1": 3, "R2": 1}),))
    assert list(trace.jobs) == [Job("tiny", (second, third, Task("4", (Mode(5, resources={"R2": 2}),), ("2", "3"))))]


def test_swf_jobs_take_processors_and_those_that_did_not_run_are_left_out() -> None:
    """The processors that were allocated or else requested; the machine is as large as the header says."""
    cluster, jobs, left_out = read("swf", "log.swf")
    assert cluster.cluster().gpu_count() == 8
    assert jobs == [
        Job("job-1", (Task("run", (Mode(30.0, gpus=4),)),), 100.0),
        Job("job-3", (Task("run", (Mode(20.0, gpus=8),)),), 110.0),
    ]
    assert left_out == {"did not run": 1, "size not known": 1}


def test_a_window_starts_at_time_zero_and_moves_deadlines_along(tmp_path: Path) -> None:
    """--skip and --jobs cut a piece out of a trace."""
    imported = import_trace("gavel", SAMPLES / "net.trace", tmp_path / "w.jsonl", skip=1, jobs=5)
    assert imported.contents.jobs == 1
    (job,) = load_scenario(tmp_path / "w.jsonl").jobs(0)
    assert (job.release, job.deadline) == (0.0, 90.0)


def test_any_trace_can_be_drawn_from(tmp_path: Path) -> None:
    """With a mean gap the jobs of the file are what episodes are drawn from; deadlines keep their distance."""
    import_trace("gavel", SAMPLES / "net.trace", tmp_path / "w.jsonl", jobs=30, mean_gap=10.0)
    jobs = load_scenario(tmp_path / "w.jsonl").jobs(3)
    assert len(jobs) == 30
    assert {job.name.rpartition("-")[0] for job in jobs} == {"Net-batch-size-8-1", "Net-batch-size-8-2"}
    assert {round(job.deadline - job.release, 6) for job in jobs if job.deadline is not None} == {90.0}


@pytest.mark.parametrize("text", ["a b", "ResNet-18 (batch size 64)", "--", "é", "x/y:z", ".hidden"])
def test_any_text_becomes_a_name(text: str) -> None:
    """Traces have names that a workload file may not have."""
    NodesEntry(name=as_name(text))


@pytest.mark.parametrize(
    ("kind", "name", "right", "wrong", "sentence"),
    [
        ("tpch", "tpch-1g.json", '"rest_wave": {}}}', "", r"tpch-1g.json:12: expected JSON"),
        ("tpch", "tpch-1g.json", '"stages"', '"steps"', r"tpch-1g.json: q1.stages: is missing"),
        ("tpch", "tpch-1g.json", "[0, 1]", "[0, 7]", r"tpch-1g.json: q1: .*needs 'stage7'"),
        ("tpch", "tpch-1g.json", '"9"', '"nine"', r"tpch-1g.json: q1: .*'nine'"),
        ("gavel", "net.trace", "\t", " ", r"net.trace:1: expected 10 or 12 fields with tabs in between, found 1"),
        ("gavel", "net.trace", "Net", "Web", r"net.trace:1: scale factor: found 'Web .batch size 8.' on 1 GPU"),
        ("gavel", "net.trace", "\t100\t", "\tmany\t", r"net.trace:1: steps: expected a number .*'many'"),
        ("philly", "philly.csv", "num_gpus", "gpus", r"philly.csv:1: expected the columns .* found no 'num_gpus'"),
        ("philly", "philly.csv", ",60.0,aa", "", r"philly.csv:2: expected 5 fields, found 3"),
        ("philly", "philly.csv", ",16,", ",1.5,", r"philly.csv:3: num_gpus: expected a whole number, found '1.5'"),
        ("philly", "philly.csv", "2017-10-04", "today", r"philly.csv:4: timestamp: expected a date and time"),
        ("philly", "philly.csv", ",5.5,", ",0,", r"philly.csv:4: duration: expected seconds above 0, found '0'"),
        ("philly", "philly.csv", "10-04", "09-04", r"job aa-3 is released at -"),
        ("philly", "philly.csv", ",16,", ",512,", r"job bb-2, task train: .*found 512 GPUs"),
        ("openb", "pods.csv", "1500", "much", r"pods.csv:2: cpu_milli: expected a number .*'much'"),
        ("openb", "openb_node_list_gpu_node.csv", "sn,", "sn", r"node_list_gpu_node.csv:1: expected the columns"),
        ("wfformat", "diamond.json", "1.6", "1.4", r"schemaVersion: expected 1.5 or 1.6, found '1.4'"),
        ("wfformat", "diamond.json", '"left_2", "run', '"x", "run', r"expected the run of 'left_2', found none"),
        ("wfformat", "diamond.json", "10.5", "-1", r"execution.tasks\[0\].runtimeInSeconds: .*found -1"),
        ("wfformat", "diamond.json", '["split_1"]', '["x"]', r"'x' is a parent or child, but no task"),
        ("wfformat", "diamond.json", '[], "children"', '["join_5"], "children"', r"the needs form a cycle"),
        ("psplib", "tiny.rcp", "0  0  0   0\n", "", r"tiny.rcp:7: expected the duration of activity 5, found the end"),
        ("psplib", "tiny.rcp", "4  2", "4  x", r"tiny.rcp:4: expected a demand of activity 2, .*found 'x'"),
        ("psplib", "tiny.rcp", "1  4", "1  9", r"tiny.rcp: activity 2: expected successors up to 5, found 9"),
        ("psplib", "tiny.sm", "  2      1 ", "  2      2 ", r"tiny.sm:27: expected activity 2, mode 1"),
        ("psplib", "tiny.sm", "R 2", "N 1", r"tiny.sm:24: expected renewable resources only"),
        ("psplib", "tiny.sm", "RESOURCEAV", "AV", r"tiny.sm: expected the table 'RESOURCEAVAILABILITIES'"),
        ("swf", "log.swf", " 1 1 1 1 1 1 -1", "", r"log.swf:5: expected 18 fields, found 11"),
        ("swf", "log.swf", "MaxProcs", "Procs", r"log.swf: expected '; MaxProcs: NUMBER' in the header"),
        ("swf", "log.swf", " 30 ", " x ", r"log.swf:5: run time: expected a number, found 'x'"),
    ],
)
def test_a_broken_trace_is_refused_in_one_sentence_and_nothing_is_written(
    kind: str, name: str, right: str, wrong: str, sentence: str, tmp_path: Path
) -> None:
    """The sentence names the file and the place; no workload appears, not even a part of one."""
    for file in SAMPLES.iterdir():
        shutil.copy(file, tmp_path)
    text = (tmp_path / name).read_text()
    assert right in text
    (tmp_path / name).write_text(text.replace(right, wrong))
    before = sorted(tmp_path.iterdir())
    trace = tmp_path / ("pods.csv" if kind == "openb" else name)
    with pytest.raises(ValueError, match=sentence) as raised:
        import_trace(kind, trace, tmp_path / "w.jsonl")
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_not_there_or_no_text_is_refused(kind: str, tmp_path: Path) -> None:
    """Every importer says which file it could not read."""
    shutil.copy(SAMPLES / "simulation_throughputs.json", tmp_path)
    shutil.copy(SAMPLES / "openb_node_list_gpu_node.csv", tmp_path)
    file = tmp_path / ("x.rcp" if kind == "psplib" else "x")
    with pytest.raises(TraceError, match=r"x(\.rcp)?: cannot be read: No such file"):
        list(read_trace(kind, file).jobs)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match=r"x(\.rcp)?: expected text in UTF-8"):
        list(read_trace(kind, file).jobs)


def test_an_unknown_format_is_refused_with_a_hint() -> None:
    """A slip of the finger is recognised."""
    with pytest.raises(TraceError, match="unknown format 'phily', did you mean 'philly'"):
        read_trace("phily", SAMPLES / "philly.csv")


@needs_data
@pytest.mark.parametrize(
    ("kind", "path", "jobs", "tasks", "members"),
    [
        ("tpch", "tpch", 88, 808, 88_889),
        ("tpch", "tpch/tpch-2g.json", 22, 202, 20_065),
        ("gavel", "gavel/minimize_makespan.trace", 100, 100, 100),
        ("gavel", "gavel/max_min_fairness.trace", 96, 96, 96),
        ("gavel", "gavel/shockwave_120.trace", 120, 120, 120),
        ("philly", "philly/philly.csv", 50_000, 50_000, 50_000),
        ("openb", "openb/openb_pod_list_cpu050.csv", 6_561, 6_561, 6_561),
        ("wfformat", "wfinstances", 48, 4_039, 4_039),
        ("psplib", "psplib/j30/j30_1_1.rcp", 1, 30, 30),
    ],
)
def test_data_sets_are_read_whole(kind: str, path: str, jobs: int, tasks: int, members: int) -> None:
    """The numbers in docs/workloads.md."""
    found = [0, 0, 0]
    for job in read_trace(kind, DATA / path, Wish(moldable=True)).jobs:
        found = [found[0] + 1, found[1] + len(job.tasks), found[2] + sum(task.array for task in job.tasks)]
    assert found == [jobs, tasks, members]


@needs_data
@pytest.mark.parametrize(("folder", "instances", "activities"), [("j30", 240, 30), ("j60", 144, 60)])
def test_every_psplib_instance_is_read(folder: str, instances: int, activities: int) -> None:
    """All have four resources, and no dummy is left."""
    files = sorted((DATA / "psplib" / folder).glob("*.rcp"))
    assert len(files) == instances
    for file in files:
        trace = read_trace("psplib", file)
        assert [len(job.tasks) for job in trace.jobs] == [activities]
        assert [len(node.resources) for node in trace.cluster.nodes] == [4]


@needs_data
@pytest.mark.parametrize(
    ("kind", "path", "options"),
    [
        ("tpch", "tpch/tpch-2g.json", {"jobs": 3}),
        ("gavel", "gavel/max_min_fairness.trace", {"wish": Wish(moldable=True)}),
        ("philly", "philly/philly.csv", {"skip": 1_000, "jobs": 100}),
        ("openb", "openb/openb_pod_list_cpu050.csv", {"jobs": 100}),
        ("wfformat", "wfinstances/bwa-chameleon-small-001.json", {}),
        ("psplib", "psplib/j30/j30_1_1.rcp", {}),
    ],
)
def test_slices_of_the_data_sets_can_be_scheduled(
    kind: str, path: str, options: dict[str, object], tmp_path: Path
) -> None:
    """Every job completes under FIFO and SRPT, and the schedules could have happened."""
    import_trace(kind, DATA / path, tmp_path / "w.jsonl", **options)  # type: ignore[arg-type]
    for policy in ("fifo", "srpt"):
        schedule = Scheduler(load_scenario(tmp_path / "w.jsonl").simulator(0)).run(load_policy(policy, seed=0))
        schedule.check()
        assert schedule.metrics()["unfinished_jobs"] == 0
