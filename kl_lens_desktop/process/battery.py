"""Whether the computer runs on its battery."""

from typing import Any

import psutil


def battery() -> Any:
    """What psutil tells (``percent``, ``power_plugged``); None where there is none or nobody says.

    In some containers and sandboxes, the folder that psutil reads is absent or may not be read.
    """
    try:
        return psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    except OSError:
        return None
