"""Workload files: what is written is read again, they are played like scenarios, and mistakes are named."""

from __future__ import annotations

import gzip
import itertools
import json
import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from builders import first_fit, gpus, job, task
from builders import jobs as job_lists
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import rlsched

from rlsched.envs.scheduling import SchedulingEnv
from rlsched.model import Job
from rlsched.scenario import ScenarioError, load_scenario
from rlsched.scenariofile import ClusterEntry
from rlsched.scheduler import Scheduler
from rlsched.workloadfile import Arrivals, Header, WorkloadFileError, read_jobs, read_workload, write_workload

CLUSTER = ClusterEntry.model_validate({"nodes": [{"name": "box", "count": 2, "gpus": 2, "gpu_type": "fast"}]})
ROOMY = ClusterEntry.model_validate(
    {"nodes": [{"name": "n", "gpus": 8, "gpu_memory": 16.0, "cpus": 8, "memory": 99.0, "resources": {"licence": 2}}]}
)


def header(**more: object) -> Header:
    """A header with two machines of two GPUs."""
    return Header.model_validate({"source": "a test", "cluster": CLUSTER, **more})


def write(folder: Path, *jobs: Job, name: str = "w.jsonl", **more: object) -> Path:
    """The jobs as a workload file."""
    write_workload(folder / name, header(**more), jobs)
    return folder / name


@settings(max_examples=40, deadline=None)
@given(job_lists(), st.sampled_from(["w.jsonl", "w.jsonl.gz"]), st.sampled_from([None, 0.0, 7.5]))
def test_jobs_are_read_as_they_were_written(jobs: list[Job], name: str, slack: float | None) -> None:
    """Any DAG with any fields, plain and compressed."""
    if slack is not None:
        jobs = [replace(job, weight=1 + slack, deadline=job.release + slack) for job in jobs]
    with tempfile.TemporaryDirectory() as folder:
        contents = write_workload(Path(folder, name), Header(source="a test", cluster=ROOMY), jobs)
        assert list(read_jobs(Path(folder, name))) == jobs
    assert contents.members == sum(task.array for job in jobs for task in job.tasks)


def test_the_header_is_read_as_it_was_written(tmp_path: Path) -> None:
    """With everything that may stand in it; the usual is left out, the signature is not."""
    full = header(objective="makespan", arrivals={"jobs": 5, "mean_gap": 2.5}, uncertainty={"duration_noise": 0.3})
    write_workload(tmp_path / "w.jsonl", full, [job("a")])
    assert read_workload(tmp_path / "w.jsonl").header == full
    first = json.loads((tmp_path / "w.jsonl").read_text().splitlines()[0])
    assert (first["format"], first["version"], "seeds" in first) == ("rlsched-workload", 1, False)


def test_a_workload_is_a_scenario(tmp_path: Path) -> None:
    """Name, cluster, objective, description and seeds come from the file; its path may be a text."""
    file = write(tmp_path, job("a"), name="mine.jsonl.gz", objective="makespan", seeds={"report": 300_000_000})
    scenario = load_scenario(str(file))
    assert (scenario.name, scenario.objective, scenario.description) == ("mine", "makespan", "a test")
    assert scenario.cluster == CLUSTER.cluster()
    assert scenario.seed_range("report", 2) == range(300_000_000, 300_000_002)
    assert pickle.loads(pickle.dumps(scenario)).jobs(0) == [job("a")]


def test_jobs_that_are_not_drawn_are_the_same_for_every_seed(tmp_path: Path) -> None:
    """Seeds then are only for the noise."""
    scenario = load_scenario(write(tmp_path, job("a"), job("b", release=3.0)))
    assert scenario.jobs(1) == scenario.jobs(2) == [job("a"), job("b", release=3.0)]
    ends = [Scheduler(scenario.with_(noise=0.5).simulator(seed)).run(first_fit).end for seed in (1, 2)]
    assert ends[0] != ends[1]


