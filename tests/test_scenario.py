"""Scenario files: the packaged ones, the published schema, what a mistake is answered with, the documentation."""

from __future__ import annotations

import doctest
import json
import pickle
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from builders import first_fit

from rlsched.generator.generator import Generator
from rlsched.model import Cluster, Node
from rlsched.scenario import ScenarioError, load_cluster, load_scenario, scenario_names
from rlsched.scenariofile import json_schema
from rlsched.scheduler import Decision, Policy, Scheduler
from rlsched.simulator import Uncertainty
from rlsched.state import State

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "rlsched" / "schemas" / "scenario.schema.json"
FILES = sorted((ROOT / "experiments" / "scenarios").glob("*.yaml"))
PAGE = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
EXAMPLES = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if not text.startswith("mixture:")]


def eager(state: State) -> list[Decision]:
    """In order of arrival, whatever fits."""
    for task in sorted(state.ready.values(), key=lambda task: task.job.id):
        if allocation := state.allocate(task, 0):
            return [allocation]
    return []


def patient(state: State) -> list[Decision]:
    """In order of arrival, waiting for the first in line."""
    allocation = state.allocate(min(state.ready.values(), key=lambda task: task.job.id), 0)
    return [allocation] if allocation else []


def starts_and_ends(
    name: str, policy: Policy, seed: int = 0
) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
    """When each task of a scenario starts and ends, in order of time."""
    schedule = Scheduler(load_scenario(name).simulator(seed)).run(policy)
    schedule.check()
    starts = sorted((run.start, schedule.name_of(run)) for run in schedule.runs)
    return starts, sorted((run.end, schedule.name_of(run)) for run in schedule.runs)


def written(folder: Path, text: str) -> Path:
    """The text as a file."""
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


# The packaged scenarios


def test_the_scenarios_that_the_documentation_lists_are_there() -> None:
    """No more, no fewer."""
    assert scenario_names() == sorted(
        re.findall(r"^\| `(\w+)` \| .*(?:JCT|makespan|tardiness) \|$", PAGE, re.MULTILINE)
    )


@pytest.mark.parametrize("name", scenario_names())
def test_a_packaged_scenario_runs_to_its_end(name: str) -> None:
    """With a feasible schedule and a finite objective."""
    scenario = load_scenario(name)
    schedule = Scheduler(scenario.simulator(scenario.seeds.report)).run(first_fit)
    schedule.check()
    assert schedule.metrics()["unfinished_jobs"] == 0
    assert schedule.metrics()[scenario.objective] > 0
    assert scenario.description.endswith(".")


def test_het16_is_the_one_that_was_published() -> None:
    """Machines, rates and noise, number by number; the mix of jobs is in test_generator.py."""
    het16 = load_scenario("het16")
    assert het16.cluster == Cluster(
        tuple(Node(f"{kind}-{i}", gpus=4, gpu_type=kind, cpus=8) for kind in ("fast", "slow") for i in (1, 2)),
        span_speed=0.85,
    )
    assert isinstance(het16.source, Generator)
    workload = het16.source.workload
    assert (workload.jobs, workload.load, workload.bursts, workload.slack) == (100, 0.9, None, None)
    assert {name: kind.weight for name, kind in workload.kinds.items()} == {
        "sweep": 0.45,
        "layered": 0.25,
        "pretrain_finetune": 0.30,
    }
    assert {kind.stages or kind.layers for kind in workload.kinds.values()} == {None}
    assert {name: (speed.range, speed.nominal) for name, speed in workload.speeds.items()} == {
        "slow": ((0.3, 0.65), 0.45)
    }
    assert (workload.size.spread, workload.size.most, workload.overhead) == (1.0, 8.0, (0.02, 0.4))
    assert (workload.setup_time, workload.preemptible, workload.retries) == (0, False, 0)
    assert het16.uncertainty == Uncertainty(duration_noise=0.3)
    assert het16.objective == "mean_jct"


