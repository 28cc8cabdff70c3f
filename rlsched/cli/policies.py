"""`rlsched policies`."""

from __future__ import annotations

from rich.table import Table

from rlsched.cli.output import console, print_json
from rlsched.policies.registry import describe
from rlsched.policies.shipped import shipped_policies


def policies(json: bool) -> None:
    entries = describe() | dict.fromkeys(shipped_policies(), "Comes with rlsched, trained or tuned.")
    if json:
        print_json(entries)
        return
    table = Table(title="policies", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("what it does")
    for name, text in entries.items():
        table.add_row(name, text)
    console.print(table)
    console.print("A trained policy is named by its file or folder; options follow a name as name:option=value,...")
