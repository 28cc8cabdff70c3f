"""The command-line steps that every workload has: train, and select the best of several evaluated models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rlsched.experiments.workloads import files, ranks
from rlsched.experiments.workloads.settings import Settings

Source = Annotated[Path, typer.Option(help="File that an earlier step wrote.", exists=True, dir_okay=False)]
Target = Annotated[Path, typer.Option(help="File to write.")]
Examples = Annotated[Path, typer.Option(help="Folder of train.safetensors, validation.safetensors, test.safetensors.")]
Device = Annotated[str, typer.Option(help="auto, cuda or cpu; auto takes CUDA where there is one.")]


def app(summary: str, fit: Callable[[Settings], None], epochs: int, batch_size: int) -> typer.Typer:
    """A command line with `train` and `select`; the workload adds its own steps."""
    commands = typer.Typer(help=summary, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

    @commands.command()
    def train(
        data: Source,
        out: Annotated[Path, typer.Option(help="Weights to write; the metrics go beside them.")],
        lr: Annotated[float, typer.Option(help="Adam's learning rate.")],
        epochs: Annotated[int, typer.Option(help="Passes over the data.")] = epochs,
        batch_size: Annotated[int, typer.Option(help="Examples a step, over all ranks.")] = batch_size,
        seed: int = 0,
        device: Device = "auto",
        compile: Annotated[bool, typer.Option(help="Use torch.compile.")] = False,
        checkpoint_every: Annotated[float, typer.Option(help="Seconds between periodic checkpoints.")] = 60.0,
    ) -> None:
        """Train on every device the task was given; SIGTERM saves a checkpoint that the same command resumes."""
        settings = Settings(data, out, lr, epochs, batch_size, seed, device, compile, checkpoint_every)
        ranks.run(fit, settings, device)

    commands.command()(select)
    return commands


def select(
    evaluations: Annotated[list[Path], typer.Argument(help="What the evaluate steps wrote.", exists=True)],
    out: Target,
) -> None:
    """Choose the model that is best on the validation split, then say how it does on the held-out test split."""
    candidates = [files.read_json(path) for path in evaluations]
    best = max(candidates, key=lambda candidate: candidate["validation"])
    files.write_json(out, {**best, "candidates": candidates})
    for candidate in candidates:
        mark = "<- chosen" if candidate is best else ""
        print(f"{candidate['model']}: validation {candidate['metric']} {candidate['validation']:.4f} {mark}")
    print(f"held-out {best['metric']} of {best['model']}: {best['test']:.4f}")