def test_a_long_workload_is_read_only_as_far_as_it_is_played(tmp_path: Path) -> None:
    """A mistake in line 1,000 does not matter to who plays ten jobs."""
    file = write(tmp_path, *(job(f"j{number}", release=float(number)) for number in range(500)))
    file.write_text(file.read_text() + "nonsense\n")
    stream = read_jobs(file)
    assert [found.name for found in itertools.islice(stream, 3)] == ["j0", "j1", "j2"]
    short = load_scenario(file).with_(jobs=10)
    assert len(short.jobs(0)) == 10
    assert Scheduler(short.simulator(0)).run(first_fit).metrics()["jobs"] == 10
    with pytest.raises(WorkloadFileError, match=r"w.jsonl:502: expected JSON"):
        Scheduler(load_scenario(file).simulator(0)).run(first_fit)


def test_drawn_jobs_arrive_as_a_poisson_process_of_the_gap_in_the_header(tmp_path: Path) -> None:
    """Uniform over the file, with replacement; the draw depends on the seed and on what the file holds now."""
    file = write(tmp_path, job("a"), job("b"), arrivals={"jobs": 4000, "mean_gap": 2.5})
    jobs = load_scenario(file).jobs(5)
    assert jobs[-1].release / 4000 == pytest.approx(2.5, rel=0.1)
    assert sum(found.name.startswith("a-") for found in jobs) / 4000 == pytest.approx(0.5, abs=0.05)
    assert load_scenario(file).with_(jobs=100).jobs(5) == jobs[:100]
    write(tmp_path, job("c"), arrivals={"jobs": 1, "mean_gap": 2.5})
    assert [found.name for found in load_scenario(file).jobs(5)] == ["c-1"]


def test_an_agent_can_learn_on_a_workload(tmp_path: Path) -> None:
    """The environment takes it like any scenario."""
    env = SchedulingEnv(load_scenario(write(tmp_path, job("a"), job("b", release=3.0))))
    env.reset(seed=0)
    steps = 0
    while not env.step(1)[2]:
        steps += 1
    assert (steps, env.scheduler.schedule.end) == (1, 13.0)


def test_another_cluster_or_noise_makes_a_variant_but_not_another_load(tmp_path: Path) -> None:
    """The load follows from the releases."""
    scenario = load_scenario(write(tmp_path, job("a")))
    assert scenario.with_(cluster=gpus(1)).simulator(0).cluster == gpus(1)
    with pytest.raises(ScenarioError, match="w: load cannot be changed, the jobs come from a file"):
        scenario.with_(load=0.5)


def test_equal_jobs_make_equal_files(tmp_path: Path) -> None:
    """No time of day and no name of a file gets in, compressed or not."""
    for ending in ("jsonl", "jsonl.gz"):
        files = [write(tmp_path, job("a"), name=f"{name}.{ending}") for name in ("x", "y")]
        assert files[0].read_bytes() == files[1].read_bytes()


def broken() -> Iterator[Job]:
    yield job("a")
    raise OSError("the disk is gone")


def test_what_was_there_stays_until_all_of_the_new_is_written(tmp_path: Path) -> None:
    """An error in the middle leaves the old file and no part of the new."""
    file = write(tmp_path, job("old"))
    with pytest.raises(OSError, match="the disk is gone"):
        write_workload(file, header(), broken())
    assert [found.name for found in read_jobs(file)] == ["old"]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("jobs", "sentence"),
    [
        ((), "expected at least one job, found none"),
        ((job("a", release=2.0), job("b", release=1.0)), "job b is released at 1 s, before the one ahead"),
        ((job("a", task("t", gpus=9)),), "job a, task t: expected what fits the empty cluster, found 9 GPUs"),
    ],
)
def test_what_could_not_be_played_is_not_written(jobs: tuple[Job, ...], sentence: str, tmp_path: Path) -> None:
    """Nor is a part of it."""
    with pytest.raises(WorkloadFileError, match=sentence):
        write(tmp_path, *jobs)
    assert list(tmp_path.iterdir()) == []


