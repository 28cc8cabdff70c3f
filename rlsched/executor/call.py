"""Calls a Python function as a task: python -m rlsched.executor.call MODULE:FUNCTION ARGUMENTS

ARGUMENTS is a JSON object, the function's keyword arguments. Modules are looked up in the current folder first.
"""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    target, arguments = sys.argv[1:]
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    function(**json.loads(arguments))


if __name__ == "__main__":
    main()
