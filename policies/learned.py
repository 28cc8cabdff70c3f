"""A trained policy as a file, and as a Policy. Needs torch and safetensors; neither stable-baselines3 nor pickle.

A policy is two files side by side: NAME.safetensors (the weights) and NAME.json (the card: how it was trained, on
what, how it scored, and the sizes of the network).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rlsched.envs.continuation import Continuation
from rlsched.envs.encoding import OBJECTIVES, Encoder, action_mask, decision_of
from rlsched.model import Allocation, Preemption
from rlsched.policies.network import NetworkConfig, SchedulingNetwork
from rlsched.state import State

FORMAT = 6  # of the observation and the card; a change of either makes old files unreadable


class PolicyFileError(ValueError):
    """A policy file that cannot be used; one sentence says why."""


class LearnedPolicy:
    """Carries out the candidate that the network scores highest, one at a time, or waits.

    Args:
        network: a trained network.
        encoder: what the network sees.
        temperature: 0 takes the best candidate; above 0 samples from softmax(logits / temperature).
        seed: of the sampling.
    """

    def __init__(
        self, network: SchedulingNetwork, encoder: Encoder | None = None, temperature: float = 0.0, seed: int = 0
    ) -> None:
        self.network = network.eval()
        self.temperature = temperature
        self._rng = np.random.default_rng(seed)
        self._continuation = Continuation()
        self.encoder = encoder or Encoder()

    def varied(self, spread: float, seed: int) -> LearnedPolicy:
        """A neighbour: with normal noise on each weight, `spread` times the mean size of its tensor's weights."""
        network, generator = copy.deepcopy(self.network), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weights in network.parameters():
                noise = torch.randn(weights.shape, generator=generator)
                weights.add_(spread * weights.abs().mean() * noise)
        return LearnedPolicy(network, copy.deepcopy(self.encoder), self.temperature, seed)

    def __call__(self, state: State) -> Sequence[Allocation | Preemption]:
        if following := self._continuation(state):
            return (following,)
        candidates = self.encoder.candidates(state)
        if not candidates:
            return ()
        rows = 1 + len(candidates)
        mask = action_mask(state, candidates)[:rows]
        observation = self.encoder.encode(state, candidates, critic=False)
        tensors = {key: torch.as_tensor(array)[None] for key, array in observation.items()}
        tensors["candidates"] = tensors["candidates"][:, :rows]
        with torch.inference_mode():
            logits = self.network.actor(tensors)[0, :rows].double().numpy()
        logits[~mask] = -np.inf
        if self.temperature:
            weights = np.exp((logits - logits.max()) / self.temperature)
            action = int(self._rng.choice(rows, p=weights / weights.sum()))
        else:
            action = int(logits.argmax())
        if action == 0:
            return ()
        decision = decision_of(candidates[action - 1], state)
        if isinstance(decision, Allocation):
            self._continuation.decided(decision, state)
        return (decision,)


def save_policy(path: Path, network: SchedulingNetwork, card: Mapping[str, Any]) -> Path:
    """Write NAME.safetensors and NAME.json, each atomically; the card comes last. Returns the weights' path."""
    path = path.with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, temporary)
    temporary.replace(path)
    content = {"format": FORMAT, "network": network.config.as_dict(), **card}
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path.with_suffix(".json"))
    return path


def weights_file(path: str | Path) -> Path:
    """The weights of a policy that is named by them, or by the directory that holds them alone.

    Raises:
        PolicyFileError: nothing there, more than one, or something else.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise PolicyFileError(f"{path}: expected one .safetensors file in the directory, found {len(found)}")
        path = found[0]
    if not path.is_file():
        raise PolicyFileError(f"{path}: no such policy file")
    if path.suffix != ".safetensors":
        raise PolicyFileError(f"{path}: expected the .safetensors file of a trained policy")
    return path


def read_card(path: Path) -> dict[str, Any]:
    """The card beside a policy's weights.

    Raises:
        PolicyFileError: missing, not JSON, or of another format.
    """
    card_path = path.with_suffix(".json")
    try:
        card = json.loads(card_path.read_text())
    except FileNotFoundError:
        raise PolicyFileError(f"{card_path}: the policy's card is missing") from None
    except (ValueError, OSError) as error:
        raise PolicyFileError(f"{card_path}: not a policy card: {error}") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else card
        raise PolicyFileError(f"{card_path}: format: expected {FORMAT}, found {found!r}")
    return card


def load_learned(path: str | Path, *, objective: str = "", temperature: float = 0.0, seed: int = 0) -> LearnedPolicy:
    """A policy from its file, ready to use.

    Args:
        path: the weights, or a directory that holds one policy.
        objective: what it is to make small, if it was trained for several; empty: what the card says.
        temperature, seed: see `LearnedPolicy`.

    Raises:
        PolicyFileError: nothing there, not a policy of this format, or an objective that does not exist.
    """
    torch.set_num_threads(1)  # two threads on a few rows are slower than one, and collapse on busy cores
    path = weights_file(path)
    card = read_card(path)
    try:
        network = SchedulingNetwork(NetworkConfig(**card["network"]))
        network.load_state_dict(load_file(path))
        objective = objective or card.get("objective", OBJECTIVES[0])
        encoder = Encoder(objective, preemption=card.get("preemption", False))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PolicyFileError(f"{path}: not a policy that can be used: {reason}") from None
    return LearnedPolicy(network, encoder, temperature, seed)
