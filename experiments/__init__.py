if __name__ != "rlsched.experiments":
    raise ImportError(
        f"import rlsched.experiments, not {__name__}: the top-level folder is only reached through its link"
    )
