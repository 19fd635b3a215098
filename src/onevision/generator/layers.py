"""Transformer layers with the two things the generator needs: cached context keys and values, and attention mass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onevision.generator.dropout import Dropout, dropped_attention
from onevision.quantization.gemm import plain_matmul


class Attention(nn.Module):
    """Multi-head attention; queries may carry one more dimension than the context (beams of one query)."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.output = nn.Linear(d_model, d_model)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, d / heads) of a context (B, S, d): computed once, used at every step."""
        key, value = self.key_value(context).chunk(2, -1)
        return self._split(key), self._split(value)

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, ...], mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """Attend from x (B, Q, d); `mask` (B, S) bool, True where there is something to attend to."""
        key, value = keys_values
        query = self._split(self.query(x))
        mask = None if mask is None else mask[:, None, None]
        p = self.dropout if self.training else 0.0
        with plain_matmul():
            if p and x.device.type == "cpu":
                attended = dropped_attention(query, key, value, mask, p, causal=causal)
            else:
                attended = F.scaled_dot_product_attention(
                    query, key, value, attn_mask=mask, dropout_p=p, is_causal=causal
                )
        return self.output(attended.transpose(1, 2).flatten(2))

    def mass(self, x: Tensor, keys_values: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """Attention weights (B, S) of single queries x (B, 1, d), mean over heads."""
        query = self._split(self.query(x))
        logits = query @ keys_values[0].transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None], -torch.inf)
        return logits.softmax(-1).mean(1)[:, 0]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class FeedForward(nn.Sequential):
    """Two linear maps with GELU between."""

    def __init__(self, d_model: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(d_model, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, d_model))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, d_model: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = Attention(d_model, heads, dropout)
        self.feedforward = FeedForward(d_model, hidden, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, S, d), mask (B, S) or None where everything may be attended to."""
        normed = self.norm1(x)
        x = x + self.dropout(self.attention(normed, self.attention.keys_values(normed), mask))
        return x + self.dropout(self.feedforward(self.norm2(x)))

    def mass(self, x: Tensor, mask: Tensor, reader: int) -> Tensor:
        """Attention (B, S) that position `reader` pays to all positions in this layer."""
        normed = self.norm1(x)
        return self.attention.mass(normed[:, reader : reader + 1], self.attention.keys_values(normed), mask)


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention and feed-forward."""

    def __init__(self, d_model: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d_model), nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.self_attention = Attention(d_model, heads, dropout)
        self.cross_attention = Attention(d_model, heads, dropout)
        self.feedforward = FeedForward(d_model, hidden, dropout)
        self.dropout = Dropout(dropout)

    def read(self, context: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:  # noqa: ARG002 - see FrozenDecoderLayer
        """What the layer needs of a context (B, S, d), computed once a query: keys and values."""
        return self.cross_attention.keys_values(context)

    def forward(self, x: Tensor, context: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """Teacher forcing: x (B, L, d) all at once, context keys and values, mask (B, S) or None."""
        normed = self.norm1(x)
        attended = self.self_attention(normed, self.self_attention.keys_values(normed), causal=True)
        return self._rest(x + self.dropout(attended), context, mask)

    def step(
        self,
        x: Tensor,
        bank: Tensor | None,
        path: Tensor,
        context: tuple[Tensor, ...],
        mask: Tensor | None,
        looked: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One code: x (B, W, d) of W beams, which share the query's context keys and values.

        Args:
            bank: (R, 2 d) keys and values of all codes before this one, of all beams, whether they still live or not.
            path: (B, W, l) rows of the new bank that a beam attends to, the last of them its own.
            looked: takes note of the attention (B, S) that a query's only beam pays to the context, mean over heads.

        Returns:
            x, and the bank with B W rows more.
        """
        attention = self.self_attention
        normed = self.norm1(x)
        own = attention.key_value(normed).flatten(0, 1)
        bank = own if bank is None else torch.cat([bank, own])
        attended = attention.output(written_attention(attention.query(normed), bank, path, attention.heads))
        x = x + attended
        if looked is not None:
            looked.append(self.cross_attention.mass(self.norm2(x), context, mask))
        return self._rest(x, context, mask), bank

    def _rest(self, x: Tensor, context: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.cross_attention(self.norm2(x), context, mask))
        return x + self.dropout(self.feedforward(self.norm3(x)))


def written_attention(query: Tensor, bank: Tensor, path: Tensor, heads: int) -> Tensor:
    """Attention (B, W, d) of beams (B, W, d) to the codes that each has written: rows `path` (B, W, l) of the bank.

    One query and at most a few keys a beam: sums of products are faster than the fused attention.
    """
    rows = bank.index_select(0, path.flatten()).view(-1, path.shape[2], 2, heads, query.shape[-1] // heads)
    key, value = rows.unbind(2)
    if path.shape[2] == 1:  # one key has all the attention
        return value.reshape(query.shape)
    split = query.reshape(-1, 1, heads, key.shape[-1]) * key.shape[-1] ** -0.5
    weight = (split * key).sum(-1, keepdim=True).softmax(1)
    return (weight * value).sum(1).view(query.shape)


def unless_full(mask: Tensor) -> Tensor | None:
    """A mask (B, S), or None if nothing is masked: attention without one is faster. No GPU is asked: it would wait."""
    return None if mask.device.type == "cpu" and bool(mask.all()) else mask
