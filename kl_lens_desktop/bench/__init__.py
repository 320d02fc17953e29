"""Measuring exported models: devices, speed, quality and memory in child processes, and the report."""

import sys
from typing import Any, cast

# Importing openvino sends a message to Google Analytics unless the user opted out, on Linux from a forked
# process that then hangs on our standard input. With its package barred, OpenVINO and NNCF use their silent
# stubs.
cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
