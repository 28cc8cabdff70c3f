"""Learn how to share GPUs among the tasks of machine-learning workflows."""

__version__ = "0.1.0"