def test_hom16_hom8_and_makespan_differ_from_it_as_published() -> None:
    """2 x 8 equal GPUs; 1 x 8; 20 jobs that are all there at the start."""
    het16, hom16, hom8, makespan = map(load_scenario, ("het16", "hom16", "hom8", "makespan"))
    assert [(node.gpus, node.cpus) for node in hom16.cluster.nodes] == [(8, 16), (8, 16)]
    assert [(node.gpus, node.cpus) for node in hom8.cluster.nodes] == [(8, 32)]
    assert makespan.cluster == het16.cluster
    assert makespan.objective == "makespan"
    assert {job.release for job in makespan.jobs(0)} == {0.0}
    assert [job.tasks for job in makespan.jobs(0)] == [job.tasks for job in het16.jobs(0)[:20]]
    for scenario in (hom16, hom8):
        assert isinstance(scenario.source, Generator)
        assert isinstance(het16.source, Generator)
        same = het16.source.workload.model_copy(update={"speeds": {}})
        assert scenario.source.workload == same
        assert scenario.uncertainty == het16.uncertainty


# The pipeline, followed by hand


def test_the_pipeline_under_a_policy_that_starts_whatever_fits() -> None:
    """As in the table in docs/scenarios.md."""
    starts, ends = starts_and_ends("pipeline", eager)
    assert starts == [
        (0, "A/cleaning"),
        (0, "B/cleaning"),
        (1, "C/cleaning"),
        (2, "A/features"),
        (3, "B/features"),
        (5, "C/features"),
        (8, "A/training"),
        (13, "A/evaluation"),
        (13, "B/training"),
        (18, "B/evaluation"),
        (18, "C/training"),
        (23, "C/evaluation"),
    ]
    assert ends == [
        (2, "A/cleaning"),
        (2, "B/cleaning"),
        (3, "C/cleaning"),
        (5, "A/features"),
        (6, "B/features"),
        (8, "C/features"),
        (13, "A/training"),
        (14, "A/evaluation"),
        (18, "B/training"),
        (19, "B/evaluation"),
        (23, "C/training"),
        (24, "C/evaluation"),
    ]


def test_the_pipeline_under_a_policy_that_waits_for_the_first_in_line() -> None:
    """A's training comes before C's features."""
    assert starts_and_ends("pipeline", patient)[0] == [
        (0, "A/cleaning"),
        (0, "B/cleaning"),
        (1, "C/cleaning"),
        (2, "A/features"),
        (3, "B/features"),
        (6, "A/training"),
        (11, "A/evaluation"),
        (11, "B/training"),
        (16, "B/evaluation"),
        (16, "C/features"),
        (19, "C/training"),
        (24, "C/evaluation"),
    ]


# Variants and seeds


def test_equal_seeds_give_equal_luck_whatever_the_policy() -> None:
    """The true durations of rigid tasks are the same, and differ from the estimates."""
    noisy = load_scenario("pipeline").with_(noise=0.5)
    durations = []
    for policy in (eager, patient):
        schedule = Scheduler(noisy.simulator(4)).run(policy)
        durations.append({schedule.name_of(run): pytest.approx(run.end - run.start) for run in schedule.runs})
    assert durations[0] == durations[1]
    assert durations[0]["A/training"] != 5.0


def test_a_variant_changes_what_it_says_and_nothing_else() -> None:
    """Its name tells, so that a table of results does too."""
    het16 = load_scenario("het16")
    variant = het16.with_(load=0.45, noise=0.8, jobs=10)
    assert variant.name == "het16[load=0.45,noise=0.8,jobs=10]"
    assert variant.uncertainty == Uncertainty(duration_noise=0.8)
    assert [job.tasks for job in variant.jobs(1)] == [job.tasks for job in het16.jobs(1)[:10]]
    assert [job.release for job in variant.jobs(1)] == pytest.approx([2 * job.release for job in het16.jobs(1)[:10]])
    assert (het16.name, het16.uncertainty.duration_noise, len(het16.jobs(1))) == ("het16", 0.3, 100)
    assert het16.with_().name == "het16"
    assert het16.with_(noise=0).uncertainty == Uncertainty()


