"""Workloads are what they say they are: their statistics, their shapes, their determinism, their errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from builders import first_fit
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsched.generator.arrivals import release_times
from rlsched.generator.generator import Generator
from rlsched.generator.kinds import KINDS
from rlsched.generator.workload import Bursts, Workload, WorkloadError
from rlsched.model import Cluster, Job, Node, Task
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator

HOUR = 3600.0
HET16 = Cluster(tuple(Node(f"{t}-{i}", 4, t, cpus=8) for t in ("fast", "slow") for i in (1, 2)), span_speed=0.85)
GPU_KINDS = sorted(set(KINDS) - {"project"})
SLOW: Mapping[str, Any] = {"slow": {"range": [0.3, 0.65], "nominal": 0.45}}


def generator(cluster: Cluster = HET16, **fields: Any) -> Generator:
    """A generator; the fields are spelled as in a scenario file."""
    fields = {"speeds": SLOW if "slow" in cluster.gpu_types else {}, **fields}
    return Generator(Workload.model_validate(fields), cluster)


def only(kind: str, cluster: Cluster = HET16, **fields: Any) -> Generator:
    """A generator of one kind of job."""
    return generator(cluster, kinds={kind: 1}, **fields)


def own(stages: Mapping[str, Any], **fields: Any) -> Generator:
    """A generator of one kind of job, described here."""
    return generator(kinds={"own": {"weight": 1, "stages": stages}}, **fields)


def fast(task: Task) -> dict[int, float]:
    """Hours by GPU count on GPUs of speed 1."""
    return {mode.gpus: mode.duration / HOUR for mode in task.modes if mode.gpu_type == "fast"}


def work(task: Task) -> float:
    """GPU-hours at the least count on GPUs of speed 1; 0 for a task without GPUs."""
    hours = fast(task)
    return min(hours) * hours[min(hours)] if hours else 0.0


def overhead(task: Task) -> float:
    """The overhead a, from the times t(c) = work (1 + a (c - 1)) / c on two counts."""
    (c1, t1), (c2, t2) = list(fast(task).items())[:2]
    ratio = (t2 * c2) / (t1 * c1)
    return (ratio - 1) / ((c2 - 1) - ratio * (c1 - 1))


def stage(job: Job, name: str) -> list[Task]:
    """The tasks of a stage."""
    return [task for task in job.tasks if task.name == name or task.name.startswith(f"{name}:")]


@pytest.fixture(scope="module")
def episode() -> list[Job]:
    """1,000 jobs of the default mix."""
    return generator(jobs=1000, load=0.9).jobs(1)


def gpu_tasks(jobs: list[Job]) -> list[Task]:
    return [task for job in jobs for task in job.tasks if not task.cpu_only]


def test_equal_seeds_give_equal_jobs_and_other_seeds_others() -> None:
    """Bit for bit, from generators that share nothing."""
    assert generator(load=0.9).jobs(7) == generator(load=0.9).jobs(7)
    assert generator(load=0.9).jobs(7) != generator(load=0.9).jobs(8)


def test_asking_again_gives_a_list_of_its_own() -> None:
    """What a caller does to its list harms nobody."""
    workload = generator(jobs=3)
    workload.jobs(1).clear()
    assert len(workload.jobs(1)) == 3


def test_a_shorter_episode_is_the_beginning_of_a_longer_one() -> None:
    """So that variants of an experiment share their luck."""
    assert generator(jobs=10, load=0.9).jobs(3) == generator(jobs=30, load=0.9).jobs(3)[:10]


def test_at_another_load_the_same_jobs_come_closer_together() -> None:
    """Half the load, twice the time between two arrivals, nothing else."""
    light, heavy = generator(jobs=20, load=0.45).jobs(3), generator(jobs=20, load=0.9).jobs(3)
    assert [job.tasks for job in light] == [job.tasks for job in heavy]
    assert [job.release for job in light] == pytest.approx([2 * job.release for job in heavy])


def test_deadlines_and_weights_leave_the_jobs_as_they_are() -> None:
    """They come from a random stream of their own."""
    plain, dated = generator(jobs=20).jobs(3), generator(jobs=20, slack=[2, 3], weights=[1, 5]).jobs(3)
    assert [job.tasks for job in plain] == [job.tasks for job in dated]


def test_jobs_are_of_each_kind_as_often_as_its_weight_says(episode: list[Job]) -> None:
    """0.45, 0.25 and 0.30 in the default mix."""
    counts = Counter(job.name.rpartition("-")[0] for job in episode)
    shares = {kind: count / len(episode) for kind, count in counts.items()}
    assert shares == pytest.approx({"sweep": 0.45, "layered": 0.25, "pretrain_finetune": 0.30}, abs=0.05)


def test_random_gpu_counts_are_drawn_as_often_as_published() -> None:
    """{1,2,4,8} with probability 0.70, {2,4,8} 0.15, {4,8} 0.07, {1,2} 0.08."""
    jobs = only("single", jobs=1500).jobs(1)
    counts = Counter(tuple(fast(job.tasks[0])) for job in jobs)
    shares = {allowed: count / len(jobs) for allowed, count in counts.items()}
    assert shares == pytest.approx({(1, 2, 4, 8): 0.70, (2, 4, 8): 0.15, (4, 8): 0.07, (1, 2): 0.08}, abs=0.03)


def test_overheads_are_log_uniform() -> None:
    """On [0.02, 0.4]: the logarithms are spread evenly."""
    drawn = np.log([overhead(job.tasks[0]) for job in only("single", jobs=1500).jobs(1)])
    assert np.log(0.02) <= drawn.min() < np.log(0.021)
    assert np.log(0.38) < drawn.max() <= np.log(0.4)
    assert np.quantile(drawn, [0.25, 0.5, 0.75]) == pytest.approx(
        np.log(0.02) + np.log(20) * np.array([0.25, 0.5, 0.75]), abs=0.2
    )


def test_a_task_on_several_gpus_is_as_fast_as_its_overhead_allows() -> None:
    """Speed on c GPUs is c / (1 + a (c - 1))."""
    for task in gpu_tasks(generator(jobs=20).jobs(1)):
        hours = fast(task)
        if len(hours) > 1:
            a = overhead(task)
            expected = {c: work(task) * (1 + a * (c - 1)) / (1 + a * (min(hours) - 1)) / c for c in hours}
            assert hours == pytest.approx(expected)


def test_every_task_has_a_slow_speed_of_its_own(episode: list[Job]) -> None:
    """0.3 + 0.35 u of the fast speed with u uniform, the same for all its counts."""
    ratios: list[float] = []
    for task in gpu_tasks(episode):
        slow = {mode.gpus: mode.duration / HOUR for mode in task.modes if mode.gpu_type == "slow"}
        ratio = {round(hours / slow[count], 9) for count, hours in fast(task).items()}
        assert len(ratio) == 1
        ratios += ratio
    assert 0.3 <= min(ratios) < 0.302
    assert 0.648 < max(ratios) <= 0.65
    assert np.quantile(ratios, [0.25, 0.5, 0.75]) == pytest.approx([0.3875, 0.475, 0.5625], abs=0.015)


def test_tasks_without_gpus_take_one_core(episode: list[Job]) -> None:
    """Which the scheduler hands out itself."""
    modes = {
        (m.gpus, m.cpus, len(task.modes)) for job in episode for task in job.tasks if task.cpu_only for m in task.modes
    }
    assert modes == {(0, 1, 1)}


def test_a_sweep_prepares_trains_alike_evaluates_and_packages(episode: list[Job]) -> None:
    """Features in half of them, 2-8 trainings that share their counts and, within 10 %, their overhead."""
    sweeps = [job for job in episode if job.name.startswith("sweep")]
    for job in sweeps:
        trainings = stage(job, "train")
        featured = bool(stage(job, "features"))
        before = ("features",) if featured else ("prepare",)
        assert [task.name for task in job.tasks if task not in trainings] == [
            "prepare",
            *(["features"] if featured else []),
            "evaluate",
            "package",
        ]
        assert {task.needs for task in trainings} == {before}
        assert stage(job, "evaluate")[0].needs == tuple(task.name for task in trainings)
        assert stage(job, "package")[0].needs == ("evaluate",)
        assert len({tuple(fast(task)) for task in trainings}) == 1
        overheads = [overhead(task) for task in trainings]
        assert max(overheads) <= min(overheads) * 1.1 / 0.9 + 1e-9
    assert np.mean([bool(stage(job, "features")) for job in sweeps]) == pytest.approx(0.5, abs=0.08)
    widths = Counter(len(stage(job, "train")) for job in sweeps)
    assert {n: c / len(sweeps) for n, c in widths.items()} == pytest.approx(dict.fromkeys(range(2, 9), 1 / 7), abs=0.06)


def test_a_pre_training_is_followed_by_fine_tunings_each_with_its_evaluation(episode: list[Job]) -> None:
    """1-4 of them, and the package after all evaluations."""
    jobs = [job for job in episode if job.name.startswith("pretrain")]
    for job in jobs:
        tunings = stage(job, "finetune")
        assert stage(job, "pretrain")[0].needs == ("prepare",)
        assert {task.needs for task in tunings} == {("pretrain",)}
        assert [task.needs for task in stage(job, "evaluate")] == [(task.name,) for task in tunings]
        assert {tuple(fast(task)) for task in stage(job, "evaluate")} == {(1,)}
        assert stage(job, "package")[0].needs == tuple(task.name for task in stage(job, "evaluate"))
    assert Counter(len(stage(job, "finetune")) for job in jobs).keys() == {1, 2, 3, 4}
    sets = Counter(tuple(fast(stage(job, "pretrain")[0])) for job in jobs)
    expected = {(1, 2, 4, 8): 0.5, (2, 4, 8): 0.3, (4, 8): 0.2}
    assert {counts: count / len(jobs) for counts, count in sets.items()} == pytest.approx(expected, abs=0.1)
    assert max(overhead(stage(job, "pretrain")[0]) for job in jobs) <= 0.6 * 0.4


def test_a_layered_job_needs_one_to_three_tasks_of_the_layer_before(episode: list[Job]) -> None:
    """2-5 layers of 1-5 tasks, 20 at most."""
    jobs = [job for job in episode if job.name.startswith("layered")]
    for job in jobs:
        layer = {task.name: int(task.name.removeprefix("layer").split(":")[0]) for task in job.tasks}
        assert len(job.tasks) <= 20
        assert 2 <= max(layer.values()) <= 5
        assert max(Counter(layer.values()).values()) <= 5
        for task in job.tasks:
            assert {layer[need] for need in task.needs} == ({layer[task.name] - 1} - {0})
            assert len(task.needs) <= 3
    shares = [not task.cpu_only for job in jobs for task in job.tasks]
    assert np.mean(shares) == pytest.approx(0.85, abs=0.04)


@pytest.mark.parametrize("kind", GPU_KINDS)
def test_the_mean_work_is_what_the_closed_form_says(kind: str) -> None:
    """Held against 800 jobs of each kind, within four standard errors."""
    workload = only(kind, jobs=800, size={"spread": 0.8, "most": 5})
    drawn = [sum(work(task) for task in job.tasks) for job in workload.jobs(5)]
    assert abs(np.mean(drawn) - workload.job_hours) < 4 * np.std(drawn) / np.sqrt(len(drawn))


def test_the_mean_work_of_the_published_mix() -> None:
    """A constant of the mix: it fixes the rate of arrivals, so it must not drift."""
    assert generator(load=0.9).job_hours == pytest.approx(8.506217, abs=1e-6)
    assert generator(load=0.9).capacity == pytest.approx(8 + 8 * 0.45)
    assert generator(load=0.9).mean_gap == pytest.approx(HOUR * 8.506217 / (0.9 * 11.6), rel=1e-6)


def test_sizes_have_a_heavy_tail_up_to_the_cap() -> None:
    """min(LN(1), 8): half of the jobs are smaller than exp(-1/2), few are at the cap."""
    workload = own({"only": {"hours": 1, "gpus": [1]}}, jobs=2500, overhead=[0.1, 0.1])
    sizes = [work(job.tasks[0]) for job in workload.jobs(1)]
    assert np.median(sizes) == pytest.approx(np.exp(-0.5), rel=0.08)
    assert max(sizes) == pytest.approx(8.0)
    assert np.mean(np.array(sizes) > 7.999) == pytest.approx(0.005, abs=0.005)


def test_poisson_arrivals_come_at_the_rate_of_the_load(episode: list[Job]) -> None:
    """load x capacity / mean work of a job, with exponential gaps."""
    gaps = np.diff([job.release for job in episode])
    assert gaps.mean() == pytest.approx(generator(load=0.9).mean_gap, rel=0.12)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.15)


def test_bursts_bunch_the_arrivals_at_the_same_load() -> None:
    """The mean gap is that of the load, but the gaps vary far more than those of a Poisson process."""
    bursts = Bursts(intensity=15, burst_hours=1, calm_hours=9)
    times = release_times(np.random.default_rng(1), 50_000, 600.0, bursts)
    gaps = np.diff(times, prepend=0.0)
    assert gaps.mean() == pytest.approx(600.0, rel=0.1)
    assert gaps.std() > 1.3 * gaps.mean()
    assert (gaps >= 0).all()


def test_bursts_belong_to_the_workload() -> None:
    """The same jobs at other times."""
    even = only("single", jobs=20, load=0.8).jobs(1)
    bunched = only("single", jobs=20, load=0.8, bursts={}).jobs(1)
    assert [job.tasks for job in even] == [job.tasks for job in bunched]
    assert [job.release for job in even] != [job.release for job in bunched]
    assert sorted(job.release for job in bunched) == [job.release for job in bunched]


def test_without_a_load_all_jobs_are_there_at_the_start() -> None:
    """For makespan."""
    assert {job.release for job in generator(jobs=20).jobs(1)} == {0.0}


def test_copies_that_are_alike_may_form_an_array_task() -> None:
    """One candidate with identical members instead of n; stages that are not alike stay apart."""
    for job in generator(jobs=30, arrays=True).jobs(1):
        if job.name.startswith("sweep"):
            (train,) = stage(job, "train")
            assert 2 <= train.array <= 8
            assert stage(job, "evaluate")[0].needs == ("train",)
        else:
            assert {task.array for task in job.tasks} == {1}


def test_gpu_counts_are_cut_to_what_the_cluster_has() -> None:
    """On three GPUs, {4,8} is {3}."""
    three = Cluster((Node("n", gpus=3, cpus=1),))
    counts = {tuple(m.gpus for m in job.tasks[0].modes) for job in only("single", three, jobs=200).jobs(1)}
    assert counts == {(1, 2, 3), (2, 3), (3,), (1, 2)}


def test_deadlines_leave_each_job_some_slack_on_its_critical_path() -> None:
    """And weights come from the list."""
    for job in generator(jobs=50, load=0.9, slack=[2, 3], weights=[1, 2, 4]).jobs(1):
        assert job.deadline is not None
        assert 2 <= (job.deadline - job.release) / job.critical_path <= 3
        assert job.weight in (1, 2, 4)


def test_options_of_tasks_go_to_the_gpu_tasks() -> None:
    """Retries to all."""
    options: dict[str, Any] = {"setup_time": 60, "preemptible": True, "checkpoint_time": 30, "retries": 2}
    for job in generator(jobs=10, **options).jobs(1):
        for task in job.tasks:
            expected = (0, False, 0) if task.cpu_only else (60, True, 30)
            assert (task.setup_time, task.preemptible, task.checkpoint_time) == expected
            assert task.retries == 2


def test_a_stage_that_a_job_lacks_hands_its_needs_on() -> None:
    """Even two in a row, and one that would have had a task for each of theirs."""
    stages = {
        "data": {"hours": 1},
        "clean": {"hours": 1, "probability": 0, "needs": "data"},
        "train": {"hours": 1, "gpus": [1], "probability": 0, "copies": 3, "needs": ["clean"]},
        "score": {"hours": 1, "gpus": [1], "each": "train"},
        "report": {"hours": 1, "needs": ["score"]},
    }
    (job,) = own(stages, jobs=1).jobs(1)
    assert [(task.name, task.needs) for task in job.tasks] == [("data", ()), ("report", ("data",))]


NO_GPUS = Cluster((Node("n", cpus=4),))
NO_CORES = Cluster((Node("n", gpus=4),))


@pytest.mark.parametrize(
    ("cluster", "fields", "message"),
    [
        (HET16, {"speeds": {"slwo": 0.5}}, "speeds.slwo: unknown GPU type, did you mean 'slow'?"),
        (NO_GPUS, {"speeds": {"slow": 1}}, "speeds.slow: unknown GPU type, the cluster has no GPU"),
        (NO_GPUS, {}, "kinds.sweep: expected a cluster with GPUs for its tasks, found none"),
        (NO_CORES, {}, "kinds.sweep: expected a node with cpus for its tasks without GPUs, found none"),
        (HET16, {"bursts": {}}, "bursts: expected a load beside it, found none"),
        (
            NO_GPUS,
            {"load": 0.9, "kinds": {"own": {"weight": 1, "stages": {"a": {"hours": 1}}}}},
            "load: expected a workload with GPU tasks, found none",
        ),
        (
            HET16,
            {"kinds": {"sweeep": 1}},
            "kinds.sweeep: unknown kind without stages, layers or project of its own, did you mean 'sweep'?",
        ),
        (
            HET16,
            {"kinds": {"own": {"weight": 1, "layers": {}, "stages": {"a": {"hours": 1}}}}},
            "kinds.own.layers: expected either stages or layers, found both",
        ),
        (
            HET16,
            {"kinds": {"own": {"weight": 1, "layers": {}, "project": {}}}},
            "kinds.own.project: expected either layers or project, found both",
        ),
        (
            HET16,
            {"kinds": {"project": 1}},
            "kinds.project: expected a node with custom resources for its activities, found none",
        ),
        (
            HET16,
            {"kinds": {"own": {"weight": 1, "stages": {"data": {"hours": 1}, "b": {"hours": 1, "needs": "date"}}}}},
            "kinds.own.stages.b.needs: found 'date', which is not a stage before it, did you mean 'data'?",
        ),
        (
            HET16,
            {"kinds": {"own": {"weight": 1, "stages": {"a": {"hours": 1, "each": "b"}, "b": {"hours": 1}}}}},
            "kinds.own.stages.a.each: found 'b', which is not a stage before it; it is the first",
        ),
        (
            HET16,
            {"kinds": {"own": {"weight": 1, "stages": {"a": {"hours": 1, "probability": 0.5}}}}},
            "kinds.own.stages: expected a stage that every job has, found none of probability 1",
        ),
    ],
)
def test_a_workload_that_cannot_be_drawn_says_why(cluster: Cluster, fields: dict[str, Any], message: str) -> None:
    """Before anything is drawn."""
    with pytest.raises(WorkloadError) as error:
        Generator(Workload.model_validate(fields), cluster)
    assert str(error.value) == message


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.dictionaries(st.sampled_from(GPU_KINDS), st.floats(0.1, 1), min_size=1),
    load=st.none() | st.floats(0.3, 2),
    nodes=st.lists(st.tuples(st.integers(1, 4), st.sampled_from("ab")), min_size=1, max_size=4),
    options=st.fixed_dictionaries({"arrays": st.booleans(), "slack": st.none() | st.just([1, 2])}),
)
def test_every_workload_can_be_run_to_its_end(
    seed: int, kinds: dict[str, float], load: float | None, nodes: list[tuple[int, str]], options: dict[str, Any]
) -> None:
    """Whatever the mix and the cluster: jobs come in order, fit, and finish."""
    cluster = Cluster(tuple(Node(f"n{i}", gpus, gpu_type, cpus=2) for i, (gpus, gpu_type) in enumerate(nodes)))
    workload = generator(cluster, jobs=6, kinds=kinds, load=load, **options)
    schedule = Scheduler(Simulator(cluster, workload.jobs(seed), seed)).run(first_fit)
    schedule.check()
    assert schedule.metrics()["unfinished_jobs"] == 0
