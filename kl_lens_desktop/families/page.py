"""The documentation's page of supported models, made from the families' records.

``python -m kl_lens_desktop.families.page`` prints it; a test holds ``resources/docs/models.md`` to it.
"""

from kl_lens_desktop.families import FAMILIES, Family

_HEAD = """# Supported models

These are the architectures that KL Lens Desktop can analyze, compress and run. "Model type" is what a model's
`config.json` says. Every architecture is tested from small models with random weights; the checkpoints are
published models of that architecture, and most of them have not been tried here.

| Architecture | Model type | Published checkpoints | NPU |
|---|---|---|---|
"""
_FOOT = """
OpenVINO's GPU plugin runs all of them with the CPU's answers. This was tested with the plugin on an emulated
GPU. NPU: whether OpenVINO's NPU plugin accepts the graph. This was tested with the plugin but without an NPU.

The models are those of transformers, and every export is compared with them. Transformers lacks Hymba and
Phi-4-mini-flash, which are implementations of our own. They are checked against a plain computation of the
published formulas and the published sizes and names of tensors. Their published weights have not been tried.
Checkpoints of mamba-ssm are checked against transformers and the published numbers of parameters.

Phi-4-mini-flash was also compared with its authors' code, in which plain formulas in float32 replaced the
CUDA kernels. With random weights, 8 to 32 layers and up to 200 tokens, the logits differ by less than
0.00002. The authors' code rounds queries, keys and values to bfloat16 for its CUDA kernel; this program does
not. Its published tokenizer has not been tried.

Of models that see too, only the text part is used, and the weights of the vision part are left out. The text
part is checked against the whole model of transformers: the same logits, and the same words after an export.

To add an architecture, see [Architecture](architecture.md).
"""


def page() -> str:
    """The whole page in Markdown."""
    return _HEAD + "".join(_row(family) for family in FAMILIES.values()) + _FOOT


def _row(family: Family) -> str:
    checkpoints = ", ".join(f"`{name}`" for name in family.checkpoints)
    npu = "no" if family.npu else "yes"
    return f"| {family.title} | `{family.model_type}` | {checkpoints} | {npu} |\n"


if __name__ == "__main__":
    print(page(), end="")
