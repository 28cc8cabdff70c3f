"""Tuning the baselines: everything that can be tuned takes part, by the protocol, and the same for the same seed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner

from rlsched.active import TaskState
from rlsched.cli.app import app
from rlsched.experiments.arena import Standing, TuningError
from rlsched.experiments.cells import BenchmarkError
from rlsched.experiments.space import Choice, Span, families, first_looks, space_of, spell
from rlsched.experiments.tune import TuningConfig, tune
from rlsched.policies.counts import COUNTS
from rlsched.policies.options import Option, UnknownNameError, look_up
from rlsched.policies.orders import ORDERS, Key, order
from rlsched.policies.registry import load_policy, options, policy_names
from rlsched.policies.tuned import TunedFileError, read_tuned
from rlsched.scenario import Scenario, load_scenario
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator
from rlsched.state import State

PAGE = (Path(__file__).parents[1] / "docs" / "tuning.md").read_text(encoding="utf-8")
TINY = load_scenario("tiny")
SMALL = TuningConfig(trials=24, training_workloads=6, validation_workloads=2, families=("fifo", "srpt"))


@pytest.fixture
def _orders_as_before() -> Iterator[None]:
    """Forgets the orders that a test registers."""
    before = dict(ORDERS)
    yield
    ORDERS.clear()
    ORDERS.update(before)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the workloads that this process has played."""
    seeds: list[int] = []
    simulator = Scenario.simulator

    def counting(self: Scenario, seed: int) -> Simulator:
        seeds.append(seed)
        return simulator(self, seed)

    monkeypatch.setattr(Scenario, "simulator", counting)
    return seeds


@pytest.mark.parametrize("name", families())
def test_whatever_is_drawn_from_a_space_can_be_loaded(name: str) -> None:
    """The ranges that were found by asking are the ones that the policy has."""
    space, study = space_of(name), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for look in first_looks(space):
        study.enqueue_trial(look)
    for end in ("low", "high"):
        study.enqueue_trial({option: getattr(searched, end, searched.default) for option, searched in space.items()})
    for _ in range(len(first_looks(space)) + 20):
        trial = study.ask()
        load_policy(spell(name, {option: searched.suggest(option, trial) for option, searched in space.items()}))


def test_every_order_and_the_linear_program_can_be_tuned_but_not_what_decides_by_chance() -> None:
    assert {*ORDERS, "lp"} <= {*families()} <= {*policy_names()} - {"random", "auto"}


def test_the_ranges_are_those_of_the_policy() -> None:
    """All names that a table has, a share between 0 and 1, a factor of at least 1."""
    space = space_of("srpt")
    assert space["count"] == Choice("efficiency", tuple(COUNTS))
    assert space["blocking"] == Choice("strict", ("strict", "easy", "none"))
    assert space["threshold"] == Span(0.5, 0.0, 1.0, log=False)
    assert space["stretch"] == Span(4.0, 1.0, 16.0, log=True)
    assert space_of("lp")["tasks"] == Span(32, 8, 128, log=True)
    assert space_of("fair")["exponent"] == Span(0.0, -2.0, 2.0, log=False)


@pytest.mark.usefixtures("_orders_as_before")
def test_a_new_order_and_its_options_take_part_by_themselves() -> None:
    """A word, a switch, a count and a number, none of which the search has ever heard of."""

    @order("newcomer")
    class Newcomer:
        def __init__(self, *, mood: str = "calm", twice: bool = False, most: int = 8, growth: float = 2.0) -> None:
            look_up({"calm": 1, "wild": 2}, "mood", mood)
            if most < 4 or not growth > 1:
                raise ValueError(f"most is {most} and growth {growth}, expected 4 or more, and above 1")

        def __call__(self, task: TaskState, state: State) -> Key:
            return 0.0

    space = space_of("newcomer")
    assert "newcomer" in families()
    assert space["mood"] == Choice("calm", ("calm", "wild"))
    assert space["twice"] == Choice(False, (False, True))
    assert space["most"] == Span(8, 4, 32, log=True)
    assert space["growth"] == Span(2.0, 1.01, 8.0, log=True)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "srpt"),
        ({"count": "efficiency", "stretch": 4.0}, "srpt"),
        ({"stretch": 2.5, "count": "marginal", "blocking": "none"}, "srpt:count=marginal,stretch=2.5,blocking=none"),
    ],
)
def test_a_policy_is_spelled_without_what_is_as_it_comes(values: dict[str, Option], text: str) -> None:
    assert spell("srpt", values) == text


