"""How a running task tells the executor how far it is, and learns that it should stop: two small files.

The executor names them in the environment variables `RLSCHED_PROGRESS_FILE` and `RLSCHED_PREEMPT_FILE`;
docs/progress-protocol.md has the protocol, which a program in any language can follow. Python programs call `report`
and `should_stop`, users of the `transformers` Trainer pass it `trainer_callback()`, and the executor calls `read`.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

VARIABLE = "RLSCHED_PROGRESS_FILE"
PREEMPT_VARIABLE = "RLSCHED_PREEMPT_FILE"


@dataclass(frozen=True, slots=True)
class Progress:
    """The latest report of a task.

    Attributes:
        step, total: steps done and steps there are, in whatever unit the task counts; 0 <= step, 1 <= total.
        time: when it was written, in seconds since the epoch.
        metrics: further numbers, such as `loss` and `samples_per_s`; NaN where the task had no finite value.
    """

    step: int
    total: int
    time: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1."""
        return min(1.0, self.step / self.total)


def report(step: int, total: int, **metrics: float) -> None:
    """Say that `step` of `total` steps are done. Does nothing when no executor asked, or on a rank other than 0.

    A report takes about a tenth of a millisecond; once a second is plenty. A file that cannot be written is a
    warning, never an exception: a full disk must not end a training that is going well.
    """
    path = os.environ.get(VARIABLE)
    if not path or os.environ.get("RANK", "0") != "0":
        return
    numbers = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    record = {**numbers, "step": step, "total": total, "time": time.time()}
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(record) + "\n")
        temporary.replace(path)
    except OSError as error:
        warnings.warn(f"progress is not reported: {error}", RuntimeWarning, stacklevel=2)


def should_stop() -> bool:
    """True once the executor has asked this task to write a checkpoint and exit with 143; never without an executor.

    It takes a microsecond: ask after every step. Ranks that train together must agree on the step to stop after, since
    one of them may see it a step earlier than another.
    """
    path = os.environ.get(PREEMPT_VARIABLE)
    return bool(path and Path(path).exists())


def read(path: str | os.PathLike[str]) -> Progress | None:
    """The latest report in a file; None while there is none, or when it is not a report."""
    try:
        record = json.loads(Path(path).read_bytes())
        step, total, written = record.pop("step"), record.pop("total"), record.pop("time")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if type(step) is not int or type(total) is not int or step < 0 or total < 1 or not _is_number(written):
        return None
    numbers = {name: value for name, value in record.items() if value is None or _is_number(value)}
    return Progress(step, total, written, {n: math.nan if v is None else float(v) for n, v in numbers.items()})


def _is_number(value: object) -> bool:
    # bool is an int to Python; the bound refuses Infinity, NaN and endless integers
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def trainer_callback() -> TrainerCallback:
    """A callback for `transformers.Trainer` that reports every optimiser step, the logged loss and samples/s.

    When the executor asks the task to stop, it has the Trainer save a checkpoint and return from `train` after the
    step; all ranks do so after the same one.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import TrainerCallback

    class ReportProgress(TrainerCallback):
        def __init__(self) -> None:
            self.first_step = 0
            self.started = 0.0
            self.logged: dict[str, float] = {}

        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            self.first_step, self.started = state.global_step, time.monotonic()

        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: dict[str, float] | None = None,
            **kwargs: Any,
        ) -> None:
            if logs and "loss" in logs:
                self.logged = {"loss": float(logs["loss"])}

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            samples = (state.global_step - self.first_step) * batch
            rate = samples / max(time.monotonic() - self.started, 1e-9)
            report(state.global_step, state.max_steps, samples_per_s=rate, **self.logged)
            if _any_rank_should_stop(args):
                control.should_save = control.should_training_stop = True

    return ReportProgress()


def _any_rank_should_stop(args: TrainingArguments) -> bool:
    wanted = should_stop()
    if args.world_size == 1 or PREEMPT_VARIABLE not in os.environ:
        return wanted
    import torch
    import torch.distributed as dist

    flag = torch.tensor(int(wanted), device=args.device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)
