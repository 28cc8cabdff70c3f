"""What the environment promises to an agent, and to the libraries that check and vectorise it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import gymnasium
import numpy as np
import pytest
from builders import gpus
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import rlsched.envs  # noqa: F401  (registers the environment)
from rlsched.envs.encoding import MAX_CANDIDATES
from rlsched.envs.rows import CANDIDATE_FEATURES
from rlsched.envs.scheduling import WAIT, SchedulingEnv
from rlsched.model import Job, Mode, Task
from rlsched.policies.linear import LinearPolicy
from rlsched.scenario import Scenario
from rlsched.scheduler import Scheduler
from rlsched.simulator import Simulator

Trajectory = list[tuple[dict[str, Any], float, float]]


def play(env: SchedulingEnv, seed: int, choose: Any) -> Trajectory:
    """(observation, reward, time) of every step of one episode."""
    observation, info = env.reset(seed=seed)
    steps: Trajectory = [(observation, 0.0, info["time"])]
    ended = False
    while not ended:
        observation, reward, ended, _, info = env.step(choose(env))
        steps.append((observation, reward, info["time"]))
    return steps


def random_legal(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda env: int(rng.choice(np.flatnonzero(env.action_masks())))


def first_candidate(env: SchedulingEnv) -> int:
    return int(np.flatnonzero(env.action_masks())[-1])


@pytest.mark.parametrize("graph", [False, True], ids=["candidates", "graph"])
def test_gymnasium_accepts_it(graph: bool) -> None:
    """Gymnasium's checker samples unmasked actions: the environment survives them."""
    env = gymnasium.make("rlsched/Scheduling-v0", scenario="tiny", graph=graph)
    check_env(env.unwrapped, skip_render_check=True)


def test_stable_baselines3_accepts_it() -> None:
    """Stable-baselines3's checker finds nothing to complain about."""
    from stable_baselines3.common.env_checker import check_env as check

    check(SchedulingEnv("tiny"), warn=False)


def test_equal_seeds_give_equal_episodes() -> None:
    """Observations, rewards and times agree bit for bit."""
    first, second = (play(SchedulingEnv("tiny"), 3, random_legal(5)) for _ in range(2))
    assert len(first) == len(second)
    for (seen, reward, time), (seen_again, reward_again, time_again) in zip(first, second, strict=True):
        assert (reward, time) == (reward_again, time_again)
        for key in seen:
            np.testing.assert_array_equal(seen[key], seen_again[key])


def test_other_seeds_give_other_workloads() -> None:
    """Different seeds differ, and reset() without one moves on by itself."""
    env = SchedulingEnv("tiny")
    ends = {play(env, seed, first_candidate)[-1][2] for seed in range(3)}
    assert len(ends) == 3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), actions=st.randoms(use_true_random=False))
def test_any_actions_lead_to_a_sound_schedule(seed: int, actions: Any) -> None:
    """Whatever is chosen, legal or not: time never runs backwards, every job ends, the schedule checks."""
    env = SchedulingEnv("tiny")
    steps = play(env, seed, lambda _: actions.randrange(MAX_CANDIDATES) if actions.random() < 0.3 else WAIT)
    times = [time for _, _, time in steps]
    assert times == sorted(times)
    schedule = env.scheduler.schedule
    schedule.check()
    assert schedule.metrics()["unfinished_jobs"] == 0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_one_action_is_always_legal_and_unused_rows_are_not(seed: int) -> None:
    """An all-false mask would silently become uniform; a legal action always has a row of its own."""
    env = SchedulingEnv("tiny")
    observation, _ = env.reset(seed=seed)
    choose, ended = random_legal(seed), False
    while not ended:
        mask = env.action_masks()
        assert mask.any()
        assert observation["candidates"].shape == (MAX_CANDIDATES, CANDIDATE_FEATURES)
        assert (observation["candidates"][mask, 0] == 1).all()
        assert all(np.isfinite(values).all() for values in observation.values())
        observation, _, ended, _, _ = env.step(choose(env))


