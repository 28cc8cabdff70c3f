"""Runs workflows on this machine: `rlsched.executor.run.run_workflow`; docs/executor.md describes what a task meets."""
