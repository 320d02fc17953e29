"""Phi-4-mini-flash against what its authors published: sizes, names, formulas, and a plain computation."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.export import bundle, in_pieces
from kl_lens_desktop.export import proof as proof_module
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.families.own.phi4flash import Phi4FlashConfig
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model import fit
from kl_lens_desktop.model.inventory import input_channels, inventory
from kl_lens_desktop.model.load import load_model, open_model
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Finished, Note
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.sensitivity.forward import Beside, observed, trunk
from kl_lens_desktop.sensitivity.jobs import Analysis, AnalyzeJob
from kl_lens_desktop.sensitivity.scores import load_scores
from tests.answers import check_answers
from tests.models import build, build_folder

# config.json of microsoft/Phi-4-mini-flash-reasoning, but for what says how it is run.
PUBLISHED = {
    "attention_dropout": 0.0, "pad_token_id": 199999, "bos_token_id": 199999, "embd_pdrop": 0.0,
    "eos_token_id": 199999, "hidden_act": "silu", "hidden_size": 2560, "initializer_range": 0.02,
    "intermediate_size": 10240, "layer_norm_eps": 1e-5, "max_position_embeddings": 262144,
    "mb_per_layer": 2, "num_attention_heads": 40, "num_hidden_layers": 32, "num_key_value_heads": 20,
    "resid_pdrop": 0.0, "sliding_window": 512, "tie_word_embeddings": True, "use_cache": True,
    "mlp_bias": False, "lm_head_bias": False, "vocab_size": 200064,
}  # fmt: skip
NORMS = [
    f"{norm}.{part}"
    for norm in ("input_layernorm", "post_attention_layernorm")
    for part in ("weight", "bias")
]
DIFFERENCE = [f"inner_cross_attn.{name}" for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")]
ATTENTION = [
    "Wqkv.weight",
    "Wqkv.bias",
    "out_proj.weight",
    "out_proj.bias",
    *DIFFERENCE,
    "inner_cross_attn.subln.weight",
]
MAMBA = [
    "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias",
    "A_log", "D", "out_proj.weight",
]  # fmt: skip
MEMORY_UNIT = ["in_proj.weight", "out_proj.weight"]


@pytest.fixture(scope="module")
def published() -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(Phi4FlashConfig(**PUBLISHED))
    return model


def test_the_published_configuration_makes_the_published_tensors(published: PreTrainedModel) -> None:
    """The names and the bytes in the published index: in bfloat16, but for rates and what gives lambda."""
    wanted = ["model.embed_tokens.weight", "model.final_layernorm.weight", "model.final_layernorm.bias"]
    for layer in range(32):
        mixer = ATTENTION if layer % 2 else MAMBA if layer <= 16 else MEMORY_UNIT
        names = [*NORMS, "mlp.fc1.weight", "mlp.fc2.weight", *(f"attn.{name}" for name in mixer)]
        wanted += [f"model.layers.{layer}.{name}" for name in names]
    parameters = dict(published.named_parameters())
    assert sorted(parameters) == sorted(wanted)
    wide = ("A_log", "lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
    sizes = [each.numel() * (4 if name.endswith(wide) else 2) for name, each in parameters.items()]
    assert sum(sizes) == 7_706_608_640


def test_its_layers_are_the_published_ones(published: PreTrainedModel) -> None:
    mixers = [layer.attn for layer in published.model.layers]
    kinds = [type(mixer).__name__.removeprefix("Phi4Flash") for mixer in mixers]
    assert kinds == ["Mamba", "Attention"] * 9 + ["MemoryUnit", "Attention"] * 7
    attention = mixers[1::2]
    assert [mixer.local for mixer in attention] == [True] * 8 + [False] * 8
    assert [mixer.Wqkv.weight.shape[0] for mixer in attention] == [5120] * 9 + [2560] * 7
    assert {weight.kind for weight in inventory(published) if ".18.attn." in weight.name} == {"ssm"}
    # What a block is given: the hidden state, and from the last Mamba on the memory, the keys and the values.
    assert input_channels(published) == [2560] * 17 + [2560 + 5120] + [2560 + 5120 + 1280 + 1280] * 14


def plain(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits (tokens, vocabulary) by the formulas of both papers, token by token and head by head."""
    c, w = model.config, {name: p.detach().double() for name, p in model.named_parameters()}
    h, total, half = w["model.embed_tokens.weight"][ids], len(ids), c.num_hidden_layers // 2
    heads, inner, n, rank = c.num_attention_heads, 2 * c.hidden_size, c.mamba_d_state, c.hidden_size // 16
    d, share = c.hidden_size // heads, heads // c.num_key_value_heads

    def norm(x: Tensor, at: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + c.layer_norm_eps).sqrt()
        return x * w[f"{at}.weight"] + w[f"{at}.bias"]

    def attended(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        at = f"model.layers.{layer}.attn.inner_cross_attn."
        start = 0.8 - 0.6 * math.exp(-0.3 * layer)
        first, second = (torch.exp(w[f"{at}lambda_q{i}"] @ w[f"{at}lambda_k{i}"]) for i in (1, 2))
        rows = []
        for i in range(total):
            seen = [j for j in range(i + 1) if layer > half or i - j < c.sliding_window]
            row = []
            for pair in range(heads // 2):
                keys = 2 * (pair // share)  # the first head of the pair of keys
                values = v[seen, keys * d : (keys + 2) * d]
                maps = [
                    torch.softmax(
                        k[seen, (keys + one) * d : (keys + one + 1) * d]
                        @ q[i, (2 * pair + one) * d : (2 * pair + one + 1) * d] / math.sqrt(d),
                        0,
                    )
                    for one in (0, 1)
                ]  # fmt: skip
                out = (maps[0] - (first - second + start) * maps[1]) @ values
                row.append((1 - start) * out / (out.square().mean() + 1e-5).sqrt() * w[f"{at}subln.weight"])
            rows.append(torch.cat(row))
        return torch.stack(rows)

    def scanned(x: Tensor, at: str) -> Tensor:
        taps, bias = w[f"{at}conv1d.weight"][:, 0], w[f"{at}conv1d.bias"]
        before = torch.cat([torch.zeros(taps.shape[1] - 1, inner), x])
        x = F.silu(
            torch.stack([(before[t : t + taps.shape[1]].T * taps).sum(1) + bias for t in range(total)])
        )
        dt, B, C = (x @ w[f"{at}x_proj.weight"].T).split([rank, n, n], 1)
        dt = F.softplus(dt @ w[f"{at}dt_proj.weight"].T + w[f"{at}dt_proj.bias"])
        rates, state, out = -w[f"{at}A_log"].exp(), torch.zeros(inner, n).double(), []
        for t in range(total):
            state = (dt[t][:, None] * rates).exp() * state + (dt[t] * x[t])[:, None] * B[t]
            out.append(state @ C[t] + w[f"{at}D"] * x[t])
        return torch.stack(out)

    memory = keys = values = torch.empty(0)
    for layer in range(c.num_hidden_layers):
        at = f"model.layers.{layer}."
        u = norm(h, f"{at}input_layernorm")
        if layer % 2:
            u = u @ w[f"{at}attn.Wqkv.weight"].T + w[f"{at}attn.Wqkv.bias"]
            if layer <= half + 1:
                u, keys, values = u.split([c.hidden_size, *2 * [c.num_key_value_heads * d]], 1)
            mixed = attended(u, keys, values, layer) @ w[f"{at}attn.out_proj.weight"].T
            h = h + mixed + w[f"{at}attn.out_proj.bias"]
        else:
            u = u @ w[f"{at}attn.in_proj.weight"].T
            if layer <= half:
                x, u = u.split([inner, inner], 1)
                memory = scanned(x, f"{at}attn.")
            h = h + (memory * F.silu(u)) @ w[f"{at}attn.out_proj.weight"].T
        u = norm(h, f"{at}post_attention_layernorm")
        gate, value = (u @ w[f"{at}mlp.fc1.weight"].T).split(2 * [c.intermediate_size], 1)
        h = h + (F.silu(gate) * value) @ w[f"{at}mlp.fc2.weight"].T
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    logits: Tensor = norm(h, "model.final_layernorm") @ head.T
    return logits


def livelier(model: PreTrainedModel) -> PreTrainedModel:
    """With biases, norms and shares that matter."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and not name.endswith("dt_proj.bias"):
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.3
    return model


@pytest.fixture(scope="module")
def small() -> PreTrainedModel:
    return livelier(build("phi4flash"))


@pytest.mark.parametrize("family", ["phi4flash", "phi4flash with four heads to a key, untied"])
def test_it_computes_what_the_papers_say(family: str) -> None:
    model = livelier(build(family, sliding_window=24))
    ids = torch.arange(7, 47)  # further than a local layer sees
    with torch.no_grad():
        ours = model(ids[None], use_cache=False).logits[0]
        wanted = plain(model, ids)
    assert (ours - wanted).abs().max() < 1e-4 * wanted.std()


@pytest.mark.parametrize("calls", [[30, *[1] * 40], [30, 1, 20, 1, 18]])
def test_in_calls_it_is_the_same(small: PreTrainedModel, calls: list[int]) -> None:
    """Token by token; and in chunks, which only our own scan goes on from a state with."""
    ids = torch.arange(7, 77)[None]
    chunks = fast_kernels(small) if max(calls[1:]) > 1 else contextlib.nullcontext()
    with torch.no_grad(), chunks:
        whole = small(ids, use_cache=False).logits
        cache, parts = None, []
        for piece in ids.split(calls, 1):
            out = small(piece, use_cache=True, past_key_values=cache)
            cache = out.past_key_values
            parts.append(out.logits)
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-3 * whole.std()


def test_a_block_is_a_function_of_its_input(small: PreTrainedModel) -> None:
    """So that an analysis can start at any block, whatever it reads of earlier ones."""
    ids, stack = torch.arange(7, 77)[None], small.model.layers
    inputs: list[Tensor] = []
    beside: list[Beside] = []
    with torch.no_grad():
        with contextlib.ExitStack() as watched:
            for block in stack:
                watched.enter_context(observed(block, inputs, beside))
            final = trunk(small, stack, ids, 0, None, None, beside).last_hidden_state
        assert [each.shape[-1] for each in inputs] == input_channels(small)
        for start, hidden in enumerate(inputs):
            again = trunk(small, stack, ids, start, hidden, None, beside[: len(stack)])
            assert torch.equal(again.last_hidden_state, final), start


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mb_per_layer": 4}, "mb_per_layer"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mamba_dt_rank": 128}, "mamba_dt_rank"),
        ({"mamba_conv_bias": False}, "mamba_conv_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"lm_head_bias": True}, "lm_head_bias"),
        ({"num_hidden_layers": 30}, "30 layers"),
        ({"num_key_value_heads": 5}, "5 of keys"),
    ],
)
def test_what_is_not_published_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        Phi4FlashConfig(**{**PUBLISHED, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As it is published: no head is stored, and code in the repository is named."""
    made = build_folder("phi4flash", tmp_path / "model")
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    kept = {name: config[name] for name in PUBLISHED if name in config}
    sizes = {name: config[name] for name in ("model_type", "architectures", "mamba_d_state")}
    auto_map = {"AutoModelForCausalLM": "modeling_phi4flash.Phi4FlashForCausalLM"}
    (made / "config.json").write_text(json.dumps({**kept, **sizes, "auto_map": auto_map}), encoding="utf-8")
    (made / "modeling_phi4flash.py").write_text("raise SystemExit", encoding="utf-8")
    tensors = load_file(made / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


def test_a_published_folder_opens_in_memory_and_from_the_disk(folder: Path) -> None:
    ids, model = torch.arange(1, 40)[None], build("phi4flash")
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
        assert torch.equal(load_model(folder).model(ids, use_cache=False).logits, wanted)
    for name, parameter in open_model(folder).model.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def exported(folder: Path, plan: Plan | str, out: Path) -> dict[str, Any]:
    *_, last = export_model(LocalModel("phi4flash", folder), plan, out, Cancel())
    assert isinstance(last, Finished)
    return last.result


def test_analyzed_planned_and_exported_it_answers_as_the_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights on disk; then in `openvino_genai`, alone and in a batch of unequal prompts."""
    monkeypatch.setattr(fit, "free_mb", lambda: 0)
    analysis = Analysis(tokens=256, window=64, formats=("int4_sym_g64", "int8_sym"))
    events = list(perform(AnalyzeJob(str(folder), tmp_path / "scores.json", analysis), Cancel()))
    assert any(isinstance(event, Note) and "The weights stay on disk" in event.text for event in events)
    monkeypatch.undo()
    scores = load_scores(tmp_path / "scores.json")
    assert {entry.kind for entry in scores.entries} == {"ssm", "attention", "mlp", "embedding"}
    proof = exported(folder, propose(scores, bits=8), tmp_path / "out")["proof"]
    assert proof["fp16_against_torch"] < 1e-3
    assert proof["cpu_f32_against_torch"] < 1e-3
    assert not proof["runs_paged"]
    out = tmp_path / "fp16"
    exported(folder, "fp16", out)
    check_answers(folder, out)


def test_a_large_one_is_compared_in_pieces(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bundle, in_pieces, proof_module):
        if hasattr(module, "LARGE"):
            monkeypatch.setattr(module, "LARGE", 1000)
    proof = exported(folder, "int8_sym", tmp_path / "out")["proof"]
    assert proof["in_pieces"]
    assert proof["cpu_f32_against_torch"] < 1e-3
