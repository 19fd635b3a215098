"""The layers of a frozen generator: the sums of `layers.py` in fewer and larger operations.

Queries, keys and values come of one product; GELU and the sums with what a layer was given are part of the products
before them; weights are packed (`packing.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onevision.generator.layers import Attention, DecoderLayer, EncoderLayer, written_attention
from onevision.generator.packing import PackedLinear
from onevision.quantization.gemm import plain_matmul


class FrozenAttention(nn.Module):
    """Multi-head attention and the sum with what it was given."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        query, key_value = attention.query, attention.key_value
        self.heads = attention.heads
        self.query_key_value = PackedLinear(
            torch.cat([query.weight, key_value.weight]), torch.cat([query.bias, key_value.bias])
        )
        self.query, self.key_value = PackedLinear.of(query), PackedLinear.of(key_value)
        self.output = PackedLinear.of(attention.output)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, d / heads) of a context (B, S, d)."""
        key, value = self.key_value(context).chunk(2, -1)
        return self._split(key), self._split(value)

    def to_context(self, x: Tensor, normed: Tensor, context: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """x (B, Q, d) plus what it attends to in a context."""
        return self._attend(x, self._split(self.query(normed)), *context, mask)

    def to_itself(self, x: Tensor, normed: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, S, d) plus what it attends to in itself."""
        query, key, value = (self._split(part) for part in self.query_key_value(normed).chunk(3, -1))
        return self._attend(x, query, key, value, mask)

    def _attend(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        with plain_matmul():
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=None if mask is None else mask[:, None, None]
            )
        return self.output(attended.transpose(1, 2).flatten(2), x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class FrozenFeedForward(nn.Module):
    """Two linear maps with GELU between, and the sum with what they were given."""

    def __init__(self, norm: nn.LayerNorm, feedforward: nn.Sequential) -> None:
        super().__init__()
        first, last = feedforward[0], feedforward[-1]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        self.norm, self.up, self.down = norm, PackedLinear.of(first, gelu=True), PackedLinear.of(last)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d)."""
        return self.down(self.up(self.norm(x)), x)


class FrozenEncoderLayer(nn.Module):
    """What an `EncoderLayer` computes in evaluation mode."""

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__()
        self.mass = layer.mass
        self.norm, self.attention = layer.norm1, FrozenAttention(layer.attention)
        self.feedforward = FrozenFeedForward(layer.norm2, layer.feedforward)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, S, d), mask (B, S) or None where everything may be attended to."""
        return self.feedforward(self.attention.to_itself(x, self.norm(x), mask))


class FrozenDecoderLayer(nn.Module):
    """What a `DecoderLayer` computes in evaluation mode, code by code."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        self.norm1, self.self_attention = layer.norm1, FrozenAttention(layer.self_attention)
        self.norm2, self.cross_attention = layer.norm2, FrozenAttention(layer.cross_attention)
        self.feedforward = FrozenFeedForward(layer.norm3, layer.feedforward)

    def step(
        self, x: Tensor, bank: Tensor | None, path: Tensor, context: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As `DecoderLayer.step`."""
        attention = self.self_attention
        query, own = attention.query_key_value(self.norm1(x)).split((x.shape[-1], 2 * x.shape[-1]), -1)
        own = own.flatten(0, 1)
        bank = own if bank is None else torch.cat([bank, own])
        x = attention.output(written_attention(query, bank, path, attention.heads), x)
        x = self.cross_attention.to_context(x, self.norm2(x), context, mask)
        return self.feedforward(x), bank
