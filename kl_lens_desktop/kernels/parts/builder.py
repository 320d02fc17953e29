"""What builds an opaque operation's part of the graph."""

from collections.abc import Callable
from typing import Any

import openvino as ov

Builder = Callable[[Any], list[ov.Output]]  # from the context of OpenVINO's converter
