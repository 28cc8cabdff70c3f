"""How fast this machine is just now, so that what is measured at different times can be compared.

The clock of a shared or virtual machine drifts, by 10 to 20 % within minutes on some: a measurement beside which the
same fixed amount of work was timed can be corrected for that.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import ExitStack

NUMBERS = 14_000_000  # a little more than a second
_PROGRAM = """
import sys, time
start = time.perf_counter()
sum(i * i for i in range(int(sys.argv[1])))
print(time.perf_counter() - start)
"""


def probe(processes: int, numbers: int = NUMBERS) -> float:
    """Seconds in which a process adds up so many numbers, while so many processes do; mean over them.

    What starting Python takes is not in it.

    Raises:
        RuntimeError: a process came to grief.
    """
    command = [sys.executable, "-c", _PROGRAM, str(numbers)]
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) for _ in range(processes)
        ]
        outputs = [process.communicate()[0] for process in started]
    if failed := [process.returncode for process in started if process.returncode]:
        raise RuntimeError(f"the probe of the machine's speed has ended with {failed[0]}")
    return statistics.fmean(map(float, outputs))
