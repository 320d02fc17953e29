"""Whole numbers as constants of a graph."""

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def vector(*values: int) -> ov.Node:
    """A constant of one axis."""
    return ops.constant(np.array(values, np.int64))


def scalar(value: int) -> ov.Node:
    """A constant without axes, such as the number of an axis."""
    return ops.constant(np.int64(value))
