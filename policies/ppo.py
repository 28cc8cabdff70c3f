"""PPO for scheduling: MaskablePPO with whole-episode group rollouts and advantages in simulated time.

What differs from sb3-contrib's MaskablePPO (whose `train`, the PPO update itself, is untouched):

- A rollout is a set of whole episodes: `sequences` arrival sequences, each played `rollouts` times. The other
  rollouts of the same sequence are an input-dependent baseline (Mao et al., Variance Reduction for Reinforcement
  Learning in Input-Driven Environments, ICLR 2019): their mean advantage at the same simulated time is subtracted.
- Decisions are not equally long: discount and GAE's lambda (Schulman et al., ICLR 2016) decay with simulated time,
  gamma = exp(-dt / horizon), lambda = exp(-dt / trace).
- Decisions after the last arrival are dropped, the value there is bootstrapped: a real queue does not drain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule as LearningRate
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from rlsched.envs.encoding import MAX_CANDIDATES
from rlsched.envs.scheduling import Observation, SchedulingEnv
from rlsched.policies.network import NetworkConfig, SchedulingNetwork

Floats = NDArray[np.float64]


class _Unchanged(BaseFeaturesExtractor):
    """Passes the Dict observation on as it is: the network does its own reading."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, features_dim=1)

    def forward(self, observations: Any) -> Any:
        return observations


class _Heads(nn.Module):
    """The shape in which stable-baselines3 wants a network: latents that are already logits and value."""

    latent_dim_pi, latent_dim_vf = MAX_CANDIDATES, 1

    def __init__(self, network: SchedulingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: dict[str, Tensor]) -> Tensor:
        return self.network.actor(features)

    def forward_critic(self, features: dict[str, Tensor]) -> Tensor:
        return self.network.value(features)


class CandidatePolicy(MaskableActorCriticPolicy):
    """SchedulingNetwork as a stable-baselines3 policy."""

    def __init__(self, *args: Any, network: NetworkConfig | None = None, **kwargs: Any) -> None:
        self._network_config = network or NetworkConfig()
        kwargs |= {"features_extractor_class": _Unchanged, "ortho_init": False}
        super().__init__(*args, **kwargs)

    @property
    def network(self) -> SchedulingNetwork:
        """The network, to be saved or run without stable-baselines3."""
        network: SchedulingNetwork = self.mlp_extractor.network
        return network

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor: Any = _Heads(SchedulingNetwork(self._network_config))

    def _build(self, lr_schedule: LearningRate) -> None:
        super()._build(lr_schedule)
        self.action_net: nn.Module = nn.Identity()
        self.value_net: Any = nn.Identity()
        make_optimizer: Any = self.optimizer_class  # again: the parent's holds the layers that were just replaced
        self.optimizer = make_optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


@dataclass(slots=True)
class Episode:
    """One rollout: D decisions, and the simulated times around them (seconds)."""

    observations: list[Observation] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # D + 1: of each decision, and of the end
    kept: int = 0  # decisions up to the last arrival

    def advantages(self, horizon: float, trace: float) -> Floats:
        """Generalised advantages of the kept decisions, discounted in simulated time, (kept,)."""
        values = np.array([*self.values, 0.0])[: self.kept + 1]
        elapsed = np.diff(np.array(self.times[: self.kept + 1]))
        gamma, decay = np.exp(-elapsed / horizon), np.exp(-elapsed * (1 / horizon + 1 / trace))
        delta = np.array(self.rewards[: self.kept]) + gamma * values[1:] - values[:-1]
        result = np.empty(self.kept)
        following = 0.0
        for i in range(self.kept - 1, -1, -1):
            result[i] = following = delta[i] + decay[i] * following
        return result


def subtract_group_baseline(group: list[tuple[Floats, Floats]]) -> list[Floats]:
    """Subtract from each rollout's advantages the mean of the others' at the same simulated time.

    Args:
        group: for each rollout of one arrival sequence its decision times and advantages, (D,) each.
    """
    if len(group) < 2:
        return [advantages for _, advantages in group]
    result = []
    for i, (times, advantages) in enumerate(group):
        others = [np.interp(times, t, a) for j, (t, a) in enumerate(group) if j != i and len(t)]
        result.append(advantages - np.mean(others, axis=0) if others else advantages)
    return result


