"""The workflow file: what a file means, and that its documentation is true."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlsched.model import Mode
from rlsched.workflow import Command, Workflow, WorkflowError
from rlsched.workflow.schema import TaskSpec, WorkflowFile, json_schema

ROOT = Path(__file__).parent.parent
Load = Callable[[str], Workflow]
every_example = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def needs(workflow: Workflow) -> dict[str, set[str]]:
    return {task.name: set(task.needs) for task in workflow.job.tasks}


def command(workflow: Workflow, task: str) -> Command:
    return next(c for t, c in zip(workflow.job.tasks, workflow.commands, strict=True) if t.name == task)


def modes(workflow: Workflow) -> list[tuple[int, str | None, float]]:
    return [(mode.gpus, mode.gpu_type, round(mode.duration, 3)) for mode in workflow.job.tasks[0].modes]


class TestMeaning:
    def test_every_field_arrives_where_it_belongs(self, load: Load, tmp_path: Path) -> None:
        workflow = load("""
            name: all
            weight: 2
            deadline: 1h
            setup_time: 1.5
            tasks:
              only:
                run: do it
                inputs: a
                outputs: ["sub/../b${array.index}", "/c/${array.index}"]
                gpus: 2
                gpu_type: A100
                gpu_memory: 8GiB
                cpus: 3
                memory: 512MiB
                resources: {licence: 1}
                duration: 1.5m
                array: 4
                retries: 1
                timeout: 2h
                preemptible: true
                preempt_signal: SIGUSR1
                grace: 2m
                checkpoint_time: 5
                priority: -1
                env: {KEY: value, N: 0.10, FLAG: true}
        """)
        task = workflow.job.tasks[0]
        mode = Mode(90.0, gpus=2, gpu_type="A100", gpu_memory=8.0, cpus=3, memory=0.5, resources={"licence": 1})
        assert workflow.name == workflow.job.name == "all"
        assert workflow.folder == tmp_path.resolve()
        assert (workflow.job.release, workflow.job.weight, workflow.job.deadline) == (0.0, 2.0, 3600.0)
        assert task.modes == (mode,)
        assert (task.array, task.retries, task.preemptible, task.priority, task.setup_time) == (4, 1, True, -1.0, 1.5)
        assert task.checkpoint_time == 5.0
        assert workflow.commands[0] == Command(
            run="do it",
            env={"KEY": "value", "N": "0.10", "FLAG": "true"},
            timeout=7200.0,
            preempt_signal="SIGUSR1",
            grace=120.0,
            inputs=(workflow.folder / "a",),
            outputs=(workflow.folder / "b${array.index}", Path("/c/${array.index}")),
            sources=(workflow.folder / "a",),
            line=6,
        )

    def test_only_a_preemptible_task_chooses_how_it_is_asked_to_stop(self, load: Load) -> None:
        """A default is for those; the others get SIGTERM, as any process may."""
        workflow = load("""
            defaults: {preempt_signal: none}
            tasks:
              a: {run: x}
              b: {run: x, preemptible: true}
        """)
        assert [command.preempt_signal for command in workflow.commands] == ["SIGTERM", None]

    def test_what_is_imported_beforehand_may_be_named(self, load: Load) -> None:
        """For all Python tasks, or for one; nothing named is another thing than naming nothing."""
        workflow = load("""
            tasks:
              a: {python: "m:f"}
              b: {python: "m:f", preload: []}
              c: {python: "m:f", preload: [torch, a.b]}
        """)
        assert [command.preload for command in workflow.commands] == [None, (), ("torch", "a.b")]

    def test_a_task_without_hints_takes_one_core_for_a_minute(self, load: Load) -> None:
        workflow = load("tasks: {a: {run: x}}")
        assert workflow.job.tasks[0].modes == (Mode(60.0, cpus=1),)

    def test_a_workflow_without_a_name_is_named_after_its_file(self, load: Load) -> None:
        assert load("tasks: {a: {run: x}}").name == "w"

    def test_a_python_function_gets_its_arguments_with_their_types(self, load: Load) -> None:
        workflow = load("""
            vars: {n: 3, rate: 1e-5}
            tasks:
              a: {python: "pkg.mod:main", args: {n: "${n}", rate: "${rate}", text: "n=${n}", list: [1, null, "${n}"]}}
        """)
        assert workflow.commands[0].python == "pkg.mod:main"
        assert workflow.commands[0].args == {"n": 3, "rate": 1e-5, "text": "n=3", "list": [1, None, 3]}

    def test_one_duration_is_for_the_smallest_count_and_larger_ones_follow_amdahl(self, load: Load) -> None:
        assert modes(load("tasks: {a: {run: x, gpus: [4, 2], duration: 60}}")) == [
            (2, None, 60.0),
            (4, None, round(60 * (2 / 1.1) / (4 / 1.3), 3)),
        ]

    def test_a_task_that_may_do_without_gpus_has_one_mode_without_a_gpu_type(self, load: Load) -> None:
        assert modes(load("tasks: {a: {run: x, gpus: [0, 1], gpu_type: [A100, H100], duration: {0: 9, 1: 2}}}")) == [
            (0, None, 9.0),
            (1, "A100", 2.0),
            (1, "H100", 2.0),
        ]

    def test_a_list_of_durations_gives_the_modes_one_by_one(self, load: Load) -> None:
        text = "tasks: {a: {run: x, duration: [{gpus: 1, gpu_type: A100, duration: 9}, {gpus: 2, duration: 1m}]}}"
        assert modes(load(text)) == [(1, "A100", 9.0), (2, None, 60.0)]

    def test_defaults_fill_what_a_task_leaves_out_and_env_is_merged(self, load: Load) -> None:
        workflow = load("""
            defaults: {gpu_type: A100, cpus: 8, retries: 2, env: {A: 1, B: 1}}
            tasks:
              cpu: {run: x}
              gpu: {run: x, gpus: 1, cpus: 4, env: {B: 2}}
        """)
        cpu, gpu = workflow.job.tasks
        assert cpu.modes == (Mode(60.0, cpus=8),)
        assert gpu.modes == (Mode(60.0, gpus=1, gpu_type="A100", cpus=4),)
        assert (cpu.retries, gpu.retries) == (2, 2)
        assert [dict(c.env) for c in workflow.commands] == [{"A": "1", "B": "1"}, {"A": "1", "B": "2"}]

    def test_retries_may_be_given_for_each_cause(self, load: Load) -> None:
        """A cause that is not named has none."""
        workflow = load("tasks: {a: {run: x, retries: {signal: 2, oom: 1}}}")
        assert workflow.job.tasks[0].retries == {"exit": 0, "signal": 2, "oom": 1, "timeout": 0}

    def test_a_matrix_makes_a_task_of_every_combination(self, load: Load) -> None:
        workflow = load("""
            tasks:
              train:
                matrix: {lr: [1e-3, 0.010], model: ["small", "007"]}
                run: train ${matrix.lr} ${matrix.model}
                outputs: out/${matrix.model}-${matrix.lr}
              one: {run: x, needs: "train[lr=1e-3,model=007]"}
              all: {run: x, needs: [train]}
              read: {run: x, inputs: out/small-0.010}
        """)
        names = [f"train[lr={lr},model={model}]" for lr in ("1e-3", "0.010") for model in ("small", "007")]
        assert needs(workflow) == {
            **{name: set() for name in names},
            "one": {names[1]},
            "all": set(names),
            "read": {names[2]},
        }
        assert [c.run for c in workflow.commands[:4]] == [
            "train 1e-3 small",
            "train 1e-3 007",
            "train 0.010 small",
            "train 0.010 007",
        ]

    def test_the_members_of_an_array_differ_in_their_number(self, load: Load) -> None:
        workflow = load("""
            tasks:
              split: {run: x, outputs: [in/0, in/1]}
              work:
                array: 2
                python: pkg:work
                args: {index: "${array.index}", name: "m${array.index}", all: ["${array.index}"]}
                env: {RANK: "${array.index}"}
                inputs: in/${array.index}
                outputs: out/${array.index}
              last: {run: x, inputs: out/1}
        """)
        member = command(workflow, "work").for_member(1)
        assert member.args == {"index": 1, "name": "m1", "all": [1]}
        assert member.env == {"RANK": "1"}
        assert member.inputs == (workflow.folder / "in/1",)
        assert member.outputs == (workflow.folder / "out/1",)
        assert needs(workflow) == {"split": set(), "work": {"split"}, "last": {"work"}}

    def test_a_member_of_a_command_array_runs_the_command_with_its_number(self, load: Load) -> None:
        workflow = load("tasks: {a: {run: 'work ${array.index}', array: 3}}")
        assert workflow.commands[0].for_member(2).run == "work 2"

    def test_a_folder_stands_for_what_is_in_it(self, load: Load) -> None:
        workflow = load("""
            tasks:
              into: {run: x, inputs: model/weights}
              make: {run: x, outputs: [model, ./data/a]}
              around: {run: x, inputs: data/}
              beside: {run: x, inputs: models}
        """)
        assert needs(workflow) == {"into": {"make"}, "make": set(), "around": {"make"}, "beside": set()}

    def test_variables_know_python_the_environment_and_those_above(
        self, load: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RLSCHED_TEST", "0")
        workflow = load("""
            vars: {base: build, out: "${base}/x", n: 2}
            tasks:
              a:
                run: ${python} ${out} ${env.RLSCHED_TEST} $HOME $${HOME} $$
                retries: ${env.RLSCHED_TEST}
                gpus: ${n}
        """)
        assert workflow.commands[0].run == f"{sys.executable} build/x 0 $HOME ${{HOME}} $$"
        assert workflow.job.tasks[0].retries == 0
        assert workflow.job.tasks[0].modes[0].gpus == 2

    def test_plain_values_are_read_as_yaml_1_2_says(self, load: Load) -> None:
        workflow = load("""
            tasks:
              a: {python: "m:f", args: {a: no, b: 1:30, c: 007, d: 1e-5, e: True, f: ~, g: 2001-01-01, h: -3, i: "1"}}
        """)
        assert workflow.commands[0].args == {
            **{"a": "no", "b": "1:30", "c": "007", "d": 1e-5, "e": True},
            **{"f": None, "g": "2001-01-01", "h": -3, "i": "1"},
        }

    def test_anchors_and_aliases_work(self, load: Load) -> None:
        workflow = load("""
            tasks:
              a: {run: x, env: &env {A: 1}}
              b: {run: x, env: *env}
        """)
        assert workflow.commands[0].env == workflow.commands[1].env == {"A": "1"}

    @every_example
    @given(data=st.data(), size=st.integers(1, 8))
    def test_the_dependencies_found_are_the_dependencies_meant(
        self, load: Load, data: st.DataObject, size: int
    ) -> None:
        """A random DAG, each edge as a need, a file or a folder, the tasks in any order."""
        meant: dict[str, set[str]] = {f"t{i}": set() for i in range(size)}
        tasks: dict[str, dict[str, object]] = {}
        for i, name in enumerate(meant):
            explicit, inputs = [], []
            for j in range(i):
                match data.draw(st.sampled_from(["no", "needs", "file", "inside", "folder"])):
                    case "no":
                        continue
                    case "needs":
                        explicit.append(f"t{j}")
                    case "file":
                        inputs.append(f"out/t{j}/file")
                    case "inside":
                        inputs.append(f"out/t{j}/file/part")
                    case "folder":
                        inputs.append(f"./out/t{j}")
                meant[name].add(f"t{j}")
            tasks[name] = {"run": "x", "needs": explicit, "inputs": inputs, "outputs": [f"out/t{i}/file"]}
        order = data.draw(st.permutations(list(tasks)))
        assert needs(load(yaml.safe_dump({"tasks": {name: tasks[name] for name in order}}, sort_keys=False))) == meant

    @every_example
    @given(st.from_regex(r"(0|[1-9][0-9]{0,20})(\.[0-9]{1,3})?(e-?[0-9]{1,3})?|[a-z]{1,5}|0x[0-9]", fullmatch=True))
    def test_a_matrix_value_appears_in_texts_as_it_is_written(self, load: Load, written: str) -> None:
        workflow = load(f"tasks: {{a: {{matrix: {{x: ['{written}', {written}-]}}, run: 'do ${{matrix.x}}'}}}}")
        assert workflow.commands[0].run == f"do {written}"
        if written not in {"null", "true", "false"}:
            workflow = load(f"tasks: {{a: {{matrix: {{x: [{written}]}}, run: 'do ${{matrix.x}}'}}}}")
            assert workflow.commands[0].run == f"do {written}"


def documented() -> list[tuple[str, str | None]]:
    """The examples in docs/workflow-file.md, each with the error that it shows, if any."""
    page = (ROOT / "docs/workflow-file.md").read_text(encoding="utf-8")
    return [
        (example, error)
        for example, error in re.findall(r"```yaml\n(.*?)```\n(?:\n```text\nwrong\.yaml:(.*?)\n```)?", page, re.DOTALL)
    ]


class TestDocumentation:
    @pytest.mark.parametrize(("example", "error"), documented())
    def test_the_examples_are_what_the_page_says(self, load: Load, example: str, error: str) -> None:
        if error:
            with pytest.raises(WorkflowError) as raised:
                load(example)
            assert str(raised.value) == f"w.yaml:{error}"
        else:
            load(example)
            jsonschema.validate(json.loads(json.dumps(yaml.safe_load(example))), json.loads(json_schema()))

    def test_the_page_names_every_field(self) -> None:
        page = (ROOT / "docs/workflow-file.md").read_text(encoding="utf-8")
        fields = {**TaskSpec.model_fields, **WorkflowFile.model_fields}
        assert set(fields) == set(re.findall(r"^\| `([a-z_]+)`", page, re.MULTILINE))

    def test_the_published_schema_is_the_one_of_the_models(self) -> None:
        """Otherwise: python -m rlsched.workflow > rlsched/schemas/workflow.schema.json"""
        assert json_schema() == (ROOT / "rlsched/schemas/workflow.schema.json").read_text(encoding="utf-8")

    def test_the_schema_is_one_and_refuses_an_unknown_key(self) -> None:
        schema = json.loads(json_schema())
        jsonschema.Draft202012Validator.check_schema(schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"tasks": {"a": {"run": "x", "gpu": 1}}}, schema)
