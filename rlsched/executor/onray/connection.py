"""Joining a Ray cluster."""

from __future__ import annotations

import logging
import socket
from importlib.util import find_spec
from typing import Any

NAMESPACE = "rlsched"
_PATIENCE = 10.0  # seconds


def require_ray(option: str) -> None:
    """Refuse an option that needs Ray where Ray is missing.

    Raises:
        ValueError: it is.
    """
    if find_spec("ray") is None:
        raise ValueError(f"{option}: Ray is not installed here: pip install 'rlsched[ray]'")


def connect(address: str) -> bool:
    """Join a Ray cluster; False if this process has done so before.

    Raises:
        ValueError: there is none.
    """
    import ray  # which takes a second

    if ray.is_initialized():
        return False
    if address.startswith("ray://"):
        raise ValueError(f"--address {address}: Ray's client is not enough, start rlsched on a node of the cluster")
    if ":" in address:
        _knock(address)
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"there is no Ray cluster at {address!r}: {first_line(error)}") from None
    return True


def _knock(address: str) -> None:
    """Find out soon what Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"there is no Ray cluster at {address!r}: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """What an error says, in short."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