def test_an_unknown_word_tells_the_words_there_are() -> None:
    """Through the registry too; that is how the search finds them."""
    with pytest.raises(UnknownNameError, match="policy 'srpt': unknown placement 'tight'") as caught:
        load_policy("srpt:placement=tight")
    assert caught.value.known == ("pack", "spread")


def test_the_best_on_validation_is_what_is_written_and_it_can_be_played(tmp_path: Path) -> None:
    """With the best of every family beside it, never worse than the best that was not tuned."""
    file = tmp_path / "new" / "tiny.yaml"
    found = tune(TINY, file, SMALL, processes=1)
    assert read_tuned(file) == found
    scores = [member.validation for member in found.members]
    assert found.members[0].policy == found.policy
    assert scores == sorted(scores)
    assert found.default in found.members
    assert {policy.partition(":")[0] for policy in found.best_of_each()} == {"fifo", "srpt"}
    assert found.best_of_each()[0] == found.policy
    assert found.options.keys() == options(found.policy.partition(":")[0]).keys()
    seeds = TINY.seed_range("validation", 2)
    ends = [Scheduler(TINY.simulator(seed)).run(load_policy(file)).score("mean_jct") for seed in seeds]
    assert sum(ends) / len(ends) == pytest.approx(scores[0], abs=0.001)
    assert list(file.parent.iterdir()) == [file]


def test_report_workloads_are_never_played(tmp_path: Path, played: list[int]) -> None:
    """Candidates are tried on training seeds, chosen on validation seeds."""
    tune(TINY, tmp_path / "tiny.yaml", SMALL, processes=1)
    assert {*played} == {*TINY.seed_range("train", 6), *TINY.seed_range("validation", 2)}