@pytest.mark.parametrize(
    ("scenario", "metric"), [("tiny", "mean_jct"), ("makespan", "makespan"), ("deadlines", "weighted_tardiness")]
)
def test_the_return_is_the_objective(scenario: str, metric: str) -> None:
    """Little's law: the reward adds up to minus the objective, up to the unit of the workload."""
    env = SchedulingEnv(scenario)
    ratios = []
    for choose in (first_candidate, random_legal(1)):
        total = sum(reward for _, reward, _ in play(env, 4, choose))
        ratios.append(-total / env.scheduler.schedule.metrics()[metric])
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-9)
    assert ratios[0] > 0


def test_waiting_is_illegal_while_nothing_runs() -> None:
    """An idle cluster with something to start never waits."""
    env = SchedulingEnv("tiny")
    env.reset(seed=0)
    assert not env.state.running or env.action_masks()[WAIT]
    if not env.state.running:
        assert not env.action_masks()[WAIT]


def test_members_of_an_array_task_go_on_until_there_is_something_to_think_about() -> None:
    """Ten members on two GPUs are two decisions, and two more when another job arrives, beside its own."""
    array = Job("sweep", (Task("t", (Mode(10.0, gpus=1),), array=10),))
    later = Job("later", (Task("t", (Mode(1.0, gpus=1),)),), release=15.0)
    one, two = (Scenario("by hand", gpus(2), jobs) for jobs in ((array,), (array, later)))
    decisions = [len(play(SchedulingEnv(scenario), 0, first_start)) - 1 for scenario in (one, two)]
    assert decisions == [2, 5]


def first_start(env: SchedulingEnv) -> int:
    return int(np.flatnonzero(env.action_masks()[1:])[0]) + 1


@pytest.mark.parametrize("parallel", [False, True], ids=["DummyVecEnv", "SubprocVecEnv"])
def test_it_works_under_vector_environments_with_masks(parallel: bool) -> None:
    """Masks are found by their sb3-contrib name in both vector environments."""
    from sb3_contrib.common.maskable.utils import get_action_masks
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    factories: list[Any] = [lambda: SchedulingEnv("tiny")] * 2
    vector = SubprocVecEnv(factories) if parallel else DummyVecEnv(factories)
    vector.reset()
    for _ in range(5):
        masks = get_action_masks(vector)
        vector.step(np.array([int(np.flatnonzero(mask)[-1]) for mask in masks]))
    vector.close()


def test_features_do_not_depend_on_the_unit_of_time() -> None:
    """The same workload ten times as long looks the same to a policy."""
    from dataclasses import replace

    from rlsched.envs.encoding import Encoder
    from rlsched.model import Cluster, Job, Mode, Node, Task
    from rlsched.scheduler import Scheduler
    from rlsched.simulator import Simulator

    def observe(scale: float) -> dict[str, Any]:
        modes = tuple(Mode(scale * seconds, gpus=gpus) for gpus, seconds in ((1, 60.0), (2, 40.0)))
        tasks = (Task("a", modes), Task("b", modes, needs=("a",)))
        job = Job("job", tasks)
        jobs = [job, replace(job, name="later", release=scale * 10.0)]
        scheduler = Scheduler(Simulator(Cluster((Node("n", gpus=4, gpu_type="x"),)), jobs))
        scheduler.advance()
        scheduler.advance()
        encoder = Encoder(graph=True)
        return encoder.encode(scheduler.state, encoder.candidates(scheduler.state))

    short, long = observe(1.0), observe(10.0)
    for key in short:
        np.testing.assert_allclose(short[key], long[key], rtol=1e-5)


def test_jobs_that_were_played_here_are_played_the_same_elsewhere() -> None:
    """What was computed from a job means nothing in a process that has seen other jobs before."""
    small = [Job(f"small {i}", (Task("t", (Mode(60.0, gpus=1),)),), release=10.0 * i) for i in range(2)]
    here = makespan([*small, large()])
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=makespan, initargs=([large()],)) as elsewhere:
        assert elsewhere.submit(makespan, [*small, large()]).result() == here


def large() -> Job:
    return Job("large", (Task("t", (Mode(30.0, gpus=2), Mode(60.0, gpus=1))),), release=10.0)


def makespan(jobs: list[Job]) -> float:
    """On two GPUs, the largest gang on the list of candidates first."""
    policy = LinearPolicy({"mode.gpus": 1.0})
    return Scheduler(Simulator(gpus(2), jobs)).run(policy).metrics()["makespan"]
