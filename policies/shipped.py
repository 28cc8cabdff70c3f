"""The policies that come with rlsched, trained or tuned: `pretrained/NAME`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from rlsched.policies.options import suggest

PREFIX = "pretrained/"


def policy_file(name: str | Path) -> Path:
    """The file that a policy's name stands for, or the path that it is.

    Raises:
        ValueError: no such policy comes with rlsched.
    """
    text = str(name)
    if not text.startswith(PREFIX) or Path(text).exists():
        return Path(text)
    known = shipped_policies()
    if text not in known:
        raise ValueError(f"unknown policy {text!r}; {suggest(text, known) if known else 'none comes with rlsched'}")
    return known[text]


def shipped_policies() -> dict[str, Path]:
    """By name, the file: weights, or the YAML of a tuned policy."""
    folder = Path(str(files("rlsched.policies"))) / "pretrained"
    found = sorted(file for file in folder.glob("*") if file.suffix in (".safetensors", ".yaml"))
    return {PREFIX + file.stem: file for file in found}
