"""Policies by name: options, errors that help, and an order that becomes a policy by one line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from builders import gpus, job, task, tell

from rlsched.policies.greedy import GreedyPolicy
from rlsched.policies.learned import LearnedPolicy, save_policy
from rlsched.policies.network import NetworkConfig, SchedulingNetwork
from rlsched.policies.options import options_of
from rlsched.policies.orders import ORDERS, order
from rlsched.policies.registry import describe, load_policy, policy_names
from rlsched.policies.shipped import policy_file, shipped_policies

PAGE = (Path(__file__).parents[1] / "docs" / "policies.md").read_text(encoding="utf-8")


@pytest.fixture
def _orders_as_before() -> Iterator[None]:
    """Forgets the orders that a test registers."""
    before = dict(ORDERS)
    yield
    ORDERS.clear()
    ORDERS.update(before)


def test_every_policy_is_described_by_one_line() -> None:
    """A sentence each, and the options of its own."""
    assert list(describe()) == policy_names()
    assert all(text.endswith(".") and "\n" not in text for text in describe().values())
    assert describe()["fair"].endswith("Options: exponent=0.0.")
    assert describe()["tiresias"].endswith("Options: queues=2, quantum=1.0, growth=4.0, preempt=True.")


def test_the_documentation_names_every_policy_and_option() -> None:
    """The tables are complete."""
    options = {option for name in policy_names() if name in ORDERS for option in options_of(ORDERS[name])}
    wanted = {*policy_names(), *options, *options_of(GreedyPolicy)}
    assert {name for name in wanted if not re.search(rf"`{name}[`=]", PAGE)} == set()


@pytest.mark.usefixtures("_orders_as_before")
def test_the_documented_policy_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """One function and one line; its option is known, and that of the family too."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert example.count("@order") == 1
    exec(example, {})
    assert capsys.readouterr().out == "0\n"
    assert describe()["nearly-done"].endswith("Options: patience=3600.0.")


def test_a_taken_name_is_refused() -> None:
    """A policy is never replaced unnoticed."""
    with pytest.raises(ValueError, match="there is an order 'fifo' already"):
        order("fifo")(lambda task, state: 0.0)


@pytest.mark.parametrize("name", policy_names())
def test_every_load_gives_a_new_object(name: str) -> None:
    """What a policy remembers of one run does not reach another."""
    assert load_policy(name) is not load_policy(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fifoo", "unknown policy 'fifoo'; did you mean fifo?"),
        ("SRPT", "did you mean srpt?"),
        ("qqq", "expected one of auto, comparative, cp-sat, critical-path, edf"),
        ("srpt:", None),
        ("srpt:counts=minimum", "policy 'srpt' has no option 'counts'; did you mean count?"),
        ("srpt:exponent=1", "policy 'srpt' has no option 'exponent'"),
        ("srpt:count=minimal", "policy 'srpt': unknown count rule 'minimal'; did you mean minimum?"),
        ("srpt:placement=tight", "unknown placement 'tight'; expected one of pack, spread"),
        ("srpt:gpu_type=quickest", "unknown rule for the GPU type 'quickest'"),
        ("srpt:threshold=high", "policy 'srpt': threshold is 'high', expected a number"),
        ("srpt:threshold=nan", "threshold is 'nan', expected a number"),
        ("srpt:threshold=1.5", "policy 'srpt': threshold is 1.5, expected 0 to 1"),
        ("srpt:stretch=0.5", "stretch is 0.5, expected 1 or more"),
        ("srpt:blocking=no", "unknown blocking 'no'; did you mean none?"),
        ("srpt:preempt=yes", "preempt is 'yes', expected true or false"),
        ("srpt:preempt_ratio=0.9", "preempt_ratio is 0.9, expected 1 or more"),
        ("srpt:amortise=-1", "amortise is -1.0, expected 0 or more"),
        ("tiresias:queues=1", "policy 'tiresias': queues is 1, expected 2 or more"),
        ("tiresias:quantum=0", "quantum is 0.0, expected above 0"),
        ("tiresias:growth=1", "growth is 1.0, expected above 1"),
        ("graphene:wide=2", "wide is 2.0, expected 0 to 1"),
        ("srpt:blocking", "'blocking' is not of the form option=value"),
        ("srpt:stretch=2,stretch=3", "option 'stretch' is given twice"),
        ("lp:tasks=2.5", "tasks is '2.5', expected a whole number"),
        ("lp:tasks=0", "tasks is 0, expected 1 or more"),
        ("lp:blocking=true", "policy 'lp' has no option 'blocking'"),
    ],
)
def test_what_cannot_be_loaded_is_explained(text: str, message: str | None) -> None:
    """In one sentence, with what was perhaps meant."""
    if message is None:
        load_policy(text)
    else:
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            load_policy(text)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["gone.safetensors", "gone/policy", Path("gone/policy")])
def test_a_path_that_leads_nowhere_is_no_policy(path: str | Path) -> None:
    """It is taken for a path, not for a misspelt name."""
    with pytest.raises(ValueError, match="no such policy file"):
        load_policy(path)


def test_greedy_policies_need_neither_torch_nor_scipy() -> None:
    """They start fast, and on machines where those are not installed."""
    code = (
        "import sys; from rlsched.policies.registry import load_policy, policy_names; load_policy('srpt');"
        "print(sorted({'torch', 'stable_baselines3', 'sb3_contrib', 'scipy', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def first_start(seed: int) -> str:
    """What the random policy starts first, of four single tasks and a gang of two, on two nodes of one GPU."""
    submitted = job("a", *(task(name) for name in "xyz"), task("large", gpus=2))
    return tell([submitted, job("b", task("held", 99))], gpus(1, nodes=2), load_policy("random", seed)).of("starts")[0][
        1
    ]


def test_the_random_policy_draws_evenly_from_all_that_fits() -> None:
    """Each of the five tasks is first in about a fifth of 500 runs."""
    seen = Counter(first_start(seed).split()[0] for seed in range(500))
    assert sorted(seen) == ["a/large", "a/x", "a/y", "a/z", "b/held"]
    assert all(70 <= count <= 130 for count in seen.values())


def test_the_random_policy_repeats_itself_for_a_seed() -> None:
    """Equal seeds, equal schedules; another seed, another one; an option beats the argument."""
    submitted = [job(name, *(task(t) for t in "uvwxyz")) for name in "abc"]
    lines = [
        tell(submitted, gpus(1), policy).lines
        for policy in (load_policy("random", 1), load_policy("random", 1), load_policy("random:seed=1", 2))
    ]
    assert lines[0] == lines[1] == lines[2]
    assert tell(submitted, gpus(1), load_policy("random", 2)).lines != lines[0]


def test_what_comes_with_rlsched_has_a_name() -> None:
    """Each can be loaded by it, is listed, and an unknown one is answered with those that there are."""
    for name, file in shipped_policies().items():
        assert policy_file(name) == file
        assert callable(load_policy(name))
    with pytest.raises(ValueError, match="unknown policy 'pretrained/nothing'"):
        load_policy("pretrained/nothing")


def test_a_trained_policy_has_options(tmp_path: Path) -> None:
    """They follow the path as they follow a name; one that does not exist is refused."""
    path = save_policy(tmp_path / "policy", SchedulingNetwork(NetworkConfig()), {})
    assert cast(LearnedPolicy, load_policy(f"{path}:temperature=0.5")).temperature == 0.5
    with pytest.raises(ValueError, match="has no option 'warmth'"):
        load_policy(f"{path}:warmth=0.5")
