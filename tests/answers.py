"""What a model says, token by token, and whether `openvino_genai` says the same of its export."""

from pathlib import Path
from typing import Any

import openvino_genai
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop.model.load import load_model

PROMPTS = ("The ship", "He looked at the house for a long while and then went", "It was")


def greedy(model: PreTrainedModel, ids: Tensor, count: int) -> list[int]:
    """The likeliest tokens after `ids` (1, tokens), without a cache."""
    made = ids
    with torch.no_grad():
        for _ in range(count):
            made = torch.cat([made, model(input_ids=made, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return made[0, ids.shape[1] :].tolist()


def check_answers(folder: Path, exported: Path) -> None:
    """An export in FP16 says what the model with weights in FP16 says, alone and in a batch."""
    loaded = load_model(folder)
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.half().float()
    wanted = []
    for prompt in PROMPTS:
        ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
        wanted.append(loaded.tokenizer.decode(greedy(loaded.model, ids, 12), skip_special_tokens=True))
    pipe = openvino_genai.LLMPipeline(str(exported), "CPU", INFERENCE_PRECISION_HINT="f32")
    how: dict[str, Any] = {"max_new_tokens": 12, "apply_chat_template": False, "ignore_eos": True}
    assert [pipe.generate(prompt, **how) for prompt in PROMPTS] == wanted
    assert pipe.generate(list(PROMPTS), **how).texts == wanted
