"""The workflow file: what is said about a wrong one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlsched.model import Cluster, Node
from rlsched.workflow import Workflow, WorkflowError, check_feasible, check_sources, is_workflow_file, load_workflow
from rlsched.workflow.schema import Defaults, TaskSpec

ROOT = Path(__file__).parent.parent
Load = Callable[[str], Workflow]

SYNTAX = {
    "no YAML": ("tasks: {a: [}", "w.yaml:1: expected YAML: expected the node content, but found '}'"),
    "a tab": ("tasks:\n\ta: 1", "w.yaml:2: expected YAML: found character '\\t' that cannot start any token"),
    "two documents": ("a: 1\n---\nb: 1", "w.yaml:2: expected YAML: but found another document"),
    "an empty file": ("# nothing\n", "w.yaml:1: expected a mapping, found an empty file"),
    "not a mapping": ("- a\n", "w.yaml:1: expected a mapping, found ['a']"),
    "a key twice": (
        "tasks:\n  a:\n    run: x\n    run: y",
        "w.yaml:4: tasks.a: expected every key once, found 'run' again",
    ),
    "a tag": (
        "tasks:\n  a: {run: !!python/object/apply:os.system [true]}",
        "w.yaml:2: tasks.a.run: expected plain YAML, found the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
    ),
    "a list as key": ("tasks:\n  [a]: {run: x}", "w.yaml:2: tasks: expected a text or a number as key"),
    "a value inside itself": (
        "tasks:\n  a: {python: 'm:f', args: &x {y: *x}}",
        "w.yaml:2: tasks.a.args.y: expected a finite value, found aliases of aliases",
    ),
    "a control character": ("tasks:\n  a: {run: '\x01'}", "w.yaml:2: expected YAML, found a control character"),
    "endless nesting": ("[" * 600, "w.yaml:1: expected YAML, found lists or mappings nested too deeply"),
}

VALUES = {
    "gpus": ("two", "a count or a list of counts, found 'two'"),
    "gpu_type": ("[]", "a name or a list of names, found []"),
    "gpu_memory": ("8 apples", "GiB or a text such as '16GB', '512MiB', found '8 apples'"),
    "cpus": ("1.5", "a count, found 1.5"),
    "memory": ("-1", "GiB or a text such as '16GB', '512MiB', found -1"),
    "resources": ("[licence]", "a mapping, found ['licence']"),
    "duration": (
        "0",
        "seconds above 0, a text such as '10m', a mapping from counts, "
        "or a list of {gpus, gpu_type, duration}, found 0",
    ),
    "retries": (
        "{exit: 1, lost: 2}",
        "a count, or counts by cause such as {exit: 1, signal: 2, oom: 0, timeout: 1}, found {'exit': 1, 'lost': 2}",
    ),
    "timeout": ("soon", "seconds above 0 or a text such as '90s', '10m', '2h', found 'soon'"),
    "preemptible": ("1", "true or false, found 1"),
    "preempt_signal": ("SIGKILL", "SIGTERM, SIGINT, SIGUSR1, SIGUSR2 or none, found 'SIGKILL'"),
    "grace": ("0", "seconds above 0 or a text such as '90s', '10m', '2h', found 0"),
    "checkpoint_time": ("-1", "seconds or a text such as '90s', '10m', '2h', found -1"),
    "preload": ("torch", "a list of module names, found 'torch'"),
    "priority": ("high", "a number, found 'high'"),
    "env": ("A", "a mapping, found 'A'"),
    "python": ("module.function", "package.module:function, found 'module.function'"),
    "args": ("[1]", "a mapping of keyword arguments, found [1]"),
    "matrix": ("3", "a mapping, found 3"),
    "array": ("0", "a count of 1 or more, found 0"),
    "needs": ("{a: b}", "a text or a list of texts, found {'a': 'b'}"),
    "inputs": ("[[a]]", "a text or a list of texts, found [['a']]"),
    "outputs": ("[null]", "a text or a list of texts, found [None]"),
    "run": ("[a]", "a shell command, found ['a']"),
}

MEANING = {
    "no tasks": ("name: x", "w.yaml:1: tasks: is missing"),
    "tasks left empty": ("name: x\ntasks:", "w.yaml:2: tasks: expected a mapping, found nothing"),
    "tasks without a task": ("tasks: {}", "w.yaml:1: tasks: expected at least one, found {}"),
    "a task that is no mapping": ("tasks:\n  a: run x", "w.yaml:2: tasks.a: expected a mapping, found 'run x'"),
    "an odd task name": (
        "tasks:\n  a b: {run: x}",
        "w.yaml:2: tasks.a b: expected a name of letters, digits, '_', '-' and '.', found 'a b'",
    ),
    "an unknown key at the top": ("task: {}", "w.yaml:1: task: unknown key, did you mean 'tasks'?"),
    "an unknown key of a task": (
        "tasks:\n  a:\n    run: ${matrix.x}\n    matrx: {x: [1]}",
        "w.yaml:4: tasks.a.matrx: unknown key, did you mean 'matrix'?",
    ),
    "a task's field as default": (
        "defaults: {run: x}\ntasks: {a: {run: x}}",
        f"w.yaml:1: defaults.run: unknown key, expected one of {', '.join(Defaults.model_fields)}",
    ),
    "a wrong value in a default": (
        "defaults:\n  cpus: few\ntasks: {a: {run: x}}",
        "w.yaml:2: defaults.cpus: expected a count, found 'few'",
    ),
    "a wrong value at the top": (
        "tasks: {a: {run: x}}\nweight: 0",
        "w.yaml:2: weight: expected a number above 0, found 0",
    ),
    "a wrong amount": (
        "tasks:\n  a:\n    run: x\n    resources:\n      disk: some",
        "w.yaml:5: tasks.a.resources.disk: expected a count, found 'some'",
    ),
    "an empty sweep": (
        "tasks:\n  a: {run: x, matrix: {lr: []}}",
        "w.yaml:2: tasks.a.matrix.lr: expected a list of texts or numbers, found []",
    ),
    "a matrix value twice": (
        "tasks:\n  a: {run: x, matrix: {lr: [1, '1']}}",
        "w.yaml:2: tasks.a.matrix: expected different values, found 'lr=1' twice",
    ),
    "a wrong value from a matrix": (
        "tasks:\n  a:\n    run: x\n    matrix: {n: [1, many]}\n    gpus: ${matrix.n}",
        "w.yaml:5: tasks.a.gpus: expected a count or a list of counts, found 'many'",
    ),
    "neither run nor python": (
        "tasks:\n  a: {cpus: 1}",
        "w.yaml:2: tasks.a: expected either run or python, found neither",
    ),
    "preload beside run": (
        "tasks:\n  a: {run: x, preload: [torch]}",
        "w.yaml:2: tasks.a.preload: expected preload beside python only, found it beside run",
    ),
    "something else than a module to preload": (
        "tasks:\n  a: {python: 'm:f', preload: [torch, 'os; x']}",
        "w.yaml:2: tasks.a.preload: expected a list of module names, found ['torch', 'os; x']",
    ),
    "a signal for a task that cannot be preempted": (
        "tasks:\n  a: {run: x, preempt_signal: SIGUSR1}",
        "w.yaml:2: tasks.a.preempt_signal: expected a task with preemptible: true, found one without",
    ),
    "both run and python": (
        "tasks:\n  a:\n    run: x\n    python: m:f",
        "w.yaml:4: tasks.a.python: expected either run or python, found both",
    ),
    "arguments of a command": (
        "tasks:\n  a:\n    run: x\n    args: {x: 1}",
        "w.yaml:4: tasks.a.args: expected args beside python only, found them beside run",
    ),
    "an undefined variable with a neighbour": (
        "vars: {out: x}\ntasks:\n  a: {run: '${oout}'}",
        "w.yaml:3: tasks.a.run: undefined variable ${oout}, did you mean 'out'?",
    ),
    "a variable of the shell": (
        "tasks:\n  a: {run: 'echo ${HOME:-x}'}",
        "w.yaml:2: tasks.a.run: undefined variable ${HOME:-x}, expected one of python, "
        "or $${HOME:-x} for the shell's own",
    ),
    "a variable before its definition": (
        "vars:\n  a: ${b}\n  b: 1\ntasks: {a: {run: x}}",
        "w.yaml:2: vars.a: undefined variable ${b}, expected one of python, or $${b} for the shell's own",
    ),
    "an undefined variable in a default": (
        "defaults:\n  env: {A: '${array.index}'}\ntasks:\n  a: {run: x, array: 2}\n  b: {run: x}",
        "w.yaml:2: defaults.env.A: undefined variable ${array.index}, expected one of python, "
        "or $${array.index} for the shell's own",
    ),
    "a name over two lines": (
        "tasks:\n  a:\n    run: |\n      x ${py\n      thon}",
        "w.yaml:3: tasks.a.run: undefined variable ${py thon}, did you mean 'python'?",
    ),
    "an unset environment variable": (
        "tasks:\n  a: {run: '${env.RLSCHED_UNSET}'}",
        "w.yaml:2: tasks.a.run: undefined variable ${env.RLSCHED_UNSET}, expected it in the environment",
    ),
    "an unknown need": (
        "tasks:\n  train: {run: x}\n  b:\n    run: x\n    needs:\n      - train\n      - trian",
        "w.yaml:7: tasks.b.needs[1]: unknown task 'trian', did you mean 'train'?",
    ),
    "a cycle of needs": (
        "tasks:\n  a: {run: x, needs: c}\n  b: {run: x, needs: a}\n  c: {run: x, needs: b}",
        "w.yaml:2: tasks.a: expected no cycle, found a -> b -> c -> a (each before the next)",
    ),
    "a cycle through files": (
        "tasks:\n  a: {run: x}\n  b: {run: x, inputs: f, outputs: g}\n  c: {run: x, inputs: g, outputs: f}",
        "w.yaml:3: tasks.b: expected no cycle, found b -> c -> b (each before the next)",
    ),
    "a task that needs itself": (
        "tasks:\n  a: {run: x, needs: [a]}",
        "w.yaml:2: tasks.a: expected no cycle, found a -> a (each before the next)",
    ),
    "two writers of one file": (
        "tasks:\n  a: {run: x, outputs: out/f}\n  b:\n    run: x\n    outputs: [g, ./out/f]",
        "w.yaml:5: tasks.b.outputs[1]: expected one writer of './out/f', found 'a' as well",
    ),
    "a writer inside another's folder": (
        "tasks:\n  a: {run: x, outputs: out/f}\n  b: {run: x, outputs: out}",
        "w.yaml:3: tasks.b.outputs: expected one writer of 'out', found 'a' as well",
    ),
    "combinations that write one file": (
        "tasks:\n  a: {run: x, matrix: {n: [1, 2]}, outputs: out}",
        "w.yaml:2: tasks.a.outputs: expected one writer of 'out', found 'a[n=1]' as well",
    ),
    "members that write one file": (
        "tasks:\n  a: {run: x, array: 2, outputs: out}",
        "w.yaml:2: tasks.a.outputs: expected separate outputs, found 'out' more than once (add ${array.index})",
    ),
    "a task that reads its own output": (
        "tasks:\n  a: {run: x, inputs: out/f, outputs: out}",
        "w.yaml:2: tasks.a.inputs: expected an input from elsewhere, found 'out/f', its own output",
    ),
    "durations for other counts": (
        "tasks:\n  a: {run: x, gpus: [1, 2], duration: {1: 20}}",
        "w.yaml:2: tasks.a.duration: expected the counts in gpus, [1, 2], found [1]",
    ),
    "counts beside a list of modes": (
        "tasks:\n  a: {run: x, gpus: 1, duration: [{gpus: 1, duration: 3}]}",
        "w.yaml:2: tasks.a.gpus: expected it in the list under duration only, found it beside that list",
    ),
    "a GPU type without a GPU": (
        "tasks:\n  a: {run: x, gpu_type: A100}",
        "w.yaml:2: tasks.a.gpu_type: expected a task with gpus, found one without",
    ),
}

CASES = {
    **SYNTAX,
    **MEANING,
    **{
        f"a wrong value of {field}": (
            f"tasks:\n  a:\n    {field}: {value}",
            f"w.yaml:3: tasks.a.{field}: expected {message}",
        )
        for field, (value, message) in VALUES.items()
    },
}


class TestErrors:
    @pytest.mark.parametrize(("text", "message"), CASES.values(), ids=CASES)
    def test_says_in_one_sentence_where_what_and_what_instead(self, load: Load, text: str, message: str) -> None:
        with pytest.raises(WorkflowError) as error:
            load(text)
        assert str(error.value) == message

    def test_the_wrong_value_of_every_field_of_a_task_has_a_test(self) -> None:
        assert set(VALUES) == set(TaskSpec.model_fields)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(WorkflowError, match=r"none\.yaml: cannot be read: No such file or directory$"):
            load_workflow(tmp_path / "none.yaml")

    def test_a_file_that_is_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "w.yaml").write_bytes(b"name: x\n\xff\xfe")
        with pytest.raises(WorkflowError, match=r"w\.yaml:2: expected text in UTF-8$"):
            load_workflow(tmp_path / "w.yaml")

    def test_aliases_of_aliases_do_not_fill_the_memory(self, load: Load) -> None:
        lines = ["tasks: {a: {run: x}}", "l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 20)]
        with pytest.raises(WorkflowError, match="expected a finite value, found aliases of aliases"):
            load("\n".join(lines))

    @pytest.mark.parametrize(
        ("text", "answer"), [("tasks: {a: 1}", True), ("cluster: {}", False), ("tasks", False), ("tasks: [", False)]
    )
    def test_a_workflow_file_is_told_from_others_by_its_tasks(self, tmp_path: Path, text: str, answer: bool) -> None:
        (tmp_path / "w.yaml").write_text(text, encoding="utf-8")
        assert is_workflow_file(tmp_path / "w.yaml") is answer
        assert not is_workflow_file(tmp_path)

    @settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_a_damaged_file_is_read_or_refused_in_one_line(self, load: Load, data: st.DataObject) -> None:
        page = (ROOT / "docs/workflow-file.md").read_text(encoding="utf-8")
        text = page.split("```yaml\n")[1].split("```")[0]
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(text)))
            end = start + data.draw(st.integers(0, 8))
            text = text[:start] + data.draw(st.text("{}[]:,-&*!|>'\"%#$ \n\t01.eE~?<ax", max_size=4)) + text[end:]
        try:
            load(text)
        except WorkflowError as error:
            message = str(error)
        else:
            return
        assert re.fullmatch(r"w\.yaml:\d+: .+", message)


class TestFeasibility:
    CLUSTER = Cluster(
        (
            Node("a", gpus=4, gpu_type="A100", gpu_memory=40, cpus=8, memory=64, resources={"licence": 1}),
            Node("h", gpus=2, gpu_type="H100", gpu_memory=80, cpus=32, memory=32),
        )
    )

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ("gpus: 5", "expected 5 GPUs of one type, found 4 of type 'A100', 2 of type 'H100'"),
            ("gpus: 3, gpu_type: H100", "expected 3 GPUs of type 'H100', found 4 of type 'A100', 2 of type 'H100'"),
            ("gpus: 1, gpu_type: B200", "expected 1 GPU of type 'B200', found 4 of type 'A100', 2 of type 'H100'"),
            ("gpus: 1, gpu_memory: 96GiB", "expected a node with 96 GiB of memory on each GPU, found at most 80"),
            ("cpus: 64", "expected a node with 64 CPUs, found at most 32"),
            ("memory: 128GiB", "expected a node with 128 GiB of memory, found at most 64"),
            ("resources: {disk: 1}", "expected a node with 1 'disk', found at most 0"),
            ("cpus: 32, memory: 64", "expected a node with all it asks for at once, found none"),
            ("gpus: 4, cpus: 9", "expected nodes with all it asks for at once, found none"),
        ],
    )
    def test_names_what_no_node_offers(self, load: Load, fields: str, message: str) -> None:
        workflow = load(f"tasks:\n  ok: {{run: x}}\n  a: {{run: x, {fields}}}")
        with pytest.raises(WorkflowError) as error:
            check_feasible(workflow, self.CLUSTER)
        assert str(error.value) == f"w.yaml:3: tasks.a: {message}"

    def test_one_mode_that_fits_is_enough(self, load: Load) -> None:
        check_feasible(load("tasks: {a: {run: x, gpus: [4, 16]}, b: {run: x, cpus: 32}}"), self.CLUSTER)

    def test_a_source_that_is_missing_is_named(self, load: Load) -> None:
        workflow = load("tasks:\n  a: {run: x, outputs: f}\n  b: {run: x, inputs: [f, there, data/raw]}")
        (workflow.folder / "there").touch()
        with pytest.raises(WorkflowError) as error:
            check_sources(workflow)
        path = workflow.folder / "data/raw"
        assert str(error.value) == (
            f"w.yaml:3: tasks.b: expected the input '{path}', which no task writes, found nothing there"
        )
        path.mkdir(parents=True)
        check_sources(workflow)
