"""The layers of a frozen generator: the sums of `layers.py` in fewer and larger operations.

Queries, keys and values of self-attention come of one product, GELU is part of the product before it, and weights are
packed (`packing.py`). What beams attend to is fixed while they are written, so that the maps of queries and outputs are
taken into it once a query; where one token's attention is asked for, the map of keys is taken into its query. For head
h, token c of the context and beam x

    q_h k_h / sqrt(e) = (Wq x + bq)_h (Wk c + bk)_h / sqrt(e) = x A_h(c) + a_h(c),      Wo_h v_h = Wo_h (Wv c + bv)_h

with A_h, a_h and Wo_h v_h affine in c: cross-attention is two products and a softmax over all heads at once.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onevision.generator.layers import Attention, DecoderLayer, EncoderLayer, written_attention
from onevision.packing import PackedLinear
from onevision.quantization.gemm import plain_matmul


class FrozenSelfAttention(nn.Module):
    """Self-attention with queries, keys and values in one product."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        query, key_value = attention.query, attention.key_value
        self.heads = attention.heads
        self.query_key_value = PackedLinear(
            torch.cat([query.weight, key_value.weight]), torch.cat([query.bias, key_value.bias])
        )
        self.output = PackedLinear.of(attention.output)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, d), mask (B, S)."""
        parts = self.query_key_value(x).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        with plain_matmul():
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=None if mask is None else mask[:, None, None]
            )
        return self.output(attended.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, bank: Tensor | None, path: Tensor) -> tuple[Tensor, Tensor]:
        """One code of beams x (B, W, d); bank and path as in `DecoderLayer.step`."""
        query, own = self.query_key_value(x).split((x.shape[-1], 2 * x.shape[-1]), -1)
        own = own.flatten(0, 1)
        bank = own if bank is None else torch.cat([bank, own])
        return self.output(written_attention(query, bank, path, self.heads)), bank


class FrozenCrossAttention(nn.Module):
    """Cross-attention whose queries and outputs are part of the context."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads, d = attention.heads, attention.query.in_features

        def by_head(weight: Tensor, bias: Tensor) -> Tensor:
            """(d, d) and (d,) -> (heads, d / heads, d + 1)."""
            return torch.cat([weight, bias[:, None]], 1).float().unflatten(0, (self.heads, -1))

        to_key, to_value = (
            by_head(w, b) for w, b in zip(*(p.chunk(2) for p in attention.key_value.parameters()), strict=True)
        )
        to_query = by_head(attention.query.weight, attention.query.bias) * (d // self.heads) ** -0.5
        from_value = attention.output.weight.float().unflatten(1, (self.heads, -1)).transpose(0, 1)
        keys, values = to_query.transpose(1, 2) @ to_key, from_value @ to_value
        values[0, :, -1] += attention.output.bias  # a head's weights sum to one
        maps = torch.cat([keys[:, :d].flatten(0, 1), keys[:, d], values.flatten(0, 1)]).to(attention.query.weight.dtype)
        self.context = PackedLinear(maps[:, :d].contiguous(), maps[:, d].contiguous())

    def read(self, context: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Keys A (B, heads, S, d), their constants a (B, heads, S) and values (B, heads, S, d) of a context."""
        wide = self.heads * context.shape[-1]
        keys, constant, values = self.context(context).split((wide, self.heads, wide), -1)
        constant = constant.transpose(1, 2)
        if mask is not None:
            constant = constant.masked_fill(~mask[:, None], -torch.inf)
        return self._rows(keys), constant.contiguous(), self._rows(values)

    def forward(
        self, x: Tensor, normed: Tensor, context: tuple[Tensor, ...], looked: list[Tensor] | None = None
    ) -> Tensor:
        """x (B, W, d) plus what it attends to; `looked` as in `DecoderLayer.step`."""
        keys, constant, values = (part.flatten(1, 2) for part in context)
        logits = torch.baddbmm(constant[:, None], normed, keys.transpose(1, 2))
        weight = logits.unflatten(-1, (self.heads, -1)).softmax(-1)
        if looked is not None:
            looked.append(weight.mean(2)[:, 0])
        return torch.baddbmm(x, weight.flatten(-2), values)

    def _rows(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous()


class FrozenLook(nn.Module):
    """How much one token attends to all: `Attention.mass` in self-attention, without keys and values of them all."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        to_query, bias, to_key = (
            part.detach().float().unflatten(0, (self.heads, -1))
            for part in (attention.query.weight, attention.query.bias[:, None], attention.key_value.weight.chunk(2)[0])
        )
        to_key = to_key.transpose(1, 2) * to_query.shape[1] ** -0.5
        weight, constant = ((to_key @ part).flatten(0, 1).to(attention.query.weight.dtype) for part in (to_query, bias))
        self.query = PackedLinear(weight, constant[:, 0])

    def forward(self, x: Tensor, mask: Tensor, reader: int) -> Tensor:
        """Attention (B, S) of one token of x (B, S, d), mask (B, S); a bias of keys would be the same for them all."""
        logits = self.query(x[:, reader]).unflatten(-1, (self.heads, -1)) @ x.transpose(1, 2)
        return logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1).mean(1)


class FrozenFeedForward(nn.Module):
    """Two linear maps with GELU between, of what a norm gives."""

    def __init__(self, norm: nn.LayerNorm, feedforward: nn.Sequential) -> None:
        super().__init__()
        first, last = feedforward[0], feedforward[-1]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        self.norm, self.up, self.down = norm, PackedLinear.of(first, gelu=True), PackedLinear.of(last)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d)."""
        return self.down(self.up(self.norm(x)))


class FrozenEncoderLayer(nn.Module):
    """What an `EncoderLayer` computes in evaluation mode."""

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__()
        self.norm, self.attention = layer.norm1, FrozenSelfAttention(layer.attention)
        self.look = FrozenLook(layer.attention)
        self.feedforward = FrozenFeedForward(layer.norm2, layer.feedforward)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, S, d), mask (B, S) or None where everything may be attended to."""
        x = self.attention(self.norm(x), mask).add_(x)
        return self.feedforward(x).add_(x)

    def mass(self, x: Tensor, mask: Tensor, reader: int) -> Tensor:
        """As `EncoderLayer.mass`."""
        return cast(Tensor, self.look(self.norm(x), mask, reader))


class FrozenDecoderLayer(nn.Module):
    """What a `DecoderLayer` computes in evaluation mode, code by code."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        self.norm1, self.self_attention = layer.norm1, FrozenSelfAttention(layer.self_attention)
        self.norm2, self.cross_attention = layer.norm2, FrozenCrossAttention(layer.cross_attention)
        self.feedforward = FrozenFeedForward(layer.norm3, layer.feedforward)

    def read(self, context: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """What `step` needs of a context (B, S, d), computed once a query."""
        return self.cross_attention.read(context, mask)

    def step(
        self,
        x: Tensor,
        bank: Tensor | None,
        path: Tensor,
        context: tuple[Tensor, ...],
        mask: Tensor | None,  # noqa: ARG002 - it is part of the context
        looked: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `DecoderLayer.step`."""
        attended, bank = self.self_attention.step(self.norm1(x), bank, path)
        x = attended.add_(x)
        x = self.cross_attention(x, self.norm2(x), context, looked)
        return self.feedforward(x).add_(x), bank
