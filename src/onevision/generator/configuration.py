"""Configuration of the generator, saved beside its weights."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class GeneratorConfig(PretrainedConfig):
    """Sizes of the generator.

    Args:
        token_dim, image_tokens: of the tower's patch tokens; no image tokens: the photo's vector stands for it.
        own_id, shopper: whether the prompt holds the photo's own semantic ID, and what is known of the shopper.
        categories: leaf categories of the encoder.
        segments: user profiles known in training; row 0 of their table is "unknown".
        quantizer: settings of the codebooks (`ResidualQuantizer.settings`), kept frozen inside the generator.
        generation: identity of these codebooks.
    """

    model_type = "onevision"

    def __init__(
        self,
        d_model: int = 128,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        heads: int = 4,
        feedforward: int = 384,
        dropout: float = 0.1,
        history_length: int = 10,
        long_history_length: int = 50,
        token_dim: int = 192,
        image_tokens: int = 16,
        own_id: bool = True,
        shopper: bool = True,
        categories: int = 1,
        segments: list[str] | None = None,
        quantizer: dict[str, Any] | None = None,
        generation: str = "",
        **kwargs: Any,
    ) -> None:
        self.d_model = d_model
        self.encoder_layers = encoder_layers
        self.decoder_layers = decoder_layers
        self.heads = heads
        self.feedforward = feedforward
        self.dropout = dropout
        self.history_length = history_length
        self.long_history_length = long_history_length
        self.token_dim = token_dim
        self.image_tokens = image_tokens
        self.own_id = own_id
        self.shopper = shopper
        self.categories = categories
        self.segments = segments or []
        self.quantizer = quantizer or {
            "dim": 16,
            "codebook_sizes": [4, 4],
            "opq_subspaces": 0,
            "opq_size": 2,
        }
        self.generation = generation
        super().__init__(**kwargs)
