"""Plans beside llama.cpp's types at the same bytes, by joint KL on texts that none has seen.

    python -m tests.benchmarks.bench_llama FOLDER

The folder keeps what is fetched, as in `bench_peers`, and what is measured. libllama quantizes the bundled
sample in each type; for those that end in + it has the importance that llama.cpp's imatrix tool computes, of
the windows to which our roundings are fitted. What it wrote is read back with llama.cpp's gguf and computed
in float32, as plans are: the rounding of activations, which llama.cpp adds, is left out. Each type stands
beside the plan of as many bytes. Nostromo and the play are texts that neither has seen.

The sample's widths suit llama.cpp's blocks of 256, but for the 640 inputs of its MLPs' last matrices, for
which libllama takes larger types.
"""

import argparse
import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.model.load import LoadedModel, load_model
from kl_lens_desktop.plan.allocate import Front
from kl_lens_desktop.plan.joint import Bench, Joint, joint_of
from kl_lens_desktop.plan.options import total, weight_options
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.sensitivity.lanes import Lane
from kl_lens_desktop.sensitivity.walk import Walk
from kl_lens_desktop.text.bundled import dialogue_text, held_out_text
from kl_lens_desktop.text.windows import windows
from tests.benchmarks.bench_peers import HERE, llama_library, peer_python
from tests.benchmarks.bench_plans import QUICK_MENU, WINDOW, Fitted, fitted_of

TYPES = (
    "IQ2_M+", "Q2_K", "Q2_K+", "Q3_K_S+", "IQ3_S+", "IQ3_M+", "Q3_K_M", "Q3_K_M+", "IQ4_XS+", "Q4_0",
    "Q4_K_S+", "Q4_K_M", "Q4_K_M+", "Q5_K_M", "Q5_K_M+", "Q6_K", "Q6_K+", "Q8_0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A type of llama.cpp and the plan of no more bytes, on one text."""

    name: str
    text: str
    bits: tuple[float, float]
    theirs: Joint
    ours: Joint


def compare(
    folder: Path, local: LocalModel, loaded: LoadedModel, fitted: Fitted, tokens: int
) -> Iterator[Row]:
    """Measure every type on both texts; what libllama makes is kept in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(local.folder, dtype=torch.float32).eval()
    _make(folder, local, model, fitted.ids)
    options = weight_options(fitted.scores)
    parameters = sum(option.parameters for option in options)
    front, cancel = Front(options), Cancel()
    texts = [(held_out_text(), tokens), (dialogue_text(), tokens // 2)]
    ids = {text.name: windows(loaded, [text], count, WINDOW)[0] for text, count in texts}
    benches = {name: Bench(loaded, each, cancel, roundings=fitted.roundings) for name, each in ids.items()}
    for kind in TYPES:
        file = folder / "values" / f"{kind}.safetensors"
        with safe_open(file, "pt") as opened:
            sizes = json.loads(opened.metadata()["bytes"])
        model.load_state_dict(load_file(file), strict=False)
        model.tie_weights()
        size = sum(sizes[option.weight] for option in options)
        plan = front.within_bytes(size)
        bits = 8 * size / parameters, 8 * total(options, plan)[0] / parameters
        for name, each in ids.items():
            theirs = joint_of(Walk(Lane(loaded.model, cancel), each).judge(lambda one: model(one).logits))
            yield Row(kind, name, bits, theirs, benches[name].measure(plan))


def _make(folder: Path, local: LocalModel, model: nn.Module, ids: Tensor) -> None:
    made = folder / "values"
    made.mkdir(parents=True, exist_ok=True)
    missing = [kind for kind in TYPES if not (made / f"{kind}.safetensors").exists()]
    if missing:
        measured = made / "importance.tensors"
        save_file(_importance(model, ids), measured)
        script = [str(peer_python(folder)), str(HERE / "gguf_values.py"), str(local.folder), str(made)]
        how = [*script, str(llama_library(folder)), str(measured), *missing]
        subprocess.run(how, check=True, capture_output=True)


def _importance(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Mean squares of the input channels of every matrix of a block, by its name."""
    sums: dict[str, Tensor] = {}

    def add(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        squares = inputs[0].double().square().flatten(0, -2).sum(0)
        sums[name] = sums.get(name, torch.zeros_like(squares)) + squares

    with torch.no_grad(), contextlib.ExitStack() as watching:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and ".layers." in name:
                watching.enter_context(module.register_forward_pre_hook(partial(add, f"{name}.weight")))
        for one in ids:
            model(one[None])
    return {name: (each / ids.numel()).float() for name, each in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=4096, help="scored on")
    parser.add_argument("--final-tokens", type=int, default=4096)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    local = resolve_model("sample")
    loaded = load_model(local.folder)
    fitted = fitted_of(local, loaded, folder, QUICK_MENU, arguments.tokens)
    titles = "".join(f"{title:<24}" for title in ("llama.cpp KL ± se", "plan KL ± se", "plan is better by"))
    print(f"{'type':<9}{'text':<32}{'bits':<7}{titles}ratio")
    with torch.no_grad():
        for row in compare(folder, local, loaded, fitted, arguments.final_tokens):
            gain, error = row.ours.less_than(row.theirs)
            cells = (f"{each.mean:.6f} ± {each.se:.6f}" for each in (row.theirs, row.ours))
            figures = "".join(f"{cell:<24}" for cell in (*cells, f"{gain:+.6f} ± {error:.6f}"))
            print(f"{row.name:<9}{row.text[:30]:<32}{row.bits[0]:<7.2f}{figures}"
                  f"{row.ours.mean / row.theirs.mean:.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
