"""What a test relies on in the emulated GPU: OpenVINO lists it as an Arc 140V, and it computes right."""

import subprocess
import sys

from tests.gpu_on_cpu.emulator import device_name

PRODUCT = """
import numpy, openvino
from openvino import opset13 as ops

x, y = (ops.parameter([-1, -1, -1], numpy.float32) for _ in range(2))
model = openvino.Model([ops.result(ops.matmul(x, y, False, False))], [x, y], "product")
compiled = openvino.Core().compile_model(model, "GPU", {"INFERENCE_PRECISION_HINT": "f32"})
random = numpy.random.default_rng(0)
for rows in (1, 37):
    a, b = random.standard_normal((2, rows, 48)), random.standard_normal((2, 48, 80))
    difference = compiled([a.astype("f4"), b.astype("f4")])[0] - a @ b
    assert abs(difference).max() < 1e-4, abs(difference).max()
"""


def test_the_gpu_is_an_arc_140v(emulated_gpu: dict[str, str]) -> None:
    assert device_name(emulated_gpu).startswith("Intel(R) Arc(TM) 140V GPU")


def test_a_product_of_matrices_is_right(emulated_gpu: dict[str, str]) -> None:
    child = subprocess.run([sys.executable, "-c", PRODUCT], env=emulated_gpu, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
