"""How many of the computer's cores a job may use."""

import psutil


def usable_cores() -> int:
    """All, but one is left to the window where there are more than two."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return cores - 1 if cores > 2 else cores