HEADER = '{"format": "rlsched-workload", "version": 1, "source": "s", "cluster": {"nodes": [{"name": "n", "gpus": 1}]}}'
JOB = '{"name": "a", "release": 1, "tasks": {"t": {"duration": 1, "gpus": 1}}}'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", ":1: expected JSON"),
        ("name: a\n", ":1: expected JSON"),
        ("[]\n", ":1: expected a mapping"),
        (HEADER.replace("rlsched-workload", "other"), ":1: format: "),
        (HEADER.replace("1,", "2,", 1), ":1: version: "),
        (HEADER.replace('"source"', '"sauce"'), ":1: sauce: unknown key, did you mean 'source'?"),
        (HEADER.replace('"gpus"', '"gpu"'), r":1: cluster.nodes\[0\].gpu: unknown key"),
        (HEADER.replace("]", ', {"name": "n"}]'), ":1: cluster: two nodes have the same name"),
        (HEADER, ":2: expected a job, found the end of the file"),
        (HEADER + "\n\n", ":2: expected JSON"),
        (HEADER + "\n" + JOB.replace("1}}}", "-1}}}"), ":2: tasks.t.gpus: expected a count of 0 or more, found -1"),
        (HEADER + "\n" + JOB.replace("duration", "minutes"), ":2: tasks.t.minutes: unknown key"),
        (HEADER + "\n" + JOB.replace("1}}}", '1, "needs": ["u"]}}}'), ":2: job 'a': task 't' needs 'u'"),
        (HEADER + "\n" + JOB + "\n" + JOB.replace(": 1,", ": 0,", 1), ":3: release: expected 1 or later"),
        (HEADER + "\n" + JOB.replace(": 1,", ": NaN,", 1), ":2: release: expected a number of 0 or more"),
    ],
)
def test_a_mistake_is_answered_with_file_line_and_field(text: str, sentence: str, tmp_path: Path) -> None:
    """In one sentence, when that line is reached."""
    (tmp_path / "w.jsonl").write_text(text)
    with pytest.raises(WorkloadFileError, match=f"w.jsonl{sentence}") as raised:
        load_scenario(tmp_path / "w.jsonl").jobs(0)
    assert "\n" not in str(raised.value)


def test_a_compressed_file_that_is_cut_short_or_not_compressed_is_refused(tmp_path: Path) -> None:
    """Both say which file cannot be read."""
    file = tmp_path / "w.jsonl.gz"
    file.write_bytes(gzip.compress(f"{HEADER}\n{JOB}\n".encode())[:-12])
    with pytest.raises(WorkloadFileError, match=r"w.jsonl.gz: cannot be read: Compressed file ended"):
        load_scenario(file).jobs(0)
    file.write_text(HEADER)
    with pytest.raises(WorkloadFileError, match=r"w.jsonl.gz: cannot be read: Not a gzipped file"):
        load_scenario(file)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("w.yaml", "expected a name ending in .jsonl or .jsonl.gz"), ("no/w.jsonl", "expected a folder .*no, found none")],
)
def test_a_workload_goes_by_its_name_into_a_folder_that_is_there(name: str, sentence: str, tmp_path: Path) -> None:
    """The name is how commands tell it from a scenario."""
    with pytest.raises(WorkloadFileError, match=sentence):
        write(tmp_path, job("a"), name=name)


def test_arrivals_need_jobs_and_a_gap() -> None:
    """A gap of 0 would be all jobs at once."""
    with pytest.raises(ValueError, match="expected a number above 0"):
        Arrivals(jobs=1, mean_gap=0)


def test_the_commands_import_simulate_and_benchmark(tmp_path: Path) -> None:
    """A trace becomes a workload, which both commands take."""
    sample = Path(__file__).parent / "data" / "net.trace"
    out = tmp_path / "net.jsonl"
    said = json.loads(rlsched("import", "gavel", sample, "-o", out, "--moldable", "--json").stdout)
    assert (said["jobs"], said["gpus"], said["left_out"]) == (2, 6, {})
    played = json.loads(rlsched("simulate", out, "--policy", "srpt", "--json").stdout)
    assert (played["metrics"]["jobs"], played["metrics"]["unfinished_jobs"]) == (2, 0)
    compared = rlsched("benchmark", out, "--policies", "fifo,srpt", "--seeds", 1, "--processes", 1, "--json")
    assert {row["policy"] for row in json.loads(compared.stdout)["rows"]} == {"fifo", "srpt"}


def test_a_failed_import_ends_with_code_2_and_one_sentence(tmp_path: Path) -> None:
    """And leaves nothing behind."""
    sample = Path(__file__).parent / "data" / "log.swf"
    result = rlsched("import", "philly", sample, "-o", tmp_path / "w.jsonl", code=2)
    assert result.stderr.startswith(f"rlsched: {sample}:1: expected the columns")
    assert list(tmp_path.iterdir()) == []
