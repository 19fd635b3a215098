"""What a query costs the generator, counted."""

from __future__ import annotations

from onevision.generator.configuration import GeneratorConfig

FRONT_TOKENS = 5


def query_flops(config: GeneratorConfig, kept_tokens: float, history_tokens: float, steps: float) -> float:
    """FLOPs (2 a multiply-add) of one query: prompt, encoder and beams; neither the image tower nor the choice among
    what was found (`ChoiceModel.flops_an_item`) is in it.

    Args:
        kept_tokens: image tokens after the first encoder layer; a merged token joins them if any was dropped.
        history_tokens: tokens of history and long history.
        steps: codes that the beams read in the decoder, over all levels (`Beams.steps`).
    """
    d, hidden = config.d_model, config.feedforward
    dropped = kept_tokens < config.image_tokens
    full = FRONT_TOKENS + config.image_tokens + history_tokens
    short = FRONT_TOKENS + kept_tokens + dropped + history_tokens

    def layer(tokens: float) -> float:
        return tokens * (4 * d * d + 2 * d * hidden) + 2 * tokens * tokens * d

    embed = config.image_tokens * config.token_dim * d
    encoder = layer(full) + (config.encoder_layers - 1) * layer(short)
    context = config.decoder_layers * short * 2 * d * d
    code = config.decoder_layers * (6 * d * d + 2 * d * hidden + 2 * short * d)
    return 2.0 * (embed + encoder + context + steps * code)
