"""The generator behind `transformers.generate(prefix_allowed_tokens_fn=...)`: the peer of bench_decoding.py."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from onevision.generator.layers import DecoderLayer
from onevision.generator.memory import Memory
from onevision.generator.modelling import Generator
from onevision.generator.prompts import Prompt
from onevision.semantic_ids.trie import Trie


class Peer(PreTrainedModel, GenerationMixin):
    """The same generator for `generate`: token 0 begins, then the codes of all levels one after the other.

    With `shared`, a beam's context keys and values are not its own: they come from the query's, expanded once, and stay
    out of the cache that `generate` reorders at every step.
    """

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, model: Generator, *, shared: bool = False) -> None:
        self.first = np.r_[1, 1 + np.cumsum(model.codebook_sizes)].tolist()
        layers = len(model.decoder)
        super().__init__(PretrainedConfig(vocab_size=self.first[-1], num_hidden_layers=layers, is_encoder_decoder=True))
        self.model, self.shared = model, shared
        self.memory: Memory | None = None
        self.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=0, decoder_start_token_id=0)

    def build_trie(self, sids: np.ndarray) -> None:
        """A dict from written codes to the tokens that may follow."""
        self.allowed: dict[tuple[int, ...], list[int]] = {}
        tokens = Trie.build(sids)[0].sids() + np.array(self.first[:-1])
        change = np.zeros(len(tokens), bool)
        change[0] = True
        for level in range(tokens.shape[1]):
            parents = np.flatnonzero(change)
            change[1:] |= tokens[1:, level] != tokens[:-1, level]
            nodes = np.flatnonzero(change)
            codes = tokens[nodes, level].tolist()
            bounds = [*np.searchsorted(nodes, parents).tolist(), len(nodes)]
            prefixes = map(tuple, tokens[parents, :level].tolist())
            self.allowed |= {p: codes[a:b] for p, a, b in zip(prefixes, bounds[:-1], bounds[1:], strict=True)}

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        encoder_outputs: Any = None,
        attention_mask: Tensor | None = None,
        point: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "encoder_outputs": encoder_outputs,
            "attention_mask": attention_mask,
            "point": point,
        }

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: EncoderDecoderCache,
        encoder_outputs: BaseModelOutput,
        attention_mask: Tensor,
        point: Tensor,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        model, level = self.model, input_ids.shape[1] - 1
        if level == 0:
            self._read_context(past_key_values, encoder_outputs.last_hidden_state)
        rest = point
        for before in range(level):
            rest = model.quantizer.advance(rest, before, input_ids[:, before + 1] - self.first[before])
        last = input_ids[:, -1] - self.first[max(0, level - 1)]
        x = model.start.expand(len(input_ids), -1) if level == 0 else model.codes[level - 1](last)
        x = (x + model.decoder_position[level] + model.unexplained(rest))[:, None]
        for number, layer in enumerate(cast(list[DecoderLayer], model.decoder)):
            normed = layer.norm1(x)
            pair = past_key_values.self_attention_cache.update(*layer.self_attention.keys_values(normed), number)
            x = layer._rest(
                x + layer.self_attention(normed, pair), self._context(past_key_values, number), attention_mask
            )
        logits = x.new_full((len(x), 1, self.first[-1]), -torch.inf)
        logits[:, 0, self.first[level] : self.first[level + 1]] = model._score(model.decoder_norm(x)[:, 0], rest, level)
        return Seq2SeqLMOutput(logits=logits, past_key_values=past_key_values)

    def _read_context(self, cache: EncoderDecoderCache, encoded: Tensor) -> None:
        """Context keys and values of all beams, each from its own copy of the encoder's output as in BART."""
        assert self.memory is not None
        if self.shared:
            queries = torch.arange(len(self.memory.mask))
            rows = queries.repeat_interleave(len(encoded) // len(queries))
            self.expanded = self.memory.take(rows).keys_values
            return
        for number, layer in enumerate(cast(list[DecoderLayer], self.model.decoder)):
            cache.cross_attention_cache.update(*layer.cross_attention.keys_values(encoded), number)

    def _context(self, cache: EncoderDecoderCache, number: int) -> tuple[Tensor, ...]:
        if self.shared:
            return self.expanded[number]
        layer = cache.cross_attention_cache.layers[number]
        return layer.keys, layer.values

    def search(self, prompt: Prompt, width: int) -> tuple[Tensor, Tensor]:
        """Codes (B, W, L) and log-probabilities (B, W), best first."""
        encoded: list[Tensor] = []
        hook = self.model.encoder_norm.register_forward_hook(lambda _, __, output: encoded.append(output))
        self.memory = self.model.read(prompt)
        hook.remove()
        found = self.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded[0]),
            attention_mask=self.memory.mask,
            point=self.memory.point,
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=len(self.first) - 1,
            do_sample=False,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=lambda _, ids: self.allowed.get(tuple(ids[1:].tolist()), []),
            return_dict_in_generate=True,
            output_scores=True,
        )
        codes = found.sequences[:, 1:] - torch.tensor(self.first[:-1])
        return codes.view(len(prompt), width, -1), found.sequences_scores.view(len(prompt), width)
