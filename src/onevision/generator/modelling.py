"""The generator (encoder-decoder, BART class as in OneSearch and UniDGF).

Prompt: [task] [profile] [picture vector] [its own semantic ID] [category] [patch tokens] [history] [long history].
Output: one code a step, with a softmax over the codes of that level only.

Two things set it apart from a plain sequence model [ours]:
- a *code prior*: the logit of a code is lowered by its distance to what the photo still leaves unexplained under the
  codes written so far, `logit_l(k) = head_l(h)_k - gamma_l ||r_l - C_l[k]||^2`, so that items nobody clicked yet are in
  reach from the first step; gamma_l is learnt;
- a *taste shift*: the point that the prior measures from is moved by what the encoder read in the history.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from onevision.generator.configuration import GeneratorConfig
from onevision.generator.layers import DecoderLayer, EncoderLayer
from onevision.generator.prompts import Prompt, Task
from onevision.generator.token_pruning import KeepRule, merge_dropped
from onevision.quantization.residual import ResidualQuantizer

# Loading takes milliseconds; a bar of the library's own on stderr would only be noise.
transformers.utils.logging.disable_progress_bar()

HISTORY_KINDS = 3
LONG_TOKENS = 4


class Memory(NamedTuple):
    """What the decoder reads: cross-attention keys and values a layer, mask (B, S), and the point z (B, d).

    `kept` (B,) counts image tokens that were kept, `category_logits` (B, K) guess the product's category.
    """

    keys_values: list[tuple[Tensor, Tensor]]
    mask: Tensor
    point: Tensor
    kept: Tensor
    category_logits: Tensor

    def repeat(self, count: int) -> Memory:
        """Every query `count` times, one after the other: (B, ...) -> (B * count, ...)."""

        def each(x: Tensor) -> Tensor:
            return x.repeat_interleave(count, 0)

        pairs = [(each(key), each(value)) for key, value in self.keys_values]
        return Memory(pairs, each(self.mask), each(self.point), each(self.kept), each(self.category_logits))


class Generator(PreTrainedModel):
    """Writes semantic IDs; the codebooks of one generation are a frozen part of it."""

    config_class = GeneratorConfig
    base_model_prefix = "generator"

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        d = config.d_model
        self.quantizer = ResidualQuantizer.from_settings(config.quantizer).requires_grad_(False)
        sizes = self.quantizer.codebook_sizes
        dim = self.quantizer.dim
        self.image = nn.Sequential(nn.LayerNorm(config.token_dim), nn.Linear(config.token_dim, d))
        self.image_position = nn.Parameter(torch.randn(config.image_tokens, d) * 0.02)
        self.vector = nn.Linear(dim, d)
        self.category = nn.Linear(config.categories, d)
        self.task = nn.Embedding(len(Task), d)
        self.segment = nn.Embedding(len(config.segments) + 1, d)
        self.codes = nn.ModuleList(nn.Embedding(size, d) for size in sizes)
        self.reconstruction = nn.Linear(dim, d)
        self.item_norm = nn.LayerNorm(d)
        self.history_kind = nn.Embedding(HISTORY_KINDS, d)
        self.history_position = nn.Embedding(config.history_length, d)
        self.kind = nn.Embedding(4, d)
        self.long_queries = nn.Parameter(torch.randn(LONG_TOKENS, d) * 0.02)
        self.long_score = nn.Linear(d, LONG_TOKENS)
        self.dropout = nn.Dropout(config.dropout)
        layer = (d, config.heads, config.feedforward, config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(d)
        self.start = nn.Parameter(torch.randn(d) * 0.02)
        self.decoder_position = nn.Parameter(torch.randn(len(sizes), d) * 0.02)
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(d)
        self.heads = nn.ModuleList(nn.Linear(d, size) for size in sizes)
        self.log_gamma = nn.Parameter(torch.full((len(sizes),), 2.3))
        self.taste_shift = nn.Linear(d, dim)
        self.category_head = nn.Linear(d, config.categories)
        self.post_init()
        nn.init.zeros_(self.taste_shift.weight)
        nn.init.zeros_(self.taste_shift.bias)

    def _init_weights(self, module: nn.Module) -> None:
        """Normal(0, 0.02) weights; the frozen codebooks are not touched."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes a level."""
        return self.quantizer.codebook_sizes

    # --- Encoder

    def read(self, prompt: Prompt, pruning: KeepRule | None = None) -> Memory:
        """Encode prompts; with `pruning`, image tokens leave the sequence after the first layer."""
        front, patches, back, back_mask = self._embed(prompt)
        front_mask = torch.ones(front.shape[:2], dtype=torch.bool)
        patch_mask = torch.ones(patches.shape[:2], dtype=torch.bool)
        first, count = front.shape[1], patches.shape[1]
        x = self.dropout(torch.cat([front, patches, back], 1))
        mask = torch.cat([front_mask, patch_mask, back_mask], 1)
        kept = torch.full((len(prompt),), count)
        for number, layer in enumerate(cast(list[EncoderLayer], self.encoder)):
            if number == 1 and pruning is not None:
                span = slice(first, first + count)
                mass = layer.mass(x, mask, reader=0)[:, span]
                keep = pruning(mass)
                kept = keep.sum(1)
                tokens, token_mask = merge_dropped(x[:, span], mass, keep)
                x = torch.cat([x[:, :first], tokens, x[:, first + count :]], 1)
                mask = torch.cat([front_mask, token_mask, back_mask], 1)
            x = layer(x, mask)
        x = self.encoder_norm(x)
        point = self.quantizer.project(prompt.embedding) + self.taste_shift(x[:, 0])
        keys_values = [layer.cross_attention.keys_values(x) for layer in cast(list[DecoderLayer], self.decoder)]
        return Memory(keys_values, mask, point, kept, self.category_head(x[:, 0]))

    def _embed(self, prompt: Prompt) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kind = self.kind.weight
        front = torch.stack(
            [
                self.task(prompt.task) + kind[0],
                self.segment(prompt.segment) + kind[1],
                self.vector(prompt.embedding),
                self._own_id(prompt.embedding) + kind[2],
                self.category(prompt.category) + kind[3],
            ],
            1,
        )
        patches = self.image(prompt.tokens.float()) + self.image_position
        history, history_mask = self._history(prompt.history)
        long, long_mask = self._long_history(prompt.long_history)
        return front, patches, torch.cat([history, long], 1), torch.cat([history_mask, long_mask], 1)

    def _own_id(self, embedding: Tensor) -> Tensor:
        """The query's own semantic ID, as one token."""
        rest = self.quantizer.project(embedding)
        total = torch.zeros(len(embedding), self.config.d_model)
        for level, table in enumerate(self.codes):
            code = self.quantizer.distances(rest, level).argmin(-1)
            rest = self.quantizer.advance(rest, level, code)
            total = total + table(code)
        return total

    def item(self, sids: Tensor) -> Tensor:
        """Tokens (..., d) of items by semantic ID (..., L): their codes, and the vector that the codes stand for."""
        total: Tensor = self.reconstruction(self._decode(sids))
        for level, table in enumerate(self.codes):
            total = total + table(sids[..., level])
        return self.item_norm(total)

    def _decode(self, sids: Tensor) -> Tensor:
        quantizer = self.quantizer
        levels = len(quantizer.residual_sizes)
        parts = [quantizer.codebook(level)[sids[..., level]] for level in range(levels)]
        z = torch.stack(parts).sum(0)
        if quantizer.opq_subspaces:
            tails = [quantizer.opq_codebooks[s][sids[..., levels + s]] for s in range(quantizer.opq_subspaces)]
            z = z + torch.cat(tails, -1) @ quantizer.rotation.T
        return z

    def _history(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, L) -> tokens (B, 3 h, d) and mask, cut to the longest history h of the batch."""
        there = history[..., 0] >= 0
        longest = int(there.sum(-1).max()) if there.numel() else 0
        there, history = there[:, :, :longest], history[:, :, :longest]
        tokens = self.item(history.clamp_min(0)) + self.history_kind.weight[:, None]
        tokens = tokens + self.history_position.weight[:longest]
        return tokens.flatten(1, 2), there.flatten(1)

    def _long_history(self, sids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, L) -> a few soft tokens (B, 4, d), each a learnt average of the long history."""
        there = sids[..., 0] >= 0
        longest = int(there.sum(-1).max()) if there.numel() else 0
        if longest == 0:
            return sids.new_zeros((len(sids), 0, self.config.d_model), dtype=torch.float32), there[:, :0]
        there, sids = there[:, :longest], sids[:, :longest]
        items = self.item(sids.clamp_min(0))
        score = self.long_score(items).masked_fill(~there[..., None], -1e4)
        soft = score.softmax(1).transpose(1, 2) @ items + self.long_queries
        return soft, there[:, :1].expand(-1, LONG_TOKENS)

    # --- Decoder

    def forward(self, prompt: Prompt, target: Tensor, pruning: KeepRule | None = None) -> tuple[list[Tensor], Memory]:
        """Logits of every level (B, K_l) under teacher forcing with semantic IDs `target` (B, L), and the memory."""
        memory = self.read(prompt, pruning)
        return self.logits(memory, target), memory

    def logits(self, memory: Memory, target: Tensor) -> list[Tensor]:
        """Logits of every level (B, K_l) when the codes before it are those of `target` (B, L)."""
        written = [table(target[:, level]) for level, table in enumerate(self.codes[:-1])]
        x = torch.stack([self.start.expand(len(target), -1), *written], 1) + self.decoder_position
        for layer, context in zip(self.decoder, memory.keys_values, strict=True):
            x = layer(x, context, memory.mask)
        x = self.decoder_norm(x)
        rest = memory.point
        result = []
        for level in range(len(self.heads)):
            result.append(self._score(x[:, level], rest, level))
            rest = self.quantizer.advance(rest, level, target[:, level])
        return result

    def log_probability(self, memory: Memory, target: Tensor) -> Tensor:
        """log pi(SID | prompt), (B,), of semantic IDs `target` (B, L)."""
        parts = [
            logits.float().log_softmax(-1).gather(-1, target[:, level : level + 1])[:, 0]
            for level, logits in enumerate(self.logits(memory, target))
        ]
        return torch.stack(parts).sum(0)

    def step(
        self, memory: Memory, level: int, code: Tensor | None, rest: Tensor, past: list[tuple[Tensor, Tensor]] | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """One step for W beams a query.

        Args:
            code: (B, W) code written at `level` - 1; None at level 0 (then W = 1).
            rest: (B, W, d), what is left to explain after it.
            past: the beams' own keys and values a layer.

        Returns:
            log-probabilities (B, W, K_l) float32 of the next code, and the new past.
        """
        x = self.start.expand(len(memory.mask), 1, -1) if code is None else self.codes[level - 1](code)
        x = x + self.decoder_position[level]
        present = []
        for number, layer in enumerate(cast(list[DecoderLayer], self.decoder)):
            x, own = layer.step(x, past[number] if past else None, memory.keys_values[number], memory.mask)
            present.append(own)
        logits = self._score(self.decoder_norm(x), rest, level)
        return logits.float().log_softmax(-1), present

    def _score(self, hidden: Tensor, rest: Tensor, level: int) -> Tensor:
        return self.heads[level](hidden) - self.log_gamma[level].exp() * self.quantizer.distances(rest, level)
