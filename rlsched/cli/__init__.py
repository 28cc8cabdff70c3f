"""The command line. Commands import what they need when they are called, so that `--help` answers at once."""

from rlsched.cli.app import main

__all__ = ["main"]
