"""KL Lens Desktop: make hybrid SSM-Transformer language models small and fast on Intel laptops."""

import os
import sys
from typing import Any, cast

__version__ = "0.1.0"

# Nothing leaves this computer but what the person asks for. Importing openvino sends a message to Google
# Analytics, on Linux from a forked process that then hangs on our standard input; with that package barred,
# OpenVINO and NNCF use their silent stubs.
cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_SYMLINKS_WARNING", "1")  # its cache works as well without them
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # ours are shown instead
# Threads of torch that wait by spinning make an analysis five times slower as soon as anything else wants a
# core, such as the window; read when torch is loaded, so set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
