"""The file of a tuned baseline: `rlsched tune-baseline` writes it, and it works wherever a policy is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from rlsched.document import Document, Strict, did_you_mean, expected
from rlsched.textfile import writing

LINEAR = "linear"

_Text = Annotated[str, Field(strict=True, min_length=1), expected("a text")]
_Number = Annotated[float, Field(strict=True), expected("a number")]
_Ends = Annotated[tuple[int, int], expected("the first and the last seed")]


class TunedFileError(ValueError):
    """The file of a tuned baseline that cannot be used: one sentence with file, line and field."""


class Member(Strict):
    """A candidate that was played on the validation workloads."""

    policy: _Text
    """Name and options."""
    training: _Number | None = None
    """Mean objective over the training workloads that it was played on."""
    validation: _Number
    """Mean objective over the validation workloads."""


class TunedBaseline(Strict):
    """What a search found."""

    policy: _Text
    """The best: name and options, or `linear`."""
    options: dict[str, str | float | bool] = Field(default_factory=dict)
    """Of the best all options, defaults as well; for the record."""
    weights: dict[str, _Number] | None = None
    """Of `linear`: weights by name of the column; a column that is not here weighs 0."""
    scenario: str = ""
    """Where it was searched for."""
    objective: str = ""
    """What was made small."""
    method: str = ""
    """How it was searched for."""
    training_seeds: _Ends | None = None
    """First and last seed that candidates were played on."""
    validation_seeds: _Ends | None = None
    """First and last seed that the best was chosen on."""
    default: Member | None = None
    """The best policy as it comes, for comparison."""
    members: tuple[Member, ...] = ()
    """Those that were played on the validation workloads, best first."""
    manifest: dict[str, Any] = Field(default_factory=dict)
    """Command, seeds, versions, commit, machine."""

    def best_of_each(self) -> list[str]:
        """The best member of every name, best first."""
        best: dict[str, str] = {}
        for member in self.members:
            best.setdefault(member.policy.partition(":")[0], member.policy)
        return list(best.values())


def read_tuned(file: Path) -> TunedBaseline:
    """A tuned baseline from its file. Only `policy` has to be there, and `weights` for `linear`.

    Raises:
        TunedFileError: the file cannot be read, or the first thing that is wrong with it.
    """
    document = Document(file, TunedFileError)
    entry = document.validate(TunedBaseline, document.data)
    if (entry.policy == LINEAR) != (entry.weights is not None):
        document.fail(("policy",), f"expected weights with {LINEAR}, and with nothing else")
    if entry.weights is not None:
        from rlsched.policies.linear import NAMES  # needs numpy, which a greedy policy does not

        for name in entry.weights:
            if name not in NAMES:
                document.fail(("weights", name), f"unknown column, {did_you_mean(name, NAMES)}")
    if Path(entry.policy).suffix in (".yaml", ".yml"):
        document.fail(("policy",), f"expected the name of a policy, found {entry.policy!r}")
    return entry


def write_tuned(file: Path, tuned: TunedBaseline, remarks: Sequence[str] = ()) -> None:
    """Write the file, whole or not at all, with some remarks at the top.

    Raises:
        OSError: it cannot be written.
    """
    content = tuned.model_dump(mode="json", exclude_defaults=True)
    with writing(file) as text:
        text.writelines(f"# {remark}\n" for remark in remarks)
        yaml.safe_dump(content, text, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