def test_a_variant_on_another_cluster_draws_modes_for_that() -> None:
    """For `rlsched simulate --cluster`."""
    cluster = Cluster((Node("a", gpus=2, gpu_type="a100", cpus=4),))
    jobs = load_scenario("hom16").with_(cluster=cluster).jobs(1)
    assert {(m.gpu_type, m.gpus) for job in jobs for task in job.tasks for m in task.modes if m.gpus} == {
        ("a100", 1),
        ("a100", 2),
    }


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("het16", {"load": 0.0}, "het16: load is 0, expected a number above 0"),
        ("het16", {"noise": -1.0}, "het16: noise is -1, expected a number of 0 or more"),
        ("het16", {"jobs": 0}, "het16: jobs is 0, expected a number above 0"),
        ("pipeline", {"load": 0.5}, "pipeline: load cannot be changed, the jobs are written by hand"),
        (
            "het16",
            {"cluster": Cluster((Node("n", gpus=1, cpus=1),))},
            "het16: workload.speeds.slow: unknown GPU type, expected one of gpu",
        ),
        (
            "pipeline",
            {"cluster": Cluster((Node("n", resources={"units": 299}),))},
            "pipeline: job A, task training: expected what fits the empty cluster, found 300 units",
        ),
    ],
)
def test_a_variant_that_makes_no_sense_says_why(name: str, changes: dict[str, Any], message: str) -> None:
    """In one sentence."""
    with pytest.raises(ScenarioError) as error:
        load_scenario(name).with_(**changes)
    assert str(error.value) == message


def test_the_seeds_for_each_purpose_are_disjoint(tmp_path: Path) -> None:
    """Asking for more than there are is an error, not an overlap."""
    scenario = load_scenario(written(tmp_path, f"{EXAMPLES[0]}seeds: {{train: 5, validation: 8, report: 10}}"))
    assert scenario.seeds.train == 5
    assert scenario.seed_range("train", 3) == range(5, 8)
    assert scenario.seed_range("validation", 2) == range(8, 10)
    assert scenario.seed_range("report", 1000) == range(10, 1010)
    with pytest.raises(ScenarioError) as error:
        scenario.seed_range("train", 4)
    assert str(error.value) == "mine: expected at most 3 train seeds, found 4"


@pytest.mark.parametrize("name", ["tiny", "pipeline"])
def test_a_scenario_can_be_sent_to_another_process(name: str) -> None:
    """Vector environments do that."""
    scenario = load_scenario(name)
    assert pickle.loads(pickle.dumps(scenario)).jobs(3) == scenario.jobs(3)


# Files


def test_the_published_schema_is_up_to_date() -> None:
    """Run `python -m rlsched.scenariofile > rlsched/schemas/scenario.schema.json` if it is not."""
    assert SCHEMA.read_text(encoding="utf-8") == json_schema()
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))


