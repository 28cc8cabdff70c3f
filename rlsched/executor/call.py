"""Calls a Python function as a task: python -m rlsched.executor.call MODULE:FUNCTION ARGUMENTS

ARGUMENTS is a JSON object, the function's keyword arguments. Modules are looked up in the current folder first. When
the function is called is noted in the file that `RLSCHED_BEGUN_FILE` names, in seconds since the epoch; the launcher
reads it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from rlsched.executor.launcher import BEGUN


def main() -> None:
    target, arguments = sys.argv[1:]
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    keywords = json.loads(arguments)
    if path := os.environ.get(BEGUN):
        with suppress(OSError):  # a measurement that finds no room is not worth a task
            Path(path).write_text(f"{time.time()}\n")
    function(**keywords)


if __name__ == "__main__":
    main()
