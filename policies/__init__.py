if __name__ != "rlsched.policies":
    raise ImportError(f"import rlsched.policies, not {__name__}: the top-level folder is only reached through its link")
