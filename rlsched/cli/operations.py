"""Spelling, options and help of the commands that run real work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rlsched.cli.options import (
    Job,
    Json,
    MetricsPort,
    PolicyOption,
    SampleInterval,
    SocketOption,
    TcpOption,
    TokenOption,
)

commands = typer.Typer()


@commands.command()
def run(
    workflow: Annotated[Path, typer.Argument(help="A workflow file.")],
    policy: PolicyOption = "srpt",
    run_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--run-dir", help="Journal and logs; default: runs/NAME beside the workflow file."),
    ] = None,
    slots: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--slots", min=1, help="CPU slots (on each node), where there are no GPUs; default: one a core."),
    ] = None,
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="Plan with what tasks took in earlier runs.")
    ] = True,
    sample_interval: SampleInterval = 2.0,
    metrics_port: MetricsPort = None,
    backend: Annotated[
        str, typer.Option("--backend", help="Where tasks run: local (this machine), or ray (a Ray cluster).")
    ] = "local",
    address: Annotated[
        str,
        typer.Option("--address", help="Of the Ray cluster: HOST:PORT, auto (this machine's), or local (a new one)."),
    ] = "",
    lost: Annotated[
        list[str],
        typer.Option(
            "--lost", metavar="MACHINE", help="It is gone for good: run its tasks elsewhere. May be repeated."
        ),
    ] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Run a workflow on this machine, or on a Ray cluster: GPUs if there are any, CPU slots otherwise.

    Tasks that have finished are not run again: run the same command once more to continue.

    Examples:

      rlsched run experiments/workflows/digits.yaml --policy sjf

      rlsched run flow.yaml --policy runs/het16 --slots 4

      rlsched run flow.yaml --metrics-port 9180 --sample-interval 10

      rlsched run /shared/flow.yaml --backend ray --address head-node:6379
    """
    from rlsched.cli.run import run as command

    command(workflow, policy, run_dir, slots, history, sample_interval, metrics_port, backend, address, lost, json)


@commands.command()
def status(run_dir: Annotated[Path, typer.Argument(help="A run's folder.")], json: Json = False) -> None:
    """Show what has become of a run's tasks."""
    from rlsched.cli.run import status as command

    command(run_dir, json)


@commands.command()
def replay(run_dir: Annotated[Path, typer.Argument(help="A run's folder.")], json: Json = False) -> None:
    """Re-enact a real run in the simulator, and say how far the two are apart.

    Twice: with the estimates that were known before the run, and with what each task has really taken.

    Examples:

      rlsched replay experiments/workflows/runs/digits

      rlsched replay runs/news --json | jq .measured.makespan_error
    """
    from rlsched.cli.replay import replay as command

    command(run_dir, json)


@commands.command()
def up(
    policy: PolicyOption = "srpt",
    state: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--state", help="Folder of the queue; default: ~/.local/state/rlsched, see XDG_STATE_HOME."),
    ] = None,
    slots: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--slots", min=1, help="CPU slots, where there are no GPUs; default: one a core."),
    ] = None,
    socket: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--socket", help="Unix socket to listen on; default: `socket` in the folder of the queue."),
    ] = None,
    group: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--group", help="Let this group look at the queue, too."),
    ] = None,
    tcp: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--tcp", help="Listen on HOST:PORT as well, or on PORT of loopback; needs --token-file."),
    ] = None,
    token_file: TokenOption = None,
    keep: Annotated[str, typer.Option("--keep", help="How long jobs that have ended stay listed.")] = "7d",
    sample_interval: SampleInterval = 2.0,
    metrics_port: MetricsPort = None,
) -> None:
    """Keep a scheduler running, for jobs that are submitted one after the other.

    It stays in the foreground; docs/queue.md has a systemd unit. Whatever was submitted survives its end, whether by
    `rlsched drain`, Ctrl-C or kill -9: the next one with the same folder goes on where it was, and adopts what runs.

    Examples:

      rlsched up --policy srpt

      rlsched up --policy runs/het16 --state /srv/queue --socket /run/rlsched/socket --group gpu

      rlsched up --tcp 7077 --token-file ~/.rlsched-token
    """
    from rlsched.cli.up import up as command

    command(policy, state, slots, socket, group, tcp, token_file, keep, sample_interval, metrics_port)


@commands.command()
def submit(
    workflow: Annotated[Path, typer.Argument(help="A workflow file.")],
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--name", help="Name of the job; default: the workflow's."),
    ] = None,
    priority: Annotated[float, typer.Option("--priority", help="Added to the priority of each of its tasks.")] = 0.0,
    deadline: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--deadline", help="Time from now, such as 90m or 2h; default: the workflow's."),
    ] = None,
    key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--id", help="Submit at most once under this name, however often you call; default: a new one."),
    ] = None,
    socket: SocketOption = None,
    tcp: TcpOption = None,
    token_file: TokenOption = None,
    json: Json = False,
) -> None:
    """Submit a workflow to the scheduler that is up.

    The job is the workflow as it is now, with your environment: later changes to the file make no difference.

    Examples:

      rlsched submit flow.yaml --deadline 2h

      rlsched submit flow.yaml --name night --priority -1 --id night-2024-06-01 --json
    """
    from rlsched.cli.queue import address
    from rlsched.cli.queue import submit as command

    command(address(socket, tcp, token_file), workflow, name, priority, deadline, key, json)


@commands.command()
def queue(
    socket: SocketOption = None, tcp: TcpOption = None, token_file: TokenOption = None, json: Json = False
) -> None:
    """List the jobs of the scheduler that is up."""
    from rlsched.cli.queue import address
    from rlsched.cli.queue import queue as command

    command(address(socket, tcp, token_file), json)


@commands.command()
def logs(
    job: Job,
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[TASK]", help="A task, or a sweep or array with all its members; default: all tasks."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    socket: SocketOption = None,
    tcp: TcpOption = None,
    token_file: TokenOption = None,
) -> None:
    """Print what the tasks of a job have printed, attempt by attempt.

    Examples:

      rlsched logs 7 train -f

      rlsched logs night
    """
    from rlsched.cli.queue import address
    from rlsched.cli.queue import logs as command

    command(address(socket, tcp, token_file), job, task, follow)


@commands.command()
def cancel(
    job: Job, socket: SocketOption = None, tcp: TcpOption = None, token_file: TokenOption = None, json: Json = False
) -> None:
    """Give a job up: its tasks are stopped, with time to save what they have, and no more are started."""
    from rlsched.cli.queue import address
    from rlsched.cli.queue import cancel as command

    command(address(socket, tcp, token_file), job, json)


@commands.command()
def drain(
    stop: Annotated[
        bool,
        typer.Option("--stop", help="Stop what runs: it goes on from its checkpoints when a scheduler is up again."),
    ] = False,
    socket: SocketOption = None,
    tcp: TcpOption = None,
    token_file: TokenOption = None,
    json: Json = False,
) -> None:
    """Have the scheduler start nothing more, and end once nothing runs.

    It takes no jobs any more. Those that it has stay in the queue, for the next one to go on with.
    """
    from rlsched.cli.queue import address
    from rlsched.cli.queue import drain as command

    command(address(socket, tcp, token_file), stop, json)
