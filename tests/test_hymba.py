"""Hymba against what its authors published: sizes, formulas, and a plain computation of both."""

import json
import math
import re
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
from kl_lens_desktop.families.own.hymba import HymbaConfig, names
from kl_lens_desktop.files import NPU_MODEL
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.load import load_model, open_model
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Finished, Note
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.sensitivity.jobs import Analysis, AnalyzeJob
from kl_lens_desktop.sensitivity.scores import load_scores
from tests.answers import check_answers
from tests.models import build, build_folder

# config.json of nvidia/Hymba-1.5B-Base, but for what says how it is run.
PUBLISHED = {
    "vocab_size": 32001, "hidden_size": 1600, "intermediate_size": 5504, "num_hidden_layers": 32,
    "num_attention_heads": 25, "num_key_value_heads": 5, "attn_hidden_size": -1, "kq_head_dim": -1,
    "v_head_dim": 128, "kq_norm": "none", "sliding_window": 1024, "global_attn_idx": [0, 15, 31],
    "kv_reuse_group": [
        [1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [16, 17, 18],
        [19, 20], [21, 22], [23, 24], [25, 26], [27, 28], [29, 30],
    ],
    "kv_reuse_every_i_layer": -1, "kv_weight_reuse": False, "num_memory_tokens": 128,
    "memory_tokens_interspersed_every": 0, "mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4,
    "mamba_dt_rank": 100, "mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_inner_layernorms": True,
    "num_mamba": 1, "num_experts": 1, "num_experts_per_tok": 1, "mlp_hidden_act": "silu",
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope": True, "rope_theta": 10000.0, "rope_type": "ntk",
    "max_position_embeddings": 8192, "orig_max_position_embeddings": 2048, "tie_word_embeddings": True,
    "layer_type": ["h"] * 32, "conv_dim": {str(layer): 3200 for layer in range(32)},
}  # fmt: skip


@pytest.fixture(scope="module")
def published() -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(HymbaConfig(**PUBLISHED))
    return model


def test_the_published_configuration_makes_the_published_model(published: PreTrainedModel) -> None:
    """1,522,797,824 parameters are 3.05 GB in bfloat16, as the Hub lists it; its index has 611 names."""
    parameters = list(published.parameters())
    assert sum(parameter.numel() for parameter in parameters) == 1_522_797_824
    assert len(parameters) == 611
    mixers = {name: m for name, m in published.named_modules() if name.endswith(".mamba")}
    rows = sorted(m.in_proj.weight.shape[0] for m in mixers.values())
    assert rows == [8000] * 15 + [8960] * 17  # those that compute keys and values, and those that read them
    assert sum(not m.local for m in mixers.values()) == 3


def test_the_base_of_its_positions_is_the_published_codes(published: PreTrainedModel) -> None:
    cosines, _ = published.model._turn(torch.tensor([[200]]), torch.float32)
    angle = torch.acos(cosines[0, 0, 0, 16]).item() / 200  # of a place, in the middle: base ** -(1 / 2)
    assert angle**-2 == pytest.approx(74_534.83, rel=1e-4)


def plain(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits (tokens, vocabulary) by the formulas of the paper, token by token and head by head."""
    c, w = model.config, {name: p.detach().double() for name, p in model.named_parameters()}
    meta, h = c.num_memory_tokens, torch.cat([w["model.memory_tokens"], w["model.embed_tokens.weight"][ids]])
    total, heads, groups = len(h), c.num_attention_heads, c.num_attention_heads // c.num_key_value_heads
    d, inner, n = c.hidden_size // heads, 2 * c.hidden_size, c.mamba_d_state
    longer = c.max_position_embeddings / c.orig_max_position_embeddings
    base = c.rope_theta * (2 * longer - 1) ** (d / (d - 2))
    angle = torch.arange(total)[:, None].double() / base ** (torch.arange(0, d, 2).double() / d)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + c.rms_norm_eps).sqrt() * weight

    def turned(x: Tensor) -> Tensor:
        a, b = x[:, : d // 2], x[:, d // 2 :]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], 1)

    def attended(q: Tensor, keys: list[Tensor], values: list[Tensor], local: bool) -> Tensor:
        out = torch.zeros(total, inner).double()
        wide = inner // heads
        for head in range(heads):
            turn, k, v = turned(q[:, head * d : (head + 1) * d]), keys[head // groups], values[head // groups]
            for i in range(total):
                seen = [j for j in range(i + 1) if not local or j < meta or i - j <= c.sliding_window]
                weights = torch.softmax(k[seen] @ turn[i] / math.sqrt(d), 0)
                out[i, head * wide : (head + 1) * wide] = weights @ v[seen]
        return out

    def scanned(x: Tensor, z: Tensor, at: str) -> Tensor:
        taps, bias = w[f"{at}conv1d.weight"][:, 0], w[f"{at}conv1d.bias"]
        before = torch.cat([torch.zeros(taps.shape[1] - 1, inner), x])
        x = F.silu(
            torch.stack([(before[t : t + taps.shape[1]].T * taps).sum(1) + bias for t in range(total)])
        )
        dt, B, C = (x @ w[f"{at}x_proj.0.weight"].T).split([c.mamba_dt_rank, n, n], 1)
        dt, B, C = (norm(v, w[f"{at}{k}_layernorm.weight"]) for v, k in ((dt, "dt"), (B, "B"), (C, "C")))
        dt = F.softplus(dt @ w[f"{at}dt_proj.0.weight"].T + w[f"{at}dt_proj.0.bias"])
        rates, state, out = -w[f"{at}A_log.0"].exp(), torch.zeros(inner, n).double(), []
        for t in range(total):
            state = (dt[t][:, None] * rates).exp() * state + (dt[t] * x[t])[:, None] * B[t]
            out.append(state @ C[t] + w[f"{at}D.0"] * x[t])
        return torch.stack(out) * F.silu(z)

    shared: tuple[list[Tensor], list[Tensor]] = [], []
    for layer, at in enumerate(
        f"model.layers.{block}.parts.{place}."
        for block, layers in enumerate(c.groups)
        for place in range(len(layers))
    ):
        u = norm(h, w[f"{at}input_layernorm.weight"]) @ w[f"{at}mamba.in_proj.weight"].T
        q, x, z = u[:, : heads * d], u[:, -2 * inner : -inner], u[:, -inner:]
        if u.shape[1] > heads * d + 2 * inner:
            k, v = u[:, heads * d : -2 * inner].split([heads // groups * d, inner // groups], 1)
            shared = [turned(part) for part in k.split(d, 1)], list(v.split(inner // heads, 1))
        seen = attended(q, *shared, local=layer not in c.global_attn_idx)
        first = norm(seen, w[f"{at}mamba.pre_avg_layernorm1.weight"])
        second = norm(scanned(x, z, f"{at}mamba."), w[f"{at}mamba.pre_avg_layernorm2.weight"])
        h = h + (first + second) / 2 @ w[f"{at}mamba.out_proj.weight"].T
        u = norm(h, w[f"{at}pre_moe_layernorm.weight"])
        gate, up, down = (w[f"{at}moe.experts.0.{name}_proj.weight"] for name in ("gate", "up", "down"))
        h = h + (F.silu(u @ gate.T) * (u @ up.T)) @ down.T
    logits: Tensor = norm(h[meta:], w["model.final_layernorm.weight"]) @ w["model.embed_tokens.weight"].T
    return logits


@pytest.fixture(scope="session")
def small() -> PreTrainedModel:
    return build("hymba")


def test_it_computes_what_the_paper_says(small: PreTrainedModel) -> None:
    ids = torch.arange(7, 47)  # further than a local layer sees
    with torch.no_grad():
        ours = small(ids[None], use_cache=False).logits[0]
        wanted = plain(small, ids)
    assert (ours - wanted).abs().max() < 1e-4 * wanted.std()


def test_token_by_token_it_is_the_same(small: PreTrainedModel) -> None:
    ids = torch.arange(7, 77)[None]
    with torch.no_grad():
        whole = small(ids, use_cache=False).logits
        out = small(ids[:, :30], use_cache=True)
        parts = [out.logits]
        for place in range(30, 70):
            parts.append(
                small(ids[:, place : place + 1], use_cache=True, past_key_values=out.past_key_values).logits
            )
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-3 * whole.std()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kq_norm": "rms"}, "kq_norm"),
        ({"num_experts": 4}, "num_experts"),
        ({"rope_type": "dynamic_ntk"}, "rope_type"),
        ({"memory_tokens_interspersed_every": 64}, "memory_tokens_interspersed_every"),
        ({"kv_reuse_group": [[1, 3]]}, "do not follow one another"),
        ({"kv_reuse_group": [[31, 32]]}, "do not follow one another"),
    ],
)
def test_what_is_not_published_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        HymbaConfig(**{**PUBLISHED, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As it is published: layers are numbered through, and code in the repository is named."""
    made = build_folder("hymba", tmp_path / "model")
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_hymba.HymbaForCausalLM"}
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (made / "modeling_hymba.py").write_text("raise SystemExit", encoding="utf-8")
    groups = HymbaConfig(**{k: v for k, v in config.items() if k != "auto_map"}).groups

    def published_name(name: str) -> str:
        found = re.fullmatch(r"model\.layers\.(\d+)\.parts\.(\d+)\.(.*)", name)
        return f"model.layers.{groups[int(found[1])][int(found[2])]}.{found[3]}" if found else name

    tensors = load_file(made / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    save_file(
        {published_name(name): value for name, value in tensors.items()},
        made / "model.safetensors",
        metadata={"format": "pt"},
    )
    return made


def test_names_of_the_checkpoint_find_their_place() -> None:
    name = names(HymbaConfig(**PUBLISHED))
    assert name("model.layers.0.mamba.D.0") == "model.layers.0.parts.0.mamba.D.0"
    assert name("model.layers.17.mamba.in_proj.weight") == "model.layers.9.parts.1.mamba.in_proj.weight"
    assert name("model.layers.31.moe.experts.0.up_proj.weight").startswith("model.layers.16.parts.0.")
    assert name("model.embed_tokens.weight") == "model.embed_tokens.weight"


def test_a_published_folder_opens_in_memory_and_from_the_disk(folder: Path, small: PreTrainedModel) -> None:
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        wanted = small(ids, use_cache=False).logits
        assert torch.equal(load_model(folder).model(ids, use_cache=False).logits, wanted)
    for name, parameter in open_model(folder).model.named_parameters():
        assert torch.equal(parameter, small.get_parameter(name)), name


def exported(folder: Path, plan: Plan | str, out: Path) -> dict[str, Any]:
    *_, last = export_model(LocalModel("hymba", folder), plan, out, Cancel())
    assert isinstance(last, Finished)
    return last.result


def test_analyzed_planned_and_exported_it_answers_as_the_model(folder: Path, tmp_path: Path) -> None:
    """In `openvino_genai`, alone and in a batch of unequal prompts."""
    analysis = Analysis(tokens=256, window=64, formats=("int4_sym_g64", "int8_sym"))
    list(perform(AnalyzeJob(str(folder), tmp_path / "scores.json", analysis), Cancel()))
    scores = load_scores(tmp_path / "scores.json")
    assert {entry.kind for entry in scores.entries} == {"ssm", "mlp", "embedding"}
    out = tmp_path / "out"
    proof = exported(folder, propose(scores, bits=8), out)["proof"]
    assert proof["fp16_against_torch"] < 1e-3
    assert proof["cpu_f32_against_torch"] < 1e-3
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


def test_a_graph_for_an_npu_is_declined_in_words(folder: Path, tmp_path: Path) -> None:
    events = list(export_model(LocalModel("hymba", folder), "fp16", tmp_path / "out", Cancel(), npu=True))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert "No graph for an NPU is written: its states begin with those that its meta tokens leave." in notes
    assert not (tmp_path / "out" / NPU_MODEL).exists()
