"""PPO for scheduling: MaskablePPO with whole-episode group rollouts and advantages in simulated time.

What differs from sb3-contrib's MaskablePPO (whose update itself is untouched):

- A rollout is a set of whole episodes: `sequences` arrival sequences, each played `rollouts` times. The other
  rollouts of the same sequence are an input-dependent baseline (Mao et al., Variance Reduction for Reinforcement
  Learning in Input-Driven Environments, ICLR 2019): their mean advantage at the same simulated time is subtracted.
- The critic is fitted to differences within groups (`rlsched.policies.critic`), before and not by the update.
- Decisions are not equally long: discount and GAE's lambda (Schulman et al., ICLR 2016) decay with simulated time,
  gamma = exp(-dt / horizon), lambda = exp(-dt / trace).
- What comes out is not the last iteration's weights but a moving average of the iterations' (Polyak & Juditsky, SIAM
  Journal on Control and Optimization 30(4), 1992): near the optimum an update moves them by noise more than by gain.
- Decisions after the last arrival are dropped, the value there is bootstrapped: a real queue does not drain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule as LearningRate
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rlsched.envs.encoding import MAX_CANDIDATES
from rlsched.envs.scheduling import SchedulingEnv
from rlsched.policies.critic import GroupCritic, differences
from rlsched.policies.network import NetworkConfig, SchedulingNetwork
from rlsched.policies.rollouts import Episode, Floats, Players
from rlsched.scenario import Scenario

_APART = 1_000_000  # workloads between those that two seeds begin with
_MEMORY = 0.85  # what the average of the weights keeps from iteration to iteration


class _Unchanged(BaseFeaturesExtractor):
    """Passes the Dict observation on as it is: the network does its own reading."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, features_dim=1)

    def forward(self, observations: Any) -> Any:
        return observations


class _Heads(nn.Module):
    """The shape in which stable-baselines3 wants a network: latents that are already logits; values play no part."""

    latent_dim_pi, latent_dim_vf = MAX_CANDIDATES, 1

    def __init__(self, network: SchedulingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: dict[str, Tensor]) -> Tensor:
        return self.network.actor(features)

    def forward_critic(self, features: dict[str, Tensor]) -> Tensor:
        return features["globals"].new_zeros(len(features["globals"]), 1)


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


def _normalised(advantages: list[Floats], scenarios: list[str]) -> list[Floats]:
    """Mean 0 and deviation 1 over the episodes of each scenario, so that none drowns the others; clipped at 5."""
    result = list(advantages)
    for scenario in set(scenarios):
        together = np.concatenate([a for a, name in zip(advantages, scenarios, strict=True) if name == scenario])
        mean, deviation = together.mean(), together.std() + 1e-8
        for i, name in enumerate(scenarios):
            if name == scenario:
                result[i] = np.clip((advantages[i] - mean) / deviation, -5.0, 5.0)
    return result


class GroupPPO(MaskablePPO):
    """MaskablePPO over groups of whole episodes.

    Args:
        scenario: whose training workloads are played.
        sequences: arrival sequences an iteration, one after the other from the training range; where in it they begin
            depends on the seed.
        rollouts: how often each is played.
        network: sizes of the network.
        horizon, trace: time constants of discount and lambda, in mean critical paths of the workload.
        processes: see `Players`.
        device: where updates are computed; rollouts are played on CPUs.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        sequences: int = 8,
        rollouts: int = 8,
        network: NetworkConfig | None = None,
        horizon: float = 16.0,
        trace: float = 4.0,
        processes: int = 0,
        device: str = "cpu",
        **kwargs: Any,
    ) -> None:
        config = network or NetworkConfig()
        self.scenario = scenario
        self.sequences, self.rollouts = sequences, rollouts
        self.horizon, self.trace = horizon, trace
        self.iteration = 0
        self.critic = GroupCritic(horizon)
        self.players = Players(scenario, config, processes)
        env = DummyVecEnv([lambda: SchedulingEnv(scenario)])  # for its spaces
        # n_steps is of no account: a rollout is as long as its episodes are
        super().__init__(
            CandidatePolicy,
            env,
            n_steps=2,
            gamma=1.0,
            policy_kwargs={"network": config},
            vf_coef=0.0,
            device=device,
            **kwargs,
        )
        self.average: Any = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(_MEMORY))  # type: ignore[no-untyped-call]

    @property
    def network(self) -> SchedulingNetwork:
        """The network being trained."""
        assert isinstance(self.policy, CandidatePolicy)
        return self.policy.network

    @property
    def averaged(self) -> SchedulingNetwork:
        """The network with the average of the weights after each iteration, the latest counting most."""
        network: SchedulingNetwork = self.average.module if self.average.n_averaged else self.network
        return network

    def train(self) -> None:
        """The update, by sb3-contrib; the average follows."""
        super().train()
        self.average.update_parameters(self.network)

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
        base = np.random.SeedSequence([self.seed or 0, self.iteration]).generate_state(self.sequences + 1)
        np.random.seed(base[-1])  # the order of the minibatches
        groups = [[workload] * self.rollouts for workload in self._workloads()]
        played = self.players.play(self.network, groups, [int(seed) for seed in base[:-1]])
        explained = self.critic.learn(played)
        self._fill(rollout_buffer, played)
        self.iteration += 1
        self.num_timesteps += sum(len(episode.actions) for group in played for episode in group)
        returns = [sum(episode.rewards) for group in played for episode in group]
        self.logger.record("rollout/return", float(np.mean(returns)))
        self.logger.record("rollout/decisions", self.num_timesteps)
        self.logger.record("rollout/critic_explains", explained)
        callback.update_locals(locals())
        proceed = callback.on_step()
        callback.on_rollout_end()
        return proceed

    def _workloads(self) -> list[int]:
        """Of this iteration; another seed sees others."""
        seeds = self.scenario.seeds
        first = _APART * (self.seed or 0) + self.iteration * self.sequences
        return [seeds.train + (first + i) % (seeds.validation - seeds.train) for i in range(self.sequences)]

    def _fill(self, buffer: RolloutBuffer, groups: list[list[Episode]]) -> None:
        kept = [episode for group in groups for episode in group]
        adjusted: list[Floats] = []
        for group in groups:
            columns = [
                (
                    np.array(episode.times[: episode.kept]),
                    episode.advantages(self.critic.values(episode), self.horizon, self.trace)[:, None],
                )
                for episode in group
            ]
            adjusted += [advantages[:, 0] for advantages in differences(columns)]
        count = sum(episode.kept for episode in kept)
        count -= count % (self.batch_size or count + 1) == 1  # one sample alone has no standard deviation
        advantages = np.concatenate(_normalised(adjusted, [episode.scenario for episode in kept]))

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
        store.advantages[:, 0] = advantages[:count]
        store.pos, store.full = count, True
