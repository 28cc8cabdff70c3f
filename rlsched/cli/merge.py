"""`rlsched merge`."""

from __future__ import annotations

from pathlib import Path

from rlsched.cli.output import remark
from rlsched.manifest import manifest
from rlsched.policies.learned import load_learned, read_card, save_policy, weights_file
from rlsched.policies.merging import merged
from rlsched.policies.shipped import policy_file

_SAME = ("objective", "preemption")  # or a mean of scores means nothing
_KEPT = ("scenario", "training", "validation", "curve", "parts")  # of the cards of the parts


def merge(policies: list[str], out: Path) -> None:
    files = [weights_file(policy_file(name)) for name in policies]
    cards = [read_card(file) for file in files]
    for name, card in zip(policies, cards, strict=True):
        for key in _SAME:
            if card.get(key) != cards[0].get(key):
                raise ValueError(
                    f"{name}: {key}: expected {cards[0].get(key)!r} as of {policies[0]}, found {card.get(key)!r}"
                )
    network = merged([load_learned(file).network for file in files])
    card = {
        "kind": "mean of learned scheduling policies (PPO)",
        "scenario": ", ".join(sorted({str(card["scenario"]) for card in cards if "scenario" in card})),
        **{key: cards[0][key] for key in _SAME if key in cards[0]},
        "parts": [{key: card[key] for key in _KEPT if key in card} for card in cards],
        "manifest": manifest(seeds=[]),
    }
    remark(f"wrote {save_policy(out if out.suffix == '.safetensors' else out / 'policy', network, card)}")