class GroupPPO(MaskablePPO):
    """MaskablePPO over groups of whole episodes.

    Args:
        env: a DummyVecEnv of `sequences * rollouts` SchedulingEnv (`rlsched.envs.scheduling.make_vector_env`).
        sequences: arrival sequences an iteration; iteration i plays workloads first_seed + i * sequences onwards.
        horizon, trace: time constants of discount and lambda, in mean critical paths of the workload.
    """

    def __init__(
        self, env: VecEnv, *, sequences: int, first_seed: int, horizon: float = 20.0, trace: float = 2.5, **kwargs: Any
    ) -> None:
        self.sequences = sequences
        self.first_seed = first_seed
        self.horizon, self.trace = horizon, trace
        self.iteration = 0
        super().__init__(CandidatePolicy, env, gamma=1.0, **kwargs)

    @property
    def network(self) -> SchedulingNetwork:
        """The network being trained."""
        assert isinstance(self.policy, CandidatePolicy)
        return self.policy.network

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
        use_masking: bool = True,
    ) -> bool:
        """Play one group of episodes for every arrival sequence and fill the buffer; `n_rollout_steps` is not used."""
        callback.on_rollout_start()
        # Everything random in an iteration follows from its number, so that a resumed training is the same training.
        torch.manual_seed((self.seed or 0) * 1_000_003 + self.iteration)
        np.random.seed((self.seed or 0, self.iteration))
        environments = _unwrap(env)
        rollouts = len(environments) // self.sequences
        first = self.first_seed + self.iteration * self.sequences
        episodes = self.play(environments, [first + i // rollouts for i in range(len(environments))])
        groups = [episodes[i : i + rollouts] for i in range(0, len(episodes), rollouts)]
        units = [environments[i].state.typical_time for i in range(0, len(episodes), rollouts)]
        self._fill(rollout_buffer, groups, units)
        self.iteration += 1
        self.num_timesteps += sum(len(episode.actions) for episode in episodes)
        returns = [sum(episode.rewards) for episode in episodes]
        self.logger.record("rollout/return", float(np.mean(returns)))
        self.logger.record("rollout/decisions", self.num_timesteps)
        callback.update_locals(locals())
        proceed = callback.on_step()
        callback.on_rollout_end()
        return proceed

    def play(self, environments: list[SchedulingEnv], seeds: list[int], deterministic: bool = False) -> list[Episode]:
        """Play one workload on each environment to its end, all in step, so that the network sees batches."""
        self.policy.set_training_mode(False)
        episodes = [Episode() for _ in environments]
        current: list[tuple[Observation, NDArray[np.bool_]]] = []
        for environment, seed, episode in zip(environments, seeds, episodes, strict=True):
            observation, info = environment.reset(seed=seed)
            episode.times.append(info["time"])
            current.append((observation, environment.action_masks()))
        active = list(range(len(environments)))
        while active:
            batch = {key: np.stack([current[i][0][key] for i in active]) for key in current[0][0]}
            masks = np.stack([current[i][1] for i in active])
            with torch.no_grad():
                tensors = {key: torch.as_tensor(array) for key, array in batch.items()}
                actions, values, log_probs = self.policy.forward(tensors, deterministic, masks)  # type: ignore[arg-type]
            chosen = zip(active, actions.tolist(), values.flatten().tolist(), log_probs.tolist(), strict=True)
            remaining = []
            for i, action, value, log_prob in chosen:
                episode, (observation, mask) = episodes[i], current[i]
                following, reward, ended, _, info = environments[i].step(action)
                episode.observations.append(observation)
                episode.masks.append(mask)
                episode.actions.append(action)
                episode.values.append(value)
                episode.log_probs.append(log_prob)
                episode.rewards.append(reward)
                episode.times.append(info["time"])
                if not info["arrivals_over"]:
                    episode.kept = len(episode.actions)
                if ended:
                    if episode.kept == 0:  # everything was released at once: there is no queue to keep steady
                        episode.kept = len(episode.actions)
                else:
                    remaining.append(i)
                    current[i] = (following, environments[i].action_masks())
            active = remaining
        return episodes

    def _fill(self, buffer: RolloutBuffer, groups: list[list[Episode]], units: list[float]) -> None:
        kept = [episode for group in groups for episode in group]
        raw: list[Floats] = []
        adjusted: list[Floats] = []
        for group, unit in zip(groups, units, strict=True):
            of_group = [episode.advantages(self.horizon * unit, self.trace * unit) for episode in group]
            raw += of_group
            times = [np.array(episode.times[: episode.kept]) for episode in group]
            adjusted += subtract_group_baseline(list(zip(times, of_group, strict=True)))
        count = sum(episode.kept for episode in kept)
        count -= count % (self.batch_size or count + 1) == 1  # one sample alone has no standard deviation
        advantages = np.concatenate(adjusted)
        advantages = np.clip((advantages - advantages.mean()) / (advantages.std() + 1e-8), -5.0, 5.0)
        values = np.concatenate([episode.values[: episode.kept] for episode in kept])

        def flat(name: str) -> Any:
            return np.concatenate([np.asarray(getattr(episode, name)[: episode.kept]) for episode in kept])[:count]

        buffer.buffer_size, buffer.n_envs = count, 1
        buffer.reset()
        store: Any = buffer
        for key in store.observations:
            column = (o[key] for episode in kept for o in episode.observations[: episode.kept])
            for i, value in zip(range(count), column, strict=False):
                store.observations[key][i, 0] = value
        store.actions[:, 0, 0] = flat("actions")
        store.action_masks[:, 0] = flat("masks")
        store.log_probs[:, 0] = flat("log_probs")
        store.values[:, 0] = values[:count]
        store.advantages[:, 0] = advantages[:count]
        store.returns[:, 0] = (np.concatenate(raw) + values)[:count]
        store.pos, store.full = count, True


def _unwrap(env: VecEnv) -> list[SchedulingEnv]:
    environments = [environment.unwrapped for environment in getattr(env, "envs", [])]
    if not environments or not all(isinstance(environment, SchedulingEnv) for environment in environments):
        raise ValueError("GroupPPO needs a DummyVecEnv of SchedulingEnv")
    return environments