@pytest.mark.parametrize("text", [*(file.read_text(encoding="utf-8") for file in FILES), *EXAMPLES])
def test_scenarios_satisfy_the_schema(text: str) -> None:
    """What is packaged, and every example of the documentation; editors see no error."""
    jsonschema.validate(yaml.safe_load(text), json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_in_the_documentation_run(text: str, tmp_path: Path) -> None:
    """Whoever copies one has a working scenario."""
    scenario = load_scenario(written(tmp_path, text))
    if isinstance(scenario.source, Generator):
        scenario = scenario.with_(jobs=10)
    schedule = Scheduler(scenario.simulator(1)).run(first_fit)
    schedule.check()
    assert schedule.metrics()["unfinished_jobs"] == 0


def test_the_session_in_the_documentation_is_what_happens() -> None:
    """Every `>>>` on the page, with exactly the output shown."""
    session = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(session, {}, "docs/scenarios.md", None, None)
    assert len(test.examples) > 10
    report: list[str] = []
    doctest.DocTestRunner().run(test, out=report.append)
    assert report == []


def test_the_error_in_the_documentation_is_the_one_that_is_given(tmp_path: Path) -> None:
    """A slip in the example of a scenario of one's own."""
    (message,) = re.findall(r"^my-cluster\.yaml(:.*)$", PAGE, re.MULTILINE)
    file = written(tmp_path, EXAMPLES[1].replace("sweep: 0.6", "sweeep: 0.6"))
    with pytest.raises(ScenarioError) as error:
        load_scenario(file)
    assert str(error.value) == f"{file}{message}"


CLUSTER = "cluster:\n  nodes:\n    - {name: n, gpus: 4, cpus: 4, resources: {units: 4}}\n"
JOB = f"{CLUSTER}jobs:\n  - name: A\n    tasks:\n      a: {{duration: 1}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: expected a mapping, found an empty file"),
        ("[1, 2]", "1: expected a mapping, found [1, 2]"),
        ("jobs: []", "1: cluster: is missing"),
        ("cluster:\n  nodes: []", "2: cluster.nodes: expected a list of machines, found []"),
        (f"{CLUSTER}jobs: A", "4: jobs: expected a list of jobs, found 'A'"),
        (f"{CLUSTER}workload:\n  kinds: [sweep]", "5: workload.kinds: expected a mapping of kinds, found ['sweep']"),
        (CLUSTER, "1: expected workload or jobs, found neither"),
        (f"{JOB}workload: {{}}", "4: jobs: expected either workload or jobs, found both"),
        (f"{JOB}objectiv: makespan", "8: objectiv: unknown key, did you mean 'objective'?"),
        (
            f"{JOB}objective: jct",
            "8: objective: expected mean_jct, makespan, weighted_tardiness or finish_time_fairness, found 'jct'",
        ),
        (f"{JOB}seeds: {{train: 9, report: 8}}", "8: seeds: expected train, validation and report in ascending order"),
        (f"{JOB}uncertainty:\n  duration_noise: yes", "9: uncertainty.duration_noise: expected a number of 0 or more"),
        ("cluster:\n  nodes:\n    - {name: n, gpus: -1}\njobs: []", "3: cluster.nodes[0].gpus: expected a count of 0"),
        ("cluster:\n  nodes:\n    - {gpus: 1}\njobs: []", "3: cluster.nodes[0].name: is missing"),
        (
            JOB.replace("jobs:", "    - {name: n}\njobs:"),
            "1: cluster: two nodes have the same name",
        ),
        (f"{CLUSTER}workload:\n  load: 0", "5: workload.load: expected a number above 0, found 0"),
        (f"{CLUSTER}workload:\n  jobs: 1.5", "5: workload.jobs: expected a count of 1 or more, found 1.5"),
        (
            f"{CLUSTER}workload:\n  kinds:\n    sweep: lots",
            "6: workload.kinds.sweep: expected a weight or a mapping, found 'lots'",
        ),
        (
            f"{CLUSTER}workload:\n  speeds: {{gpu: [1, 2]}}",
            "5: workload.speeds.gpu: expected a speed or a mapping, found [1, 2]",
        ),
        (
            f"{CLUSTER}workload:\n  kinds:\n    sweeep: 1",
            "6: workload.kinds.sweeep: unknown kind without stages, layers or project of its own, "
            "did you mean 'sweep'?",
        ),
        (
            f"{CLUSTER}workload:\n  kinds:\n    own:\n      weight: 1\n      stages:\n"
            "        a: {hours: 1}\n        b:\n          hours: 1\n          needs: c",
            "12: workload.kinds.own.stages.b.needs: found 'c', which is not a stage before it, expected one of a",
        ),
        (
            f"{CLUSTER}workload:\n  kinds:\n    own:\n      weight: 1\n      stages:\n"
            "        a: {hours: 1, gpus: []}",
            "9: workload.kinds.own.stages.a.gpus: expected random, a list of counts such as [1, 2, 4], or a list of "
            "{counts, weight}, found []",
        ),
        (
            f"{CLUSTER}workload:\n  kinds:\n    own:\n      weight: 1\n      layers: {{width: [3, 2]}}",
            "8: workload.kinds.own.layers.width: expected a count of 1 or more, or [least, most], found [3, 2]",
        ),
        (
            f"{CLUSTER}workload:\n  speeds: {{gpus: 2}}",
            "5: workload.speeds.gpus: unknown GPU type, did you mean 'gpu'?",
        ),
        (JOB.replace("{duration: 1}", "{gpus: 1}"), "7: jobs[0].tasks.a: expected a duration or modes, found neither"),
        (
            JOB.replace("{duration: 1}", "{gpus: 1, modes: [{duration: 1}]}"),
            "7: jobs[0].tasks.a: expected either modes or gpus, found both",
        ),
        (
            JOB.replace("1}", "1, needs: b}\n      bb: {duration: 1}"),
            "7: jobs[0].tasks.a.needs: found 'b', which is no task of the job, did you mean 'bb'?",
        ),
        (
            JOB.replace("1}", "1, needs: b}\n      b: {duration: 1, needs: a}"),
            "5: jobs[0]: job 'A': the needs form a cycle: a -> b -> a",
        ),
        (
            JOB.replace("1}", "1, gpus: 5}"),
            "7: jobs[0].tasks.a: expected what fits the empty cluster, found 5 GPUs",
        ),
        (
            JOB.replace("1}", "1, resources: {unit: 1}}"),
            "7: jobs[0].tasks.a: expected what fits the empty cluster, found 1 unit",
        ),
        (
            f"{JOB}    release: 5\n    deadline: 3",
            "5: jobs[0]: job 'A': the deadline is before the release",
        ),
        (
            f"{JOB}description: !!python/object/apply:os.system [id]",
            "8: description: expected plain YAML, found the tag",
        ),
        ("a: [", "1: expected YAML: "),
    ],
)
def test_a_mistake_is_answered_with_file_line_and_field(text: str, message: str, tmp_path: Path) -> None:
    """And with what was expected and found, in one sentence."""
    file = written(tmp_path, text)
    with pytest.raises(ScenarioError) as error:
        load_scenario(file)
    assert str(error.value).startswith(f"{file}:{message}")
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_known_is_answered_with_the_nearest() -> None:
    """A path is known by its slash or its ending."""
    with pytest.raises(ScenarioError) as error:
        load_scenario("het61")
    assert str(error.value) == "unknown scenario 'het61', did you mean 'het16'?"


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    """As a path and as text."""
    for missing in (tmp_path / "none.yaml", str(tmp_path / "none.yaml")):
        with pytest.raises(ScenarioError) as error:
            load_scenario(missing)
        assert str(error.value) == f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory"


def test_a_cluster_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    """With what stands under `cluster:` in a scenario."""
    file = written(tmp_path, "span_speed: 0.5\nnodes:\n  - {name: a, count: 2, gpus: 4, gpu_memory: 80}\n  - {name: b}")
    assert load_cluster(file) == Cluster(
        (Node("a-1", gpus=4, gpu_memory=80), Node("a-2", gpus=4, gpu_memory=80), Node("b")), span_speed=0.5
    )
    with pytest.raises(ScenarioError) as error:
        load_cluster(written(tmp_path, "nodes:\n  - {name: a}\n  - {name: a}"))
    assert str(error.value) == f"{tmp_path / 'mine.yaml'}:1: nodes: two nodes have the same name"
