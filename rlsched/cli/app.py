"""The command line: `studies` and `operations` spell the commands, and the modules that bear their names do them."""

from __future__ import annotations

import os
import sys
from typing import Annotated

# One thread a process, before anything imports numpy or torch: two on busy cores are many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer

import rlsched
from rlsched.cli import operations, studies

app = typer.Typer(
    name="rlsched",
    help="Learn how to share GPUs among the tasks of machine-learning workflows, in simulation and on the machine.",
    epilog="Start with: rlsched demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlsched {rlsched.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


app.add_typer(studies.commands)
app.add_typer(operations.commands)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the work failed, 2 bad input, 130 interrupted."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("RLSCHED_DEBUG"):
            raise
        typer.echo(f"rlsched: {error}", err=True)
        sys.exit(2)
