"""Zamba (Mamba and a shared transformer block)."""

from kl_lens_desktop.families.family import Family

FAMILY = Family(
    model_type="zamba",
    title="Zamba (Mamba and a shared transformer block)",
    kernels=("short_convolution", "selective_scan"),
    mixers={
        "ZambaMambaMixer": "ssm",
        "ZambaAttention": "attention",
        "ZambaMLP": "mlp",
        "ZambaHybridLayer": "mlp",
    },
    npu="OpenVINO's NPU plugin does not take its graph",
    checkpoints=("Zyphra/Zamba-7B-v1",),
    tiny={
        "": {
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 96,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "n_mamba_heads": 2,
        },
    },
)
