"""The benchmark: paired statistics, resuming, and honest counting."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import first_fit, gpus, job, lazy, task

from rlsched.experiments import benchmark as module
from rlsched.experiments import playing
from rlsched.experiments.benchmark import BenchmarkResult, benchmark, paired_ratio
from rlsched.experiments.cells import BenchmarkError, Cell, CellFile
from rlsched.scenario import Scenario, load_scenario
from rlsched.schedule import JobRecord, Schedule
from rlsched.scheduler import Policy

TINY = load_scenario("tiny")
SEEDS = list(TINY.seed_range("report", 3))


def result(scores: dict[str, list[float]], unfinished: int = 0) -> BenchmarkResult:
    """A result with these scores by policy and seed."""
    metrics = {"unfinished_jobs": float(unfinished), "makespan": 7.0}
    cells = {name: [Cell(name, seed, s, metrics) for seed, s in enumerate(row)] for name, row in scores.items()}
    seeds = tuple(range(len(next(iter(scores.values())))))
    return BenchmarkResult("made", "mean_jct", seeds, cells, {"command": "none"})


def test_the_reference_is_the_best_baseline_even_where_a_learned_policy_is_better() -> None:
    made = result({"fifo": [10, 30], "srpt": [12, 20], "runs/mine.safetensors": [6, 8]})
    assert made.reference == "srpt"
    assert [(row.policy, row.mean, row.ratio, row.learned, row.reference) for row in made.table()] == [
        ("runs/mine.safetensors", 7, 7 / 16, True, False),
        ("srpt", 16, 1, False, True),
        ("fifo", 20, 20 / 16, False, False),
    ]


def test_what_may_follow_a_learned_policy_is_no_reference() -> None:
    assert result({"auto": [1.0], "switch:of=srpt": [1.0], "srpt": [2.0]}).reference == "srpt"


def test_without_a_baseline_the_best_policy_is_the_reference() -> None:
    assert result({"a.safetensors": [2.0], "b.safetensors": [1.0]}).reference == "b.safetensors"


def test_wins_losses_and_unfinished_jobs_are_counted_seed_by_seed() -> None:
    """Ties are neither."""
    made = result({"srpt": [1, 2, 3, 4], "fifo": [0, 2, 4, 5]}, unfinished=2)
    fifo, srpt = sorted(made.table(), key=lambda row: row.policy)
    assert (fifo.wins, fifo.losses, fifo.unfinished) == (1, 2, 8)
    assert (srpt.wins, srpt.losses, srpt.ratio, srpt.low, srpt.high) == (0, 0, 1, 1, 1)


def test_pairing_makes_intervals_narrow() -> None:
    """Ten percent better on every one of very different workloads is ten percent better, without doubt."""
    base = np.array([1.0, 10.0, 100.0, 1000.0])
    assert paired_ratio(0.9 * base, base) == pytest.approx((0.9, 0.9, 0.9))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """True ratio 0.8 with noise of 20 % on 60 seeds, 100 times."""
    luck = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        base = luck.lognormal(0, 1, 60)
        _, low, high = paired_ratio(0.8 * base * luck.lognormal(-0.02, 0.2, 60), base)
        covered += low <= 0.8 <= high
    assert 0.85 <= covered / 100 <= 1


def test_equal_samples_give_equal_intervals() -> None:
    values, base = np.random.default_rng(1).random((2, 50))
    assert paired_ratio(values, base) == paired_ratio(values, base)


def test_one_seed_has_no_interval_and_a_reference_of_zero_no_ratio() -> None:
    ratio, *interval = paired_ratio(np.array([3.0]), np.array([2.0]))
    assert ratio == 1.5
    assert all(map(math.isnan, [*interval, *paired_ratio(np.array([3.0, 1.0]), np.zeros(2))]))


def test_unfinished_jobs_count_with_the_time_they_have_taken() -> None:
    """A policy gains nothing by letting jobs fail."""
    schedule = Schedule(gpus(1), end=50)
    for number, completion in enumerate([30.0, None]):
        owner = job(f"j{number}", release=10 * number, deadline=40)
        schedule.jobs[number] = JobRecord(number, owner, 0, completion, failed=completion is None)
    assert schedule.score("mean_jct") == (30 + 40) / 2
    assert schedule.score("makespan") == 50
    assert schedule.score("weighted_tardiness") == 10
    assert schedule.metrics()["mean_jct"] == 30


def test_any_number_of_processes_gives_the_same_result(tmp_path: Path) -> None:
    """And it is written as JSON, CSV and HTML."""
    alone = benchmark(TINY, ["fifo", "sjf"], SEEDS, processes=1)
    together = benchmark(TINY, ["fifo", "sjf"], SEEDS, processes=2, out_dir=tmp_path)
    assert alone.cells == together.cells
    assert {cell.policy: cell.seed for cell in alone.cells["sjf"]} == {"sjf": SEEDS[-1]}

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    written = json.loads((tmp_path / "benchmark.json").read_text(), parse_constant=no_constant)
    assert written == together.to_json()
    assert written["manifest"]["seeds"] == SEEDS
    assert [row["policy"] for row in written["rows"]] == [row.policy for row in together.table()]
    with (tmp_path / "benchmark.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["policy"], int(line["seed"])) for line in lines] == [(p, s) for p in ("fifo", "sjf") for s in SEEDS]
    assert [float(line["score"]) for line in lines[:3]] == together.scores("fifo")
    report = (tmp_path / "report.html").read_text()
    assert "tiny: mean JCT" in report
    assert ">sjf<" in report


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which cells were simulated for their score, in order."""
    cells: list[tuple[str, int]] = []
    play = playing.play

    def counting(policy: str, seed: int) -> Cell:
        cells.append((policy, seed))
        return play(policy, seed)

    monkeypatch.setattr(module, "play", counting)
    return cells


