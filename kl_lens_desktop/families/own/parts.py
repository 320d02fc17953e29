"""What the implementations of our own share: a norm, masks of two kinds, repeated heads, and the output."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast


class RMSNorm(nn.Module):
    """Zhang and Sennrich, arXiv 1910.07467, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


@dataclass(frozen=True, slots=True)
class Masks:
    """What is added to the scores of attention to all tokens and to a window, None for the causal mask."""

    every: Tensor | None
    local: Tensor | None


class WithHead:
    """For a class with the blocks in `model` and an output embedding in `lm_head`: logits.

    `GenerationMixin` stays among the class's own bases: transformers looks for it there, and nowhere else.
    """

    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}
    model: nn.Module
    lm_head: nn.Linear

    def forward(
        self, input_ids: Tensor, logits_to_keep: int | Tensor = 0, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        outputs = self.model(input_ids=input_ids, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        return CausalLMOutputWithPast(logits=logits, past_key_values=outputs.past_key_values)


def repeated(x: Tensor, times: int) -> Tensor:
    """(batch, heads, tokens, size) with each head so many times after the other."""
    batch, heads, tokens, size = x.shape
    return x[:, :, None].expand(batch, heads, times, tokens, size).reshape(batch, heads * times, tokens, size)
