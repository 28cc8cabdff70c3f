if __name__ != "rlsched.envs":
    raise ImportError(f"import rlsched.envs, not {__name__}: the top-level folder is only reached through its link")