def test_any_number_of_processes_and_any_interruption_give_the_same_file(
    tmp_path: Path, played: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is played twice."""
    monkeypatch.setattr("sys.argv", ["rlsched", "tune-baseline"])
    once, twice, parallel = (tmp_path / name for name in ("once.yaml", "twice.yaml", "parallel.yaml"))
    tune(TINY, once, SMALL, processes=1)
    needed = len(played)
    played.clear()

    def interrupt(stage: str, done: int, total: int, best: Standing | None) -> None:
        if len(played) == needed // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(TINY, twice, SMALL, processes=1, progress=interrupt)
    assert not twice.exists()
    with pytest.raises(TuningError, match=r"a search for twice.yaml was begun; use --resume"):
        tune(TINY, twice, SMALL, processes=1)
    tune(TINY, twice, SMALL, resume=True, processes=1)
    assert len(played) == needed
    tune(TINY, parallel, SMALL, processes=2)
    assert once.read_bytes() == twice.read_bytes() == parallel.read_bytes()


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text("policy: srpt\n")
    with pytest.raises(TuningError, match=r"tiny.yaml: is there already"):
        tune(TINY, file, SMALL, processes=1)
    assert file.read_text() == "policy: srpt\n"


def test_a_search_is_not_continued_on_another_scenario(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"

    def interrupt(stage: str, done: int, total: int, best: Standing | None) -> None:
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(TINY, file, SMALL, processes=1, progress=interrupt)
    with pytest.raises(BenchmarkError, match=r"holds results with scenario 'tiny', now it is 'tiny\[noise=0.7\]'"):
        tune(TINY.with_(noise=0.7), file, SMALL, resume=True, processes=1)


def test_orders_that_do_the_same_are_tuned_once(tmp_path: Path) -> None:
    """No job of this scenario has a deadline."""
    config = TuningConfig(trials=6, training_workloads=2, validation_workloads=1, families=("edf", "fifo", "priority"))
    found = tune(TINY, tmp_path / "tiny.yaml", config, processes=1)
    assert {policy.partition(":")[0] for policy in found.best_of_each()} == {"edf"}


def test_options_that_change_nothing_are_not_written(tmp_path: Path) -> None:
    """No task of this scenario is preemptible."""
    config = TuningConfig(trials=60, training_workloads=3, validation_workloads=1, families=("srpt",))
    found = tune(TINY, tmp_path / "tiny.yaml", config, processes=1)
    assert len(found.members) > 1
    assert not [member.policy for member in found.members if "preempt" in member.policy or "resize" in member.policy]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "tuned.yaml:1: expected a mapping, found an empty file"),
        ("weights: {mode.speed: 1}\n", "tuned.yaml:1: policy: is missing"),
        ("policy: srpt\nscore: 3\n", "tuned.yaml:2: score: unknown key"),
        ("policy: linear\n", "tuned.yaml:1: policy: expected weights with linear, and with nothing else"),
        ("policy: srpt\nweights: {mode.speed: 1}\n", "policy: expected weights with linear"),
        (
            "policy: linear\nweights:\n  mode.spede: 1\n",
            "tuned.yaml:3: weights.mode.spede: unknown column, did you mean",
        ),
        (
            "policy: linear\nweights:\n  mode.speed: much\n",
            "tuned.yaml:3: weights.mode.speed: expected a number, found",
        ),
        ("policy: other.yaml\n", "tuned.yaml:1: policy: expected the name of a policy, found 'other.yaml'"),
        ("policy: srtp\n", "unknown policy 'srtp'; did you mean srpt?"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    """File, line, field, and what was expected."""
    file = tmp_path / "tuned.yaml"
    file.write_text(content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is compared below)
        load_policy(file)
    assert message in str(caught.value)


def test_the_documented_file_can_be_played(tmp_path: Path) -> None:
    """Its columns exist, and waiting has not too much weight."""
    (example,) = re.findall(r"```yaml\n(policy: linear\n.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "by-hand.yaml"
    file.write_text(example)
    assert Scheduler(TINY.simulator(1)).run(load_policy(file)).metrics()["unfinished_jobs"] == 0


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TunedFileError, match=r"gone\.yaml: cannot be read"):
        load_policy(tmp_path / "gone.yaml")


def command(*arguments: str | Path | int, code: int = 0) -> str:
    """Run a command in this process; its standard output, or with another exit code what it complains about."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if code:
        return str(result.exception) + result.stderr
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_benchmark_takes_the_best_of_every_order_from_the_file(tmp_path: Path) -> None:
    """From the command line: tune, then compare; what is not tuned says so."""
    file = tmp_path / "tiny.yaml"
    small = ("--trials", 8, "--seeds-train", 2, "--seeds-validation", 2, "--processes", 1)
    found = json.loads(command("tune-baseline", "tiny", "-o", file, *small, "--families", "fifo,srpt", "--json"))
    best = read_tuned(file).best_of_each()
    assert found["policy"] == best[0]
    compare = ("benchmark", "tiny", "--seeds", 2, "--processes", 1, "--json")
    rows = json.loads(command(*compare, "--policies", "sjf", "--tuned", file))["rows"]
    assert {row["policy"] for row in rows} == {"sjf", *best}
    (row,) = json.loads(command(*compare, "--policies", file))["rows"]
    assert (row["policy"], row["learned"], row["reference"]) == (str(file), False, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--method", "annealing"], "--method is 'annealing', expected tpe or cma-es"),
        (["--families", "srpt,random"], "families: 'random' cannot be tuned"),
        (["--families", "srpt", "--method", "cma-es"], "--families is for --method tpe"),
        (["--start", "srpt"], "--start is for --method cma-es"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    """Before anything is played or written."""
    assert complaint in command("tune-baseline", "tiny", "-o", tmp_path / "x.yaml", *arguments, code=2)
    assert not list(tmp_path.iterdir())