def test_an_interrupted_benchmark_continues_where_it_stopped(tmp_path: Path, played: list[tuple[str, int]]) -> None:
    """Also if it was killed while it wrote a line."""

    def interrupt(done: int, total: int) -> None:
        assert total == 6
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(TINY, ["fifo", "sjf"], SEEDS, 1, interrupt, tmp_path)
    assert not (tmp_path / "benchmark.json").exists()
    cells = tmp_path / "cells.jsonl"
    cells.write_text(cells.read_text()[:-20])
    played.clear()
    counts: list[tuple[int, int]] = []
    resumed = benchmark(TINY, ["fifo", "sjf"], SEEDS, 1, lambda *count: counts.append(count), tmp_path)
    assert played == [("sjf", SEEDS[1]), ("fifo", SEEDS[2]), ("sjf", SEEDS[2])]
    assert counts == [(4, 6), (5, 6), (6, 6)]
    assert resumed.cells == benchmark(TINY, ["fifo", "sjf"], SEEDS, 1).cells


def test_seeds_and_policies_can_be_added_and_what_is_done_is_not_done_again(
    tmp_path: Path, played: list[tuple[str, int]]
) -> None:
    benchmark(TINY, ["fifo"], SEEDS[:2], 1, out_dir=tmp_path)
    more = benchmark(TINY, ["sjf", "fifo"], SEEDS, 1, out_dir=tmp_path)
    fewer = benchmark(TINY, ["sjf"], SEEDS[1:], 1, out_dir=tmp_path)
    assert sorted(played) == [(policy, seed) for policy in ("fifo", "sjf") for seed in SEEDS]
    assert list(more.cells) == ["sjf", "fifo"]
    assert fewer.scores("sjf") == more.scores("sjf")[1:]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda scenario: scenario.with_(noise=0.7),
            r"holds results with scenario 'tiny', now it is 'tiny\[noise=0.7\]'",
        ),
        (lambda scenario: load_scenario("pipeline"), "holds results with scenario 'tiny', now it is 'pipeline'"),
    ],
)
def test_a_folder_with_results_of_another_scenario_is_refused(
    tmp_path: Path, change: Callable[[Scenario], Scenario], complaint: str
) -> None:
    benchmark(TINY, ["fifo"], SEEDS[:1], 1, out_dir=tmp_path)
    before = (tmp_path / "cells.jsonl").read_bytes()
    with pytest.raises(BenchmarkError, match=complaint):
        benchmark(change(TINY), ["fifo"], SEEDS, 1, out_dir=tmp_path)
    assert (tmp_path / "cells.jsonl").read_bytes() == before


