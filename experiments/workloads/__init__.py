"""Real training jobs, each a few steps that hand one another files; see experiments/workflows for how they chain."""
