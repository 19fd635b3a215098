"""The generator (encoder-decoder, BART class as in OneSearch and UniDGF).

Prompt: [task] [profile] [picture vector] [its own semantic ID] [category] [patch tokens] [history] [long history].
Output: one code a step, with a softmax over the codes of that level only.

What sets it apart from a plain sequence model is the *pointer* [ours]: instead of a table of free logits, each step
points at a place in the space of the codebooks and reads the codes off by distance, in two ways that are mixed:

    look_l(k)  = softmax_k(-g_l ||r_l - C_l[k]||^2)                  the product in the photo
    taste_l(k) = softmax_k(-t_l ||r_l + p_l(h_l) - C_l[k]||^2)       what this shopper makes of it
    p_l(k)     = m_l look_l(k) + (1 - m_l) taste_l(k),  m_l = sigmoid(w_l h_l);  r_0 = P(e),  r_{l+1} = r_l - C_l[c_l]

r_l is what the photo still leaves unexplained under the codes written so far, which the decoder reads beside the last
code; p_l(h_l) is the move that it makes (zero at first); g_l and t_l are sharpness, learnt a level and scaled by h_l:
after codes that do not fit the photo, the photo says little of the next. An untrained generator already searches the
codebooks like residual-quantised nearest neighbours, so items that nobody clicked yet are in reach from the first step,
and what is learnt of one item holds for those near it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onevision.attention_mass import KeepRule, merge_dropped
from onevision.errors import ArtifactError
from onevision.generator.configuration import GeneratorConfig
from onevision.generator.dropout import Dropout
from onevision.generator.frozen import FrozenDecoderLayer, FrozenEncoderLayer
from onevision.generator.layers import DecoderLayer, EncoderLayer, unless_full
from onevision.generator.memory import Memory, Past, Prunable, splice
from onevision.generator.prompts import LONG_TOKENS, Prompt, Task
from onevision.packing import PackedLinear
from onevision.precision import in_float32
from onevision.quantization.residual import ResidualQuantizer

WEIGHTS = "model.safetensors"

HISTORY_KINDS = 3


class Generator(nn.Module):
    """Writes semantic IDs; the codebooks of one generation are a frozen part of it.

    Saved and loaded as models of `transformers` are, in the same files; its base class is not used, because importing
    it takes longer than loading and running this model.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
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
        self.reconstruction = nn.Linear(dim, d, bias=False)
        self.item_norm = nn.LayerNorm(d)
        self.history_kind = nn.Embedding(HISTORY_KINDS, d)
        self.history_position = nn.Embedding(config.history_length, d)
        self.kind = nn.Embedding(4, d)
        self.long_queries = nn.Parameter(torch.randn(LONG_TOKENS, d) * 0.02)
        self.long_score = nn.Linear(d, LONG_TOKENS)
        self.dropout = Dropout(config.dropout)
        layer = (d, config.heads, config.feedforward, config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(d)
        self.start = nn.Parameter(torch.randn(d) * 0.02)
        self.decoder_position = nn.Parameter(torch.randn(len(sizes), d) * 0.02)
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(d)
        self.pointers = nn.ModuleList(nn.Linear(d, dim) for _ in sizes)
        self.unexplained = nn.Linear(dim, d)
        # Of each level: how much look and how much taste, and how sharp both are.
        self.mixing = nn.ModuleList(nn.Linear(d, 3) for _ in sizes)
        self.log_look = nn.Parameter(torch.linspace(2.0, 3.0, len(sizes)))
        self.log_taste = nn.Parameter(torch.linspace(1.5, 2.5, len(sizes)))
        self.category_head = nn.Linear(d, config.categories)
        self._frozen_tables: Tensor | None = None
        self._frozen_keys: list[PackedLinear] = []
        self._frozen_heads: list[PackedLinear] = []
        self.apply(self._init_weights)
        for pointer in cast(list[nn.Linear], self.pointers):
            nn.init.zeros_(pointer.weight)

    def _init_weights(self, module: nn.Module) -> None:
        """Normal(0, 0.02) weights; the frozen codebooks are not touched."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @torch.no_grad()
    def freeze(self, layers: torch.dtype = torch.float32) -> Self:
        """Make ready for search and nothing else: its weights must not change any more, and it cannot be saved.

        Args:
            layers: type of the encoder's and decoder's layers; codebooks, pointers and scores stay float32.
        """
        self.eval().requires_grad_(False)
        self._frozen_tables = self._code_tables()
        self._frozen_keys = [PackedLinear(self._long_keys(level)) for level, _ in enumerate(self.codebook_sizes)]
        self._frozen_heads = [
            PackedLinear(torch.cat([pointer.weight, mixing.weight]), torch.cat([pointer.bias, mixing.bias]))
            for pointer, mixing in zip(
                cast(list[nn.Linear], self.pointers), cast(list[nn.Linear], self.mixing), strict=True
            )
        ]
        for module in (self.encoder, self.encoder_norm, self.decoder, self.decoder_norm):
            module.to(layers)
        self.encoder = nn.ModuleList(FrozenEncoderLayer(layer) for layer in cast(list[EncoderLayer], self.encoder))
        self.decoder = nn.ModuleList(FrozenDecoderLayer(layer) for layer in cast(list[DecoderLayer], self.decoder))
        return self

    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`; not of a frozen generator, whose weights lie otherwise."""
        if self._frozen_tables is not None:
            raise RuntimeError("a frozen generator cannot be saved; save it before `freeze`")
        self.config.save_pretrained(folder)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Generator:
        """Read what `save_pretrained` wrote; it comes in evaluation mode.

        Raises:
            ArtifactError: no such model, or weights that do not fit its configuration.
        """
        model = cls(cast(GeneratorConfig, GeneratorConfig.from_pretrained(folder)))
        try:
            model.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{folder / WEIGHTS}: not the weights of a generator ({error})") from None
        return model.eval()

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes a level."""
        return self.quantizer.codebook_sizes

    # --- Encoder

    def read(self, prompt: Prompt, pruning: KeepRule | None = None, prunable: Prunable = "image") -> Memory:
        """Encode prompts; with `pruning`, tokens of what is prunable leave the sequence after the first layer."""
        front, patches, back, back_mask = self._embed(prompt)
        front_mask = torch.ones(front.shape[:2], dtype=torch.bool, device=front.device)
        patch_mask = torch.ones(patches.shape[:2], dtype=torch.bool, device=front.device)
        first = front.shape[1]
        last = first + patches.shape[1]
        x = self.dropout(torch.cat([front, patches, back], 1)).to(self.encoder_norm.weight.dtype)
        mask = torch.cat([front_mask, patch_mask, back_mask], 1)
        columns = mask.shape[1]
        span = {"image": slice(first, last), "history": slice(last, columns), "both": slice(first, columns)}[prunable]
        stay = mask
        attended = unless_full(mask)
        for number, layer in enumerate(cast(list[EncoderLayer], self.encoder)):
            if number == 1 and pruning is not None and span.start < span.stop:
                mass, there = layer.mass(x, mask, reader=0)[:, span].float(), mask[:, span]
                keep = pruning(mass) & there
                stay = splice(mask, span, keep)
                tokens, token_mask = merge_dropped(x[:, span].float(), mass, keep, there)
                x, mask = splice(x, span, tokens.to(x.dtype)), splice(mask, span, token_mask)
                span = slice(span.start, span.start + tokens.shape[1])
                attended = unless_full(mask)
            x = layer(x, attended)
        x = self.encoder_norm(x)
        keys_values = [layer.read(x, attended) for layer in cast(list[DecoderLayer], self.decoder)]
        kept, history = stay[:, first:last].sum(1), stay[:, last:].sum(1)
        return Memory(keys_values, mask, prompt.embedding, kept, history, self.category_head(x[:, 0].float()), span)

    def _embed(self, prompt: Prompt) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kind = self.kind.weight
        tables = self._code_tables() if self._frozen_tables is None else self._frozen_tables
        front = [
            self.task(prompt.task) + kind[0],
            self.segment(prompt.segment) + kind[1],
            self.vector(prompt.embedding),
            self.category(prompt.category) + kind[3],
        ]
        if self.config.own_id:
            front.insert(3, self._own_id(prompt.embedding, tables) + kind[2])
        tokens = prompt.tokens[:, : self.config.image_tokens]
        patches = self.image(tokens.float()) + self.image_position
        history, history_mask = self._history(prompt.history, tables)
        long, long_mask = self._long_history(prompt.long_history, tables)
        return torch.stack(front, 1), patches, torch.cat([history, long], 1), torch.cat([history_mask, long_mask], 1)

    @in_float32
    def _own_id(self, embedding: Tensor, tables: Tensor) -> Tensor:
        """The query's own semantic ID, as one token."""
        rest = embedding
        codes = []
        for level in range(len(self.codebook_sizes)):
            codes.append(self._logits(rest, rest.new_ones(len(rest), 1), level).argmax(-1))
            rest = self.quantizer.advance(rest, level, codes[-1])
        return self._items(torch.stack(codes, -1), tables)

    def _code_tables(self) -> Tensor:
        """Tokens (sum of K_l, d) of all codes, level after level: learnt, plus a map of what each code stands for.

        An item's token is the sum over its codes, E_l[c_l] + W C_l[c_l]: the map is linear, so it is applied to the
        codebooks once and not to every item of every history.
        """
        quantizer = self.quantizer
        books = [quantizer.codebook(level) for level in range(len(quantizer.residual_sizes))]
        for s in range(quantizer.opq_subspaces):
            span = quantizer.dim // quantizer.opq_subspaces
            books.append(quantizer.opq_codebooks[s] @ quantizer.rotation[:, s * span : (s + 1) * span].T)
        learnt = torch.cat([table.weight for table in cast(list[nn.Embedding], self.codes)])
        return learnt + self.reconstruction(torch.cat(books))

    def _items(self, sids: Tensor, tables: Tensor) -> Tensor:
        """Tokens (..., d) of items by semantic ID (..., L)."""
        first = torch.tensor([0, *self.codebook_sizes[:-1]], device=sids.device).cumsum(0)
        summed = F.embedding_bag((sids + first).flatten(0, -2), tables, mode="sum")
        return self.item_norm(summed.view(*sids.shape[:-1], summed.shape[-1]))

    def _history(self, history: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, L) -> tokens (B, h, d) and mask, h the most items that a prompt of the batch has."""
        length = history.shape[2]
        there = (history[..., 0] >= 0).flatten(1)
        longest = int(there.sum(1).max()) if there.numel() else 0
        place = there.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
        sids = history.flatten(1, 2).gather(1, place[..., None].expand(-1, -1, history.shape[3]))
        position = self.history_kind(place // length) + self.history_position(place % length)
        return self._items(sids.clamp_min(0), tables) + position, there.gather(1, place)

    def _long_history(self, sids: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, L) -> a few soft tokens (B, 4, d), each a learnt average of the long history."""
        there = sids[..., 0] >= 0
        longest = int(there.sum(-1).max()) if there.numel() else 0
        if longest == 0:
            return sids.new_zeros((len(sids), 0, self.config.d_model), dtype=torch.float32), there[:, :0]
        there, sids = there[:, :longest], sids[:, :longest]
        items = self._items(sids.clamp_min(0), tables)
        score = self.long_score(items).masked_fill(~there[..., None], -1e4)
        soft = score.softmax(1).transpose(1, 2) @ items + self.long_queries
        return soft, there[:, :1].expand(-1, LONG_TOKENS)

    # --- Decoder

    def forward(self, prompt: Prompt, target: Tensor, pruning: KeepRule | None = None) -> tuple[list[Tensor], Memory]:
        """Log-probabilities of every level (B, K_l) under teacher forcing with `target` (B, L), and the memory."""
        memory = self.read(prompt, pruning)
        return self.next_codes(memory, target), memory

    def next_codes(self, memory: Memory, target: Tensor) -> list[Tensor]:
        """Log-probabilities of every level (B, K_l) when the codes before it are those of `target` (B, L)."""
        rests = self._rests(memory.point, target)
        written = [table(target[:, level]) for level, table in enumerate(self.codes[:-1])]
        x = torch.stack([self.start.expand(len(target), -1), *written], 1)
        x = x + self.decoder_position + self.unexplained(torch.stack(rests, 1))
        mask = unless_full(memory.mask)
        for layer, context in zip(self.decoder, memory.keys_values, strict=True):
            x = layer(x, context, mask)
        x = self.decoder_norm(x)
        return [self._score(x[:, level].float(), rest, level) for level, rest in enumerate(rests)]

    @in_float32
    def _rests(self, point: Tensor, target: Tensor) -> list[Tensor]:
        """What is left to explain (B, d) before every code of `target` (B, L)."""
        rests = [point]
        for level in range(len(self.codes) - 1):
            rests.append(self.quantizer.advance(rests[-1], level, target[:, level]))
        return rests

    def step(
        self,
        memory: Memory,
        level: int,
        code: Tensor | None,
        rest: Tensor,
        past: Past | None,
        children: Tensor,
        looked: list[Tensor] | None = None,
    ) -> tuple[Tensor, Past]:
        """One step for W beams a query.

        Args:
            code: (B, W) code written at `level` - 1; None at level 0 (then W = 1).
            rest: (B, W, d), what is left to explain after it.
            past: what these beams have written before.
            children: (B, W, C) codes that may come next; their probabilities are shares of all codes of the level.
            looked: at level 0, takes note of the attention (B, S) on the context, of each layer.

        Returns:
            log-probabilities (B, W, C) float32 of the children, and the new past.
        """
        batch, width = rest.shape[:2]
        x = self.start.expand(batch, 1, -1) if code is None else self.codes[level - 1](code)
        x = (x + self.decoder_position[level] + self.unexplained(rest)).to(self.decoder_norm.weight.dtype)
        written = 0 if past is None else len(past.banks[0])
        path = torch.arange(written, written + batch * width).view(batch, width, 1)
        path = path if past is None else torch.cat([past.path, path], 2)
        banks, mask = [], unless_full(memory.mask)
        for number, layer in enumerate(cast(list[DecoderLayer], self.decoder)):
            before = None if past is None else past.banks[number]
            x, bank = layer.step(x, before, path, memory.keys_values[number], mask, looked)
            banks.append(bank)
        return self._score(self.decoder_norm(x).float(), rest, level, children), Past(banks, path)

    @in_float32
    def _score(self, hidden: Tensor, rest: Tensor, level: int, codes: Tensor | None = None) -> Tensor:
        """Log-probabilities (..., K_l) float32 of the codes of a level, or only of `codes` (..., C)."""
        if self._frozen_heads:
            move, mixing, sharper_look, sharper_taste = self._frozen_heads[level](hidden).split(
                (rest.shape[-1], 1, 1, 1), -1
            )
        else:
            move = self.pointers[level](hidden)
            mixing, sharper_look, sharper_taste = self.mixing[level](hidden).split(1, -1)
        look_sharpness = (self.log_look[level] + sharper_look).exp()
        taste_sharpness = (self.log_taste[level] + sharper_taste).exp()
        points = torch.stack([rest, rest + move])
        sharpness = torch.stack([look_sharpness, taste_sharpness])
        look, taste = self._logits(points, sharpness, level).log_softmax(-1)
        if codes is not None:
            look, taste = look.gather(-1, codes), taste.gather(-1, codes)
        return torch.logaddexp(F.logsigmoid(mixing) + look, F.logsigmoid(-mixing) + taste)

    def _logits(self, points: Tensor, sharpness: Tensor, level: int) -> Tensor:
        """-s ||r - C_l[k]||^2 (..., K_l) of points r (..., d) and sharpness s (..., 1), but for a constant a point.

        One product: [2 s r, -s] [C_l[k], ||C_l[k]||^2].
        """
        points = torch.cat([2 * sharpness * self.quantizer.part(points, level), -sharpness], -1)
        return self._frozen_keys[level](points) if self._frozen_keys else points @ self._long_keys(level).T

    def _long_keys(self, level: int) -> Tensor:
        """Codes of a level and their squared lengths, (K_l, d + 1)."""
        keys = self.quantizer.keys(level)
        return torch.cat([keys, keys.square().sum(-1, keepdim=True)], -1)