def test_a_scenario_file_that_was_edited_is_another_scenario(tmp_path: Path) -> None:
    """Whatever was changed in it, though the name is the same."""
    file = tmp_path / "mine.yaml"
    cluster = "cluster: {nodes: [{name: n, gpus: 2, cpus: 4}]}\n"
    text = cluster + "jobs:\n- name: a\n  tasks: {t: {gpus: 1, duration: DURATION}}\n"
    out = tmp_path / "out"
    for duration in ("10", "20"):
        file.write_text(text.replace("DURATION", duration))
        scenario = load_scenario(file)
        if duration == "10":
            benchmark(scenario, ["fifo"], scenario.seed_range("report", 1), 1, out_dir=out)
        else:
            with pytest.raises(BenchmarkError, match="holds results with workload"):
                benchmark(scenario, ["fifo"], scenario.seed_range("report", 1), 1, out_dir=out)


def test_a_policy_file_that_was_trained_anew_is_another_policy(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"old")
    weights.with_suffix(".json").write_text("{}")
    cells = tmp_path / "cells.jsonl"
    CellFile(cells, TINY, [str(weights)]).add(Cell(str(weights), SEEDS[0], 1.0, {"unfinished_jobs": 0, "x": math.nan}))
    assert math.isnan(CellFile(cells, TINY, [str(weights)]).cells[str(weights), SEEDS[0]].metrics["x"])
    weights.write_bytes(b"new")
    with pytest.raises(BenchmarkError, match=r"holds results of another version of policy '.*mine.safetensors'"):
        CellFile(cells, TINY, [str(weights)])


@pytest.mark.parametrize("content", ["not json\n", "[]\n", "{}\n", '"x"\n'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, content: str) -> None:
    cells = tmp_path / "cells.jsonl"
    cells.write_text(content)
    with pytest.raises(BenchmarkError, match="expected the cells of a benchmark, found something else"):
        benchmark(TINY, ["fifo"], SEEDS[:1], 1, out_dir=tmp_path)
    assert cells.read_text() == content


def test_a_policy_that_fails_is_named_with_the_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    policies: dict[str, Policy] = {"fifo": first_fit, "lazy": lazy}
    for loading in (module, playing):
        monkeypatch.setattr(loading, "load_policy", lambda name, seed: policies[name])
    with pytest.raises(BenchmarkError, match=f"policy 'lazy' fails on workload {SEEDS[0]} of tiny: nothing runs"):
        benchmark(TINY, ["fifo", "lazy"], SEEDS, 1)


def test_an_unknown_policy_is_refused_before_anything_is_played(tmp_path: Path, played: list[object]) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        benchmark(TINY, ["fifo", "nonsense"], SEEDS, 1, out_dir=tmp_path / "out")
    assert not played
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("policies", "seeds"), [([], SEEDS), (["fifo"], [])])
def test_there_must_be_something_to_play(policies: list[str], seeds: list[int]) -> None:
    with pytest.raises(BenchmarkError, match="at least one policy and one seed"):
        benchmark(TINY, policies, seeds)


def test_naming_a_policy_twice_plays_it_once() -> None:
    twice = benchmark(TINY, ["fifo", "fifo"], [*SEEDS[:1], *SEEDS[:1]], 1)
    assert [(policy, len(cells)) for policy, cells in twice.cells.items()] == [("fifo", 1)]


def test_scores_are_those_of_the_schedule() -> None:
    """A job of 4 s behind one of 3 s on one GPU: 3 s and 7 s."""
    by_hand = Scenario("by-hand", gpus(1), (job("a", task("t", 3)), job("b", task("t", 4))))
    (cell,) = benchmark(by_hand, ["fifo"], [by_hand.seeds.report], 1).cells["fifo"]
    assert (cell.score, cell.metrics["mean_jct"], cell.metrics["makespan"]) == (5, 5, 7)
