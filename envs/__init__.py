"""Gymnasium environments. Importing this package registers `rlsched/Scheduling-v0`."""

if __name__ != "rlsched.envs":
    raise ImportError(f"import rlsched.envs, not {__name__}: the top-level folder is only reached through its link")

import gymnasium

gymnasium.register("rlsched/Scheduling-v0", entry_point="rlsched.envs.scheduling:SchedulingEnv")
