"""`python -m rlsched` is the same as `rlsched`."""

from rlsched.cli import main

main()
