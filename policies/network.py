"""The network of a learned policy: one score a candidate with shared weights.

Nothing in it depends on the number of tasks, candidates, nodes or GPUs, so a policy may be used on sizes it was not
trained on. Shapes are those of the legend in `rlsched.envs.encoding`, with a batch dimension B in front.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlsched.envs.encoding import GLOBAL_FEATURES
from rlsched.envs.rows import CANDIDATE_FEATURES, IS_STOP


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes of the network.

    Attributes:
        hidden: width of the two hidden layers of the candidate scorer.
        pooled: between the two, show each candidate the maximum over all candidates of every hidden value.
    """

    hidden: int = 32
    pooled: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the policy's card."""
        return asdict(self)


class SchedulingNetwork(nn.Module):
    """Scores candidates.

    It is a shared multi-layer perceptron over each candidate's features with the global ones, plus a linear skip: of
    the candidate's own features, and for waiting of the global ones, which are the same for all. So every linear policy
    (`rlsched.policies.linear`) is one of these. Pooling between the layers lets a candidate's score, that of waiting
    above all, depend on what else there is (Zaheer et al., Deep Sets, NeurIPS 2017, sec. 3.1).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.read = nn.Linear(CANDIDATE_FEATURES + GLOBAL_FEATURES, config.hidden)
        self.compare = nn.Linear(config.hidden * (2 if config.pooled else 1), config.hidden)
        self.score = nn.Linear(config.hidden, 1)
        self.skip = nn.Linear(CANDIDATE_FEATURES, 1, bias=False)
        self.waiting = nn.Linear(GLOBAL_FEATURES, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.skip.weight)
        nn.init.zeros_(self.waiting.weight)
        nn.init.zeros_(self.waiting.bias)
        self.make_stops_rare()

    def make_stops_rare(self, score: float = -4.0) -> None:
        """Let a network that has not learned when to stop a run hardly ever do so: else nothing gets done."""
        with torch.no_grad():
            self.skip.weight[0, IS_STOP] = score

    def actor(self, observation: dict[str, Tensor]) -> Tensor:
        """Logits (B, C); rows that are not in use get 0 and are for the mask to exclude."""
        candidates, overall = observation["candidates"], observation["globals"]
        used = candidates[..., 0] > 0  # only these rows are computed: most of the padding is empty
        used[:, 0] = True
        rows = torch.cat([candidates[used], overall[:, None, :].expand(-1, candidates.shape[1], -1)[used]], dim=-1)
        hidden = self.read(rows).relu()
        if self.config.pooled:
            of = used.nonzero()[:, :1].expand_as(hidden)  # the observation of each row
            most = torch.zeros(len(used), hidden.shape[1], device=rows.device).scatter_reduce(0, of, hidden, "amax")
            hidden = torch.cat([hidden, most.gather(0, of)], dim=-1)
        scores = (self.score(self.compare(hidden).relu()) + self.skip(candidates[used])).squeeze(-1)
        logits = torch.zeros(candidates.shape[:2], device=candidates.device).masked_scatter(used, scores)
        return torch.cat([logits[:, :1] + self.waiting(overall), logits[:, 1:]], dim=1)
